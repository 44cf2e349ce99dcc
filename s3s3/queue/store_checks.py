"""What `s3s3 check` found out about a route's destinations, for all processes that copy to them.

content-md5    hash: HOST:PORT/BUCKET of a destination to {"enforced": true, "checked_ms": 1767225600000}: whether it
               refuses a wrong Content-MD5 with nothing stored and returns MD5s as ETags, and when that was tried
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from redis.asyncio import Redis

from ..config.overlaps import bucket_of
from ..errors import RedisUnavailable
from ..model import Endpoint, Route
from .redis_calls import keyspace, translate_errors

#: How often a process reads the records, in seconds.
REFRESH_S = 60.0


class StoreCheck(NamedTuple):
    """Whether a destination enforced Content-MD5 when it was tried (Unix time by the clock of that machine)."""

    enforced: bool
    checked_ms: int


class Checksums(Protocol):
    """Names of destinations that enforce Content-MD5, and of those for which a copy has shown that they do not."""

    enforcing: set[str]
    refuted: set[str]


class StoreChecks:
    """The records of one route. Every method can raise RedisUnavailable."""

    def __init__(self, client: Redis, route: Route) -> None:
        self._client = client
        self._route = route
        self._key = f"{keyspace(route.namespace, route.name)}content-md5"

    async def record(self, destination: Endpoint, enforced: bool) -> None:
        """Record a result, with the current time."""
        record = json.dumps({"enforced": enforced, "checked_ms": int(time.time() * 1000)})
        with translate_errors():
            await self._client.hset(self._key, _place(destination), record)

    async def load(self) -> Mapping[str, StoreCheck]:
        """Return the results by the destination's name."""
        with translate_errors():
            found = await self._client.hgetall(self._key)
        checks = {}
        for destination in self._route.destinations:
            with suppress(ValueError, KeyError, TypeError):  # absent, or not a record: another process checks again
                fields = json.loads(found[_place(destination)])
                checks[destination.name] = StoreCheck(bool(fields["enforced"]), int(fields["checked_ms"]))
        return checks

    async def refresh(self, checksums: Checksums) -> None:
        """Update what a process knows, and record what its copies have refuted."""
        checks = await self.load()
        for destination in self._route.destinations:
            name = destination.name
            if name in checksums.refuted and name in checks and checks[name].enforced and name in checksums.enforcing:
                await self.record(destination, enforced=False)
        checksums.enforcing = {name for name, check in checks.items() if check.enforced} - checksums.refuted

    async def follow(self, checksums: Checksums) -> None:
        """Refresh every REFRESH_S, until it is cancelled. Redis may be unavailable meanwhile."""
        while True:
            await asyncio.sleep(REFRESH_S)
            with suppress(RedisUnavailable):
                await self.refresh(checksums)


def _place(endpoint: Endpoint) -> str:
    host, port, bucket_name = bucket_of(endpoint)
    return f"{host}:{port}/{bucket_name}"
