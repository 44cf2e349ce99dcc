"""Keep stores that are unavailable, slow or rate-limited from delaying the copies to the others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..errors import DestinationTooSlow
from ..model import Job, Outcome, Result
from ..queue.redis_calls import RedisRetry
from ..s3 import RateLimiter
from .retry_policy import unavailable_store

#: A circuit opens after this many consecutive failures ...
FAILURES_TO_OPEN = 5

#: ... of this many different keys: a single object that always fails does not mean that the store is down.
KEYS_TO_OPEN = 3

#: Number of recent failures kept for each store.
FAILURE_WINDOW = 20

#: How long a slow destination is isolated before one job tries it together with the others again.
ISOLATE_FOR_S = 60.0


class CircuitStates(Protocol):
    """Where the state of each circuit is kept: the queue, or one process."""

    async def trip_circuit(self, store: str, reason: str, key: str, /) -> None:
        """Open a circuit, or keep it open for longer if `key` was its probe."""

    async def close_circuit(self, store: str, /) -> None:
        """Close a circuit."""


class CircuitBreakers:
    """The circuit breakers of a route, shared by its workers through the queue.

    Attributes:
        opened: stores with an open circuit, each with the key that may be tried as a probe ("" for none). Contains
            the state at the last claim, and what this process has opened or closed since.
        failed_keys: keys of the recent consecutive failures, by store.
    """

    def __init__(self, jobs: CircuitStates, source: str, redis_retry: RedisRetry | None = None) -> None:
        self._jobs = jobs
        self._source = source
        self._redis_retry = redis_retry or RedisRetry()
        self.failed_keys: dict[str, list[str]] = {}
        self.opened: dict[str, str] = {}

    def update(self, opened: Mapping[str, str]) -> None:
        """Take over the open circuits from a claim."""
        for closed in self.opened.keys() - opened.keys():
            self.failed_keys.pop(closed, None)
        self.opened = dict(opened)

    def parked(self, job: Job) -> dict[str, str]:
        """Return the job's destinations that must not be tried now, each with the store whose circuit is open."""
        down = {store for store, probe in self.opened.items() if probe != job.key}
        if self._source in down:
            return dict.fromkeys(job.destinations, self._source)
        return {name: name for name in job.destinations if name in down}

    async def record(self, outcomes: Iterable[Outcome]) -> None:
        """Open and close circuits by the outcomes of a job; retries until Redis is available."""
        for outcome in outcomes:
            if outcome.result is not Result.FAILED:
                if self.opened or self.failed_keys:
                    await self._record_success(self._source)
                    if outcome.result is not Result.SOURCE_MISSING:
                        await self._record_success(outcome.destination)
            elif store := unavailable_store(outcome.error):
                await self._record_failure(store, outcome)

    async def _record_success(self, store: str) -> None:
        self.failed_keys.pop(store, None)
        if self.opened.pop(store, None) is not None:
            await self._redis_retry.run(partial(self._jobs.close_circuit, store))

    async def _record_failure(self, store: str, outcome: Outcome) -> None:
        keys = self.failed_keys.setdefault(store, [])
        keys.append(outcome.key)
        del keys[:-FAILURE_WINDOW]
        is_down = len(keys) >= FAILURES_TO_OPEN and len(set(keys)) >= KEYS_TO_OPEN
        if is_down or store in self.opened:
            self.opened.setdefault(store, "")
            await self._redis_retry.run(partial(self._jobs.trip_circuit, store, outcome.reason, outcome.key))


class SlowDestinations:
    """The destinations of a route that get jobs of their own in the bulk lane, because they slow down the others.

    One that is slow, or hangs, delays the others by one second, and from then on costs at most half of the slots.

    Attributes:
        isolated: until when, by destination (time.monotonic()).
    """

    def __init__(self) -> None:
        self.isolated: dict[str, float] = {}

    def isolate(self, destinations: Sequence[str]) -> list[str]:
        """Return those of a job's destinations to defer; none if all of them are slow."""
        if not self.isolated or all(name in self.isolated for name in destinations):
            return []
        now_s = time.monotonic()
        slow = [name for name in destinations if name in self.isolated]
        deferred = [name for name in slow if now_s < self.isolated[name]]
        for name in set(slow).difference(deferred):
            self.isolated[name] = now_s + ISOLATE_FOR_S  # this job tries it, further jobs do not
        return deferred

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Isolate destinations that were too slow in a job, and end the isolation of those that were not."""
        for outcome in outcomes:
            if isinstance(outcome.error, DestinationTooSlow):
                self.isolated[outcome.destination] = time.monotonic() + ISOLATE_FOR_S
            elif self.isolated and len(outcomes) > 1 and outcome.result is not Result.FAILED:
                self.isolated.pop(outcome.destination, None)


class Bulkhead:
    """Caps the worker slots of rate-limited destinations, so that jobs waiting for a limit do not fill all slots.

    A job beyond the cap is parked for the destination, and queued again when `promote_due` finds a free slot.

    Args:
        limits: rate limiters by destination.
        share: a destination's share of the slots, while its rate limit is exhausted.
    """

    def __init__(self, limits: Mapping[str, RateLimiter], share: int) -> None:
        self._limits = limits
        self._share = max(share, 1)
        self._used: Counter[str] = Counter()

    def full(self, job: Job, parked: Collection[str]) -> list[str]:
        """Return the job's destinations without a free slot, except those that are parked anyway."""
        return [
            name for name in job.destinations if name in self._limits and name not in parked and self._free(name) == 0
        ]

    def stop_admitting(self) -> None:
        """Fail requests that would have to wait for a rate limit, because this process is shutting down."""
        for rate_limiter in self._limits.values():
            rate_limiter.stop_admitting()

    def acquire(self, task: asyncio.Task[Any], destinations: Sequence[str]) -> None:
        """Occupy a slot of each destination until the task has ended."""
        names = [name for name in destinations if name in self._limits]
        self._used.update(names)
        task.add_done_callback(lambda _: self._used.subtract(names))

    def free(self) -> dict[str, int]:
        """Return the free slots of each destination whose slots are limited now."""
        free = {name: self._free(name) for name in self._limits}
        return {name: count for name, count in free.items() if count is not None}

    def _free(self, name: str) -> int | None:
        slots = self._limits[name].slots(self._share)
        return None if slots is None else max(slots - self._used[name], 0)
