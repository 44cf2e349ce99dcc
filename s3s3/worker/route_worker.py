"""One route's worker with its heartbeat, health and job metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from ..errors import RedisUnavailable, S3S3Error
from ..model import Job, Outcome, Route
from ..monitoring.formatting import duration_text
from ..monitoring.heartbeat import Heartbeat, ProcessState
from ..monitoring.metrics import JobObserver, Metrics
from ..queue.redis_queue import RedisJobQueue
from ..s3 import RateLimiter
from ..tasks import run_with_background
from .worker import Copy, OnCopied, OnJobEnd, Worker

log = logging.getLogger(__name__)

#: A worker calls the queue every few seconds; without an answer for this long, in seconds, it is unhealthy.
STALLED_AFTER_S = 60.0


class WorkerOptions(Protocol):
    """The part of the `[worker]` settings that a worker needs."""

    @property
    def concurrency(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def lease_s(self) -> float: ...


class RouteWorker:
    """Works on one route's queue; sends heartbeats; logs and counts outcomes.

    Args:
        command: the process's command in its heartbeat: listen, mirror or bucket.
        on_job_end: called after a job's outcomes are logged, counted and recorded in the queue.
        is_leader: whether this process enqueues the route's pub/sub channel, for the heartbeat.
        source_problem: why the route's notification source is unhealthy, or "".

    Attributes:
        observer: counts the route's notifications and jobs.
    """

    def __init__(
        self, route: Route, jobs: RedisJobQueue, copy: Copy, options: WorkerOptions, metrics: Metrics, command: str,
        *, on_copied: OnCopied | None = None, on_job_end: OnJobEnd | None = None,
        limits: Mapping[str, RateLimiter] = MappingProxyType({}), is_leader: Callable[[], bool] = lambda: False,
        source_problem: Callable[[], str] = str,
    ) -> None:  # fmt: skip
        self._route = route.name
        self._jobs = jobs
        self._after_job_end = on_job_end
        self._source_problem = source_problem
        self._heartbeat = Heartbeat(
            route, jobs, metrics, lambda: ProcessState(self.running, is_leader(), self.health_problem()), command
        )
        self.observer = JobObserver(route.name, metrics, self._heartbeat.record_failures)
        self._worker = Worker(
            route, jobs, copy, concurrency=options.concurrency, max_attempts=options.max_attempts,
            lease_s=options.lease_s, on_copied=on_copied, limits=limits,
            on_job_end=self._on_job_end if on_job_end else self.observer.on_job_end,
        )  # fmt: skip

    @property
    def running(self) -> int:
        """How many jobs are running."""
        return self._worker.running

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work until `stop`, drain for up to `drain_s`, and deregister."""
        try:
            await run_with_background(self._worker.run(stop, drain_s), self._heartbeat.run())
        finally:
            try:
                await self._heartbeat.deregister()
            except RedisUnavailable as error:
                log.warning("route %s: could not deregister this process: %s", self._route, error)

    def _on_job_end(self, job: Job, outcomes: Sequence[Outcome], duration_s: float) -> None:
        self.observer.on_job_end(job, outcomes, duration_s)
        if self._after_job_end is not None:
            self._after_job_end(job, outcomes, duration_s)

    def health_problem(self) -> str:
        """Return why the route makes no progress, or ""."""
        silent_s = self._worker.silent_s
        if silent_s > STALLED_AFTER_S:
            return f"route {self._route}: the queue has not answered for {duration_text(silent_s)}"
        return self._source_problem()

    async def queue_problems(self) -> list[str]:
        """Return why the queue cannot be reached, as a list of at most one message."""
        try:
            await self._jobs.check()
        except S3S3Error as error:
            return [str(error)]
        return []

    async def measure(self) -> None:
        """Update the route's gauges. Raises RedisUnavailable."""
        self.observer.measure(await self._jobs.stats(), self.running)
