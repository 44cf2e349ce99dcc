"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias

from aiohttp import web

from ..config import HttpSettings
from ..config.addresses import bind_error_text
from ..errors import RedisUnavailable, S3S3Error
from ..tasks import timeout
from .metrics import CONTENT_TYPE, Metrics
from .status_page import MAX_FORM_BYTES, StatusPage

log = logging.getLogger(__name__)

#: Longest time that a readiness check may take, in seconds. A Kubernetes probe needs a longer timeout.
READINESS_TIMEOUT_S = 8.0

#: How long `/healthz` waits for Redis, in seconds: a Kubernetes probe waits 1 s by default.
REDIS_TIMEOUT_S = 0.5

#: Raises RedisUnavailable if Redis does not respond.
CheckRedis: TypeAlias = Callable[[], Awaitable[None]]


class HealthCheck(Protocol):
    """A component that reports its health."""

    def health_problem(self) -> str:
        """Return why the component does not work, or "" while it works, or while what it needs does not respond."""

    async def readiness_problems(self) -> list[str]:
        """Return a line for each dependency that the component cannot reach."""


class Pages(Protocol):
    """Further pages of the server."""

    def add_to(self, app: web.Application) -> None:
        """Add the handlers to an application."""


class MeteredHealthCheck(HealthCheck, Protocol):
    """A component that also has gauges."""

    async def measure(self) -> None:
        """Update the component's gauges. Raises S3S3Error."""


async def restart_reasons(checks: Sequence[HealthCheck], check_redis: CheckRedis | None) -> list[str]:
    """Return the problems that a restart of this process may solve: none while Redis is unavailable."""
    problems = [problem for check in checks if (problem := check.health_problem())]
    if problems and check_redis is not None:
        try:
            async with timeout(REDIS_TIMEOUT_S):
                await check_redis()
        except (RedisUnavailable, asyncio.TimeoutError):
            return []
    return problems


def application(
    components: Sequence[MeteredHealthCheck],
    metrics: Metrics,
    status: StatusPage | None = None,
    *,
    sources: Sequence[HealthCheck] = (),
    check_redis: CheckRedis | None = None,
    api: Pages | None = None,
) -> web.Application:
    """Return an application with `/healthz`, `/readyz`, `/metrics` and, with `status` and `api`, the status page.

    `/healthz` is about this process: it fails if a restart may help (`restart_reasons`). `/readyz` is about its
    surroundings, too: it fails while a component does not work, or cannot reach what it needs. Both answer 503 with a
    line for each problem.
    """
    checks = [*components, *sources]

    async def healthz(request: web.Request) -> web.Response:
        return _response(await restart_reasons(checks, check_redis))

    async def readyz(request: web.Request) -> web.Response:
        try:
            async with timeout(READINESS_TIMEOUT_S):
                found = await asyncio.gather(*(check.readiness_problems() for check in checks))
        except asyncio.TimeoutError:
            found = [[f"a store or Redis has not answered within {READINESS_TIMEOUT_S:g} s"]]
        unhealthy = [problem for check in checks if (problem := check.health_problem())]
        return _response([*unhealthy, *(problem for problems in found for problem in problems)])

    async def show_metrics(request: web.Request) -> web.Response:
        for component in components:
            try:
                await component.measure()
            except S3S3Error as error:
                log.warning("the gauges of the queue are not up to date: %s", error)
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application(client_max_size=MAX_FORM_BYTES)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    for pages in (status, api):
        if pages is not None:
            pages.add_to(app)
    return app


def _response(problems: Sequence[str]) -> web.Response:
    return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")


@asynccontextmanager
async def served(app: web.Application, settings: HttpSettings | None) -> AsyncIterator[None]:
    """Serve the application while the block runs; None serves nothing.

    An address that cannot be bound is logged as a warning, because copying does not depend on it.
    """
    if settings is None:
        yield
        return
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            log.warning(
                "cannot listen on %s:%d (%s): no status page or metrics; choose another address with --http or "
                '[http] bind, or "" for none',
                settings.host, settings.port, bind_error_text(error),
            )  # fmt: skip
        yield
    finally:
        await runner.cleanup()
