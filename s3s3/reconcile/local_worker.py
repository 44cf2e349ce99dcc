"""The worker of a run over a bucket: it works on the route's queue while the run lasts, so no listener is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..config import WorkerSettings
from ..errors import RedisUnavailable
from ..monitoring.heartbeat import Heartbeat, ProcessState
from ..monitoring.job_observer import JobObserver
from ..queue.base import JobQueue
from ..queue.redis_queue import RedisJobQueue
from ..tasks import DRAIN_S, cancel, run_with_background
from ..transfer.route_stores import RouteStores
from ..worker.worker import OnCopied, Worker

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


async def with_worker(
    run: Callable[[], Coroutine[Any, Any, Answer]],
    stores: RouteStores,
    jobs: JobQueue,
    settings: WorkerSettings,
    stop: asyncio.Event,
    drain_s: float = DRAIN_S,
    on_copied: OnCopied | None = None,
) -> Answer | None:
    """Run, working on the route's queue meanwhile, which the fleet sees. Returns None where `stop` ended it early.

    `on_copied` is told of what it copies, as a listener's worker tells it.

    Raises what the run raises. Cancelled, it hands back what it works on and ends.
    """
    worker = _RunsWorker(stores, jobs, settings, on_copied)
    ending = asyncio.Event()
    running = asyncio.create_task(run())
    work = asyncio.create_task(worker.work(ending, drain_s))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, work, stopped], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        if work.done():
            work.result()
        worker.tell_of_drain(drain_s)
        return None
    finally:
        ending.set()
        await cancel([running, stopped])
        await work


class _RunsWorker:
    """A worker, what is told of it, and its place in the fleet where there is a Redis."""

    def __init__(
        self, stores: RouteStores, jobs: JobQueue, settings: WorkerSettings, on_copied: OnCopied | None
    ) -> None:
        route = stores.route
        self._route = route.name
        self._heartbeat = None
        if isinstance(jobs, RedisJobQueue):
            self._heartbeat = Heartbeat(route, jobs, stores.metrics, self._state, "bucket")
        observer = JobObserver(route.name, stores.metrics, self._heartbeat.failed if self._heartbeat else None)
        self._worker = Worker(
            route,
            jobs,
            stores.copy,
            concurrency=settings.concurrency,
            max_attempts=settings.max_attempts,
            lease_s=settings.lease_s,
            finished=observer.on_job_end,
            on_copied=on_copied,
            limits=stores.limits,
        )

    def _state(self) -> ProcessState:
        return ProcessState(self._worker.running, leads=False, health_problem="")

    def tell_of_drain(self, drain_s: float) -> None:
        """Say what is waited for, now that somebody wants the end."""
        if self._worker.running:
            log.warning("route %s: told to stop; copies under way: %d, which have %g s to end. A second Ctrl-C or "
                        "SIGTERM hands them back at once, and leaves none half done",
                        self._route, self._worker.running, drain_s)  # fmt: skip

    async def work(self, ending: asyncio.Event, drain_s: float) -> None:
        """Work until the event is set, and leave the queue and the fleet as one ought to."""
        if self._heartbeat is None:
            await self._worker.run(ending, drain_s)
            return
        try:
            await run_with_background(self._worker.run(ending, drain_s), self._heartbeat.run())
        finally:
            try:
                await self._heartbeat.deregister()
            except RedisUnavailable as error:
                log.warning("route %s: could not sign off: %s", self._route, error)
