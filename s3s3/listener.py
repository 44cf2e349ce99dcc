"""The `listen` daemon: per route one notification source, one worker, one gap backfill."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from redis.asyncio import Redis

from . import config as configuration
from .config import Config
from .errors import AccessDenied, ConfigError, NoSuchBucket, RouteConflict, S3S3Error
from .events import ROUTE_NOT_READY, log_event
from .monitoring.formatting import duration_text
from .monitoring.metrics import Metrics
from .notifications.chaining import on_copied_for
from .notifications.data_watch import DataWatch
from .notifications.gap_backfill import GapBackfill
from .notifications.pubsub import PubSubSource
from .notifications.redis_stream import RedisStreamSource
from .notifications.routing import RouteQueue, Routing
from .notifications.source import NotificationSource
from .queue import connection
from .queue.redis_calls import RedisRetry
from .queue.redis_queue import RedisJobQueue
from .reconcile.periodic import PeriodicReconcile, Schedule
from .reconcile.summary import ReconcileSummary
from .tasks import DRAIN_S, Restarts, run_with_background
from .transfer.route_stores import RouteStores, copy_budget, opened, probe_error
from .worker.rate_limiter import rate_limiters
from .worker.route_worker import STALLED_AFTER_S, RouteWorker, register_all

log = logging.getLogger(__name__)

#: How long the stores are probed at the start, in seconds. A store that answers slowly must not delay the subscription.
START_PROBE_S = 5.0


class RouteListener:
    """Notification source, worker, periodic reconcile and gap backfill of one route.

    Args:
        client: for commands.
        subscriber_client: for subscriptions and streams; returns bytes.

    Attributes:
        pubsub: consumes the route's channel; None if it has none.
        restarts: restarts the route's tasks after internal errors.
    """

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
        self.subscriber_client = subscriber_client
        self.restarts = Restarts(f"route {route.name}")
        self.jobs = RedisJobQueue.of(client, route, settings.lease_s)
        self._periodic = PeriodicReconcile(stores, self.jobs, settings, periodic)
        self.worker = RouteWorker(
            route, self.jobs, stores.copier.copy_job, settings, metrics, "listen",
            on_copied=on_copied_for(route, config, self.jobs), limits=stores.limits, read_test=stores.read_error,
            is_leader=lambda: self.pubsub is not None and self.pubsub.is_leader, source_problem=self._source_problem,
            restarts=self.restarts, checksums=stores.copier.checksums,
        )  # fmt: skip
        self.pubsub: PubSubSource | None = None
        self._watch: PubSubSource | DataWatch
        if route.channel:
            count = self.worker.observer.on_notification
            self._watch = self.pubsub = PubSubSource(
                route, route.channel, self.jobs, subscriber_client, count=count, restarts=self.restarts
            )
        else:
            self._watch = DataWatch(route.name, self.jobs)
        self._backfill: GapBackfill | None = None
        if config.pubsub.backfill:
            self._backfill = GapBackfill(
                route, stores.source, self.jobs, self._reconcile, self._unavailable_stores,
                is_leader=lambda: self._watch.is_leader, margin_s=config.pubsub.backfill_margin_s,
            )  # fmt: skip

    async def _reconcile(self, destinations: Collection[str]) -> Mapping[str, str]:
        """Compare everything at these destinations; return those that could not be compared, with the reason."""
        return (await self._periodic.run(destinations, wait_for_lock=True)).errors

    async def reconcile_now(self) -> ReconcileSummary:
        """Compare everything once, as an operator asks for. Raises ReconcileInProgress, S3S3Error."""
        return await self._periodic.run()

    async def _unavailable_stores(self) -> Collection[str]:
        return (await self._store_errors()).keys()

    async def _store_errors(self) -> dict[str, S3S3Error]:
        stores = (self.stores.source, *self.stores.destinations)
        errors = await asyncio.gather(*map(probe_error, stores))
        return {store.name: error for store, error in zip(stores, errors, strict=True) if error is not None}

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Receive notifications and copy until `stop` is set, then drain, deregister and resign."""
        tasks = {
            "watching Redis": self._watch.run,
            "comparing on schedule": self._periodic.maintain,
            **({"backfilling gaps": self._backfill.run} if self._backfill else {}),
        }
        background = [self.restarts.run(activity, task) for activity, task in tasks.items()]
        try:
            await run_with_background(self._work(stop, drain_s), *background)
        except RouteConflict:  # logged; this route stays unhealthy, and the others go on
            await stop.wait()

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        await self.worker.run(stop, drain_s)
        try:
            await self._watch.resign()
        except S3S3Error as error:
            log.warning("route %s: could not resign as leader: %s", self.route.name, error)

    # -- health

    def health_problem(self) -> str:
        """Return why this route makes no progress, or ""."""
        return self.worker.health_problem()

    def _source_problem(self) -> str:
        if self.pubsub and not self.pubsub.subscription.alive:
            return f"route {self.route.name}: not subscribed"
        if self.pubsub and self.pubsub.lag_s > STALLED_AFTER_S:
            age = duration_text(self.pubsub.lag_s)
            return f"route {self.route.name}: messages received {age} ago are not enqueued yet"
        return ""

    async def readiness_problems(self) -> list[str]:
        """Check Redis and every store; return one line for each problem."""
        problems = [f"route {self.route.name}: {error}" for error in (await self._store_errors()).values()]
        return problems + await self.worker.queue_problems()

    async def measure(self) -> None:
        """Update the gauges. Raises RedisUnavailable."""
        self.metrics.consuming[self.route.name] = not self.health_problem()
        await self.worker.measure()
        record, gap = await self.jobs.load_reconcile_summary(), await self.jobs.gap()
        for name in self.route.destination_names:
            if record is not None:
                last_s = record.compared_s.get(name, 0.0)
                self.metrics.last_reconcile_timestamp_seconds[self.route.name, name] = last_s
            self.metrics.gap_open[self.route.name, name] = gap is not None and name not in gap.healed


