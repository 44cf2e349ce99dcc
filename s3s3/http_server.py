"""HTTP server for untrusted clients, for the mirror, the webhook and the status page: bounded in connections, bytes
and time.

aiohttp limits the lines of a request's head, but not the time a client may take to send it, the number of connections
or the bytes sent ahead during a request. So a guard in front of aiohttp's protocol sees every byte that arrives, and
the request handler reports which connections are busy.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from .config.addresses import bind_error_text
from .errors import ConfigError
from .tasks import cancel

log = logging.getLogger(__name__)

ACCESS_LOGGER = "s3s3.access"
#: Upper bound on the connections of one server.
MAX_CONNECTIONS = 8192
#: Pause between two attempts to listen on an address that is in use, in seconds.
BIND_RETRY_S = 5.0
_SHUTDOWN_TIMEOUT_S = 1.0
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one server."""

    #: Open connections; a new one replaces the one that has been idle longest. At most `share` of the open file limit.
    connections: int = MAX_CONNECTIONS
    #: The rest of the open files is for stores, Redis and temporary files.
    share: float = 1 / 6
    #: Time for the head of a request, and between two requests (s).
    idle_s: float = 15.0
    #: Time for the body of a request (s).
    body_s: float = 30.0
    #: Size of one request, including what is sent ahead while it is answered (bytes).
    request_bytes: int = 64 * 1024


