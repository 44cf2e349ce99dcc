"""The worker of a run over a bucket: it works on the route's queue while the run lasts, so no listener is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..config import WorkerSettings
from ..monitoring.job_observer import JobObserver
from ..queue.base import JobQueue
from ..queue.redis_queue import RedisJobQueue
from ..tasks import DRAIN_S, cancel
from ..transfer.route_stores import RouteStores
from ..worker.route_worker import RouteWorker
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
    route = stores.route
    worker: Worker | RouteWorker
    if isinstance(jobs, RedisJobQueue):
        worker = RouteWorker(
            route, jobs, stores.copy, settings, stores.metrics, "bucket", on_copied=on_copied, limits=stores.limits
        )
    else:
        worker = Worker(
            route, jobs, stores.copy, concurrency=settings.concurrency, max_attempts=settings.max_attempts,
            lease_s=settings.lease_s, finished=JobObserver(route.name, stores.metrics).on_job_end,
            on_copied=on_copied, limits=stores.limits,
        )  # fmt: skip
    ending = asyncio.Event()
    running = asyncio.create_task(run())
    work = asyncio.create_task(worker.run(ending, drain_s))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, work, stopped], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        if work.done():
            work.result()
        if worker.running:
            log.warning("route %s: stopping; waiting up to %g s for %d copies. Press Ctrl-C again to put them back on "
                        "the queue now; nothing is left half-written", route.name, drain_s, worker.running)  # fmt: skip
        return None
    finally:
        ending.set()
        await cancel([running, stopped])
        await work
