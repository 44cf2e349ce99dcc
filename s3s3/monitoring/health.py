"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Middleware

from ..config import HttpSettings
from ..config.addresses import bind_error_text
from ..errors import RedisUnavailable, S3S3Error
from ..http_server import ServerLimits, serve_application
from ..tasks import timeout
from .metrics import CONTENT_TYPE, Metrics
from .status_page import MAX_FORM_BYTES, StatusPage

log = logging.getLogger(__name__)

#: Longest time that a readiness check may take, in seconds. A Kubernetes probe needs a longer timeout.
READINESS_TIMEOUT_S = 8.0

#: How long `/healthz` waits for Redis, in seconds: a Kubernetes probe waits 1 s by default.
REDIS_TIMEOUT_S = 0.5

#: For `MAX_CLIENTS` browsers, probes and commands. The event stream is not idle.
LIMITS = ServerLimits(connections=128, share=1 / 8, request_bytes=2 * MAX_FORM_BYTES)

#: Requested by probes, under any name, and not by browsers.
MONITORED_PATHS = ("/healthz", "/readyz", "/metrics")

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
async def served(app: web.Application, settings: HttpSettings | None) -> AsyncIterator[Callable[[], str]]:
    """Serve the application while the block runs; None serves nothing.

    Yields a function that returns why nothing is served at the moment, or "". An address that cannot be bound is logged
    as a warning and tried again, because copying does not depend on it.
    """
    if settings is None:
        yield lambda: ""
        return
    app.middlewares.append(_host_check(settings))
    problem = ""

    def on_bind(error: OSError | None) -> None:
        nonlocal problem
        before, address = problem, f"{settings.host}:{settings.port}"
        problem = f"cannot listen on {address} ({bind_error_text(error)}): no status page or metrics" if error else ""
        if problem and problem != before:
            log.warning('%s until it is free; choose another address with --http or [http] bind, or "" for none',
                        problem)  # fmt: skip
        elif before and not problem:
            log.warning("listening on %s: the status page and metrics are available", address)

    async with serve_application(app, settings.host, settings.port, LIMITS, on_bind=on_bind):
        yield lambda: problem


def _host_check(settings: HttpSettings) -> Middleware:
    """Refuse requests whose Host is a name that could be another site's: DNS rebinding.

    An IP address is none, nor is a name without a dot, nor one of this machine.
    """
    names = ("localhost", "*.localhost", settings.host, socket.gethostname(), *settings.allowed_hosts)
    allowed = re.compile("|".join(fnmatch.translate(name.lower()) for name in names))

    @web.middleware
    async def check_host(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host = re.sub(r":\d*$", "", request.headers.get("Host", "")).strip("[]").rstrip(".").lower()
        if request.path in MONITORED_PATHS or "." not in host or allowed.fullmatch(host) or _is_ip_address(host):
            return await handler(request)
        return web.Response(
            status=421, text=f"this server is not known as {host[:253]!r}; add that name to [http] allowed_hosts\n"
        )

    return check_host


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
