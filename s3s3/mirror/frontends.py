"""Start the front ends enabled in the configuration: redirect, copy-proxy, or both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from ..config.mirror import MirrorSettings, ProxySettings, RedirectSettings
from ..http_server import Connections, serve
from ..monitoring.metrics import Metrics
from ..s3 import Timeouts
from ..worker.route_worker import register_all
from .access_log import JsonAccessLog
from .copy_proxy import CopyProxy, source_url
from .copy_states import DAY_S, CopyStates
from .mirrored_route import MirroredRoute, Shared, destination_stores
from .redirect import Copies, RedirectAccessLog, RedirectFrontEnd, key_to_url
from .request_stats import EventRecorder, RequestStats
from .upstream import provenance
from .upstream.origin import Origin
from .upstream.url_policy import UrlRules, parse_url

log = logging.getLogger(__name__)

PROXY = "mirror.proxy"
REDIRECT = "mirror.redirect"
#: Timeouts of requests to sources.
UPSTREAM_TIMEOUTS = Timeouts(connect_s=10, read_s=30)


@dataclass(frozen=True)
class FrontEnd:
    """A running front end: its routes, port and health."""

    name: str
    routes: Sequence[MirroredRoute]
    connections: Connections
    port: int
    metrics: Metrics

    def health_problem(self) -> str:
        """Return why misses are not copied, or ""."""
        return "; ".join(filter(None, (route.worker.health_problem() for route in self.routes)))

    async def readiness_problems(self) -> list[str]:
        """Check Redis and the destinations; return one line for each problem."""
        found = await asyncio.gather(*(route.readiness_problems() for route in self.routes))
        return [line for lines in found for line in lines]

    async def measure(self) -> None:
        """Update the gauges."""
        self.metrics.mirror_connections[self.name] = self.connections.count
        self.metrics.mirror_waiting[self.name] = sum(route.misses.waiting for route in self.routes)
        for route in self.routes:
            await route.worker.measure()


@asynccontextmanager
async def open_frontends(
    settings: MirrorSettings,
    shared: Shared,
    *,
    record_event: EventRecorder | None = None,
    with_access_log: bool = False,
) -> AsyncIterator[list[FrontEnd]]:
    """Serve all configured front ends during the block; `run` must run to copy what they miss.

    Raises ConfigError if it cannot listen on an address.
    """
    async with AsyncExitStack() as stack:
        frontends = []
        if settings.redirect is not None:
            frontends.append(_redirect(settings.redirect, shared, record_event, with_access_log))
        if settings.proxy is not None:
            frontends.append(_proxy(settings.proxy, shared, record_event, with_access_log))
        yield [await stack.enter_async_context(frontend) for frontend in frontends]


async def run(opened: Sequence[FrontEnd], stop: asyncio.Event, drain_s: float, *, take_over: bool = False) -> None:
    """Copy misses until `stop` is set.

    Raises:
        RouteConflict: a front end means something else to other processes, and `take_over` is False.
    """
    routes = [route for frontend in opened for route in frontend.routes]
    await register_all([route.worker for route in routes], take_over, stop)
    await asyncio.gather(*(route.run(stop, drain_s) for route in routes))


@asynccontextmanager
async def _proxy(
    settings: ProxySettings, shared: Shared, record_event: EventRecorder | None, with_access_log: bool
) -> AsyncIterator[FrontEnd]:
    source = parse_url(settings.source)
    stats = RequestStats(PROXY, shared.metrics, record_event)
    route = settings.route
    origin = Origin(
        route.source.name,
        key_to_url=partial(source_url, settings.source),
        rules=UrlRules(https_only=source.is_secure, private=settings.private, trusted=(source.host, source.port)),
        headers_for=provenance.proxy_headers,
        spool_budget=shared.budget,
        timeouts=UPSTREAM_TIMEOUTS,
    )
    async with origin, destination_stores(settings.destination, shared.worker) as (copy_store, client_store):
        mirrored = MirroredRoute(route, origin, copy_store, client_store, shared, on_copies=stats.record_copies)
        proxy = CopyProxy(mirrored, settings.source, settings.max_wait_s, stats)
        connections = Connections()
        access_log = JsonAccessLog if with_access_log else None
        async with serve(PROXY, settings.host, settings.port, proxy.answer, connections, access_log) as port:
            log.info("%s: %s:%d, from %s", PROXY, settings.host, port, settings.source)
            yield FrontEnd(PROXY, [mirrored], connections, port, shared.metrics)


@asynccontextmanager
async def _redirect(
    settings: RedirectSettings, shared: Shared, record_event: EventRecorder | None, with_access_log: bool
) -> AsyncIterator[FrontEnd]:
    rules = UrlRules(patterns=settings.patterns, https_only=settings.https_only, private=settings.private)
    stats = RequestStats(REDIRECT, shared.metrics, record_event)
    fresh_for_s = settings.lifespan_days * DAY_S
    copies = {}
    async with AsyncExitStack() as stack:
        for place, route in settings.routes.items():
            endpoint = settings.destinations[place]
            origin = Origin(
                route.source.name,
                key_to_url=key_to_url,
                rules=rules,
                headers_for=provenance.redirect_headers,
                spool_budget=shared.budget,
                timeouts=UPSTREAM_TIMEOUTS,
            )
            await stack.enter_async_context(origin)
            stores = await stack.enter_async_context(destination_stores(endpoint, shared.worker))
            states = CopyStates(shared.client, route, settings.lifespan_days)
            mirrored = MirroredRoute(
                route,
                origin,
                *stores,
                shared,
                on_outcome=states.record_outcome,
                on_copies=stats.record_copies,
                fresh_for_s=fresh_for_s,
            )
            copies[place] = Copies(mirrored, states, fresh_for_s)
        redirect = RedirectFrontEnd(settings, rules, copies, stats)
        routes = [destination.route for destination in copies.values()]
        connections = Connections()
        access_log = RedirectAccessLog if with_access_log else None
        async with serve(REDIRECT, settings.host, settings.port, redirect.answer, connections, access_log) as port:
            log.info("%s: %s:%d", REDIRECT, settings.host, port)
            yield FrontEnd(REDIRECT, routes, connections, port, shared.metrics)
