"""Build the routes: [source] with every [dest*], and each [routes.NAME]; reject overlapping and circular ones.

Two destinations must not write the same keys, and an object must not return to where it was copied from, neither by
its own route nor through others. Chains are allowed: a destination of one route may be the source of another.
Prefixes decide; `include` and `exclude` are not considered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

from ..model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Route
from .addresses import is_ip
from .overlaps import overlap
from .schema import DESTINATION, ROUTES, SOURCE, STORES
from .table_reader import ParsedTable
from .toml_file import ConfigErrors, dotted

#: Name of the route that [source] and the [dest*] tables define.
DEFAULT_ROUTE = "default"

_PLACE_KEYS = frozenset({"host", "port", "is_secure", "bucket_name", "bucket_suffix", "prefix"})
_PAIR = ("aws_access_key_id", "aws_secret_access_key")


@dataclass(frozen=True)
class RouteSettings:
    """The tables of one route. `source` is None if it is missing, which is reported elsewhere."""

    name: str
    path: tuple[str, ...]
    source: ParsedTable | None
    destinations: Sequence[ParsedTable]
    channel: str | None = None

    @property
    def endpoints(self) -> list[ParsedTable]:
        return [*([self.source] if self.source else []), *self.destinations]


def routes_in(file: ParsedTable) -> list[RouteSettings]:
    """Return the routes of a file, the default one first."""
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


def build_routes(routes: Sequence[RouteSettings], default_channel: str, namespace: str) -> tuple[Route, ...]:
    """Return the routes of a valid file.

    A route comes after those that write its source, so that one comparison of all routes in order is enough.
    """
    rest = {route.name: route for route in routes}
    feeding = {
        route.name: {other.name for other in routes if other is not route and _writes_into(other, route)}
        for route in routes
    }
    built = []
    while rest:
        route = rest.pop(next(name for name in rest if not feeding[name] & rest.keys()))
        assert route.source is not None
        built.append(
            Route(
                name=route.name,
                source=build_endpoint(route.source),
                destinations=tuple(map(build_endpoint, route.destinations)),
                include=route.source.values["include"],
                exclude=route.source.values["exclude"],
                channel=default_channel if route.channel is None else route.channel,
                namespace=namespace,
            )
        )
    return tuple(built)


def build_endpoint(settings: ParsedTable) -> Endpoint:
    """Return the endpoint of a valid table."""
    values = settings.values
    same_names = {field.name for field in fields(Endpoint)} & values.keys() - {"bucket_name"}
    limits = {name: values.get(name) or () for name in ("max_requests_per_s", "max_bytes_per_s")}
    threshold_bytes = values.get("multipart_threshold") or SINGLE_PUT_LIMIT_BYTES
    return Endpoint(
        name=settings.name,
        bucket_name=f"{values['bucket_name']}{values.get('bucket_suffix', '')}",
        parent_table=dotted(settings.path[:-1]),
        access_key_id=values["aws_access_key_id"],
        secret_access_key=values["aws_secret_access_key"],
        path_style=values["calling_format"] == "OrdinaryCallingFormat",
        multipart_threshold_bytes=min(threshold_bytes, SINGLE_PUT_LIMIT_BYTES),
        **{name: values[name] for name in same_names} | limits,
    )


# -- one endpoint


def check_endpoints(file: ParsedTable, routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Report problems within single sources, destinations and stores."""
    endpoints = [settings for route in routes for settings in route.endpoints]
    stores = file.tables[STORES.name].tables.values() if STORES.name in file.tables else ()
    for settings in (*stores, *endpoints):
        for given, other in (_PAIR, _PAIR[::-1]):
            if given in settings.own and other not in settings.own | settings.invalid:
                message = f"given without {other}; give both, or neither to use boto3's credential chain"
                errors.add(settings.path, message, given)
    for settings in endpoints:
        if "port" in settings.given and "host" not in settings.given | settings.invalid:
            errors.add(settings.path, "given without host; without a host the store is AWS", "port")
        if settings.values["calling_format"] == "SubdomainCallingFormat" and is_ip(settings.values["host"] or ""):
            message = "virtual-host style does not work with an IP address; leave calling_format out"
            errors.add(settings.path, message, "calling_format")
        if settings.values.get("copy_acl") and settings.values.get("acl"):
            message = "given together with acl, which applies to every object; leave one out"
            errors.add(settings.path, message, "copy_acl")


# -- conflicts between routes


def check_routes(routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Report endpoints that overlap and routes that form a cycle."""
    if [route.name for route in routes].count(DEFAULT_ROUTE) > 1:
        name = dotted((ROUTES.name, DEFAULT_ROUTE))
        errors.add((ROUTES.name, DEFAULT_ROUTE), f"[{SOURCE.name}] defines a route of this name; rename [{name}]")
    pairs = [(route.source, destination) for route in routes for destination in route.destinations if route.source]
    pairs += combinations([destination for route in routes for destination in route.destinations], 2)
    for first, second in pairs:
        if _overlap(first, second):
            same = first.values["prefix"] == second.values["prefix"]
            what = "has the bucket and prefix of" if same else "overlaps, in the same bucket, with"
            errors.add(second.path, f"{what} [{dotted(first.path)}]; give it its own bucket or prefix")
    for cycle in _cycles(routes):
        names = ", ".join(route.name for route in cycle)
        hops = ", ".join(_hop(route, following) for route, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        message = f"the routes {names} form a cycle: {hops}; remove one, or give it its own bucket or prefix"
        errors.add(max((route.path for route in cycle), key=len), message)


def _hop(route: RouteSettings, following: RouteSettings) -> str:
    """Return in words how one route writes the source of another."""
    assert following.source
    destination = next(destination for destination in route.destinations if _overlap(destination, following.source))
    return f"[{dotted(destination.path)}] overlaps [{dotted(following.source.path)}]"


def _cycles(routes: Sequence[RouteSettings]) -> Iterator[list[RouteSettings]]:
    """Yield the shortest cycle through each route; each cycle once."""
    following = {
        route.name: [other for other in routes if other is not route and _writes_into(route, other)] for route in routes
    }
    reported: set[frozenset[str]] = set()
    for route in routes:
        path = _shortest_cycle(route, following)
        names = frozenset(passed.name for passed in path)
        if path and names not in reported:
            reported.add(names)
            yield path


def _writes_into(route: RouteSettings, other: RouteSettings) -> bool:
    """Whether one route writes the source of the other."""
    return other.source is not None and any(_overlap(destination, other.source) for destination in route.destinations)


def _shortest_cycle(start: RouteSettings, following: Mapping[str, Sequence[RouteSettings]]) -> list[RouteSettings]:
    """Return the routes of the shortest cycle that begins at `start`; [] if there is none."""
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


def _overlap(first: ParsedTable, second: ParsedTable) -> bool:
    """Whether two tables can hold the same keys; False if a table is invalid."""
    if any(settings.invalid & _PLACE_KEYS for settings in (first, second)):
        return False
    return overlap(build_endpoint(first), build_endpoint(second))
