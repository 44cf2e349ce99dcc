"""The `listen` daemon: per route one notification source, one worker, one gap backfill."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from redis.asyncio import Redis

from . import config as configuration
from .config import Config
from .errors import AccessDenied, ConfigError, NoSuchBucket, S3S3Error
from .model import matcher
from .monitoring.metrics import Metrics
from .notifications.chaining import on_copied_for
from .notifications.factory import create_sources
from .notifications.gap_backfill import GapBackfill
from .notifications.pubsub import PubSubSource
from .notifications.routing import RouteQueue, Routing
from .notifications.source import NotificationSource
from .queue import connection
from .queue.redis_queue import RedisJobQueue
from .queue.redis_retry import RedisRetry
from .reconcile.periodic import PeriodicReconcile, Schedule
from .tasks import DRAIN_S, run_with_background
from .transfer.route_stores import RouteStores, copy_budget, opened, probe_error
from .worker.rate_limiter import rate_limiters
from .worker.route_worker import STALLED_AFTER_S, RouteWorker

log = logging.getLogger(__name__)


class RouteListener:
    """Everything that a listener does for one route."""

    def __init__(
        self,
        stores: RouteStores,
        config: Config,
        client: Redis,
        subscriber_client: Redis,
        metrics: Metrics,
        periodic: Schedule,
    ) -> None:
        route, settings = stores.route, config.worker
        self.route = route
        self.stores = stores
        self.metrics = metrics
        self._matches = matcher(route)
        self.jobs = RedisJobQueue.of(client, route, settings.lease_s)
        self._runs = PeriodicReconcile(stores, self.jobs, settings, periodic)
        self.worker = RouteWorker(
            route,
            self.jobs,
            stores.copier.copy_job,
            settings,
            metrics,
            "listen",
            on_copied=on_copied_for(route, config, self.jobs),
            limits=stores.limits,
            is_leader=lambda: self.pubsub is not None and self.pubsub.is_leader,
            source_problem=self._source_problem,
        )
        self.subscriber_client = subscriber_client
        self.pubsub = self._pubsub_source() if route.channel else None
        self._backfill = self._gap_backfill(self.pubsub, config) if self.pubsub and config.pubsub.backfill else None

    def _pubsub_source(self) -> PubSubSource:
        return PubSubSource(
            self.route,
            self.route.channel,
            self.jobs,
            self.subscriber_client,
            matches=self._matches,
            count=self.worker.observer.on_notification,
        )

    def _gap_backfill(self, pubsub: PubSubSource, config: Config) -> GapBackfill:
        return GapBackfill(
            self.route,
            pubsub.watermark,
            self.stores.source,
            self.jobs,
            self._reconcile,
            is_leader=lambda: pubsub.is_leader,
            margin_s=config.pubsub.backfill_margin_s,
            matches=self._matches,
        )

    async def _reconcile(self) -> Mapping[str, str]:
        """Compare everything; return the destinations that could not be listed, with the reason."""
        return (await self._runs.run(wait_for_lock=True)).errors

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Listen and work until `stop` is set, then drain and deregister."""
        background = [part.run() for part in (self.pubsub, self._backfill) if part]
        await run_with_background(self._work(stop, drain_s), self._runs.maintain(), *background)

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        await self.worker.run(stop, drain_s)
        try:
            if self.pubsub:
                await self.pubsub.resign()
        except S3S3Error as error:
            log.warning("route %s: could not resign as leader: %s", self.route.name, error)

    # -- health

    def health_problem(self) -> str:
        """Return why this route is not being worked on, or "" while it is."""
        return self.worker.health_problem()

    def _source_problem(self) -> str:
        if self.pubsub and not self.pubsub.subscription.alive:
            return f"route {self.route.name}: not subscribed"
        if self.pubsub and self.pubsub.lag_s > STALLED_AFTER_S:
            return f"route {self.route.name}: messages received {self.pubsub.lag_s:.0f} s ago are not enqueued yet"
        return ""

    async def readiness_problems(self) -> list[str]:
        """Ask Redis and every store; return what is wrong, a line each."""
        stores = (self.stores.source, *self.stores.destinations)
        found = await asyncio.gather(*map(probe_error, stores))
        wrong = [f"route {self.route.name}: {error}" for error in found if error is not None]
        return wrong + await self.worker.queue_problems()

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.consuming[self.route.name] = not self.health_problem()
        await self.worker.measure()
        summary = await self.jobs.load_reconcile_summary()
        if summary:
            self.metrics.last_reconcile_timestamp_seconds[self.route.name] = summary.ended_s


