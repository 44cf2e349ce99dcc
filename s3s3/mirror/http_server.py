"""HTTP server for untrusted clients: bounded in connections, bytes and time.

aiohttp limits the lines of a request's head, but not the time a client may take to send it, the number of connections
or the bytes sent ahead during a request. So a guard in front of aiohttp's protocol sees every byte that arrives, and
the request handler reports which connections are busy.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
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

log = logging.getLogger(__name__)

ACCESS_LOGGER = "s3s3.access"
#: Response header with the outcome: hit, miss, waited and so on.
OUTCOME = "X-Cache"
#: Upper bound on the connections of one server.
MAX_CONNECTIONS = 8192
_SHUTDOWN_TIMEOUT_S = 1.0
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one server."""

    #: Open connections; a new one replaces the one that has been idle longest.
    connections: int = MAX_CONNECTIONS
    #: Time for the head of a request, and between two requests (s).
    idle_s: float = 15.0
    #: Size of one request, including what is sent ahead while it is answered (bytes).
    request_bytes: int = 64 * 1024


def available_connections() -> int:
    """Return half of the open file limit, at most `MAX_CONNECTIONS`: the rest is for stores, Redis and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MAX_CONNECTIONS, soft // 2), 16)


class Connections:
    """The connections of one server. Default limits: as many connections as the open file limit permits."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.limits = limits or ServerLimits(connections=available_connections())
        self._open: dict[asyncio.BaseTransport, _Guard] = {}
        self._idle: OrderedDict[asyncio.BaseTransport, float] = OrderedDict()

    @property
    def count(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def add(self, transport: asyncio.BaseTransport, guard: _Guard) -> bool:
        """Register a new connection; False if all allowed connections are busy."""
        if len(self._open) >= self.limits.connections:
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

    def set_idle(self, transport: asyncio.BaseTransport) -> None:
        """Record that a connection has no request in progress."""
        if (guard := self._open.get(transport)) is not None:
            guard.received_bytes = 0
            self._idle[transport] = asyncio.get_running_loop().time()
            self._idle.move_to_end(transport)

    async def close_idle(self) -> None:
        """Close connections that are idle for too long; runs until cancelled."""
        while True:
            await asyncio.sleep(min(self.limits.idle_s / 4, 1.0))
            latest_s = asyncio.get_running_loop().time() - self.limits.idle_s
            while self._idle and next(iter(self._idle.values())) < latest_s:
                self._abort(next(iter(self._idle)))

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
            try:
                return await handler(request)
            finally:
                self.set_idle(transport)

        return tracked


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


class JsonAccessLog(AbstractAccessLogger):
    """Access log: one JSON object for each response."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, took_s: float) -> None:
        now_s = time.time()
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03}Z",
            "client": request.remote,
            "method": request.method,
            "path": self.safe_path(request),
            "status": response.status,
            "outcome": response.headers.get(OUTCOME),
            "seconds": round(took_s, 6),
            "bytes": response.body_length,
            "user_agent": request.headers.get("User-Agent"),
            "forwarded_for": request.headers.get("X-Forwarded-For"),
        }
        self.logger.info("%s", json.dumps(fields))

    def safe_path(self, request: web.BaseRequest) -> str:
        """Return the path without its query, which may contain a signature."""
        return request.raw_path.partition("?")[0]


def start_access_log() -> None:
    """Write the access log to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(ACCESS_LOGGER)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)


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
    closing_idle = asyncio.create_task(connections.close_idle())
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: _Guard(connections, server()), host, port, backlog=1024
            )
        except OSError as error:
            raise ConfigError([f"[{table}] bind: cannot listen on {host}:{port}: {bind_error_text(error)}"]) from error
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
    finally:
        closing_idle.cancel()
        server.pre_shutdown()
        await server.shutdown(_SHUTDOWN_TIMEOUT_S)
