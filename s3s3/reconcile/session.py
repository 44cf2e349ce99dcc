"""Open the queue and the limits of a reconcile, and run it with a local worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ..config import Config, WorkerSettings
from ..errors import RoutePaused
from ..model import Route
from ..monitoring.metrics import Metrics
from ..queue.base import ReconcileRecord
from ..queue.connection import connected
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker
from ..tasks import DRAIN_S, cancel, run_until_stopped
from ..transfer.route_stores import RouteStores
from ..worker.rate_limiter import DestinationRateLimiter, rate_limiters
from ..worker.route_worker import RouteWorker
from ..worker.worker import OnCopied
from .comparison import ReconcileOptions
from .executor import InProcessExecutor
from .reconciler import Copies, OnProgress, Reconciler, no_progress
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


async def last_source_entries(jobs: RedisJobQueue | None) -> int | None:
    """Return the number of source entries at the last complete reconcile, or None."""
    last = await jobs.load_reconcile_summary() if jobs else None
    return last.source_entries if last else None


@asynccontextmanager
async def open_queue(route: Route, config: Config, without_redis: bool = False) -> AsyncIterator[RedisJobQueue | None]:
    """Yield the route's queue, or None for a reconcile that copies in this process.

    That is one without Redis, or between other buckets than the configuration's: listeners copy a queued key between
    the buckets of their configuration.

    Raises:
        RedisUnavailable: Redis is configured and cannot be reached.
    """
    if route not in config.routes:
        yield None
        return
    if without_redis or not config.pubsub.url:
        log.warning("route %s: without Redis, this run is not coordinated with listeners, and failed copies are not "
                    "retried later", route.name)  # fmt: skip
        yield None
        return
    async with connected(config.pubsub.url) as client:
        yield RedisJobQueue.of(client, route, config.worker.lease_s)


def limiters_for(jobs: RedisJobQueue | None, route: Route, metrics: Metrics) -> dict[str, DestinationRateLimiter]:
    """Return the rate limiters of a route, shared by the processes on the queue."""
    return rate_limiters(route, jobs.client if jobs else None, metrics)


async def refuse_paused(route: Route, jobs: RedisJobQueue) -> None:
    """Raise RoutePaused if the route is paused: its jobs would never end."""
    if (await jobs.stats()).paused:
        raise RoutePaused(
            f"route {route.name} is paused, so nothing is copied; resume it with "
            f"s3s3 jobs resume --route {route.name}, or compare only with s3s3 bucket --dry-run"
        )


async def save_summary(jobs: RedisJobQueue | None, summary: ReconcileSummary, options: ReconcileOptions) -> None:
    """Store the summary of a reconcile of all objects."""
    if jobs is not None and summary.ended and not options.dry_run and options.since_ms is None:
        await jobs.save_reconcile_summary(
            ReconcileRecord(time.time(), summary.seconds, summary.source_entries, summary.counts, summary.errors)
        )


def local_worker(
    stores: RouteStores, jobs: RedisJobQueue, settings: WorkerSettings, on_copied: OnCopied | None
) -> RouteWorker:
    """Return a worker on the route's queue, registered as `bucket`."""
    copy = stores.copier.copy_job
    limits = stores.limits
    return RouteWorker(stores.route, jobs, copy, settings, stores.metrics, "bucket", on_copied=on_copied, limits=limits)


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


async def reconcile_with_worker(
    stores: RouteStores,
    jobs: RedisJobQueue | None,
    settings: WorkerSettings,
    options: ReconcileOptions,
    stop: asyncio.Event,
    *,
    summary: ReconcileSummary | None = None,
    on_progress: OnProgress = no_progress,
    drain_s: float = DRAIN_S,
    on_copied: OnCopied | None = None,
) -> ReconcileSummary:
    """Reconcile one route and work on its queue meanwhile, without a listener.

    Args:
        jobs: None: copy in this process, without a queue.
        stop: ends the reconcile early; `summary.ended` is False then.
        summary: receives counts and report lines.
        drain_s: how long running copies may take to end after `stop`.
        on_copied: called after each copy; see `s3s3.notifications.chaining`.

    Raises:
        RoutePaused: the route is paused.
        S3S3Error: the source could not be listed, or Redis is unavailable.
    """
    route = stores.route
    summary = summary or ReconcileSummary(route.name, route.destination_names)
    copies: Copies
    worker: RouteWorker | InProcessExecutor | None = None
    if jobs is None:
        copies = worker = InProcessExecutor(
            stores, settings.concurrency, unconditional=options.force, on_outcome=summary.report_fields
        )
    else:
        copies = OutcomeTracker(jobs, unconditional=options.force, on_outcome=summary.report_fields)
        if not options.dry_run:
            await refuse_paused(route, jobs)
            worker = local_worker(stores, jobs, settings, on_copied)
    reconciler = Reconciler(stores, copies, options, settings, summary, on_progress)
    if worker is None or options.dry_run:
        await run_until_stopped(reconciler.run(), stop)
    else:
        await with_worker(reconciler.run, route.name, worker, stop, drain_s)
        await save_summary(jobs, summary, options)
    return summary
