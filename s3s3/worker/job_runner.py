"""Run one claimed job and settle it with the queue."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from ..errors import LeaseLost
from ..model import Job, Outcome, Result, Route
from ..monitoring.log import log_fields
from ..queue.base import Disposition, DispositionKind, JobQueue
from ..queue.lease import Lease
from ..queue.redis_retry import RedisRetry
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


class JobRunner:
    """Runs the jobs of one route.

    Args:
        bulkhead: of the rate-limited destinations; None where there are none.
        on_copied: called before the queue is settled: after a crash the next worker calls it again.
        on_job_end: called after the queue is settled.
    """

    def __init__(
        self,
        route: Route,
        jobs: JobQueue,
        copy: Copy,
        circuits: CircuitBreakers,
        bulkhead: Bulkhead | None,
        redis_retry: RedisRetry,
        *,
        max_attempts: int,
        on_copied: OnCopied | None,
        on_job_end: OnJobEnd | None,
    ) -> None:
        self._route = route.name
        self._destinations = frozenset(route.destination_names)
        self._jobs = jobs
        self._copy = copy
        self._circuits = circuits
        self._bulkhead = bulkhead
        self._slow = SlowDestinations()
        self._redis_retry = redis_retry
        self._max_attempts = max_attempts
        self._on_copied = on_copied
        self._on_job_end = on_job_end

    def plan(self, job: Job) -> JobPlan:
        """Decide which destinations to copy to now, and settle the others."""
        if (
            self._bulkhead is None
            and not self._has_unhealthy_stores()
            and self._destinations.issuperset(job.destinations)
        ):
            return JobPlan(job.destinations, {})
        parked = self._circuits.parked(job)
        full = self._bulkhead.full(job, parked) if self._bulkhead else ()
        candidates: list[str] = []
        skipped: dict[str, Disposition] = {}
        for name in job.destinations:
            if name not in self._destinations:
                skipped[name] = DONE  # no longer configured
            elif store := parked.get(name):
                outcome = Outcome(name, job.key, Result.FAILED, f"waits for {store}, which is down or paused")
                skipped[name] = self._with_event(job, outcome, Disposition(DispositionKind.PARK, circuit=store))
            elif name in full:
                skipped[name] = Disposition(DispositionKind.PARK, circuit=name)  # no outcome yet, so no event
            else:
                candidates.append(name)
        isolated = self._slow.isolate(candidates)
        skipped.update(dict.fromkeys(isolated, _DEFER))
        return JobPlan([name for name in candidates if name not in isolated], skipped)

    async def run(self, job: Job, lease: Lease, plan: JobPlan) -> None:
        """Copy as planned, and settle the job, retrying until Redis is available."""
        started_s = time.monotonic()
        outcomes: Sequence[Outcome] = ()
        if plan.run:
            try:
                outcomes = await self._copy(job, plan.run, lease)
                if sorted([outcome.destination for outcome in outcomes]) != sorted(plan.run):
                    raise RuntimeError(f"copying to {plan.run} returned {outcomes}")  # noqa: TRY301
            except Exception as error:
                log.exception("route %s: %r", self._route, job.key, extra=log_fields(self._route, job.key))
                outcomes = self._internal_errors(job, plan, error)
        duration_s = time.monotonic() - started_s
        results = {outcome.result for outcome in outcomes}
        if Result.FAILED in results or self._has_unhealthy_stores():
            self._slow.record(outcomes)
            await self._circuits.record(outcomes)
        dispositions = dict(plan.skipped)
        recheck = False
        for outcome in outcomes:
            dispositions[outcome.destination] = self._disposition(job, outcome)
            # A lease that expired between two attempts at a PUT hides the outcome of the first.
            recheck = recheck or outcome.indeterminate or isinstance(outcome.error, LeaseLost)
        if self._on_copied is not None and not results.isdisjoint(_COPIED_RESULTS):
            await self._redis_retry.run(partial(self._on_copied, job.key, results & _COPIED_RESULTS))
        await self._redis_retry.run(partial(self._jobs.finish, job, dispositions, recheck))
        if self._on_job_end is not None:
            self._on_job_end(job, outcomes, duration_s)

    def _has_unhealthy_stores(self) -> bool:
        return bool(self._circuits.opened or self._circuits.failed_keys or self._slow.isolated)

    def _internal_errors(self, job: Job, plan: JobPlan, error: Exception) -> list[Outcome]:
        """Return failures, so that the job ends as a dead letter and its trackers do not wait forever."""
        reason = f"internal error: {error!r}"
        return [Outcome(name, job.key, Result.FAILED, reason, error=error, indeterminate=True) for name in plan.run]

    def _disposition(self, job: Job, outcome: Outcome) -> Disposition:
        if outcome.result is not Result.FAILED:
            return self._with_event(job, outcome, DONE) if job.trackers else DONE
        disposition = disposition_for(
            outcome,
            attempts=job.attempts.get(outcome.destination, 0),
            max_attempts=self._max_attempts,
            open_circuits=self._circuits.opened,
        )
        return self._with_event(job, outcome, disposition)

    def _with_event(self, job: Job, outcome: Outcome, disposition: Disposition) -> Disposition:
        """Add the event for the job's trackers; released and deferred destinations have no outcome yet."""
        if not job.trackers or disposition.kind in (DispositionKind.RELEASE, DispositionKind.DEFER):
            return disposition
        return dataclasses.replace(disposition, event=outcome_event(self._route, outcome, disposition.kind))
