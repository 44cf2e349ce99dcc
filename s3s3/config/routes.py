"""Relations between buckets: reject overlapping destinations and circular routes; order the routes.

Two destinations must not write the same keys, and an object must not return to where it was copied from, neither by
its own route nor through others. Chains are allowed: a destination of one route may be the source of another.
Prefixes decide; `include` and `exclude` are not considered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from ..model import Endpoint
from .overlaps import overlap
from .settings import DEFAULT_ROUTE
from .toml_file import ConfigErrors, dotted


class Place(NamedTuple):
    """A bucket's table: the names that lead to it, and its endpoint; None if the keys that locate it are invalid."""

    path: tuple[str, ...]
    endpoint: Endpoint | None


@dataclass(frozen=True)
class RoutePlaces:
    """The tables of one route. `source` is None if it is missing, which is reported elsewhere."""

    name: str
    path: tuple[str, ...]
    source: Place | None
    destinations: Sequence[Place]


def check_routes(routes: Sequence[RoutePlaces], errors: ConfigErrors) -> None:
    """Report endpoints that overlap and routes that form a cycle."""
    if [route.name for route in routes].count(DEFAULT_ROUTE) > 1:
        path = ("routes", DEFAULT_ROUTE)
        errors.add(path, f"[source] defines a route of this name; rename [{dotted(path)}]")
    pairs = [(route.source, destination) for route in routes for destination in route.destinations if route.source]
    pairs += combinations([destination for route in routes for destination in route.destinations], 2)
    for first, second in pairs:
        if first.endpoint and second.endpoint and overlap(first.endpoint, second.endpoint):
            same = first.endpoint.prefix == second.endpoint.prefix
            what = "has the bucket and prefix of" if same else "overlaps, in the same bucket, with"
            errors.add(second.path, f"{what} [{dotted(first.path)}]; give it its own bucket or prefix")
    unique = list({route.name: route for route in reversed(routes)}.values())
    for cycle in _cycles(unique[::-1]):
        names = ", ".join(route.name for route in cycle)
        hops = ", ".join(_hop(route, following) for route, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        message = f"the routes {names} form a cycle: {hops}; remove one, or give it its own bucket or prefix"
        errors.add(max((route.path for route in cycle), key=len), message)


def in_order(routes: Sequence[RoutePlaces]) -> list[str]:
    """Return the names of routes without a cycle, each after those that write its source.

    One comparison of all routes in this order is enough.
    """
    feeding = {
        route.name: {other.name for other in routes if other is not route and _writes_into(other, route)}
        for route in routes
    }
    ordered: list[str] = []
    while len(ordered) < len(feeding):
        ordered.append(next(name for name in feeding if name not in ordered and feeding[name] <= set(ordered)))
    return ordered


def _hop(route: RoutePlaces, following: RoutePlaces) -> str:
    """Return in words how one route writes the source of another."""
    assert following.source
    destination = next(one for one in route.destinations if _overlap(one, following.source))
    return f"[{dotted(destination.path)}] overlaps [{dotted(following.source.path)}]"


def _cycles(routes: Sequence[RoutePlaces]) -> Iterator[list[RoutePlaces]]:
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


def _writes_into(route: RoutePlaces, other: RoutePlaces) -> bool:
    """Whether one route writes the source of the other."""
    return any(_overlap(destination, other.source) for destination in route.destinations)


def _shortest_cycle(start: RoutePlaces, following: Mapping[str, Sequence[RoutePlaces]]) -> list[RoutePlaces]:
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


def _overlap(first: Place, second: Place | None) -> bool:
    return bool(second and first.endpoint and second.endpoint and overlap(first.endpoint, second.endpoint))
