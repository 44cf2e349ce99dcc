"""Keep stores that are unavailable, slow or rate-limited from delaying the copies to the others."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from ..errors import DestinationTooSlow, S3S3Error, StoreError
from ..events import CIRCUIT_CLOSED, CIRCUIT_OPENED, log_event
from ..model import Job, Outcome, Result
from ..monitoring.formatting import iso_time
from ..queue.base import INITIAL_PROBE_INTERVAL_S, PAUSED, OpenCircuit, boottime_s
from ..queue.redis_calls import RedisRetry
from ..s3 import RateLimiter
from .retry_policy import (
    Cause,
    cause_of,
    has_worked,
    may_concern_one_object,
    opens_circuit,
    unavailable_store,
    used_stores,
)

log = logging.getLogger(__name__)

#: Number of recent failures kept for each store.
FAILURE_WINDOW = 20

#: How long the result of a read that tests whether a store denies everything is used, in seconds.
READ_TEST_KEPT_S = 10.0

#: How long after a circuit was closed keys may still be parked for it, by jobs that were planned before, in seconds.
PROMOTE_AGAIN_S = 2.0

#: How long a slow destination is isolated before one job tries it together with the others again.
ISOLATE_FOR_S = 60.0


#: Reads from a store, and returns the error: a HEAD of this key, which was read before, or a listing if it is "".
ReadTest: TypeAlias = Callable[[str, str], Awaitable[S3S3Error | None]]


class CircuitStates(Protocol):
    """Where the state of each circuit is kept: the queue, or one process."""

    async def trip_circuit(self, store: str, reason: str, key: str, /, *, is_only_key: bool) -> None:
        """Open a circuit after a failure of `key`, or keep it open for longer if that was its probe.

        `is_only_key`: no other key has failed, so any other one may be tried without a delay.
        """

    async def release_probe(self, store: str, key: str, /) -> None:
        """Choose another probe: the outcome of `key` shows nothing about the store."""

    async def close_circuit(self, store: str, succeeded: Sequence[str], /) -> None:
        """Close a circuit. `succeeded`: what was used successfully, by the names in `Job.succeeded`."""


class CircuitBreakers:
    """The circuit breakers of a route, shared by its workers through the queue.

    Args:
        read_test: separates an object that may not be read from a store that denies everything; None: no such test.

    Attributes:
        source: the source's name.
        opened: the open circuits at the last claim, with what this process has opened or closed since.
        failed_keys: keys of the recent consecutive failures, by store.
        last_key: the last key that was read from the source; "" before the first.
        changed: set after this process has opened or closed a circuit: a probe, or the parked keys, may be due soon.
    """

    def __init__(
        self, route: str, source: str, jobs: CircuitStates,
        *, redis_retry: RedisRetry | None = None, read_test: ReadTest | None = None,
    ) -> None:  # fmt: skip
        self._route = route
        self.source = source
        self._jobs = jobs
        self._redis_retry = redis_retry or RedisRetry()
        self._read_test = read_test
        self._testing = asyncio.Lock()
        self._read_errors: dict[str, tuple[float, S3S3Error | None]] = {}
        self._changed_s: dict[str, float] = {}
        self._known_open_s: dict[str, float] = {}  # since when, by time.monotonic()
        self.failed_keys: dict[str, list[str]] = {}
        self.opened: dict[str, OpenCircuit] = {}
        self.last_key = ""
        self.changed = asyncio.Event()

    def update(self, opened: Mapping[str, OpenCircuit], sent_s: float = math.inf) -> None:
        """Take over the open circuits from a claim, except for what this process has changed since it was sent.

        `sent_s`: when the claim was sent, by `boottime_s`.
        """
        opened = dict(opened)
        for store, changed_s in self._changed_s.items():
            if changed_s >= sent_s:
                opened.pop(store, None)
                opened.update({store: self.opened[store]} if store in self.opened else {})
        for store in self.opened.keys() - opened.keys():
            self.failed_keys.pop(store, None)
            self._log_closed(store, self.opened[store])
        for store, circuit in opened.items():
            if store not in self.opened:
                self._log_opened(store, circuit)
        self.opened = opened

    def parked(self, job: Job) -> dict[str, str]:
        """Return the job's destinations that must not be tried now, each with the store whose circuit is open."""
        down = {store for store, circuit in self.opened.items() if circuit.probe != job.key}
        if self.source in down:
            return dict.fromkeys(job.destinations, self.source)
        return {name: name for name in job.destinations if name in down}

    async def judge(self, job: Job, outcomes: Iterable[Outcome]) -> dict[str, Cause]:
        """Open and close circuits by the outcomes of a job; retries until Redis is available.

        Returns what the failure at each failed destination counts against.
        """
        causes: dict[str, Cause] = {}
        tested: set[str] = set()
        for outcome in outcomes:
            used = used_stores(self.source, outcome)
            for store in used:
                await self._record_success(store, used)
            tested.update(used)
            if outcome.result is Result.FAILED:
                causes[outcome.destination], is_tested = await self._judge_failure(job, outcome)
                if is_tested:
                    tested.add(unavailable_store(outcome.error))
        for store, circuit in list(self.opened.items()):
            if circuit.probe == job.key and store not in tested:
                await self._redis_retry.run(partial(self._jobs.release_probe, store, job.key))
        return causes

    async def _judge_failure(self, job: Job, outcome: Outcome) -> tuple[Cause, bool]:
        """Return what a failure counts against, and whether it shows if its store works."""
        error, store, reason = outcome.error, unavailable_store(outcome.error), outcome.reason
        if self._read_test is not None and may_concern_one_object(error):
            read_error = await self._test_read(self._read_test, store, job.key)
            if read_error is None:
                await self._record_success(store, ())  # a listing shows nothing about other objects
                return Cause.OBJECT, True
            reason = str(read_error)  # a 403 to a HEAD has no error code
        cause = cause_of(
            error, succeeded=job.succeeded, open_circuits=self.opened,
            other_failing_keys=len({*self.failed_keys.get(store, ())} - {job.key}),
        )  # fmt: skip
        if cause is Cause.STORE:
            await self._record_failure(store, job, outcome, reason)
        return cause, cause is Cause.STORE

    async def _test_read(self, read_test: ReadTest, store: str, key: str) -> S3S3Error | None:
        """Return the error of reading anything else than `key`, as found less than READ_TEST_KEPT_S ago."""
        async with self._testing:
            tested_s, error = self._read_errors.get(store, (-math.inf, None))
            if time.monotonic() - tested_s >= READ_TEST_KEPT_S:
                other = self.last_key if store == self.source and self.last_key != key else ""
                error = await read_test(store, other)
                if error is not None:  # kept without the frames that its traceback refers to, and what they hold
                    error = error.with_traceback(None)
                    error.__cause__ = error.__context__ = None
                self._read_errors[store] = time.monotonic(), error
            return error

    async def _record_success(self, store: str, succeeded: Sequence[str]) -> None:
        self.failed_keys.pop(store, None)
        if (circuit := self.opened.pop(store, None)) is not None:
            self._log_closed(store, circuit)
            await self._change(store, partial(self._jobs.close_circuit, store, succeeded))

    async def _record_failure(self, store: str, job: Job, outcome: Outcome, reason: str) -> None:
        keys = self.failed_keys.setdefault(store, [])
        keys.append(job.key)
        del keys[:-FAILURE_WINDOW]
        error = outcome.error
        is_down = opens_circuit(
            keys, attempts=job.attempts.get(outcome.destination),
            others_succeeded=isinstance(error, StoreError) and has_worked(error, job.succeeded),
        )  # fmt: skip
        if is_down and store not in self.opened:
            circuit = self.opened[store] = OpenCircuit(reason)
            next_s = time.time() + INITIAL_PROBE_INTERVAL_S
            self._log_opened(
                store, circuit, key=job.key, attempt=job.attempts.get(outcome.destination, 0) + 1,
                next_attempt=iso_time(next_s), request_id=getattr(error, "request_id", ""),
            )  # fmt: skip
        if store in self.opened:
            is_only_key = set(keys) == {job.key}
            trip = partial(self._jobs.trip_circuit, store, reason, job.key, is_only_key=is_only_key)
            await self._change(store, trip)

    def promote_again(self, stores: Iterable[str]) -> None:
        """Have the keys promoted that were parked for these stores just after their circuit was closed."""
        now_s = boottime_s()
        for store in stores:
            if store not in self.opened and now_s - self._changed_s.get(store, -math.inf) < PROMOTE_AGAIN_S:
                self.changed.set()

    async def _change(self, store: str, change: Callable[[], Awaitable[None]]) -> None:
        self._changed_s[store] = math.inf
        await self._redis_retry.run(change)
        self._changed_s[store] = boottime_s()
        self.changed.set()

    def _log_opened(self, store: str, circuit: OpenCircuit, **fields: Any) -> None:
        self._known_open_s[store] = time.monotonic()
        if circuit.reason != PAUSED:
            reason = circuit.reason.removeprefix(f"{store}: ")
            log_event(log, CIRCUIT_OPENED, reason, route=self._route, destination=store, **fields)

    def _log_closed(self, store: str, circuit: OpenCircuit) -> None:
        duration_s = time.monotonic() - self._known_open_s.pop(store, time.monotonic())
        if circuit.reason != PAUSED:
            log_event(log, CIRCUIT_CLOSED, route=self._route, destination=store, duration_s=round(duration_s, 3))


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
