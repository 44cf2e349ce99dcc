"""An HTTP server for clients that nobody knows: bounded in connections, in bytes and in time.

aiohttp bounds the lines of a request's head, but not how long a client may take over it, nor how many connections there
are, nor what is sent ahead while a request is being answered. So each connection has a guard in front of aiohttp's own
protocol, which sees every byte that comes in and knows whether a request is being answered.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from ..config.addresses import bind_error_text
from ..errors import ConfigError
from .access_log import LOGGER

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8192
_ENDS_WITHIN_S = 1.0
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What clients may take.

    Attributes:
        connections: at once; the one that has idled longest makes room for a new one.
        idle_s: for the whole head of a request, and between two of them.
        head_bytes: for all that comes in of one request, and of what is sent ahead while it is answered.
    """

    connections: int = MAX_CONNECTIONS
    idle_s: float = 15.0
    head_bytes: int = 64 * 1024


def connections_at_hand() -> int:
    """Return how many connections the limit of open files leaves, half of it being for stores, Redis and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MAX_CONNECTIONS, soft // 2), 16)


class Connections:
    """The connections of one server, and the bounds that they are held to."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._open: dict[asyncio.BaseTransport, _Guard] = {}
        self._idle: OrderedDict[asyncio.BaseTransport, float] = OrderedDict()

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """Return the protocol with its guard before it."""
        return _Guard(self, protocol)

    def opened(self, transport: asyncio.BaseTransport, guard: _Guard) -> bool:
        """Take a new connection in; return False where there is no room."""
        if len(self._open) >= self.bounds.connections:
            if not self._idle:
                return False
            self._drop(next(iter(self._idle)))
        self._open[transport] = guard
        self.rests(transport)
        return True

    def closed(self, transport: asyncio.BaseTransport) -> None:
        """Forget a connection."""
        self._open.pop(transport, None)
        self._idle.pop(transport, None)

    def rests(self, transport: asyncio.BaseTransport) -> None:
        """No request of it is being answered, from now on."""
        guard = self._open.get(transport)
        if guard is not None:
            guard.received_bytes = 0
            self._idle[transport] = asyncio.get_running_loop().time()
            self._idle.move_to_end(transport)

    def works(self, transport: asyncio.BaseTransport) -> None:
        """A request of it is being answered."""
        self._idle.pop(transport, None)

    async def keep_closing_idle(self) -> None:
        """Close what idles for too long, for ever."""
        while True:
            await asyncio.sleep(min(self.bounds.idle_s / 4, 1.0))
            latest_s = asyncio.get_running_loop().time() - self.bounds.idle_s
            while self._idle and next(iter(self._idle.values())) < latest_s:
                self._drop(next(iter(self._idle)))

    def _drop(self, transport: asyncio.BaseTransport) -> None:
        self.closed(transport)
        cast(asyncio.Transport, transport).abort()

    def watched(self, answer: Handler) -> Handler:
        """Return what answers, and tells which connections are being answered."""

        async def watched(request: web.BaseRequest) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                raise web.HTTPServiceUnavailable  # it has gone already
            self.works(transport)
            try:
                return await answer(request)
            finally:
                self.rests(transport)

        return watched


class _Guard(asyncio.Protocol):
    """Counts what comes in, and passes everything on."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        self._connections = connections
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)
        self._transport = cast(asyncio.Transport, transport)
        if not self._connections.opened(transport, self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self.received_bytes > self._connections.bounds.head_bytes and self._transport is not None:
            self._transport.abort()
        else:
            self._protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.closed(self._transport)
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _ServerLog(logging.LoggerAdapter):  # type: ignore[type-arg]  # Python 3.10 has no LoggerAdapter[...]
    """What aiohttp's server says; but not of requests that are no HTTP and of clients that leave, which any may do."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        level = logging.DEBUG if isinstance(exc_info, (HttpProcessingError, ConnectionError)) else logging.ERROR
        self.log(level, msg, *args, exc_info=exc_info, **options)


@asynccontextmanager
async def serving(
    table: str,
    host: str,
    port: int,
    answer: Handler,
    connections: Connections,
    access_log: type[AbstractAccessLogger] | None = None,
) -> AsyncIterator[int]:
    """Answer every request with `answer` beside the block; yield the port.

    Raises:
        ConfigError: the address cannot be had. `table` is the one that names it.
    """
    # No Application around it: its routes, all of them one, would cost every request more than a hit of the cache does.
    made = web.Server(
        connections.watched(answer),
        access_log=logging.getLogger(LOGGER) if access_log else None,
        access_log_class=access_log or AbstractAccessLogger,
        logger=_ServerLog(log, {}),
        handler_cancellation=True,
        keepalive_timeout=connections.bounds.idle_s,
    )
    closing = asyncio.create_task(connections.keep_closing_idle())
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: connections.guard(made()), host, port, backlog=1024
            )
        except OSError as error:
            raise ConfigError([f"[{table}] bind: {host}:{port} cannot be had: {bind_error_text(error)}"]) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        closing.cancel()
        made.pre_shutdown()
        await made.shutdown(_ENDS_WITHIN_S)
