"""What the status page shows, read from Redis: so it is the same from whichever process of the fleet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from ..model import Endpoint, Route
from ..queue.admin import PendingStats
from ..queue.base import DeadLetter, QueueStats
from ..queue.redis_queue import RedisJobQueue
from .heartbeat import ProcessInfo, ProcessRegistry
from .history import Failure, History, HourlySeries, quantile_s

LETTERS_SHOWN = 20
FAILURES_SHOWN = 3
RECENT_S = 3600
PAUSED = "paused"
"""The reason of a circuit that a person opened (`RedisJobQueue.pause`)."""


class StoreState:
    """How a store does, in the words of the page."""

    HEALTHY = "healthy"
    RETRYING = "retrying"
    PAUSED = "paused"
    OPEN = "circuit open"


@dataclass(frozen=True)
class StoreView:
    """A destination, or the source, of a route.

    Attributes:
        why: the reason of its state, where there is one.
        failures: the latest of the last hour, one for each reason.
    """

    name: str
    address: str
    state: str
    why: str
    parked: int
    pending: PendingStats | None = None
    hour: HourlySeries = field(default_factory=HourlySeries)
    copied_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag_p50_s: float | None = None
    lag_p99_s: float | None = None
    dead_letters: int = 0
    failures: Sequence[Failure] = ()


@dataclass(frozen=True)
class RouteView:
    """A route.

    Attributes:
        command: the one whose processes work on it: listen, or mirror.
    """

    name: str
    command: str
    channel: str
    source: StoreView
    destinations: Sequence[StoreView]
    counts: QueueStats
    members: Sequence[ProcessInfo]
    letters: Mapping[str, Sequence[DeadLetter]]
    last_reconcile: Mapping[str, Any] | None
    compared_now: str
    now_ms: int

    @property
    def oldest_s(self) -> float | None:
        """How long the oldest pending job waits."""
        ages = [one.pending.oldest_s for one in self.destinations if one.pending and one.pending.oldest_s is not None]
        return max(ages, default=None)


class RouteSnapshotReader:
    """Reads one route's state.

    Args:
        jobs: its queue.
        command: the one whose processes work on it: listen, or mirror.
    """

    def __init__(self, route: Route, jobs: RedisJobQueue, command: str = "listen") -> None:
        self.route = route
        self.jobs = jobs
        self.command = command
        self._history = History(jobs.client, jobs.prefix)
        self._fleet = ProcessRegistry(jobs.client, jobs.prefix)

    @property
    def destinations(self) -> Sequence[str]:
        """All that may have dead letters."""
        return (*self.route.destination_names, DeadLetter.MESSAGES)

    async def read(self) -> RouteView:
        """Read everything. Raises RedisUnavailable."""
        counts = await self.jobs.stats()
        spread = await self.jobs.pending_by_destination()
        told = await self._history.read()
        members = await self._fleet.processes()
        summary = await self.jobs.load_reconcile_summary()
        letters = {name: await self._letters(name) for name, count in counts.dead_letters.items() if count}
        route = self.route
        destinations = []
        for endpoint in route.destinations:
            hour = told.hours.get(endpoint.name, HourlySeries())
            pending = spread[endpoint.name]
            state, why = _state(endpoint.name, counts, pending.retrying)
            destinations.append(
                StoreView(
                    endpoint.name, address(endpoint), state, why, pending.parked, pending, hour,
                    copied_per_s=hour.rate(hour.copied, told.now_ms),
                    bytes_per_s=hour.rate(hour.copied_bytes, told.now_ms),
                    lag_p50_s=quantile_s(hour.lag, 0.5),
                    lag_p99_s=quantile_s(hour.lag, 0.99),
                    dead_letters=counts.dead_letters.get(endpoint.name, 0),
                    failures=_latest(endpoint.name, told.failures, told.now_ms),
                )
            )  # fmt: skip
        name = route.source.name
        source = StoreView(name, address(route.source), *_state(name, counts, 0), counts.parked.get(name, 0))
        return RouteView(
            route.name, self.command, route.channel, source, destinations, counts, members, letters,
            json.loads(summary) if summary else None, await self.jobs.current_reconcile(), told.now_ms,
        )  # fmt: skip

    async def _letters(self, destination: str) -> list[DeadLetter]:
        letters = []
        async for letter in self.jobs.dead_letters(destination):
            letters.append(letter)
            if len(letters) == LETTERS_SHOWN:
                break
        return sorted(letters, key=lambda letter: (letter.dead_lettered_ms, letter.key))


def watches(
    client: Redis, routes: Sequence[Route], lease_s: float, command: str = "listen"
) -> list[RouteSnapshotReader]:
    """Return what reads these routes."""
    return [RouteSnapshotReader(route, RedisJobQueue.of(client, route, lease_s), command) for route in routes]


def address(endpoint: Endpoint) -> str:
    """Return where a bucket is, for people. No part of it is secret."""
    if not endpoint.bucket_name:
        return "the web, as clients ask"  # a mirror's source
    host = endpoint.host or f"AWS {endpoint.region}"
    port = f":{endpoint.port}" if endpoint.port else ""
    return f"{host}{port}/{endpoint.bucket_name}{'/' if endpoint.prefix else ''}{endpoint.prefix}"


def _state(name: str, counts: QueueStats, waiting: int) -> tuple[str, str]:
    reason = counts.circuits.get(name)
    if counts.paused or reason == PAUSED:
        return StoreState.PAUSED, "the whole route, by hand" if counts.paused else "by hand"
    if reason is not None:
        return StoreState.OPEN, reason.removeprefix(f"{name}: ")
    return (StoreState.RETRYING if waiting else StoreState.HEALTHY), ""


def _latest(destination: str, failures: Sequence[Failure], now_ms: int) -> list[Failure]:
    """Return the destination's failures of the last hour, those for the same reason as one."""
    found: dict[str, Failure] = {}
    for one in failures:
        if one.destination == destination and now_ms - one.at_ms < RECENT_S * 1000:
            before = found.get(one.reason)
            count = one.count + (before.count if before else 0)
            newest = before or one
            found[one.reason] = Failure(destination, one.reason, newest.key, count, newest.at_ms)
    return list(found.values())[:FAILURES_SHOWN]
