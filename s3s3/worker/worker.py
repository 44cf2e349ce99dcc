"""Claim jobs, run them, renew their leases, drain on shutdown."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..errors import LeaseLost, RedisUnavailable
from ..model import Job, Lane, Outcome, Result, Route
from ..monitoring.log import log_fields
from ..queue.base import PAUSED, ClaimResult, Disposition, DispositionKind, boottime_s
from ..queue.redis_calls import RedisRetry
from ..queue.redis_queue import Lease, RedisJobQueue
from ..s3 import RateLimiter
from ..tasks import DRAIN_S, Restarts, backoff_s, cancel, run_with_background, wait_with_timeout
from .isolation import Bulkhead, CircuitBreakers, ReadTest, SlowDestinations
from .retry_policy import Cause, disposition_for, outcome_event, used_stores

log = logging.getLogger(__name__)

#: How long the first claim waits for work; each later one waits twice as long, up to the maximum. A shutdown waits for
#: the claim in progress, so a process that has worked for a moment ends in a moment. The upper half is random: Redis
#: gives an entry to the process that waits longest. With equal waits it would always be the same one, which may be one
#: that does not know the key's destination, in a rolling restart.
INITIAL_CLAIM_WAIT_S = 0.02
MAX_CLAIM_WAIT_S = 1.0

#: How long a claim for the last few slots waits for more free ones: claiming eight jobs costs little more than one.
CLAIM_BATCH_DELAY_S = 0.005

#: How long a fresh job may wait while bulk jobs have all the slots that they may have, and none of them ends.
BULK_FULL_WAIT_S = 0.1

#: Called with a key and the results of its copy, if one is COPIED, SAME or DELETED.
OnCopied: TypeAlias = Callable[[str, Collection[Result]], Awaitable[None]]

#: Called with a job, its outcomes, the seconds that the copy took, and how each destination was settled (empty: another
#: worker has taken the job over).
OnJobEnd: TypeAlias = Callable[[Job, Sequence[Outcome], float, Mapping[str, Disposition]], None]

_COPIED_RESULTS = frozenset({Result.COPIED, Result.SAME, Result.DELETED})
_READ_RESULTS = frozenset({Result.COPIED, Result.SAME})
_DEFER = Disposition(DispositionKind.DEFER)
_UNKNOWN = Disposition(DispositionKind.UNKNOWN)


class Copy(Protocol):
    """Copies a job's object, such as `Copier.copy_job`."""

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        """Make these destinations equal to the source; return an outcome for each."""


class JobPlan(NamedTuple):
    """Destinations to copy to now, and dispositions of the others: slow ones are deferred, unavailable ones parked."""

    run: Sequence[str]
    skipped: Mapping[str, Disposition]


