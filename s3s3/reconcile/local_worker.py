"""Run a worker for the duration of a reconcile, so that no listener is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..config import WorkerSettings
from ..queue.redis_queue import RedisJobQueue
from ..tasks import cancel
from ..transfer.route_stores import RouteStores
from ..worker.job_runner import OnCopied
from ..worker.route_worker import RouteWorker
from .executor import InProcessExecutor

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def local_worker(
    stores: RouteStores, jobs: RedisJobQueue, settings: WorkerSettings, on_copied: OnCopied | None
) -> RouteWorker:
    """Return a worker on the route's queue, registered as `bucket`."""
    return RouteWorker(
        stores.route,
        jobs,
        stores.copier.copy_job,
        settings,
        stores.metrics,
        "bucket",
        on_copied=on_copied,
        limits=stores.limits,
    )


async def with_worker(
    run: Callable[[], Coroutine[Any, Any, Answer]],
    route: str,
    worker: RouteWorker | InProcessExecutor,
    stop: asyncio.Event,
    drain_s: float,
) -> Answer | None:
    """Await `run()` while the worker works. Return None if `stop` ended it early.

    After `stop`, running copies have `drain_s` to end. If this is cancelled, they are cancelled, or released to the
    queue. Raises what `run()` raises.
    """
    worker_stop = asyncio.Event()
    running = asyncio.create_task(run())
    working = asyncio.create_task(worker.run(worker_stop, drain_s))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        if working.done():
            working.result()
        if worker.running:
            log.warning("route %s: stopping; waiting up to %g s for %d copies. Press Ctrl-C again to stop them now; "
                        "nothing is left half-written", route, drain_s, worker.running)  # fmt: skip
        return None
    finally:
        worker_stop.set()
        await cancel([running, stopped])
        await working
