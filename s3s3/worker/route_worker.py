"""One route's worker with its heartbeat, health and job metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Protocol

from ..errors import RedisUnavailable, RouteConflict, S3S3Error
from ..model import Job, Outcome, Route
from ..monitoring.formatting import duration_text
from ..monitoring.heartbeat import Heartbeat, ProcessState
from ..monitoring.metrics import JobObserver, Metrics
from ..queue.base import Disposition
from ..queue.redis_calls import RedisRetry
from ..queue.redis_queue import RedisJobQueue
from ..queue.store_checks import Checksums, StoreChecks
from ..s3 import RateLimiter
from ..tasks import Restarts, run_with_background, wait_first
from .isolation import ReadTest
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
        checksums: kept up to date with the records of `s3s3 check` while this runs.
        read_test: tests whether a store denies every read; see `CircuitBreakers`.
        restarts: restarts what fails with an internal error, in a daemon; None: `run` raises the error.

    Attributes:
        observer: counts the route's notifications and jobs.
    """

    def __init__(
        self, route: Route, jobs: RedisJobQueue, copy: Copy, options: WorkerOptions, metrics: Metrics, command: str,
        *, on_copied: OnCopied | None = None, on_job_end: OnJobEnd | None = None,
        limits: Mapping[str, RateLimiter] = MappingProxyType({}), is_leader: Callable[[], bool] = lambda: False,
        source_problem: Callable[[], str] = str, read_test: ReadTest | None = None, checksums: Checksums | None = None,
        restarts: Restarts | None = None,
    ) -> None:  # fmt: skip
        self._route = route.name
        self._jobs = jobs
        self._after_job_end = on_job_end
        self._source_problem = source_problem
        self._restarts = restarts
        self._checksums = checksums
        self._checks = StoreChecks(jobs.client, route)

        def state() -> ProcessState:
            return ProcessState(self.running, is_leader(), self.health_problem() or self.internal_error())

        self._heartbeat = Heartbeat(route, jobs, metrics, state, command)
        self.observer = JobObserver(route.name, metrics, self._heartbeat.record_failures)
        self._worker = Worker(
            route, jobs, copy, concurrency=options.concurrency, max_attempts=options.max_attempts,
            lease_s=options.lease_s, on_copied=on_copied, limits=limits, read_test=read_test, restarts=restarts,
            on_job_end=self._on_job_end if on_job_end else self.observer.on_job_end,
        )  # fmt: skip

    @property
    def running(self) -> int:
        """How many jobs are running."""
        return self._worker.running

    async def register(self, take_over: bool = False) -> None:
        """Do what `Heartbeat.start` does."""
        await self._heartbeat.start(take_over)

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work until `stop`, drain for up to `drain_s`, and deregister.

        Raises:
            RouteConflict: a process with other buckets or another channel has taken over the route. This one has
                drained, too.
        """
        stopping = asyncio.Event()

        async def stop_when_superseded() -> None:
            await wait_first(stop, self._heartbeat.superseded)
            stopping.set()
            await asyncio.Event().wait()

        async def work() -> None:
            if self._checksums is not None:
                with suppress(RedisUnavailable):  # tried again in the background
                    await self._checks.refresh(self._checksums)
            await self._worker.run(stopping, drain_s)
            if self._checksums is not None and self._checksums.refuted:
                with suppress(RedisUnavailable):  # the next process will detect it again
                    await self._checks.refresh(self._checksums)

        beat = self._heartbeat.run
        beating = beat() if self._restarts is None else self._restarts.run("sending heartbeats", beat)
        background = [beating, stop_when_superseded()]
        if self._checksums is not None:
            background.append(self._checks.follow(self._checksums))
        try:
            await run_with_background(work(), *background)
        finally:
            await self.deregister()
        if self._heartbeat.conflict is not None and not stop.is_set():
            raise self._heartbeat.conflict

    async def deregister(self) -> None:
        """Remove this process from the route's, or log a warning."""
        try:
            await self._heartbeat.deregister()
        except RedisUnavailable as error:
            log.warning("route %s: could not deregister this process: %s", self._route, error)

    def _on_job_end(
        self, job: Job, outcomes: Sequence[Outcome], duration_s: float, dispositions: Mapping[str, Disposition]
    ) -> None:
        self.observer.on_job_end(job, outcomes, duration_s, dispositions)
        if self._after_job_end is not None:
            self._after_job_end(job, outcomes, duration_s, dispositions)

    def health_problem(self) -> str:
        """Return why the route makes no progress, or ""."""
        if self._heartbeat.conflict is not None:
            return str(self._heartbeat.conflict)
        silent_s = self._worker.silent_s
        if silent_s > STALLED_AFTER_S:
            return f"route {self._route}: the queue has not answered for {duration_text(silent_s)}"
        return self._source_problem()

    def internal_error(self) -> str:
        """Return which tasks of the route have failed recently and are restarted, or ""."""
        return "" if self._restarts is None else self._restarts.problem

    async def queue_problems(self) -> list[str]:
        """Return why the queue cannot be reached or is not worked on, as a list of at most one message."""
        try:
            await self._jobs.check()
        except S3S3Error as error:
            return [str(error)]
        return [problem] if (problem := self.internal_error()) else []

    async def measure(self) -> None:
        """Update the route's gauges. Raises RedisUnavailable."""
        self.observer.measure(await self._jobs.stats(), self.running)


async def register_all(workers: Sequence[RouteWorker], take_over: bool, stop: asyncio.Event) -> None:
    """Register the workers of all routes, waiting for Redis; if one is refused, none stays registered.

    Raises:
        RouteConflict: routes mean something else to other processes; all problems are listed.
        RedisUnavailable: Redis was unavailable until `stop`.
    """
    retry = RedisRetry()
    problems: list[str] = []
    for worker in workers:
        try:
            await retry.run(partial(worker.register, take_over), stop)
        except RouteConflict as error:
            problems += error.problems
    if problems:
        for worker in workers:
            await worker.deregister()
        raise RouteConflict(problems)