@asynccontextmanager
async def route_listeners(
    config: Config,
    metrics: Metrics,
    periodic: Schedule = Schedule(),  # noqa: B008  # frozen
) -> AsyncIterator[list[RouteListener]]:
    """Open everything that a listener needs, for each route.

    Raises:
        ConfigError: no Redis is configured.
        StoreError: every source definitely refuses s3s3. Where only some do, the other routes are worked on.
    """
    if not config.pubsub.url:
        raise ConfigError(['[pubsub] url = "": listening needs Redis; leave url out for redis://localhost:6379/0'])
    config.need_routes()
    client = connection.connect(config.pubsub.url)
    subscriber_client = connection.connect(config.pubsub.url, decode=False)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        stack.push_async_callback(subscriber_client.aclose)
        room = copy_budget(config.worker)
        opened_stores = [
            await stack.enter_async_context(
                opened(route, config.worker, metrics, room, rate_limiters(route, client, metrics))
            )
            for route in config.routes
        ]
        found = await asyncio.gather(*map(_refusal, opened_stores))
        refusals = [error for error in found if error is not None]
        if refusals and len(refusals) == len(opened_stores):
            raise refusals[0]
        for doubt in configuration.config_warnings(config.routes):
            log.warning("%s", doubt)
        for route in config.routes:
            metrics.initialize_series(route)
        yield [RouteListener(stores, config, client, subscriber_client, metrics, periodic) for stores in opened_stores]


async def _refusal(stores: RouteStores) -> S3S3Error | None:
    """Return what the source says if waiting cannot cure it; all that is wrong with the route's stores is told of."""
    refusal = None
    for store in (stores.source, *stores.destinations):
        error = await probe_error(store)
        if error is None:
            continue
        if store is stores.source and isinstance(error, NoSuchBucket | AccessDenied) and _is_definite(error):
            refusal = error
        log.warning("route %s is not ready: %s", stores.route.name, error)
    return refusal


def _is_definite(error: NoSuchBucket | AccessDenied) -> bool:
    """Whether a refused LIST means that GETs are refused, too: a bare AccessDenied may be about listing only."""
    return error.code != "AccessDenied"


def routing_to(listeners: Sequence[RouteListener]) -> Routing:
    """Return what gives notices to these routes, for the sources that serve all of them."""
    return Routing(
        [
            RouteQueue(one.route, one.jobs, one.worker.observer.on_notification, one.jobs.dead_letter_message)
            for one in listeners
        ]
    )


def sources_for(listeners: Sequence[RouteListener], config: Config, metrics: Metrics) -> list[NotificationSource]:
    """Return the sources of notices, beside the channels, that the configuration turns on."""

    def count(kind: str) -> None:
        metrics.notifications["", kind] += 1  # of what names no object, nobody knows which route it is about

    first = listeners[0]
    sources = create_sources(config, first.subscriber_client, first.jobs.consumer, routing_to(listeners), count)
    for source in sources:
        for listener in listeners:
            metrics.notifications[listener.route.name, source.kind] += 0
    return sources


async def listen(
    listeners: Sequence[RouteListener],
    sources: Sequence[NotificationSource],
    stop: asyncio.Event,
    drain_s: float = DRAIN_S,
) -> None:
    """Run every route's listener, and every source, until `stop` is set."""
    client = listeners[0].jobs.client
    await RedisRetry().run(partial(connection.check_version, client), stop)
    if not sources and not any(listener.pubsub for listener in listeners):
        log.warning("there is no channel and no [stream], [sqs] or [webhook]: only `s3s3 publish` brings notices")
    await asyncio.gather(
        *(listener.run(stop, drain_s) for listener in listeners), *(source.run(stop) for source in sources)
    )
