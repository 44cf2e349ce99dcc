"""Per-store circuit breakers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

from ..model import Job, Outcome, Result
from ..queue.redis_calls import RedisRetry
from .retry_policy import unavailable_store

#: A circuit opens after this many consecutive failures ...
FAILURES_TO_OPEN = 5

#: ... of this many different keys: a single object that always fails does not mean that the store is down.
KEYS_TO_OPEN = 3

#: Number of recent failures kept for each store.
FAILURE_WINDOW = 20


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
