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
from ..queue.base import Jobs
from ..queue.connection import connected
from ..queue.memory_queue import MemoryJobs
from ..queue.redis_queue import RedisJobs
from ..tasks import DRAIN_S, unless_stopped
from ..transfer.route_stores import RouteStores
from ..worker.rate_limiter import Limit, limits_of
from ..worker.worker import Arrived
from .comparison import Options
from .local_worker import with_worker
from .reconciler import Reconcile, Seen, unseen
from .summary import Tally

log = logging.getLogger(__name__)


async def last_entries(jobs: Jobs) -> int | None:
    """Return how many entries the source had when everything was compared last, if it ever was."""
    summary = await jobs.last_reconcile()
    return int(json.loads(summary)["source_entries"]) if summary else None


@asynccontextmanager
async def queue_of(route: Route, config: Config, without_redis: bool = False) -> AsyncIterator[Jobs]:
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
        yield RedisJobs.of(client, route, config.worker.lease_s)


def _own_queue(route: Route) -> MemoryJobs:
    """Return a queue that nobody else sees."""
    return MemoryJobs(route.destination_names, source=route.source.name)


def limits_in(jobs: Jobs, route: Route, metrics: Metrics) -> dict[str, Limit]:
    """Return the limits of a route's destinations, shared with whoever shares the queue."""
    return limits_of(route, jobs.client if isinstance(jobs, RedisJobs) else None, metrics)


async def refuse_paused(route: Route, jobs: Jobs) -> None:
    """Raise RoutePaused where a person holds the whole route: a run would wait for that, and hold up other runs."""
    if (await jobs.counts()).paused:
        raise RoutePaused(
            f"route {route.name} is paused, so nothing of it is copied; s3s3 jobs resume --route {route.name} lets it "
            "go on, and s3s3 bucket --dry-run compares it all the same"
        )


async def reconcile_with_worker(
    stores: RouteStores,
    jobs: Jobs,
    settings: WorkerSettings,
    options: Options,
    stop: asyncio.Event,
    *,
    tally: Tally | None = None,
    seen: Seen = unseen,
    drain_s: float = DRAIN_S,
    arrived: Arrived | None = None,
) -> tuple[Tally, bool]:
    """Run over one route, working on its queue meanwhile, so that no listener is needed.

    Returns the tally and whether the run was complete: `stop` ends it early, and copies that are under way then have
    `drain_s` to end. `arrived` is told of what is copied (see `arrivals`). A dry run has no worker.

    Raises:
        RoutePaused: the route is paused, so this would not come to its end.
        S3S3Error: the source's listing broke off, or Redis went away.
    """
    route = stores.route
    if not options.dry_run:
        await refuse_paused(route, jobs)
    reconcile = Reconcile(
        route, stores.source, stores.destinations, jobs, options, settings=settings, matches=matcher(route),
        tally=tally, seen=seen,
    )  # fmt: skip
    if options.dry_run:
        ended = await unless_stopped(reconcile.run(), stop)
    else:
        ended = await with_worker(reconcile.run, stores, jobs, settings, stop, drain_s, arrived)
    return reconcile.tally, ended is not None
