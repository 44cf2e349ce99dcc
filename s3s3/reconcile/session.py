"""TODO."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..config import Config, WorkerSettings
from ..errors import RoutePaused
from ..model import Route, matcher
from ..monitoring.metrics import Metrics
from ..queue.base import JobQueue
from ..queue.connection import connected
from ..queue.memory_queue import MemoryJobQueue
from ..queue.redis_queue import RedisJobQueue
from ..tasks import DRAIN_S, run_until_stopped
from ..transfer.route_stores import RouteStores
from ..worker.rate_limiter import DestinationRateLimiter, rate_limiters
from ..worker.worker import OnCopied
from .comparison import ReconcileOptions
from .local_worker import with_worker
from .reconciler import OnProgress, Reconciler, no_progress
from .summary import ReconcileSummary

log = logging.getLogger(__name__)


async def last_entries(jobs: JobQueue) -> int | None:
    """Return how many entries the source had when everything was compared last, if it ever was."""
    summary = await jobs.load_reconcile_summary()
    return int(json.loads(summary)["source_entries"]) if summary else None


@asynccontextmanager
async def queue_of(route: Route, config: Config, without_redis: bool = False) -> AsyncIterator[JobQueue]:
    """Yield the route's queue: in Redis where one is configured, else in memory for this run only.

    It is in memory, too, for a route with other buckets than the configuration's: what stands on the queue in Redis,
    listeners copy between the buckets that they know.

    Raises:
        RedisUnavailable: it is configured and cannot be reached.
    """
    if route not in config.routes:
        yield _own_queue(route)
        return
    if without_redis or not config.pubsub.url:
        log.warning("route %s: without Redis, this run knows nothing of listeners that copy the same objects, "
                    "and what fails is not tried again", route.name)  # fmt: skip
        yield _own_queue(route)
        return
    async with connected(config.pubsub.url) as client:
        yield RedisJobQueue.of(client, route, config.worker.lease_s)


def _own_queue(route: Route) -> MemoryJobQueue:
    """Return a queue that nobody else sees."""
    return MemoryJobQueue(route.destination_names, source=route.source.name)


def limits_in(jobs: JobQueue, route: Route, metrics: Metrics) -> dict[str, DestinationRateLimiter]:
    """Return the limits of a route's destinations, shared with whoever shares the queue."""
    return rate_limiters(route, jobs.client if isinstance(jobs, RedisJobQueue) else None, metrics)


async def refuse_paused(route: Route, jobs: JobQueue) -> None:
    """Raise RoutePaused where a person holds the whole route: a run would wait for that, and hold up other runs."""
    if (await jobs.stats()).paused:
        raise RoutePaused(
            f"route {route.name} is paused, so nothing of it is copied; s3s3 jobs resume --route {route.name} lets it "
            "go on, and s3s3 bucket --dry-run compares it all the same"
        )


async def reconcile_with_worker(
    stores: RouteStores,
    jobs: JobQueue,
    settings: WorkerSettings,
    options: ReconcileOptions,
    stop: asyncio.Event,
    *,
    tally: ReconcileSummary | None = None,
    on_progress: OnProgress = no_progress,
    drain_s: float = DRAIN_S,
    on_copied: OnCopied | None = None,
) -> tuple[ReconcileSummary, bool]:
    """Run over one route, working on its queue meanwhile, so that no listener is needed.

    Returns the tally and whether the run was complete: `stop` ends it early, and copies that are under way then have
    `drain_s` to end. `on_copied` is told of what is copied (see `arrivals`). A dry run has no worker.

    Raises:
        RoutePaused: the route is paused, so this would not come to its end.
        S3S3Error: the source's listing broke off, or Redis went away.
    """
    route = stores.route
    if not options.dry_run:
        await refuse_paused(route, jobs)
    reconcile = Reconciler(
        route, stores.source, stores.destinations, jobs, options, settings=settings, matches=matcher(route),
        tally=tally, on_progress=on_progress,
    )  # fmt: skip
    if options.dry_run:
        ended = await run_until_stopped(reconcile.run(), stop)
    else:
        ended = await with_worker(reconcile.run, stores, jobs, settings, stop, drain_s, on_copied)
    return reconcile.tally, ended is not None