@asynccontextmanager
async def route_listeners(
    config: Config,
    metrics: Metrics,
    periodic: Schedule = Schedule(),  # noqa: B008  # frozen
) -> AsyncIterator[list[RouteListener]]:
    """Open the stores and Redis; yield a listener for each route, not running yet.

    Raises:
        ConfigError: no Redis is configured.
        StoreError: every source denies access permanently. If only some do, they are logged.
    """
    if not config.pubsub.url:
        raise ConfigError(['[pubsub] url = "": listening needs Redis; leave url out for redis://localhost:6379/0'])
    config.need_routes()
    client = connection.connect(config.pubsub.url)
    subscriber_client = connection.connect(config.pubsub.url, decode=False)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        stack.push_async_callback(subscriber_client.aclose)
        budget = copy_budget(config.worker)
        opened_stores = [
            await stack.enter_async_context(
                opened(route, config.worker, metrics, budget, rate_limiters(route, client, metrics))
            )
            for route in config.routes
        ]
        denials = await asyncio.gather(*map(_source_denial, opened_stores))
        errors = [error for error in denials if error is not None]
        if errors and len(errors) == len(opened_stores):
            raise errors[0]
        for warning in configuration.config_warnings(config):
            log.warning("%s", warning)
        for route in config.routes:
            metrics.initialize_series(route)
        yield [RouteListener(stores, config, client, subscriber_client, metrics, periodic) for stores in opened_stores]


async def _source_denial(stores: RouteStores) -> S3S3Error | None:
    """Log the problems of a route's stores; return that of the source if waiting does not help."""
    denial = None
    probed = (stores.source, *stores.destinations)
    errors = await asyncio.gather(*(probe_error(store, START_PROBE_S) for store in probed))
    for store, error in zip(probed, errors, strict=True):
        if error is None:
            continue
        # A bare AccessDenied may concern only listing; GETs may be permitted.
        if store is stores.source and isinstance(error, NoSuchBucket | AccessDenied) and error.code != "AccessDenied":
            denial = error
        log_event(log, ROUTE_NOT_READY, str(error), route=stores.route.name, destination=store.name)
    return denial


def sources_for(listeners: Sequence[RouteListener], config: Config, metrics: Metrics) -> list[NotificationSource]:
    """Return the enabled sources that serve all routes, not running yet; channels belong to one route each."""

    def count(kind: str) -> None:
        metrics.notifications["", kind] += 1  # the route of a message without a key is unknown

    routing = Routing([RouteQueue(each.route, each.jobs, each.worker.observer.on_notification) for each in listeners])
    sources: list[NotificationSource] = []
    if config.stream is not None:
        client, consumer = listeners[0].subscriber_client, listeners[0].jobs.consumer
        sources.append(
            RedisStreamSource(client, config.stream.name, config.stream.group, consumer, routing,
                              lease_s=config.worker.lease_s, count=count)
        )  # fmt: skip
    if config.sqs is not None:
        from .notifications.sqs import SqsSource  # noqa: PLC0415  boto3 is slow to import

        sources.append(SqsSource(config.sqs, routing, count=count))
    if config.webhook is not None:
        from .notifications.webhook import WebhookSource  # noqa: PLC0415  aiohttp is slow to import

        sources.append(
            WebhookSource(
                config.webhook.host, config.webhook.port, config.webhook.token.get_secret_value(), routing, count=count
            )
        )
    for source in sources:
        for listener in listeners:
            metrics.notifications[listener.route.name, source.kind] += 0
    return sources


async def listen(
    listeners: Sequence[RouteListener],
    sources: Sequence[NotificationSource],
    stop: asyncio.Event,
    drain_s: float = DRAIN_S,
    *,
    take_over: bool = False,
) -> None:
    """Run all listeners and sources until `stop` is set.

    Args:
        drain_s: how long running copies may take to end after `stop`.
        take_over: replace what the routes mean to other processes.

    Raises:
        RouteConflict: a route means something else to other processes.
        RedisTooOld: Redis is older than 6.2.
        RedisUnavailable: Redis was unavailable until `stop`.
    """
    client = listeners[0].jobs.client
    await RedisRetry().run(partial(connection.check_version, client), stop)
    await connection.warn_if_evicting(client)
    await register_all([listener.worker for listener in listeners], take_over, stop)
    if not sources and not any(listener.pubsub for listener in listeners):
        log.warning("no channel, [stream], [sqs] or [webhook] is configured: only `s3s3 publish` adds keys")
    await asyncio.gather(
        *(each.restarts.run("working", partial(each.run, stop, drain_s), stop) for each in listeners),
        *(source.run_until(stop) for source in sources),
    )
