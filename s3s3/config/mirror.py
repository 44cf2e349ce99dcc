"""Settings of the `[mirror.*]` tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from ..model import DEFAULT_NAMESPACE, Endpoint, Route, Secret


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The copy-proxy. The key is appended to `source`; its redirects may lead to the `private` networks."""

    host: str
    port: int
    source: str
    max_wait_s: float
    private: tuple[IPv4Network | IPv6Network, ...]
    destination: Endpoint
    namespace: str = DEFAULT_NAMESPACE

    @property
    def route(self) -> Route:
        """The route of the misses; its name is part of Redis keys."""
        return _route("mirror.proxy", self.destination, self.namespace, self.source)


@dataclass(frozen=True, slots=True)
class RedirectSettings:
    """The redirect front end. `destinations` are keyed by service and region, as in its paths."""

    host: str
    port: int
    patterns: tuple[re.Pattern[str], ...]
    https_only: bool
    private: tuple[IPv4Network | IPv6Network, ...]
    max_wait_s: float
    purge_token: Secret | None
    lifespan_days: int
    force_https: bool
    destinations: Mapping[tuple[str, str], Endpoint]
    namespace: str = DEFAULT_NAMESPACE

    @property
    def routes(self) -> dict[tuple[str, str], Route]:
        """The routes of the misses, one per destination; their names are part of Redis keys."""
        return {place: _route(endpoint.name, endpoint, self.namespace) for place, endpoint in self.destinations.items()}


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The disk cache.

    Attributes:
        max_fill, low_fill: fractions of the file system.
        streams: clients read a missing object while it is downloaded; otherwise they are redirected to the store.
        accel_prefix: "" if no nginx sends the files.
        keys: pairs of id and secret that clients may sign with, in addition to the store's own.
    """

    host: str
    port: int
    directory: Path
    max_fill: float
    low_fill: float
    revalidate_s: float
    streams: bool
    accel_prefix: str
    store: Endpoint
    keys: tuple[tuple[str, Secret], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """The front ends; None if one is not configured."""

    redirect: RedirectSettings | None = None
    proxy: ProxySettings | None = None
    cache: CacheSettings | None = None

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes of all front ends, for the administration of their queues."""
        redirect = self.redirect.routes.values() if self.redirect else ()
        return (*redirect, *([self.proxy.route] if self.proxy else []))


def _route(name: str, destination: Endpoint, namespace: str, source_url: str | None = None) -> Route:
    return Route(name, Endpoint(f"{name}.source", "", source_url), (destination,), namespace=namespace)
