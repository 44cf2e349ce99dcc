"""A webhook that takes S3 event JSON: what Ceph's bucket notifications and MinIO's send.

    POST /notify    Authorization: Bearer TOKEN, or Basic with the token as the password

Its answers:

    200     all of it is on the queue
    400     some of it, which the answer tells, names no object; what does is on the queue
    401     not the token
    413     more than a message may have
    503     nothing is known to be on the queue: Redis is away; send it again later
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
from ..tasks import timeout, wait_with_timeout
from .message import printable_message
from .s3_events import events_in
from .source import Deliver, SourceHealth

log = logging.getLogger(__name__)

PATH = "/notify"

LARGEST_BODY_BYTES = 1024 * 1024
"""Four times what SQS took for a message; stores send one record, or a few, of 1 KiB."""

BODY_WITHIN_S = 20.0
QUEUED_WITHIN_S = 4.0
"""Who sends is made to wait no longer than this: Ceph answers its own client's PUT only afterwards."""

BODIES_AT_ONCE = 64
BIND_AGAIN_S = 5.0
GOODBYE_WITHIN_S = 5.0


class WebhookSource:
    """Takes notices over HTTP.

    Several listeners of one machine share the address: the system deals the connections out among them.
    """

    kind = "webhook"

    def __init__(
        self, host: str, port: int, token: str, routing: Deliver, *, count: Callable[[str], None] = lambda kind: None
    ) -> None:
        self._host, self._port = host, port
        self._token = token.encode()
        self._routing = routing
        self._bodies = asyncio.Semaphore(BODIES_AT_ONCE)
        self._health = SourceHealth(str(self), 0, count)
        self._health.wrong = "not listening yet"

    def __str__(self) -> str:
        return f"webhook {self._host}:{self._port}"

    async def run(self, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=LARGEST_BODY_BYTES)
        app.add_routes([web.post(PATH, self._notify)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=GOODBYE_WITHIN_S)
        await runner.setup()
        try:
            await self._bind(runner, stop)
            await stop.wait()
        finally:
            await runner.cleanup()  # which answers what is being asked

    async def _bind(self, runner: web.AppRunner, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await web.TCPSite(runner, self._host, self._port, reuse_port=True).start()
            except OSError as error:
                self._health.failed(f"[webhook] bind: the address cannot be had: {bind_error_text(error)}")
                await wait_with_timeout(stop, BIND_AGAIN_S)
            else:
                self._health.answered()
                return

    async def _notify(self, request: web.Request) -> web.Response:
        if not self._may_notify(request.headers.get("Authorization", "")):
            self._health.refused()
            return web.Response(
                status=401, text="the token of [webhook] is needed, as Bearer or as the password of Basic\n",
                headers={"WWW-Authenticate": 'Bearer, Basic realm="s3s3"'},
            )  # fmt: skip
        async with self._bodies:
            try:
                async with timeout(BODY_WITHIN_S):
                    body = await request.read()
            except asyncio.TimeoutError:
                return web.Response(status=408, text=f"the body did not come within {BODY_WITHIN_S:g} s\n")
            return await self._taken(body)

    async def _taken(self, body: bytes) -> web.Response:
        notices, wrong = events_in(body)
        try:
            async with timeout(QUEUED_WITHIN_S):
                unrouted = await self._routing.deliver(notices, self.kind)
        except (RedisUnavailable, asyncio.TimeoutError):
            return web.Response(
                status=503,
                text="Redis is away, so nothing can be queued; send it again\n",
                headers={"Retry-After": "5"},
            )
        self._health.unrouted(unrouted)
        if wrong is not None:
            self._health.bad(wrong, printable_message(body), "are answered with 400")
            return web.Response(status=400, text=f"{wrong.kind}: {wrong}\n")
        return web.Response(text=f"queued: {len(notices) - unrouted}\n")

    def _may_notify(self, header: str) -> bool:
        """Whether a header carries the token, compared in constant time (RFC 6750; RFC 7617)."""
        if not self._token:
            return True
        scheme, _, credentials = header.partition(" ")
        given = credentials.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(given, self._token)

    def health_problem(self) -> str:
        return f"{self}: {self._health.wrong}" if self._health.wrong else ""

    async def readiness_problems(self) -> list[str]:
        return []
