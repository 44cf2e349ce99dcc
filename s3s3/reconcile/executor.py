"""Copy in this process, without a queue: for `s3s3 bucket` without Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import JobReleased
from ..model import Job, Lane, Outcome, Result, outcome_fields
from ..monitoring.log import log_fields
from ..monitoring.metrics import JobObserver
from ..queue.base import INITIAL_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S, JobRequest
from ..tasks import cancel, wait_with_timeout
from ..transfer.route_stores import RouteStores
from ..worker.isolation import CircuitBreakers

log = logging.getLogger(__name__)

#: How long `poll` waits for a copy to end, in seconds.
POLL_TIMEOUT_S = 1.0


class InProcessExecutor:
    """Runs copies with bounded concurrency and reports each outcome.

    It has the methods of `OutcomeTracker`, so that a `Reconciler` works with either. A copy that fails after the
    retries of its S3 requests is reported as failed. While a store is down its copies fail without a request, except
    for one probe after each interval, which doubles from 1 s to 30 s.

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
        self._circuits = CircuitBreakers(self, stores.source.name)
        self._queued: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._outcomes: list[Outcome] = []
        self._job_ended = asyncio.Event()
        self._is_stopping = False
        self._probes: dict[str, tuple[float, float]] = {}  # by store: interval, and when the next probe is due
        self._down: dict[str, str] = {}  # by store: the error that opened its circuit

    def __len__(self) -> int:
        return len(self._queued) + len(self._running) + len(self._outcomes)

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
        now_s = time.monotonic()
        for store, (interval_s, due_s) in self._probes.items():
            if now_s >= due_s and (store in job.destinations or store == self._stores.source.name):
                self._circuits.opened[store] = job.key  # this job probes the store
                self._probes[store] = interval_s, now_s + MAX_PROBE_INTERVAL_S
        down = self._circuits.parked(job)
        for name, store in down.items():
            self._outcomes.append(Outcome(name, job.key, Result.FAILED, f"{store} is down: {self._down[store]}"))
        wanted = [name for name in job.destinations if name not in down]
        if not wanted:
            return
        try:
            # Without a queue there is no lease to check.
            outcomes = await self._stores.copier.copy_job(job, wanted, lambda: None, isolate_slow=False)
        except Exception as error:
            log.exception("route %s: %r: internal error", self._route, job.key, extra=log_fields(self._route, job.key))
            reason = f"internal error: {error!r}"
            outcomes = [Outcome(name, job.key, Result.FAILED, reason, error=error) for name in wanted]
        await self._circuits.record(outcomes)
        self._observer.on_job_end(job, outcomes, time.monotonic() - now_s)
        self._outcomes += [outcome for outcome in outcomes if not isinstance(outcome.error, JobReleased)]

    async def trip_circuit(self, store: str, reason: str, key: str) -> None:
        """Stop using a store until its next probe; copying `key` failed."""
        if store not in self._probes:
            interval_s = INITIAL_PROBE_INTERVAL_S
            log.warning(
                "route %s: %s is down, and its copies fail until it is available: %s", self._route, store, reason
            )
        elif self._circuits.opened.get(store) == key:
            interval_s = min(2 * self._probes[store][0], MAX_PROBE_INTERVAL_S)
        else:
            return
        self._circuits.opened[store] = ""
        self._probes[store] = interval_s, time.monotonic() + interval_s
        self._down[store] = reason

    async def close_circuit(self, store: str) -> None:
        """Use a store again."""
        if self._probes.pop(store, None):
            log.info("route %s: %s works again", self._route, store)
