"""Which stores are down, as one process sees it: what not to try, and when to say so to the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

from ..model import Job, Outcome, Result
from ..queue.redis_retry import RedisRetry
from .retry_policy import unavailable_store

FAILURES_TO_OPEN = 5
KEYS_TO_OPEN = 3
"""A circuit opens after so many failures in a row, of so many keys: one bad object is no sick store."""

FAILURES_KEPT = 20


class CircuitStates(Protocol):
    """Where the state of each circuit is kept: the queue, or one process."""

    async def trip_circuit(self, store: str, reason: str, key: str, /) -> None:
        """Open a circuit, or keep it open for longer if `key` was its probe."""

    async def close_circuit(self, store: str, /) -> None:
        """Close a circuit."""


class CircuitBreakers:
    """A route's circuits: `opened` is what the fleet knew at the last claim, and what failed here since."""

    def __init__(self, jobs: CircuitStates, source: str, patience: RedisRetry | None = None) -> None:
        self._jobs = jobs
        self._source = source
        self._patience = patience or RedisRetry()
        self._failed_keys: dict[str, list[str]] = {}
        self.opened: dict[str, str] = {}

    def update(self, opened: Mapping[str, str]) -> None:
        """Take what a claim told: stores that are down, each with the one key that may be tried there."""
        for closed in self.opened.keys() - opened.keys():
            self._failed_keys.pop(closed, None)
        self.opened = dict(opened)

    def parked(self, job: Job) -> dict[str, str]:
        """Return the job's destinations that are not to be tried now, each with the store that it has to wait for."""
        down = {store for store, probe in self.opened.items() if probe != job.key}
        if self._source in down:
            return dict.fromkeys(job.destinations, self._source)
        return {name: name for name in job.destinations if name in down}

    async def learn(self, outcomes: Iterable[Outcome]) -> None:
        """Open and close circuits by what became of a job, and tell the fleet, however long Redis is away."""
        for outcome in outcomes:
            if outcome.result is not Result.FAILED:
                if self.opened or self._failed_keys:  # hardly ever
                    await self._works(self._source)
                    if outcome.result is not Result.SOURCE_MISSING:
                        await self._works(outcome.destination)
            elif store := unavailable_store(outcome.error):
                await self._fails(store, outcome)

    async def _works(self, store: str) -> None:
        self._failed_keys.pop(store, None)
        if self.opened.pop(store, None) is not None:
            await self._patience.run(partial(self._jobs.close_circuit, store))

    async def _fails(self, store: str, outcome: Outcome) -> None:
        keys = self._failed_keys.setdefault(store, [])
        keys.append(outcome.key)
        del keys[:-FAILURES_KEPT]
        looks_sick = len(keys) >= FAILURES_TO_OPEN and len(set(keys)) >= KEYS_TO_OPEN
        if looks_sick or store in self.opened:
            self.opened.setdefault(store, "")
            await self._patience.run(partial(self._jobs.trip_circuit, store, outcome.reason, outcome.key))
