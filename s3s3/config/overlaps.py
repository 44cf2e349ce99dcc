"""Which keys two endpoints have in common, and what is doubted or refused because of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import ConfigError
from ..model import Endpoint, Route


def overlap(one: Endpoint, other: Endpoint) -> bool:
    """Whether a key can be in both: the same bucket of the same store, and one prefix begins the other."""
    if _bucket(one) != _bucket(other):
        return False
    return one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)


def _bucket(endpoint: Endpoint) -> tuple[str, int, str]:
    """Return host, port and bucket. All of AWS counts as one host: a bucket's name is unique there."""
    host = (endpoint.host or "amazonaws.com").lower().rstrip(".")
    if f".{host}".endswith(".amazonaws.com"):
        return "amazonaws.com", 443, endpoint.bucket_name
    return host, endpoint.port or (443 if endpoint.is_secure else 80), endpoint.bucket_name


def config_warnings(routes: Sequence[Route]) -> list[str]:
    """Return what may be meant, and may be a mistake: deletions where another route takes its objects from."""
    return [
        f"{destination.table} has delete = true, and {other.source.table} is in it: all is deleted there that route "
        f"{route.name} has not copied, before route {other.name} copies it or after; "
        "if others write there, too, give one of them a prefix of its own"
        for route in routes
        for destination in route.destinations
        for other in routes
        if destination.delete and other is not route and _bucket(destination) == _bucket(other.source)
        and other.source.prefix.startswith(destination.prefix)
    ]  # fmt: skip


def with_buckets(routes: Sequence[Route], source_bucket: str | None, dest_bucket: str | None) -> list[Route]:
    """Return the routes with another source bucket, and another bucket at every destination, where they are given.

    Raises:
        ConfigError: a destination would be the source itself, or several routes would be given the same bucket.
    """
    if not (source_bucket or dest_bucket):
        return list(routes)
    if len(routes) > 1:
        names = ", ".join(route.name for route in routes)
        raise ConfigError(
            [f"another bucket can be named for one route only, and there are {names}; choose one (--route)"]
        )
    return [_with_buckets(route, source_bucket, dest_bucket) for route in routes]


def _with_buckets(route: Route, source_bucket: str | None, dest_bucket: str | None) -> Route:
    source, destinations = route.source, route.destinations
    if source_bucket:
        source = dataclasses.replace(source, bucket_name=source_bucket)
    if dest_bucket:
        destinations = tuple(dataclasses.replace(destination, bucket_name=dest_bucket) for destination in destinations)
    cycles = [destination.name for destination in destinations if overlap(source, destination)]
    if cycles:
        raise ConfigError(
            [f"with bucket {source.bucket_name!r}, {name} is the source itself; name another" for name in cycles]
        )
    return dataclasses.replace(route, source=source, destinations=destinations)
