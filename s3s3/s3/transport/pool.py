"""Connection pool and timeouts for one host."""

from __future__ import annotations

import asyncio
from collections import deque

from ...tasks import timeout
from .connecting import Proxy, TlsContext, TlsSettings, connect
from .connection import Connection
from .errors import ConnectFailed, ProxyRefused, TlsFileInvalid
from .framing import HeadParser
from .limits import Timeouts

#: A check of the timeouts that is later than this is skipped.
MAX_LATE_S = 2.0


class Pool:
    """At most `connections` connections to host:port. When all are in use, `acquire` waits, in order.

    Args:
        tls: None: plain HTTP.
        proxy: None: connect directly.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: TlsSettings | None,
        connections: int,
        timeouts: Timeouts,
        proxy: Proxy | None = None,
    ) -> None:
        self._host, self._port, self._proxy = host, port, proxy
        self._tls = None if tls is None else TlsContext(tls)
        self._limit = connections
        self._timeouts = timeouts
        self._head_parser = HeadParser()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._check_due_s = 0.0
        self._closed = False

    async def acquire(self) -> Connection:
        """Return a connection for exclusive use. Raises ConnectFailed."""
        if self._in_use < self._limit:
            self._in_use += 1
        else:
            await self._wait_for_release()
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            idle_s = loop.time() - connection.progress_s
            if idle_s < self._timeouts.keep_s and not connection.closed and not connection.transport.is_closing():
                return connection
            self._drop(connection)
        try:
            tls = None if self._tls is None else self._tls.current()
            async with timeout(self._timeouts.connect_s):
                connection = await connect(
                    lambda: Connection(loop, self._head_parser.parse), self._host, self._port, tls, self._proxy
                )
        except BaseException as error:
            self._release_slot()
            if isinstance(error, OSError | asyncio.TimeoutError | UnicodeError | ProxyRefused | TlsFileInvalid):
                raise ConnectFailed from error
            raise
        self._open.add(connection)
        self._start_timer(loop)
        return connection

    def release(self, connection: Connection) -> None:
        """Take back a connection. It is kept if its last response was read to the end, otherwise closed."""
        if connection.finish() and not self._closed:
            self._idle.append(connection)
        else:
            self._drop(connection)
        if self._waiters:
            self._release_slot()
        else:
            self._in_use -= 1

    async def close(self) -> None:
        """Close every connection, also those in use."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in tuple(self._open):
            self._drop(connection)
        self._idle.clear()
        await asyncio.sleep(0)  # the transports close their sockets

    async def _wait_for_release(self) -> None:
        """Wait until `_release_slot` passes on the slot of another request."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release_slot()
            raise

    def _release_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._in_use -= 1

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule the next check: one timer for all, because one per request costs more than the signature."""
        if self._timer is None and not self._closed:
            timeouts = self._timeouts
            shortest_s = min(timeouts.read_s, timeouts.list_s, timeouts.write_s, timeouts.rate_window_s)
            interval_s = min(1.0, shortest_s / 4)
            self._timer = loop.call_later(interval_s, self._check, loop)
            self._check_due_s = loop.time() + interval_s

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now_s = loop.time()
        if now_s - self._check_due_s < MAX_LATE_S:  # else this process was stopped, and has not read what has arrived
            min_bytes_per_s = self._timeouts.min_bytes_per_s / max(self._in_use, 1)
            for connection in tuple(self._open):
                connection.check_timeouts(now_s, self._timeouts, min_bytes_per_s)
        while self._idle and now_s - self._idle[0].progress_s > self._timeouts.keep_s:
            self._drop(self._idle.pop(0))
        if self._open:
            self._start_timer(loop)
