"""The fronts of one process, opened as the configuration says: a copy-proxy, a redirect front, or both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from ..config.mirror import MirrorSettings, ProxySettings, RedirectSettings
from ..model import Endpoint
from ..monitoring.metrics import Metrics
from ..s3 import Timeouts
from .access_log import JsonAccessLog
from .copy_proxy import CopyProxy, source_url
from .copy_states import DAY_S, CopyStates
from .http_server import Bounds, Connections, connections_at_hand, serving
from .mirrored_route import MirroredRoute, Shared, destination_stores
from .redirect import Copies, RedirectAccessLog, RedirectFrontEnd
from .redirect_paths import key_to_url
from .request_stats import Line, RequestStats
from .upstream import provenance
from .upstream.origin import Origin
from .upstream.unsized_body import keeper
from .upstream.url_policy import UrlRules, place_of

log = logging.getLogger(__name__)

PROXY = "mirror.proxy"
REDIRECT = "mirror.redirect"
UPSTREAM = Timeouts(connect_s=10, read_s=30)
"""How long a source may take to accept a connection, and to say anything."""

PUBLIC_ACLS = ("public-read", "public-read-write")


@dataclass(frozen=True)
class FrontEnd:
    """One address that clients come to."""

    name: str
    routes: Sequence[MirroredRoute]
    connections: Connections
    port: int
    metrics: Metrics

    def health_problem(self) -> str:
        """Return why its misses are not being worked on, or "" while they are."""
        return "; ".join(filter(None, (route.health_problem() for route in self.routes)))

    async def readiness_problems(self) -> list[str]:
        """Ask Redis and the destinations; return what is wrong, a line each."""
        found = await asyncio.gather(*(route.readiness_problems() for route in self.routes))
        return [line for lines in found for line in lines]

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.mirror_connections[self.name] = self.connections.open
        self.metrics.mirror_waiting[self.name] = sum(route.misses.waiting for route in self.routes)
        for route in self.routes:
            await route.measure()


@asynccontextmanager
async def fronts(
    settings: MirrorSettings,
    shared: Shared,
    *,
    line: Line | None = None,
    with_access_log: bool = False,
) -> AsyncIterator[list[FrontEnd]]:
    """Open every front that is configured. They answer at once; `run` works on what they miss.

    Raises:
        ConfigError: an address cannot be had.
    """
    async with AsyncExitStack() as stack:
        opened: list[FrontEnd] = []
        if settings.redirect is not None:
            opened.append(await stack.enter_async_context(_redirect(settings.redirect, shared, line, with_access_log)))
        if settings.proxy is not None:
            opened.append(await stack.enter_async_context(_proxy(settings.proxy, shared, line, with_access_log)))
        yield opened


async def run(opened: Sequence[FrontEnd], stop: asyncio.Event, drain_s: float) -> None:
    """Work on misses until `stop` is set."""
    await asyncio.gather(*(route.run(stop, drain_s) for front in opened for route in front.routes))


def is_public(endpoint: Endpoint) -> bool:
    """Whether whoever asks may read what is copied there."""
    return endpoint.acl in PUBLIC_ACLS


@asynccontextmanager
async def _proxy(
    settings: ProxySettings, shared: Shared, line: Line | None, with_access_log: bool
) -> AsyncIterator[FrontEnd]:
    source = place_of(settings.source)
    figures = RequestStats(PROXY, shared.metrics, line)
    route = settings.route
    origin = Origin(
        route.source.name,
        url_of=partial(source_url, settings.source),
        rules=UrlRules(https_only=source.is_secure, private=settings.private, trusted=(source.host, source.port)),
        kept=provenance.of_proxy,
        timeouts=UPSTREAM,
    )
    async with destination_stores(settings.destination, shared.worker) as (writing, asking):
        mirrored = MirroredRoute(route, origin, writing, asking, shared, told=figures.copied)
        proxy = CopyProxy(
            mirrored, settings.source, settings.max_wait_s, figures, is_public=is_public(settings.destination)
        )
        connections = Connections(Bounds(connections=connections_at_hand()))
        access_log = JsonAccessLog if with_access_log else None
        async with serving(PROXY, settings.host, settings.port, proxy.answer, connections, access_log) as port:
            log.info("%s: %s:%d, from %s", PROXY, settings.host, port, settings.source)
            yield FrontEnd(PROXY, (mirrored,), connections, port, shared.metrics)


@asynccontextmanager
async def _redirect(
    settings: RedirectSettings, shared: Shared, line: Line | None, with_access_log: bool
) -> AsyncIterator[FrontEnd]:
    rules = UrlRules(patterns=settings.patterns, https_only=settings.https_only, private=settings.private)
    figures = RequestStats(REDIRECT, shared.metrics, line)
    copies = {}
    async with AsyncExitStack() as stack:
        for place, route in settings.routes.items():
            endpoint = settings.destinations[place]
            origin = Origin(
                route.source.name,
                url_of=key_to_url,
                rules=rules,
                kept=provenance.of_redirect,
                keep=keeper(shared.room),
                timeouts=UPSTREAM,
            )
            writing, asking = await stack.enter_async_context(destination_stores(endpoint, shared.worker))
            states = CopyStates(shared.client, route.name, settings.lifespan_days)
            mirrored = MirroredRoute(
                route,
                origin,
                writing,
                asking,
                shared,
                settled=states.settle,
                fresh_for_s=settings.lifespan_days * DAY_S,
                told=figures.copied,
            )
            copies[place] = Copies(mirrored, states, settings.lifespan_days, is_public=is_public(endpoint))
        redirect = RedirectFrontEnd(settings, rules, copies, figures)
        connections = Connections(Bounds(connections=connections_at_hand()))
        access_log = RedirectAccessLog if with_access_log else None
        async with serving(REDIRECT, settings.host, settings.port, redirect.answer, connections, access_log) as port:
            log.info("%s: %s:%d", REDIRECT, settings.host, port)
            yield FrontEnd(REDIRECT, [one.route for one in copies.values()], connections, port, shared.metrics)
