"""Names of the Redis keys of a route."""

from __future__ import annotations


def keyspace(route_name: str) -> str:
    """Return the prefix of every Redis key of a route: `s3s3:{ROUTE}:`.

    The braces are a hash tag: a cluster keeps all keys of a route in one slot, where one script can use them together.
    """
    return f"s3s3:{{{route_name}}}:"
