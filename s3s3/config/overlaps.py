"""Decide whether two endpoints can hold the same key."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace

from ..errors import ConfigError
from ..model import Endpoint, Route
from .settings import Config


def overlap(first: Endpoint, second: Endpoint) -> bool:
    """Whether both can hold the same key: same store and bucket, and one prefix begins with the other."""
    if bucket_of(first) != bucket_of(second):
        return False
    return first.prefix.startswith(second.prefix) or second.prefix.startswith(first.prefix)


def bucket_of(endpoint: Endpoint) -> tuple[str, int, str]:
    """Return host with the path of its URL, port and bucket.

    AWS counts as one host, because its bucket names are globally unique.
    """
    host = (endpoint.host or "amazonaws.com").lower().rstrip(".")
    if f".{host}".endswith(".amazonaws.com"):
        return "amazonaws.com", 443, endpoint.bucket_name
    return host + endpoint.base_path, endpoint.port or (443 if endpoint.is_secure else 80), endpoint.bucket_name


def config_warnings(config: Config) -> list[str]:
    """Return a warning for each setting that is valid, but may do harm."""
    return [*_deletion_warnings(config.routes), *_tls_warnings(config), *_permission_warnings(config)]


def _permission_warnings(config: Config) -> list[str]:
    """Return a warning for each file with a secret that all users of this machine can read."""
    return [
        f"every user of this machine can read {path}, which has the secret {key}: run chmod o= {path}"
        for path, key in config.secret_files.items()
        if path.is_file() and path.stat().st_mode & stat.S_IROTH
    ]


def _deletion_warnings(routes: Sequence[Route]) -> list[str]:
    """Return a warning for each destination with deletions that is the source of another route."""
    return [
        f"{destination.table} has delete = true and contains {other.source.table}: everything there that route "
        f"{route.name} did not copy is deleted, before or after route {other.name} copies it; "
        "if other programs write there, give one of the two its own prefix"
        for route in routes
        for destination in route.destinations
        for other in routes
        if destination.delete and other is not route and bucket_of(destination) == bucket_of(other.source)
        and other.source.prefix.startswith(destination.prefix)
    ]  # fmt: skip


def _tls_warnings(config: Config) -> list[str]:
    mirror = config.mirror
    endpoints = [endpoint for route in config.routes for endpoint in (route.source, *route.destinations)]
    endpoints += mirror.redirect.destinations.values() if mirror.redirect else ()
    endpoints += [mirror.proxy.destination] if mirror.proxy else []
    endpoints += [mirror.cache.store] if mirror.cache else []
    tables = [endpoint.table for endpoint in endpoints if endpoint.is_secure and not endpoint.verify_tls]
    tables += ["[sqs]"] if config.sqs and not config.sqs.verify_tls else []
    return [
        f"{table} has verify_tls = false: anyone on the way to the server can read and change what is sent; "
        "if its certificate is of a private authority, set ca_file instead"
        for table in tables
    ]


def with_buckets(routes: Sequence[Route], source_bucket: str | None, dest_bucket: str | None) -> list[Route]:
    """Return the routes with other buckets, as given by --source-bucket and --dest-bucket.

    Raises:
        ConfigError: a destination would be the source itself, or there are several routes.
    """
    if not (source_bucket or dest_bucket):
        return list(routes)
    if len(routes) > 1:
        names = ", ".join(route.name for route in routes)
        raise ConfigError(
            [f"other buckets apply to a single route, but there are several: {names}; choose one with --route"]
        )
    (route,) = routes
    source = replace(route.source, bucket_name=source_bucket or route.source.bucket_name)
    destinations = tuple(replace(one, bucket_name=dest_bucket or one.bucket_name) for one in route.destinations)
    if same := [destination.name for destination in destinations if overlap(source, destination)]:
        advice = "is the source itself; choose another bucket"
        raise ConfigError([f"with bucket {source.bucket_name!r}, {name} {advice}" for name in same])
    return [replace(route, source=source, destinations=destinations)]
