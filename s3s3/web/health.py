"""Health, readiness and metrics of a listener, over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

from ..config import HttpSettings
from ..errors import S3S3Error
from ..metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

READY_WITHIN_S = 8.0
"""How long a readiness check may take: less than what those who ask usually wait (Kubernetes: set it above this)."""


class Watched(Protocol):
    """A part whose health is shown."""

    def ailment(self) -> str:
        """Return why it does not work, or "" while it does."""

    async def unready(self) -> list[str]:
        """Return what it needs and cannot reach, a line each."""

    async def measure(self) -> None:
        """Bring its gauges up to date."""


def application(watched: Sequence[Watched], metrics: Metrics) -> web.Application:
    """Return the application: `/healthz` (alive and consuming), `/readyz` (reaches what it needs), `/metrics`."""

    async def healthz(request: web.Request) -> web.Response:
        return _answer([ailment for part in watched if (ailment := part.ailment())])

    async def readyz(request: web.Request) -> web.Response:
        try:
            found = await asyncio.wait_for(asyncio.gather(*(part.unready() for part in watched)), READY_WITHIN_S)
        except asyncio.TimeoutError:
            return _answer([f"a store or Redis has not answered within {READY_WITHIN_S:g} s"])
        return _answer([line for lines in found for line in lines])

    async def show_metrics(request: web.Request) -> web.Response:
        for part in watched:
            try:
                await part.measure()
            except S3S3Error as error:
                log.warning("the gauges of the queue are not up to date: %s", error)
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show_metrics)])
    return app


def _answer(wrong: Sequence[str]) -> web.Response:
    return web.Response(status=503 if wrong else 200, text="\n".join(wrong or ["ok"]) + "\n")


@asynccontextmanager
async def served(app: web.Application, settings: HttpSettings | None) -> AsyncIterator[None]:
    """Serve the application beside the block. A port that is taken is a warning: the copying matters more."""
    if settings is None:
        yield
        return
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            log.warning("[http] bind: %s:%d cannot be had, so there is no status page and there are no metrics: %s",
                        settings.host, settings.port, error)  # fmt: skip
        yield
    finally:
        await runner.cleanup()
