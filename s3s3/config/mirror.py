"""Settings of the `[mirror.*]` tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from ..model import DEFAULT_NAMESPACE, Endpoint, Route, Secret
from .routes import RouteSettings, build_endpoint
from .schema import MIRROR, MIRROR_CACHE, MIRROR_PROXY, MIRROR_REDIRECT, PUBSUB, ROUTES
from .table_reader import ParsedTable
from .toml_file import ConfigErrors, dotted
from .value_types import toml_repr


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
        return _route("mirror.proxy", self.destination, self.namespace)


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
    keys: tuple[tuple[str, Secret], ...] = ()


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


def _route(name: str, destination: Endpoint, namespace: str) -> Route:
    return Route(name, Endpoint(f"{name}.source", ""), (destination,), namespace=namespace)


def mirror_routes(file: ParsedTable, errors: ConfigErrors) -> list[RouteSettings]:
    """Return the mirrors of a file as routes, so that the checks of destinations apply to them."""
    for name, table in (file.tables[ROUTES.name].tables if ROUTES.name in file.tables else {}).items():
        if name.startswith(f"{MIRROR.name}."):
            errors.add(table.path, f'names that begin with "{MIRROR.name}." are reserved for mirrors; rename it')
    found = [RouteSettings(".".join(table.path), table.path, None, [table]) for table in _destinations(file)]
    redirect = _frontend_table(file, MIRROR_REDIRECT.name)
    if redirect and not any(table.path[:2] == redirect.path for table in _destinations(file)):
        errors.add(redirect.path, f"no [{dotted((*redirect.path, 's3', 'REGION'))}] table: the bucket for the copies")
    return found


def cache_route(file: ParsedTable, errors: ConfigErrors) -> list[RouteSettings]:
    """Return the cache of a file as a route without destinations, because nothing is written to its store."""
    cache = _frontend_table(file, MIRROR_CACHE.name)
    if cache is None:
        return []
    low, high = cache.values["low_fill"], cache.values["max_fill"]
    if low is not None and high is not None and low > high:
        errors.add(cache.path, f"must be at most max_fill, {high:g}, not {low:g}", "low_fill")
    prefix = cache.values["accel_prefix"]
    if prefix and not (prefix.startswith("/") and prefix.endswith("/")):
        errors.add(cache.path, f'must begin and end with "/", not {toml_repr(prefix)}', "accel_prefix")
    store = cache.tables.get("store")
    seen: dict[str, ParsedTable] = {}
    for table in ([store] if store else []) + _pairs(cache):
        access_key_id = table.values["aws_access_key_id"]
        if access_key_id is not None and seen.setdefault(access_key_id, table) is not table:
            errors.add(table.path, f"is already used in [{dotted(seen[access_key_id].path)}]", "aws_access_key_id")
    return [RouteSettings(".".join(cache.path), cache.path, store, [])] if store else []


def _pairs(cache: ParsedTable) -> list[ParsedTable]:
    return list(cache.tables["keys"].tables.values()) if "keys" in cache.tables else []


def mirror_settings(file: ParsedTable) -> MirrorSettings:
    """Return the settings of a valid file."""
    redirect, proxy, cache = (
        _frontend_table(file, table.name) for table in (MIRROR_REDIRECT, MIRROR_PROXY, MIRROR_CACHE)
    )
    namespace = file.tables[PUBSUB.name].values["namespace"]
    proxy_settings = None
    if proxy:
        (destination,), values = proxy.tables.values(), proxy.values
        host, port = values["bind"]
        proxy_settings = ProxySettings(
            host,
            port,
            values["source"],
            values["max_wait_s"],
            values["allow_private"],
            _endpoint(destination),
            namespace,
        )
    return MirrorSettings(
        _redirect(redirect, namespace) if redirect else None, proxy_settings, _cache(cache) if cache else None
    )


def _frontend_table(file: ParsedTable, name: str) -> ParsedTable | None:
    return file.tables[MIRROR.name].tables.get(name) if MIRROR.name in file.tables else None


def _destinations(file: ParsedTable) -> list[ParsedTable]:
    redirect, proxy = (_frontend_table(file, table.name) for table in (MIRROR_REDIRECT, MIRROR_PROXY))
    found = list(proxy.tables.values()) if proxy else []
    for service in redirect.tables.values() if redirect else ():
        found += service.tables.values()
    return found


def _endpoint(settings: ParsedTable) -> Endpoint:
    """Return an endpoint that is named by its whole table name, as in messages and Redis keys."""
    return replace(build_endpoint(settings), name=".".join(settings.path))


def _cache(settings: ParsedTable) -> CacheSettings:
    values = settings.values
    host, port = values["bind"]
    return CacheSettings(
        host,
        port,
        directory=Path(values["directory"]),
        streams=values["miss"] == "stream",
        store=_endpoint(settings.tables["store"]),
        keys=tuple(
            (pair.values["aws_access_key_id"], pair.values["aws_secret_access_key"]) for pair in _pairs(settings)
        ),
        **{name: values[name] for name in ("max_fill", "low_fill", "revalidate_s", "accel_prefix")},
    )


def _redirect(settings: ParsedTable, namespace: str) -> RedirectSettings:
    values = settings.values
    destinations = {}
    for service in settings.tables.values():
        for region in service.tables.values():
            endpoint = _endpoint(region)
            if "region" not in region.given and endpoint.host is None:
                endpoint = replace(endpoint, region=region.name)  # AWS: the region is part of the path
            destinations[service.name, region.name] = endpoint
    host, port = values["bind"]
    same_names = ("https_only", "max_wait_s", "purge_token", "lifespan_days", "force_https")
    return RedirectSettings(
        host,
        port,
        patterns=values["allowed_patterns"],
        private=values["allow_private"],
        destinations=destinations,
        namespace=namespace,
        **{name: values[name] for name in same_names},
    )
