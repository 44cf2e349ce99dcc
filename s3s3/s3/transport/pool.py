"""Connections to one store, kept and shared."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

from ...tasks import timeout
from .connection import Connection
from .errors import ConnectFailed


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the store waits.

    Attributes:
        connect_s: for a connection, TLS and name look-up included.
        read_s: while no byte moves in either direction.
        write_s: for a whole PUT of a body in memory, for a streamed one's answer after its last chunk, and for a
            DELETE: so long can a write be under way that nobody can stop any more.
        keep_s: for the next request on a kept connection. Below what servers allow (Ceph 65 s, Swift 60 s), so that
            a request seldom meets a connection that the server is about to close.
    """

    connect_s: float = 10
    read_s: float = 60
    write_s: float = 60
    keep_s: float = 15


class Pool:
    """At most `connections` connections to host:port; who comes when all are busy waits in line."""

    def __init__(self, host: str, port: int, *, is_secure: bool, connections: int, timeouts: Timeouts) -> None:
        self._host, self._port, self._is_secure = host, port, is_secure
        self._limit = connections
        self._timeouts = timeouts
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._taken = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._tls: ssl.SSLContext | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    async def acquire(self) -> Connection:
        """Return a connection that nobody else uses. Raises ConnectFailed."""
        if self._taken < self._limit:
            self._taken += 1
        else:
            await self._stand_in_line()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_s < self._timeouts.keep_s:
                return connection
            self._drop(connection)
        try:
            return await self._connect()
        except BaseException:
            self._leave()
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back; it is dropped unless its exchange has come to its end."""
        if connection.reusable and not self._closed:
            connection.rest()
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._leave()

    async def close(self) -> None:
        """Drop every connection, the busy ones too."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for connection in tuple(self._open):
            self._drop(connection)
        self._idle.clear()
        await asyncio.sleep(0)  # lets the transports close their sockets

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._is_secure and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with timeout(self._timeouts.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop), self._host, self._port, ssl=self._tls
                )
        except (OSError, asyncio.TimeoutError, ssl.SSLError, ssl.CertificateError, UnicodeError) as error:
            raise ConnectFailed from error
        self._open.add(connection)
        self._start_watch(loop)
        return connection

    async def _stand_in_line(self) -> None:
        """Wait for somebody's place; whoever leaves hands it over."""
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all connections: a timer for each request would cost more than the signature."""
        if self._watch is None and not self._closed:
            every_s = min(1.0, self._timeouts.read_s / 4, self._timeouts.write_s / 4)
            self._watch = loop.call_later(every_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        now_s = loop.time()
        for connection in tuple(self._open):
            connection.check(now_s, self._timeouts.read_s)
        while self._idle and self._idle[0].idle_s > self._timeouts.keep_s:
            self._drop(self._idle.pop(0))
        if self._open:
            self._start_watch(loop)


ASKING = Timeouts(connect_s=3, read_s=5, write_s=5)


ASKING_CONNECTIONS = 64


ASKED_FOR_S = 8.0
"""How long the store may take to say whether, or as what, it has an object, however often it is asked."""
