"""Health, readiness and metrics of a listener, over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from aiohttp import web

from ..config import HttpSettings
from ..config.addresses import why_not_bound
from ..errors import S3S3Error
from ..tasks import timeout
from .metrics import CONTENT_TYPE, Metrics
from .status_page import FORM_BYTES, StatusPage

log = logging.getLogger(__name__)

READY_WITHIN_S = 8.0
"""How long a readiness check may take: less than what those who ask usually wait (Kubernetes: set it above this)."""


class HealthCheck(Protocol):
    """A part whose health is shown."""

    def health_problem(self) -> str:
        """Return why it does not work, or "" while it does."""

    async def readiness_problems(self) -> list[str]:
        """Return what it needs and cannot reach, a line each."""


class MeteredHealthCheck(HealthCheck, Protocol):
    """One that has gauges, too."""

    async def measure(self) -> None:
        """Bring its gauges up to date."""


def application(
    watched: Sequence[MeteredHealthCheck],
    metrics: Metrics,
    status: StatusPage | None = None,
    *,
    sources: Sequence[HealthCheck] = (),
) -> web.Application:
    """Return the application: `/healthz` (alive and consuming), `/readyz` (reaches what it needs), `/metrics`.

    Args:
        status: the status page, "/", where there is to be one.
        sources: those of notices, which count what they take as it comes.
    """
    parts = [*watched, *sources]

    async def healthz(request: web.Request) -> web.Response:
        return answer_of([health_problem for part in parts if (health_problem := part.health_problem())])

    async def readyz(request: web.Request) -> web.Response:
        try:
            async with timeout(READY_WITHIN_S):
                found = await asyncio.gather(*(part.readiness_problems() for part in parts))
        except asyncio.TimeoutError:
            return answer_of([f"a store or Redis has not answered within {READY_WITHIN_S:g} s"])
        return answer_of([line for lines in found for line in lines])

    async def show_metrics(request: web.Request) -> web.Response:
        for part in watched:
            try:
                await part.measure()
            except S3S3Error as error:
                log.warning("the gauges of the queue are not up to date: %s", error)
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application(client_max_size=FORM_BYTES)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    if status is not None:
        status.add_to(app)
    return app


def answer_of(wrong: Sequence[str]) -> web.Response:
    """Return 200 where nothing is wrong, else 503 and what is, a line each."""
    return web.Response(status=503 if wrong else 200, text="\n".join(wrong or ["ok"]) + "\n")


@asynccontextmanager
async def served(app: web.Application, where: HttpSettings | Path | None) -> AsyncIterator[None]:
    """Serve the application beside the block, at a port or a Unix socket.

    A port that is taken is a warning: the copying matters more.
    """
    if where is None:
        yield
        return
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await _site(runner, where).start()
        except OSError as error:
            name = where if isinstance(where, Path) else f"{where.host}:{where.port}"
            log.warning("[http] bind: %s cannot be had (%s), so there is no status page and there are no metrics; name "
                        'another address, or "" for none', name, why_not_bound(error))  # fmt: skip
        yield
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, where: HttpSettings | Path) -> web.BaseSite:
    if isinstance(where, Path):
        where.unlink(missing_ok=True)  # of the process before, if that was killed
        return web.UnixSite(runner, where)
    return web.TCPSite(runner, where.host, where.port)