class Worker:
    """Works on one route's queue with up to `concurrency` concurrent jobs.

    Args:
        limits: rate limiters by destination.
        read_test: tests whether a store denies every read; see `CircuitBreakers`.
        restarts: restarts what fails with an internal error, in a daemon; None: `run` raises the error.

    Attributes:
        claimed_at_s: when the queue last responded to a claim (time.monotonic()).
    """

    def __init__(
        self, route: Route, jobs: RedisJobQueue, copy: Copy,
        *, concurrency: int = 32, max_attempts: int = 8, lease_s: float = 60.0, on_copied: OnCopied | None = None,
        on_job_end: OnJobEnd | None = None, limits: Mapping[str, RateLimiter] = MappingProxyType({}),
        read_test: ReadTest | None = None, restarts: Restarts | None = None,
    ) -> None:  # fmt: skip
        self._route = route.name
        self._jobs = jobs
        self._restarts = restarts
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._bulkhead = Bulkhead(limits, concurrency // len(route.destinations)) if limits else None
        self._running: dict[asyncio.Task[None], tuple[Job, Lease]] = {}
        self._slot_freed = asyncio.Event()
        self._redis_retry = RedisRetry()
        self._circuits = CircuitBreakers(
            route.name, route.source.name, jobs, redis_retry=self._redis_retry, read_test=read_test
        )
        self._runner = JobRunner(
            route.name, frozenset(route.destination_names), jobs, copy, self._circuits, self._bulkhead,
            self._redis_retry, max_attempts, on_copied, on_job_end,
        )  # fmt: skip
        self.claimed_at_s = self._renewed_at_s = time.monotonic()

    async def run(self, stop: asyncio.Event, drain_s: float = DRAIN_S) -> None:
        """Work until `stop` is set, then wait for running jobs; after `drain_s`, or if cancelled, release them."""
        try:
            await run_with_background(
                self._claim_and_drain(stop, drain_s), self._restarted("renewing leases", self._renew_loop),
                self._restarted("promoting keys that are due", self._promote_loop), self._wake_on(stop),
            )  # fmt: skip
        finally:
            await cancel(self._running)  # some are left only after an internal error; their leases expire

    def _restarted(
        self, activity: str, main: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event | None = None
    ) -> Coroutine[Any, Any, None]:
        return main() if self._restarts is None else self._restarts.run(activity, main, stop)

    @property
    def running(self) -> int:
        """Number of running jobs."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Whether no slot is free, so that nothing is claimed."""
        return len(self._running) >= self._concurrency

    @property
    def silent_s(self) -> float:
        """How long the queue has not responded to claims; while no slot is free, to renewals."""
        now_s = time.monotonic()
        return max(now_s - self._renewed_at_s - self._lease_s / 4, 0.0) if self.full else now_s - self.claimed_at_s

    # -- claims and shutdown

    async def _claim_and_drain(self, stop: asyncio.Event, drain_s: float) -> None:
        await self._restarted("claiming keys", partial(self._claim_until, stop), stop)
        if self._bulkhead:
            self._bulkhead.stop_admitting()
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=drain_s)
        finally:
            running = dict(self._running)
            await cancel(running)
            unfinished = [job for task, (job, _) in running.items() if task.cancelled()]
            release = Disposition(DispositionKind.RELEASE)
            finish = partial(self._jobs.finish, recheck=True)  # due when none of their PUTs can be in flight
            try:
                await asyncio.gather(*(finish(job, dict.fromkeys(job.destinations, release)) for job in unfinished))
            except RedisUnavailable as error:
                log.warning("route %s: cannot release %d jobs, their leases expire instead: %s",
                            self._route, len(unfinished), error)  # fmt: skip

    async def _claim_until(self, stop: asyncio.Event) -> None:
        for number in count(1):
            self._slot_freed.clear()
            if len(self._running) >= self._concurrency and not stop.is_set():
                await self._slot_freed.wait()
            if self._concurrency - len(self._running) < self._concurrency // 8:
                await asyncio.sleep(CLAIM_BATCH_DELAY_S)
            if stop.is_set():
                return
            min_bulk, max_bulk = self._bulk_slots()
            # With the bulk lane full, the wait is for a free slot instead.
            wait_s = backoff_s(number, INITIAL_CLAIM_WAIT_S, MAX_CLAIM_WAIT_S) if max_bulk else 0
            claim = partial(self._jobs.claim, self._concurrency - len(self._running), min_bulk, max_bulk, wait_s)
            try:
                claims = await self._redis_retry.run(claim, stop)  # never cancelled: its response may contain jobs
            except RedisUnavailable:
                return  # stopped meanwhile
            self.claimed_at_s = time.monotonic()
            if claims.circuits or self._circuits.opened:
                self._circuits.update(claims.circuits, claims.lease_from_s)
            for job in claims.jobs:
                self._start(job, claims)
            if not claims.jobs and not max_bulk:
                await wait_with_timeout(self._slot_freed, BULK_FULL_WAIT_S)

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._slot_freed.set()
        await asyncio.Event().wait()

    def _bulk_slots(self) -> tuple[int, int]:
        """Return how many slots to fill from the bulk lane before the fresh one, and how many at most.

        The bulk lane has half of the slots while fresh jobs wait (rounded at random), and never the last eighth.
        """
        bulk = sum(job.lane is Lane.BULK for job, _ in self._running.values())
        half = (self._concurrency + random.getrandbits(1)) // 2
        limit = self._concurrency - self._concurrency // 8
        return max(half - bulk, 0), max(limit - bulk, 0)

    def _start(self, job: Job, claims: ClaimResult) -> None:
        lease = Lease(claims.lease_from_s + self._lease_s)
        plan = self._runner.plan(job)
        task = asyncio.create_task(self._runner.run(job, lease, plan))
        if self._bulkhead:
            self._bulkhead.acquire(task, plan.run)
        self._running[task] = (job, lease)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        job, _ = self._running.pop(task)
        self._slot_freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # An internal error. The lease expires and another worker takes the job over.
            log.error("route %s: %r: %r", self._route, job.key, error, exc_info=error,
                      extra=log_fields(self._route, job.key))  # fmt: skip

    # -- leases and promotion

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            if self._running:  # without a request to Redis it would seem to be available
                await self._redis_retry.run(self._renew)
            else:
                self._renewed_at_s = time.monotonic()

    async def _renew(self) -> None:
        running = list(self._running.values())
        lease_from_s, now_s = boottime_s(), time.monotonic()
        lost = await self._jobs.renew([job for job, _ in running])
        self._renewed_at_s = now_s
        for job, lease in running:
            if job.token in lost:
                lease.lose()
            else:
                lease.until_s = lease_from_s + self._lease_s

    async def _promote_loop(self) -> None:
        def promote() -> Awaitable[float]:
            return self._jobs.promote_due(self._bulkhead.free() if self._bulkhead else {})

        while True:
            self._circuits.changed.clear()
            await wait_with_timeout(self._circuits.changed, await self._redis_retry.run(promote))


