"""Receive S3 events over HTTP: the bucket notifications of Ceph and MinIO.

    POST /notify    Authorization: Bearer TOKEN, or Basic with the token as the password

Responses:

    200     every job is on the queue
    400     a part of the message is unusable, as the body explains; the jobs of the rest are on the queue
    401     the token is missing or wrong
    408     the body did not arrive in time
    413     the message is too large
    503     Redis is unavailable, or an internal error; some or all jobs may be missing from the queue; retry later
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
from collections.abc import Callable

from aiohttp import web

from ..config.addresses import bind_error_text
from ..errors import RedisUnavailable
from ..http_server import BIND_RETRY_S, ServerLimits, serve_application
from ..tasks import timeout, wait_with_timeout
from .message import printable_message
from .routing import Routing
from .s3_events import parse_events
from .source import NotificationSource, SourceHealth

log = logging.getLogger(__name__)

PATH = "/notify"

#: Stores send one or a few records of 1 KiB; SQS limits a message to 256 KiB.
MAX_BODY_BYTES = 1024 * 1024

BODY_TIMEOUT_S = 20.0

#: A body that is too large gets its response before the connection is closed.
LIMITS = ServerLimits(connections=256, share=1 / 4, request_bytes=2 * MAX_BODY_BYTES)

#: Ceph answers its own client's PUT only after the response to the notification, so this is short.
ENQUEUE_TIMEOUT_S = 4.0

MAX_CONCURRENT_BODIES = 64
SHUTDOWN_TIMEOUT_S = 5.0


class WebhookSource(NotificationSource):
    """Receives notifications over HTTP.

    Several listeners of one machine can share the address (SO_REUSEPORT); the kernel distributes connections.
    """

    kind = "webhook"

    def __init__(
        self, host: str, port: int, token: str, routing: Routing, *, count: Callable[[str], None] = lambda kind: None
    ) -> None:
        self._host, self._port = host, port
        self._token = token.encode()
        self._routing = routing
        self._bodies = asyncio.Semaphore(MAX_CONCURRENT_BODIES)
        self._health = SourceHealth(str(self), 0, count)
        self._health.problem = "not listening yet"

    def __str__(self) -> str:
        return f"webhook {self._host}:{self._port}"

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            app = web.Application(client_max_size=MAX_BODY_BYTES)
            app.add_routes([web.post(PATH, self._on_notify)])
            try:
                async with serve_application(
                    app, self._host, self._port, LIMITS, reuse_port=True, shutdown_timeout_s=SHUTDOWN_TIMEOUT_S
                ):
                    self._health.record_success()
                    await stop.wait()
            except OSError as error:
                reason = f"[webhook] bind: cannot listen on the address: {bind_error_text(error)}"
                self._health.record_failure(reason)
                await wait_with_timeout(stop, BIND_RETRY_S)

    async def _on_notify(self, request: web.Request) -> web.Response:
        if not self._is_authorized(request.headers.get("Authorization", "")):
            self._health.count("unauthorized", "rejected a request without the token; others are only counted")
            return web.Response(
                status=401, text="send the token of [webhook] as Bearer, or as the password of Basic\n",
                headers={"WWW-Authenticate": 'Bearer, Basic realm="s3s3"'},
            )  # fmt: skip
        async with self._bodies:
            try:
                async with timeout(BODY_TIMEOUT_S):
                    body = await request.read()
            except asyncio.TimeoutError:
                return web.Response(status=408, text=f"the body did not arrive within {BODY_TIMEOUT_S:g} s\n")
            notifications, problem = parse_events(body)
            try:
                async with timeout(ENQUEUE_TIMEOUT_S):
                    unrouted = await self._routing.deliver(notifications, self.kind)
            except (RedisUnavailable, asyncio.TimeoutError):
                text, headers = "Redis is unavailable; retry later\n", {"Retry-After": "5"}
                return web.Response(status=503, text=text, headers=headers)
            except Exception as error:  # noqa: BLE001  recorded
                self._health.restarts.record("delivering notifications", error)
                return web.Response(status=503, text="internal error; retry later\n", headers={"Retry-After": "5"})
        self._health.count_unrouted(unrouted, self._routing)
        if problem is not None:
            self._health.count_bad(problem, printable_message(body), "answered with 400")
            return web.Response(status=400, text=f"{problem.kind}: {problem}\n")
        return web.Response(text=f"queued: {len(notifications) - len(unrouted)}\n")

    def _is_authorized(self, header: str) -> bool:
        """Whether a header carries the token, compared in constant time (RFC 6750; RFC 7617)."""
        if not self._token:
            return True
        scheme, _, credentials = header.partition(" ")
        token = credentials.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(token, self._token)

    def health_problem(self) -> str:
        return f"{self}: {self._health.problem}" if self._health.problem else ""

    async def readiness_problems(self) -> list[str]:
        return [problem] if (problem := self._health.restarts.problem) else []
