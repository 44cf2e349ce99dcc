"""Claim, copy, finish: what every process does with the queue of one route, whoever filled it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol, TypeAlias

from ..errors import LeaseLost, RedisUnavailable
from ..model import Job, Lane, Outcome, Result, Route
from ..monitoring.log import log_fields
from ..queue.base import ClaimResult, Disposition, DispositionKind, JobQueue
from ..queue.lease import Lease, boottime_s
from ..queue.redis_retry import RedisRetry
from ..s3 import RateLimiter
from ..tasks import DRAIN_S, cancel, run_with_background, wait_with_timeout
from .bulkhead import Bulkhead
from .circuit_breaker import CircuitBreakers
from .retry_policy import disposition_for, event_of
from .slow_destinations import SlowDestinations

log = logging.getLogger(__name__)

OnCopied: TypeAlias = Callable[[str, Collection[Result]], Awaitable[None]]
"""Is called with a key and what became of it: COPIED, SAME or DELETED, at one destination at least."""

_ON_COPIED = frozenset({Result.COPIED, Result.SAME, Result.DELETED})

MAX_CLAIM_WAIT_S = 1.0
"""How long a claim waits for work. A stop lets it end, so this is also how long a stop may take."""

CLAIM_BATCH_DELAY_S = 0.005
"""How long a claim for the last few slots waits for more of them: a handful of jobs costs little more than one."""

BULK_FULL_WAIT_S = 0.1
"""How long a fresh job may wait while bulk jobs have all the slots they may have, and none of them ends."""


class Copy(Protocol):
    """What a worker does with a job: `Transfer.copy` bound to a route's stores."""

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        """Make these destinations hold what the source holds; return an outcome for each."""


