"""The routes that a configuration file makes: [source] with every [dest*], and each [routes.NAME].

What one destination holds no other may write, and no object may come back to where it was copied from: not by its
own route, not by way of others. A chain that does not close is all right: one route's destination may be another's
source. Prefixes decide, whatever `include` and `exclude` say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Route
from .addresses import is_ip
from .overlaps import overlap
from .schema import DESTINATION, ROUTES, SOURCE, STORES
from .table_reader import ParsedTable
from .toml_file import ConfigErrors, dotted

DEFAULT_ROUTE = "default"
"""The route that [source] and the [dest*] tables make."""

_PLACE_KEYS = frozenset({"host", "port", "is_secure", "bucket_name", "bucket_suffix", "prefix"})
_PAIR = ("aws_access_key_id", "aws_secret_access_key")


@dataclass(frozen=True)
class RouteSettings:
    """What a file says of one route. `source` is None where that has a fault: it is missing."""

    name: str
    path: tuple[str, ...]
    source: ParsedTable | None
    destinations: Sequence[ParsedTable]
    channel: str | None = None

    @property
    def endpoints(self) -> list[ParsedTable]:
        return [*([self.source] if self.source else []), *self.destinations]


def routes_in(file: ParsedTable) -> list[RouteSettings]:
    """Return the routes of a file, the default one first where there is one."""
    default = _route_in(file, DEFAULT_ROUTE)
    named = file.tables[ROUTES.name].tables if ROUTES.name in file.tables else {}
    others = [_route_in(table, name) for name, table in named.items()]
    return [default, *others] if default.endpoints else others


def _route_in(table: ParsedTable, name: str) -> RouteSettings:
    return RouteSettings(
        name,
        table.path,
        next((inner_table for inner_table in table.tables.values() if inner_table.table is SOURCE), None),
        [inner_table for inner_table in table.tables.values() if inner_table.table is DESTINATION],
        table.values.get("channel"),
    )


def build_routes(routes: Sequence[RouteSettings], default_channel: str) -> tuple[Route, ...]:
    """Return the routes of a file that has no fault.

    One that copies what others write stands after them, so that one comparison of all routes is enough.
    """
    return tuple(
        Route(
            name=route.name,
            source=build_endpoint(route.source),
            destinations=tuple(map(build_endpoint, route.destinations)),
            include=route.source.values["include"],
            exclude=route.source.values["exclude"],
            channel=default_channel if route.channel is None else route.channel,
        )
        for route in _in_dependency_order(routes)
        if route.source is not None
    )


def _in_dependency_order(routes: Sequence[RouteSettings]) -> Iterator[RouteSettings]:
    rest = {route.name: route for route in routes}
    feeding = {
        route.name: {one.name for one in routes if one is not route and _writes_into(one, route)} for route in routes
    }
    while rest:
        name = next(name for name in rest if not feeding[name] & rest.keys())
        yield rest.pop(name)


def build_endpoint(settings: ParsedTable) -> Endpoint:
    """Return the endpoint of a table that has no fault."""
    values = settings.values
    return Endpoint(
        name=settings.name,
        bucket_name=_bucket_name(settings),
        host=values["host"],
        port=values["port"],
        is_secure=values["is_secure"],
        access_key_id=values["aws_access_key_id"],
        secret_access_key=values["aws_secret_access_key"],
        prefix=values["prefix"],
        path_style=values["calling_format"] == "OrdinaryCallingFormat",
        signature_version=values["signature_version"],
        region=values["region"],
        verify_md5=values.get("verify_md5", False),
        within=dotted(settings.path[:-1]),
        storage_class=values.get("storage_class"),
        acl=values.get("acl"),
        server_side_encryption=values.get("server_side_encryption"),
        server_side_copy=values.get("server_side_copy", True),
        copy_tags=values.get("copy_tags", False),
        copy_acl=values.get("copy_acl", False),
        multipart=values.get("multipart", False),
        multipart_threshold_bytes=min(
            values.get("multipart_threshold") or SINGLE_PUT_LIMIT_BYTES, SINGLE_PUT_LIMIT_BYTES
        ),
        max_requests_per_s=values.get("max_requests_per_s") or (),
        max_bytes_per_s=values.get("max_bytes_per_s") or (),
        delete=values.get("delete", False),
        max_delete=values.get("max_delete", 0.1),
    )


def _bucket_name(settings: ParsedTable) -> str:
    return f"{settings.values['bucket_name']}{settings.values.get('bucket_suffix', '')}"


# -- one endpoint


def check_endpoints(file: ParsedTable, routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Add what is wrong with a source, a destination or a store by itself."""
    endpoints = [settings for route in routes for settings in route.endpoints]
    stores = file.tables[STORES.name].tables.values() if STORES.name in file.tables else ()
    for settings in (*stores, *endpoints):
        for given, other in (_PAIR, _PAIR[::-1]):
            if given in settings.own and other not in settings.own | settings.near_misses:
                message = f"given without {other}; give both, or neither for boto3's own chain"
                errors.add(settings.path, message, given)
    for settings in endpoints:
        if "port" in settings.written and "host" not in settings.written | settings.near_misses:
            errors.add(settings.path, "given without host; AWS, which no host means, has no other port", "port")
        if settings.values["calling_format"] == "SubdomainCallingFormat" and is_ip(settings.values["host"] or ""):
            message = "a bucket cannot be put before an IP address; leave it out"
            errors.add(settings.path, message, "calling_format")
        if settings.values.get("copy_acl") and settings.values.get("acl"):
            errors.add(settings.path, "given with acl, which is asked for with every object; leave one out", "copy_acl")