class Connections:
    """The connections of one server.

    Attributes:
        most: how many may be open.
    """

    def __init__(self, limits: ServerLimits = ServerLimits()) -> None:
        self.limits = limits
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_limited = soft != resource.RLIM_INFINITY
        self.most = min(limits.connections, max(int(soft * limits.share), 8)) if is_limited else limits.connections
        self._open: dict[asyncio.BaseTransport, _Guard] = {}
        self._idle: OrderedDict[asyncio.BaseTransport, float] = OrderedDict()
        self._busy: dict[asyncio.BaseTransport, tuple[web.BaseRequest, float]] = {}

    @property
    def count(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def add(self, transport: asyncio.BaseTransport, guard: _Guard) -> bool:
        """Register a new connection; False if all allowed connections are busy."""
        if len(self._open) >= self.most:
            if not self._idle:
                return False
            self._abort(next(iter(self._idle)))
        self._open[transport] = guard
        self.set_idle(transport)
        return True

    def remove(self, transport: asyncio.BaseTransport) -> None:
        """Remove a closed connection."""
        self._open.pop(transport, None)
        self._idle.pop(transport, None)
        self._busy.pop(transport, None)

    def set_idle(self, transport: asyncio.BaseTransport) -> None:
        """Record that a connection has no request in progress."""
        self._busy.pop(transport, None)
        if (guard := self._open.get(transport)) is not None:
            guard.received_bytes = 0
            self._idle[transport] = asyncio.get_running_loop().time()
            self._idle.move_to_end(transport)

    async def close_idle(self) -> None:
        """Close connections that are idle, or sending a body, for too long; runs until cancelled."""
        while True:
            await asyncio.sleep(min(self.limits.idle_s / 4, 1.0))
            now_s = asyncio.get_running_loop().time()
            while self._idle and next(iter(self._idle.values())) < now_s - self.limits.idle_s:
                self._abort(next(iter(self._idle)))
            for transport, (request, began_s) in list(self._busy.items()):
                if began_s < now_s - self.limits.body_s and not request.content.is_eof():
                    self._abort(transport)

    def _abort(self, transport: asyncio.BaseTransport) -> None:
        self.remove(transport)
        cast(asyncio.Transport, transport).abort()

    def track(self, handler: Handler) -> Handler:
        """Return a handler that also records which connections are busy."""

        async def tracked(request: web.BaseRequest) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                raise web.HTTPServiceUnavailable  # the client has closed the connection
            self._idle.pop(transport, None)
            self._busy[transport] = request, asyncio.get_running_loop().time()
            try:
                return await handler(request)
            finally:
                self.set_idle(transport)

        return tracked

    @web.middleware
    async def track_application(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Do what `track` does, as the middleware of an application."""
        return await self.track(cast(Handler, handler))(request)


class _Guard(asyncio.Protocol):
    """Checks the limits for one connection, and passes everything to `protocol`."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        self._connections = connections
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)
        self._transport = cast(asyncio.Transport, transport)
        if not self._connections.add(transport, self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self.received_bytes > self._connections.limits.request_bytes and self._transport is not None:
            self._transport.abort()
        else:
            self._protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.remove(self._transport)
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _ServerLog(logging.LoggerAdapter):  # type: ignore[type-arg]  # Python 3.10 has no LoggerAdapter[...]
    """Logger of aiohttp's server. Malformed requests and lost clients, which any client can cause, are debug lines."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        level = logging.DEBUG if isinstance(exc_info, (HttpProcessingError, ConnectionError)) else logging.ERROR
        self.log(level, msg, *args, exc_info=exc_info, **options)


@asynccontextmanager
async def serve(
    table: str,
    host: str,
    port: int,
    handler: Handler,
    connections: Connections,
    access_log: type[AbstractAccessLogger] | None = None,
) -> AsyncIterator[int]:
    """Serve requests during the block; yield the port. Raises ConfigError if the address of `table` cannot be used."""
    # Without an Application: routing to the only handler would cost a request more than a cache hit does.
    server = web.Server(
        connections.track(handler),
        access_log=logging.getLogger(ACCESS_LOGGER) if access_log else None,
        access_log_class=access_log or AbstractAccessLogger,
        logger=_ServerLog(log, {}),
        handler_cancellation=True,
        keepalive_timeout=connections.limits.idle_s,
    )
    try:
        async with AsyncExitStack() as stack:
            try:
                bound_port = await stack.enter_async_context(_listening(server, host, port, connections))
            except OSError as error:
                reason = bind_error_text(error)
                raise ConfigError([f"[{table}] bind: cannot listen on {host}:{port}: {reason}"]) from error
            yield bound_port
    finally:
        server.pre_shutdown()
        await server.shutdown(_SHUTDOWN_TIMEOUT_S)


@asynccontextmanager
async def serve_application(
    app: web.Application,
    host: str,
    port: int,
    limits: ServerLimits,
    *,
    reuse_port: bool = False,
    shutdown_timeout_s: float = _SHUTDOWN_TIMEOUT_S,
    on_bind: Callable[[OSError | None], None] | None = None,
) -> AsyncIterator[None]:
    """Serve an application during the block, and complete requests in progress at its end.

    Args:
        on_bind: called with the reason if the address cannot be used, and with None once it can; it is tried every
            `BIND_RETRY_S`. None: raise OSError.
    """
    connections = Connections(limits)
    app.middlewares.append(connections.track_application)
    runner = web.AppRunner(
        app, access_log=None, logger=_ServerLog(log, {}), keepalive_timeout=limits.idle_s,
        shutdown_timeout=shutdown_timeout_s,
    )  # fmt: skip
    await runner.setup()
    assert runner.server is not None
    listening = partial(_listening, runner.server, host, port, connections, reuse_port=reuse_port)
    try:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(listening())
            except OSError as error:
                if on_bind is None:
                    raise
                on_bind(error)
                stack.push_async_callback(cancel, [asyncio.create_task(_listen_later(listening, on_bind))])
            yield
    finally:
        await runner.cleanup()


async def _listen_later(
    listening: Callable[[], AbstractAsyncContextManager[int]], on_bind: Callable[[OSError | None], None]
) -> None:
    """Listen as soon as the address is free, until cancelled."""
    while True:
        await asyncio.sleep(BIND_RETRY_S)
        try:
            async with listening():
                on_bind(None)
                await asyncio.Event().wait()
        except OSError as error:
            on_bind(error)


@asynccontextmanager
async def _listening(
    server: web.Server, host: str, port: int, connections: Connections, *, reuse_port: bool = False
) -> AsyncIterator[int]:
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Guard(connections, server()), host, port, backlog=1024, reuse_port=reuse_port
    )
    closing_idle = asyncio.create_task(connections.close_idle())
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        closing_idle.cancel()