class Worker:
    """Works on one route's queue with `concurrency` jobs at once, until it is told to stop.

    Args:
        finished: told of each job's outcomes, and of the seconds that it took, once the queue knows them.
        arrived: called with a key, and what became of it, before the queue is told that some destination is as the
            source is now. See `arrivals`.
        limits: of destinations, by name.
    """

    def __init__(
        self,
        route: Route,
        jobs: JobQueue,
        copy: Copy,
        *,
        concurrency: int = 32,
        max_attempts: int = 8,
        lease_s: float = 60.0,
        finished: Callable[[Job, Sequence[Outcome], float], None] | None = None,
        on_copied: OnCopied | None = None,
        limits: Mapping[str, RateLimiter] = MappingProxyType({}),
    ) -> None:
        self._route = route.name
        self._destinations = frozenset(route.destination_names)
        self._jobs = jobs
        self._copy = copy
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._lease_s = lease_s
        self._finished = finished
        self._on_copied = on_copied
        self._shares = Bulkhead(limits, concurrency // len(self._destinations)) if limits else None
        self._running: dict[asyncio.Task[None], tuple[Job, Lease]] = {}
        self._slot_freed = asyncio.Event()
        self._patience = RedisRetry()
        self._stragglers = SlowDestinations()
        self.circuits = CircuitBreakers(jobs, route.source.name, self._patience)
        self.claimed_at_s = boottime_s()
        """When the queue last answered a claim: a worker that is alive, and not full, claims every few seconds."""
        self._renewed_at_s = self.claimed_at_s

    async def run(self, stop: asyncio.Event, drain_s: float = DRAIN_S) -> None:
        """Work until `stop` is set; then let what runs finish; after `drain_s`, or cancelled, hand back the rest."""
        try:
            await run_with_background(
                self._claim_and_drain(stop, drain_s), self._keep_leases(), self._promote_loop(), self._wake_to(stop)
            )
        finally:
            await cancel(self._running)  # none is left but after a defect, and then their leases lapse

    @property
    def running(self) -> int:
        """How many jobs are being worked on."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Whether every slot is taken, so that nothing is claimed for now."""
        return len(self._running) >= self._concurrency

    @property
    def silent_s(self) -> float:
        """For how long the queue has not answered what is asked again and again: claims, or, while full, renewals."""
        now_s = boottime_s()
        return max(now_s - self._renewed_at_s - self._lease_s / 4, 0.0) if self.full else now_s - self.claimed_at_s

    # -- claiming, and keeping what is claimed

    async def _claim_and_drain(self, stop: asyncio.Event, drain_s: float) -> None:
        await self._claim_until(stop)
        if self._shares:
            self._shares.give_up()
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=drain_s)
        finally:  # whoever cannot wait for that cancels
            await self._hand_back()

    async def _claim_until(self, stop: asyncio.Event) -> None:
        while await self._has_slots(stop):
            min_bulk, max_bulk = self._bulk_shares()
            try:
                claims = await self._claim(stop, min_bulk, max_bulk)
            except RedisUnavailable:
                return  # told to stop meanwhile
            self.claimed_at_s = boottime_s()
            self.circuits.update(claims.circuits)
            for job in claims.jobs:
                self._start(job, claims)
            if not claims.jobs and not max_bulk:
                await wait_with_timeout(self._slot_freed, BULK_FULL_WAIT_S)

    async def _has_slots(self, stop: asyncio.Event) -> bool:
        """Wait for free slots; return False after a stop."""
        self._slot_freed.clear()
        if self.full and not stop.is_set():
            await self._slot_freed.wait()
        if self._concurrency - self.running < self._concurrency // 8:
            await asyncio.sleep(CLAIM_BATCH_DELAY_S)
        return not stop.is_set()

    async def _wake_to(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._slot_freed.set()
        await asyncio.Event().wait()

    def _bulk_shares(self) -> tuple[int, int]:
        """Return how many slots to fill from the bulk lane before fresh jobs take theirs, and how many at most.

        It gets half of them while fresh jobs wait (an odd one by chance), and never the last eighth.
        """
        bulk = sum(job.lane is Lane.BULK for job, _ in self._running.values())
        half = (self._concurrency + random.getrandbits(1)) // 2
        most = self._concurrency - self._concurrency // 8
        return max(half - bulk, 0), max(most - bulk, 0)

    async def _claim(self, stop: asyncio.Event, min_bulk: int, max_bulk: int) -> ClaimResult:
        """Claim. A claim that is under way is never cancelled: its answer may hold jobs that are ours by then."""
        free = self._concurrency - self.running
        wait_s = MAX_CLAIM_WAIT_S if max_bulk else 0  # else a slot that is freed may be what there is to wait for
        return await self._patience.run(lambda: self._jobs.claim(free, min_bulk, max_bulk, wait_s), stop)

    def _start(self, job: Job, claims: ClaimResult) -> None:
        lease = Lease(claims.lease_from_s + self._lease_s)
        parked = self.circuits.parked(job)
        full = self._shares.full(job, parked) if self._shares else ()
        task = asyncio.create_task(self._work(job, lease, parked, full))
        if self._shares:
            self._shares.take(task, [name for name in job.destinations if name not in (*parked, *full)])
        self._running[task] = (job, lease)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        job, _ = self._running.pop(task)
        self._slot_freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect of ours. The claim lapses and is taken over, so the object is not lost.
            log.error("route %s: %r: %r", self._route, job.key, error, exc_info=error,
                      extra=log_fields(self._route, job.key))  # fmt: skip

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            await self._patience.run(self._renew)

    async def _renew(self) -> None:
        held = list(self._running.values())
        asked_s = boottime_s()
        lost = await self._jobs.renew([job for job, _ in held])
        self._renewed_at_s = asked_s
        for job, lease in held:
            if job.token in lost:
                lease.lose()
            else:
                lease.until_s = asked_s + self._lease_s

    async def _promote_loop(self) -> None:
        while True:
            await asyncio.sleep(await self._patience.run(self._turn))

    async def _turn(self) -> float:
        return await (self._jobs.promote_due(self._shares.free()) if self._shares else self._jobs.promote_due())

    async def _hand_back(self) -> None:
        """Give up what still runs: somebody else shall do it, and look again when none of our PUTs can be under way."""
        held = dict(self._running)
        await cancel(held)
        unfinished = [job for task, (job, _) in held.items() if task.cancelled()]
        back = [
            self._jobs.finish(job, dict.fromkeys(job.destinations, Disposition(DispositionKind.RELEASE)), recheck=True)
            for job in unfinished
        ]
        try:
            await asyncio.gather(*back)
        except RedisUnavailable as error:
            log.warning("route %s: %s; %d jobs are taken over when their leases lapse",
                        self._route, error, len(unfinished))  # fmt: skip

    # -- one job

    async def _work(self, job: Job, lease: Lease, parked: Mapping[str, str], full: Collection[str]) -> None:
        began_s = boottime_s()
        wanted = [name for name in job.destinations
                  if name in self._destinations and name not in parked and name not in full]  # fmt: skip
        apart = self._stragglers.apart(wanted)
        outcomes = await self._outcomes(job, [name for name in wanted if name not in apart], lease)
        took_s = boottime_s() - began_s
        self._stragglers.learn(outcomes)
        await self.circuits.learn(outcomes)
        dispositions = {outcome.destination: self._judge(job, outcome) for outcome in outcomes}
        dispositions |= dict.fromkeys(apart, Disposition(DispositionKind.DEFER))
        dispositions |= {name: self._park(job, name, store) for name, store in parked.items()}
        # Who is full has its turn when others have had theirs; no outcome yet.
        dispositions |= {name: Disposition(DispositionKind.PARK, circuit=name) for name in full}
        # A destination that the configuration no longer has is done with.
        dispositions |= {
            name: Disposition(DispositionKind.DONE) for name in job.destinations if name not in self._destinations
        }
        await self._tell_arrived(job.key, outcomes)
        # A lease that ended between two attempts at a PUT does not say what became of the first.
        look = any(outcome.indeterminate or isinstance(outcome.error, LeaseLost) for outcome in outcomes)
        await self._patience.run(partial(self._jobs.finish, job, dispositions, look))
        if self._finished is not None:
            self._finished(job, outcomes, took_s)

    async def _outcomes(self, job: Job, wanted: Sequence[str], lease: Lease) -> Sequence[Outcome]:
        """Copy. What a defect of ours breaks counts as failed: it ends as a dead letter, and nobody waits for ever."""
        if not wanted:
            return []
        try:
            return _of_each(wanted, await self._copy(job, wanted, lease))
        except Exception as error:
            log.exception("route %s: %r", self._route, job.key, extra=log_fields(self._route, job.key))
            reason = f"a defect of s3s3: {error!r}"
            return [Outcome(name, job.key, Result.FAILED, reason, error=error, indeterminate=True) for name in wanted]

    async def _tell_arrived(self, key: str, outcomes: Sequence[Outcome]) -> None:
        if self._on_copied is None:
            return
        on_copied = _ON_COPIED.intersection(outcome.result for outcome in outcomes)
        if on_copied:
            await self._patience.run(partial(self._on_copied, key, on_copied))

    def _park(self, job: Job, destination: str, store: str) -> Disposition:
        disposition = Disposition(DispositionKind.PARK, circuit=store)
        outcome = Outcome(destination, job.key, Result.FAILED, f"waits for {store}, which is down or paused")
        return self._told(job, outcome, disposition)

    def _judge(self, job: Job, outcome: Outcome) -> Disposition:
        disposition = disposition_for(
            outcome,
            attempts=job.attempts.get(outcome.destination, 0),
            max_attempts=self._max_attempts,
            open_circuits=self.circuits.opened,
        )
        return self._told(job, outcome, disposition)

    def _told(self, job: Job, outcome: Outcome, disposition: Disposition) -> Disposition:
        if not job.trackers or disposition.kind in (
            DispositionKind.RELEASE,
            DispositionKind.DEFER,
        ):  # what is handed back has no outcome yet
            return disposition
        return dataclasses.replace(disposition, event=event_of(self._route, outcome, disposition.kind))


def _of_each(wanted: Sequence[str], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return the outcomes; the queue would forget a destination that has none."""
    told_of = [outcome.destination for outcome in outcomes]
    if sorted(told_of) != sorted(wanted):
        raise RuntimeError(f"copying to {wanted} brought outcomes of {told_of}")
    return outcomes