# -- what they must not do to each other


def check_routes(routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Add a fault for each two endpoints, and each circle of routes, that would write the same keys again."""
    if [route.name for route in routes].count(DEFAULT_ROUTE) > 1:
        name = dotted((ROUTES.name, DEFAULT_ROUTE))
        errors.add((ROUTES.name, DEFAULT_ROUTE), f"[{SOURCE.name}] makes a route of this name; rename [{name}]")
    for route in routes:
        for source, destination in ((route.source, destination) for destination in route.destinations if route.source):
            if source and _overlap(source, destination):
                _refuse(source, destination, errors)
    for one, other in combinations([destination for route in routes for destination in route.destinations], 2):
        if _overlap(one, other):
            _refuse(one, other, errors)
    for cycle in _cycles(routes):
        names = ", ".join(route.name for route in cycle)
        hops = ", ".join(_hop(one, other) for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        message = f"the routes {names} make a circle: {hops}; take one out, or give it a bucket or a prefix of its own"
        errors.add(max((route.path for route in cycle), key=len), message)


def _refuse(one: ParsedTable, other: ParsedTable, errors: ConfigErrors) -> None:
    same = one.values["prefix"] == other.values["prefix"]
    what = "is the bucket and prefix of" if same else "overlaps, within one bucket, with"
    errors.add(other.path, f"{what} [{dotted(one.path)}]; give it a bucket or a prefix of its own")


def _hop(one: RouteSettings, other: RouteSettings) -> str:
    """Return in words how one route writes what the other copies."""
    assert other.source
    destination = next(destination for destination in one.destinations if _overlap(destination, other.source))
    return f"[{dotted(destination.path)}] overlaps [{dotted(other.source.path)}]"


def _cycles(routes: Sequence[RouteSettings]) -> Iterator[list[RouteSettings]]:
    """Yield, for each route that its own copies come back to, the shortest way; each circle once."""
    following = {
        route.name: [other for other in routes if other is not route and _writes_into(route, other)] for route in routes
    }
    reported: set[frozenset[str]] = set()
    for route in routes:
        path = _shortest_cycle(route, following)
        names = frozenset(one.name for one in path)
        if path and names not in reported:
            reported.add(names)
            yield path


def _writes_into(one: RouteSettings, other: RouteSettings) -> bool:
    """Whether one route writes what the other copies."""
    return other.source is not None and any(_overlap(destination, other.source) for destination in one.destinations)


def _shortest_cycle(start: RouteSettings, following: Mapping[str, Sequence[RouteSettings]]) -> list[RouteSettings]:
    """Return the shortest way from a route to itself, without its end; [] where there is none."""
    paths = deque([[start]])
    reached = {start.name}
    while paths:
        path = paths.popleft()
        for route in following[path[-1].name]:
            if route is start:
                return path
            if route.name not in reached:
                reached.add(route.name)
                paths.append([*path, route])
    return []


def _overlap(one: ParsedTable, other: ParsedTable) -> bool:
    """Whether two tables are about the same keys; what has a fault cannot be told."""
    if any((settings.broken | settings.near_misses) & _PLACE_KEYS for settings in (one, other)):
        return False
    return overlap(build_endpoint(one), build_endpoint(other))
