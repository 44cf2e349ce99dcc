"""Copy in this process, without a queue: for `s3s3 bucket` without Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import JobReleased
from ..model import Job, Lane, Outcome, Result, outcome_fields
from ..monitoring.log import log_fields
from ..monitoring.metrics import JobObserver
from ..queue.base import INITIAL_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S, DispositionKind, JobRequest, OpenCircuit
from ..queue.tracker import MAX_OUTAGE_S
from ..tasks import cancel, wait_with_timeout
from ..transfer.route_stores import RouteStores
from ..worker.isolation import CircuitBreakers
from ..worker.retry_policy import Cause, disposition_for, used_stores

log = logging.getLogger(__name__)

#: How long `poll` waits for a copy to end, in seconds.
POLL_TIMEOUT_S = 1.0


@dataclass
class _Outage:
    """A store with an open circuit.

    Attributes:
        is_given_up: it was down for too long: its copies fail, except for one probe after each interval.
        parked: jobs that wait for it; those that were tried are at the end.
    """

    reason: str
    only_key: str
    interval_s: float
    next_probe_s: float = 0.0
    since_s: float = field(default_factory=time.monotonic)
    is_given_up: bool = False
    parked: deque[Job] = field(default_factory=deque)


class InProcessExecutor:
    """Runs copies with bounded concurrency and reports each outcome.

    It has the methods of `OutcomeTracker`, so that a `Reconciler` works with either, and the rules of a worker
    (`s3s3.worker.retry_policy`), but for one: a failure of an object is reported, and not retried. Copies wait while a
    store is down, and one of them probes it after each interval, which doubles from 1 s to 30 s. After MAX_OUTAGE_S
    without a success they fail.

    Args:
        unconditional: copy without comparing with the destinations first.
        on_outcome: called by `poll` with the report fields of each outcome.
    """

    def __init__(
        self,
        stores: RouteStores,
        concurrency: int,
        *,
        unconditional: bool,
        on_outcome: Callable[[dict[str, Any]], None],
    ) -> None:
        self._route = stores.route.name
        self._stores = stores
        self._concurrency = concurrency
        self._unconditional = unconditional
        self._on_outcome = on_outcome
        self._observer = JobObserver(self._route, stores.metrics)
        self._circuits = CircuitBreakers(self._route, stores.source.name, self, read_test=stores.read_error)
        self._queued: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._delayed: dict[asyncio.TimerHandle, Job] = {}
        self._outages: dict[str, _Outage] = {}
        self._outcomes: list[Outcome] = []
        self._job_ended = asyncio.Event()
        self._is_stopping = False
        self._failed_s: dict[str, float] = {}  # by key: its last failure that was the store's
        self._succeeded_s: dict[str, float] = {}  # the last successes, by the names in `Job.succeeded`

    def __len__(self) -> int:
        parked = sum(len(outage.parked) for outage in self._outages.values())
        return len(self._queued) + len(self._running) + len(self._delayed) + parked + len(self._outcomes)

    @property
    def running(self) -> int:
        """How many copies are running."""
        return len(self._running)

    async def enqueue(self, requests: Sequence[JobRequest]) -> None:
        """Queue copies in memory."""
        now_ms = int(time.time() * 1000)
        self._queued.extend(
            Job(request.key, request.destinations, Lane.BULK, "", "", self._unconditional, {}, now_ms)
            for request in requests
        )
        self._start_jobs()

    async def poll(self) -> None:
        """Report the outcomes since the last call; wait up to 1 s for the first."""
        if not self._outcomes:
            self._job_ended.clear()
            await wait_with_timeout(self._job_ended, POLL_TIMEOUT_S)
        self._start_probes()
        await self.poll_all()

    async def poll_all(self) -> None:
        """Report the outcomes since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            self._on_outcome(outcome_fields(self._route, outcome))

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Run copies until `stop`; give the running ones `drain_s` to end."""
        try:
            await stop.wait()
            self._is_stopping = True
            for limiter in self._stores.limits.values():
                limiter.stop_admitting()
            if self._running:
                await asyncio.wait(self._running, timeout=drain_s)
        finally:
            self._is_stopping = True
            for timer in self._delayed:
                timer.cancel()
            await cancel(self._running)

    def _start_jobs(self) -> None:
        while self._queued and len(self._running) < self._concurrency and not self._is_stopping:
            task = asyncio.create_task(self._run_job(self._queued.popleft()))
            self._running.add(task)
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._job_ended.set()
        self._start_jobs()

    async def _run_job(self, job: Job) -> None:
        started_s = time.monotonic()
        self._let_probe(job)
        down = self._circuits.parked(job)
        for store in set(down.values()):
            names = [name for name in job.destinations if down.get(name) == store]
            self._park(job._replace(destinations=tuple(names)), store)
        wanted = [name for name in job.destinations if name not in down]
        if not wanted:
            return
        failed_s = self._failed_s.get(job.key, started_s)
        job = job._replace(succeeded=[name for name, at_s in self._succeeded_s.items() if at_s > failed_s])
        try:
            # Without a queue there is no lease to check.
            outcomes = await self._stores.copier.copy_job(job, wanted, lambda: None, isolate_slow=False)
        except Exception as error:
            log.exception("route %s: %r: internal error", self._route, job.key, extra=log_fields(self._route, job.key))
            reason = f"internal error: {error!r}"
            outcomes = [Outcome(name, job.key, Result.FAILED, reason, error=error) for name in wanted]
        causes = await self._circuits.judge(job, outcomes)
        self._observer.on_job_end(job, outcomes, time.monotonic() - started_s)
        self._settle(job, outcomes, causes)

    def _settle(self, job: Job, outcomes: Sequence[Outcome], causes: Mapping[str, Cause]) -> None:
        """Report outcomes, and keep the job for the destinations that wait for a store."""
        now_s = time.monotonic()
        waiting: dict[str, list[str]] = {}  # by store; "": until a delay has passed
        delay_s = 0.0
        for outcome in outcomes:
            name = outcome.destination
            self._succeeded_s.update(dict.fromkeys(used_stores(self._circuits.source, outcome), now_s))
            disposition = disposition_for(
                outcome, causes.get(name), attempts=0, max_attempts=1, open_circuits=self._circuits.opened
            )
            if disposition.kind in (DispositionKind.PARK, DispositionKind.RETRY_UNCOUNTED):
                waiting.setdefault(disposition.circuit, []).append(name)
                delay_s = max(delay_s, disposition.delay_s)
            elif not isinstance(outcome.error, JobReleased):
                self._outcomes.append(outcome)
        self._failed_s.pop(job.key, None)
        for store, names in waiting.items():
            self._failed_s[job.key] = now_s
            rest = job._replace(destinations=tuple(names), attempts=dict.fromkeys(names, 0), succeeded=())
            if store:
                self._park(rest, store, is_tried=True)
            else:
                self._delay(rest, delay_s)

    def _delay(self, job: Job, delay_s: float) -> None:
        def requeue() -> None:
            self._queued.append(self._delayed.pop(timer))
            self._start_jobs()

        timer = asyncio.get_running_loop().call_later(delay_s, requeue)
        self._delayed[timer] = job

    # -- stores that are down

    def _park(self, job: Job, store: str, *, is_tried: bool = False) -> None:
        outage = self._outages[store]
        if outage.is_given_up:
            reason = f"{store} is down: {outage.reason}"
            self._outcomes += [Outcome(name, job.key, Result.FAILED, reason) for name in job.destinations]
        elif is_tried:
            outage.parked.append(job)
        else:
            outage.parked.appendleft(job)

    def _let_probe(self, job: Job) -> None:
        """Make a job the probe of a store after a long outage, or if only another key has failed there."""
        for store, outage in self._outages.items():
            circuit = self._circuits.opened[store]
            concerns = store in job.destinations or store == self._circuits.source
            is_due = outage.is_given_up and time.monotonic() >= outage.next_probe_s
            if concerns and not circuit.probe and (is_due or outage.only_key not in ("", job.key)):
                self._circuits.opened[store] = circuit._replace(probe=job.key)

    def _start_probes(self) -> None:
        """Queue a parked job for each store with a probe that is due."""
        for store, outage in self._outages.items():
            circuit = self._circuits.opened[store]
            if outage.parked and not circuit.probe and time.monotonic() >= outage.next_probe_s:
                job = outage.parked.popleft()
                self._circuits.opened[store] = circuit._replace(probe=job.key)
                self._queued.appendleft(job)
        self._start_jobs()

    async def trip_circuit(self, store: str, reason: str, key: str, /, *, is_only_key: bool) -> None:
        """Stop using a store until its next probe; copying `key` failed."""
        now_s = time.monotonic()
        outage = self._outages.get(store)
        if outage is None:
            only_key = key if is_only_key else ""
            self._outages[store] = _Outage(reason, only_key, INITIAL_PROBE_INTERVAL_S)
            self._schedule_probe(store)
            return
        if outage.only_key != key:
            outage.only_key = ""
        if self._circuits.opened[store].probe != key:
            return
        outage.reason = reason
        outage.interval_s = min(2 * outage.interval_s, MAX_PROBE_INTERVAL_S)
        self._schedule_probe(store)
        if now_s - outage.since_s > MAX_OUTAGE_S and not outage.is_given_up:
            log.warning("route %s: %s is down for more than %g s, its copies fail until it works again",
                        self._route, store, MAX_OUTAGE_S)  # fmt: skip
            outage.is_given_up = True
            parked, outage.parked = outage.parked, deque()
            for job in parked:
                self._park(job, store)

    async def release_probe(self, store: str, key: str, /) -> None:
        """Probe the store with another key after its interval."""
        self._schedule_probe(store)

    def _schedule_probe(self, store: str) -> None:
        outage = self._outages[store]
        outage.next_probe_s = time.monotonic() + outage.interval_s
        self._circuits.opened[store] = OpenCircuit(outage.reason)
        asyncio.get_running_loop().call_later(outage.interval_s, self._start_probes)

    async def close_circuit(self, store: str, succeeded: Sequence[str], /) -> None:
        """Use a store again."""
        self._succeeded_s.update(dict.fromkeys(succeeded, time.monotonic()))
        if outage := self._outages.pop(store, None):
            self._queued.extend(outage.parked)
