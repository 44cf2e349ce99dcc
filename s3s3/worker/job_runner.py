"""Run one claimed job and settle it with the queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from ..errors import LeaseLost
from ..model import Job, Outcome, Result
from ..monitoring.log import log_fields
from ..queue.base import Disposition, DispositionKind
from ..queue.redis_calls import RedisRetry
from ..queue.redis_queue import Lease, RedisJobQueue
from .bulkhead import Bulkhead
from .circuit_breaker import CircuitBreakers
from .retry_policy import DONE, disposition_for, outcome_event
from .slow_destinations import SlowDestinations

log = logging.getLogger(__name__)

#: Called with a key and the results of its copy, if one is COPIED, SAME or DELETED.
OnCopied: TypeAlias = Callable[[str, Collection[Result]], Awaitable[None]]

#: Called with a job, its outcomes, and the seconds that the copy took.
OnJobEnd: TypeAlias = Callable[[Job, Sequence[Outcome], float], None]

_COPIED_RESULTS = frozenset({Result.COPIED, Result.SAME, Result.DELETED})
_DEFER = Disposition(DispositionKind.DEFER)


class Copy(Protocol):
    """Copies a job's object, such as `RouteStores.copy`."""

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        """Make these destinations equal to the source; return an outcome for each."""


class JobPlan(NamedTuple):
    """What to do with a job's destinations.

    Attributes:
        run: destinations to copy to now.
        skipped: dispositions of the others: slow ones are deferred, unavailable and busy ones parked.
    """

    run: Sequence[str]
    skipped: Mapping[str, Disposition]


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
                skipped[name] = DONE  # no longer configured
            elif store := parked.get(name):
                outcome = Outcome(name, job.key, Result.FAILED, f"waits for {store}, which is down or paused")
                skipped[name] = self._with_event(job, outcome, Disposition(DispositionKind.PARK, circuit=store))
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
        if Result.FAILED in results or self._has_unhealthy_stores():
            self.slow.record(outcomes)
            await self.circuits.record(outcomes)
        dispositions = dict(plan.skipped)
        recheck = False
        for outcome in outcomes:
            dispositions[outcome.destination] = self._disposition(job, outcome)
            # A lease that expired between two attempts at a PUT hides the outcome of the first.
            recheck = recheck or outcome.indeterminate or isinstance(outcome.error, LeaseLost)
        if self.on_copied is not None and not results.isdisjoint(_COPIED_RESULTS):
            await self.redis_retry.run(partial(self.on_copied, job.key, results & _COPIED_RESULTS))
        await self.redis_retry.run(partial(self.jobs.finish, job, dispositions, recheck))
        if self.on_job_end is not None:
            self.on_job_end(job, outcomes, duration_s)

    def _has_unhealthy_stores(self) -> bool:
        return bool(self.circuits.opened or self.circuits.failed_keys or self.slow.isolated)

    def _disposition(self, job: Job, outcome: Outcome) -> Disposition:
        if outcome.result is not Result.FAILED:
            return self._with_event(job, outcome, DONE) if job.trackers else DONE
        disposition = disposition_for(
            outcome, attempts=job.attempts.get(outcome.destination, 0), max_attempts=self.max_attempts,
            open_circuits=self.circuits.opened,
        )  # fmt: skip
        return self._with_event(job, outcome, disposition)

    def _with_event(self, job: Job, outcome: Outcome, disposition: Disposition) -> Disposition:
        """Add the event for the job's trackers; released and deferred destinations have no outcome yet."""
        if not job.trackers or disposition.kind in (DispositionKind.RELEASE, DispositionKind.DEFER):
            return disposition
        return replace(disposition, event=outcome_event(self.route, outcome, disposition.kind))