@dataclass(eq=False)
class JobRunner:
    """Runs the jobs of one route.

    Attributes:
        destinations: names of the configured ones.
        bulkhead: for rate-limited destinations; None if no destination has a limit.
        on_copied: called before the queue is settled: after a crash the next worker calls it again.
        on_job_end: called after the queue is settled.
    """

    route: str
    destinations: frozenset[str]
    jobs: RedisJobQueue
    copy: Copy
    circuits: CircuitBreakers
    bulkhead: Bulkhead | None
    redis_retry: RedisRetry
    max_attempts: int
    on_copied: OnCopied | None
    on_job_end: OnJobEnd | None
    slow: SlowDestinations = field(default_factory=SlowDestinations)

    def plan(self, job: Job) -> JobPlan:
        """Decide which destinations to copy to now, and settle the others."""
        if not self.bulkhead and not self._has_unhealthy_stores() and self.destinations.issuperset(job.destinations):
            return JobPlan(job.destinations, {})
        parked = self.circuits.parked(job)
        full = self.bulkhead.full(job, parked) if self.bulkhead else ()
        candidates: list[str] = []
        skipped: dict[str, Disposition] = {}
        for name in job.destinations:
            if name not in self.destinations:
                skipped[name] = _UNKNOWN
            elif store := parked.get(name):
                reason = self.circuits.opened[store].reason
                is_paused = reason == PAUSED
                state = "paused" if is_paused else f"down: {reason.removeprefix(f'{store}: ')}"
                outcome = Outcome(name, job.key, Result.FAILED, f"waits for {store}, which is {state}")
                park = Disposition(DispositionKind.PARK, circuit=store)
                skipped[name] = self._with_event(job, outcome, park, is_paused=is_paused)
            elif name in full:
                skipped[name] = Disposition(DispositionKind.PARK, circuit=name)  # no outcome yet, so no event
            else:
                candidates.append(name)
        isolated = self.slow.isolate(candidates)
        skipped.update(dict.fromkeys(isolated, _DEFER))
        return JobPlan([name for name in candidates if name not in isolated], skipped)

    async def run(self, job: Job, lease: Lease, plan: JobPlan) -> None:
        """Copy as planned, and settle the job, retrying until Redis is available."""
        started_s = time.monotonic()
        outcomes: Sequence[Outcome] = ()
        if plan.run:
            try:
                outcomes = await self.copy(job, plan.run, lease)
                if sorted([outcome.destination for outcome in outcomes]) != sorted(plan.run):
                    raise RuntimeError(f"copying to {plan.run} returned {outcomes}")  # noqa: TRY301
            except Exception as error:
                log.exception("route %s: %r", self.route, job.key, extra=log_fields(self.route, job.key))
                outcomes = [
                    Outcome(name, job.key, Result.FAILED, f"internal error: {error!r}", error=error, indeterminate=True)
                    for name in plan.run
                ]  # so that the job ends as a dead letter, and its trackers do not wait forever
        duration_s = time.monotonic() - started_s
        results = {outcome.result for outcome in outcomes}
        causes: Mapping[str, Cause] = {}
        if Result.FAILED in results or self._has_unhealthy_stores():
            self.slow.record(outcomes)
            causes = await self.circuits.judge(job, outcomes)
        dispositions = dict(plan.skipped)
        recheck = False
        succeeded: list[str] = []
        for outcome in outcomes:
            name = outcome.destination
            succeeded += used_stores(self.circuits.source, outcome)
            if outcome.result in _READ_RESULTS:
                self.circuits.last_key = job.key
            disposition = disposition_for(
                outcome, causes.get(name), attempts=job.attempts.get(name, 0), max_attempts=self.max_attempts,
                open_circuits=self.circuits.opened,
            )  # fmt: skip
            dispositions[name] = self._with_event(job, outcome, disposition)
            # A lease that expired between two attempts at a PUT hides the outcome of the first.
            recheck = recheck or outcome.indeterminate or isinstance(outcome.error, LeaseLost)
        if self.on_copied is not None and not results.isdisjoint(_COPIED_RESULTS):
            await self.redis_retry.run(partial(self.on_copied, job.key, results & _COPIED_RESULTS))
        is_settled = await self.redis_retry.run(partial(self.jobs.finish, job, dispositions, recheck, succeeded))
        self.circuits.promote_again(each.circuit for each in dispositions.values() if each.circuit)
        if self.on_job_end is not None:
            self.on_job_end(job, outcomes, duration_s, dispositions if is_settled else {})

    def _has_unhealthy_stores(self) -> bool:
        return bool(self.circuits.opened or self.circuits.failed_keys or self.slow.isolated)

    def _with_event(
        self, job: Job, outcome: Outcome, disposition: Disposition, *, is_paused: bool = False
    ) -> Disposition:
        """Add the event for the job's trackers; released and deferred destinations have no outcome yet."""
        if not job.trackers or disposition.kind in (DispositionKind.RELEASE, DispositionKind.DEFER):
            return disposition
        return replace(disposition, event=outcome_event(self.route, outcome, disposition.kind, is_paused=is_paused))
