"""Run `listen`, `bucket` or the copy of a single key from Python.

    from s3s3.client import BucketClient, ListenClient, on_notify
    BucketClient("s3s3.toml").duplicate()
    ListenClient("s3s3.toml").listen()

They read the same configuration file as the commands, log to the logger `s3s3`, and work in scripts, threads and
notebooks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from . import config as configuration
from .api import Connection, copy_one, log_incomplete, route_of
from .config import Config, with_buckets
from .errors import S3S3Error
from .events import RECONCILE_FAILED, log_event
from .listener import listen, route_listeners, sources_for
from .monitoring.metrics import Metrics
from .notifications.chaining import claim_downstream, on_copied_for
from .reconcile.comparison import ReconcileOptions
from .reconcile.lock import run_exclusive
from .reconcile.reconciler import limiters_for, open_queue, reconcile_with_worker
from .tasks import run_sync
from .transfer.route_stores import opened

__all__ = ["BucketClient", "ListenClient", "on_notify"]

log = logging.getLogger(__name__)


class ListenClient:
    """Run `s3s3 listen`, without its status page. Raises ConfigError if the configuration is missing or invalid.

    `config`: its path, or a result of `s3s3.config.load`; None: the file that the commands read.
    """

    def __init__(self, config: str | Path | Config | None = None) -> None:
        self.config = _loaded(config)
        self._stop = StopSignal()

    def listen(self) -> None:
        """Copy notified keys until `stop` is called or, in the main thread, SIGTERM or SIGINT arrives.

        Running copies then have up to a minute to finish; the others are released to the queue.

        Raises ConfigError if no Redis is configured, StoreError if every source permanently refuses access.
        """
        with self._stop.on_signals():
            run_sync(self._listen())

    def stop(self) -> None:
        """Make `listen` return. Thread-safe; may be called before `listen`."""
        self._stop.set()

    async def _listen(self) -> None:
        with self._stop.attached() as stop:
            metrics = Metrics()
            async with route_listeners(self.config, metrics) as listeners:
                await listen(listeners, sources_for(listeners, self.config, metrics), stop)


class BucketClient:
    """Run `s3s3 bucket`. Raises ConfigError if the configuration is missing or invalid, or has no such route.

    Args:
        config: as for ListenClient.
        source_bucket: replaces the configured source bucket.
        dest_bucket: replaces the configured bucket of every destination.
        route: name of the only route to reconcile. Required with a bucket if there are several routes.
    """

    def __init__(
        self,
        config: str | Path | Config | None = None,
        *,
        source_bucket: str | None = None,
        dest_bucket: str | None = None,
        route: str | None = None,
    ) -> None:
        self.config = _loaded(config)
        self._routes = self.config.routes_named(route)
        self._source_bucket = source_bucket
        self._dest_bucket = dest_bucket

    def duplicate(self) -> bool:
        """Compare each route's source with its destinations and copy what differs.

        After an error the other routes are still reconciled; then the first error is raised.

        Returns:
            Whether every destination now holds all objects of its source.

        Raises:
            RedisUnavailable: the configured Redis does not respond.
            ReconcileInProgress: another process reconciles the same route.
            StoreError: a source could not be listed.
        """
        return run_sync(self._duplicate())

    async def _duplicate(self) -> bool:
        proven, errors = [], []
        for route in with_buckets(self._routes, self._source_bucket, self._dest_bucket):
            metrics = Metrics()
            try:
                async with (
                    open_queue(route, self.config) as jobs,
                    opened(route, self.config.worker, metrics, limits=limiters_for(jobs, route, metrics)) as stores,
                ):
                    await claim_downstream(route, self.config, jobs)
                    run = partial(
                        reconcile_with_worker, stores, jobs, self.config.worker, ReconcileOptions(), asyncio.Event(),
                        on_copied=on_copied_for(route, self.config, jobs),
                    )  # fmt: skip
                    summary = await run_exclusive(route.name, jobs, run)
            except S3S3Error as error:
                log_event(log, RECONCILE_FAILED, str(error), route=route.name)
                errors.append(error)
                continue
            log.info("route %s: %s", route.name, summary.text)
            log_incomplete(summary)
            proven.append(summary.proven)
        if errors:
            raise errors[0]
        return all(proven)


def on_notify(
    source_connection: Connection, destination_connections: Connection | Sequence[Connection], key: str
) -> bool:
    """Copy one key, as a listener does for a notification: up to 1 MiB without comparing first.

    A connection is a result of `s3s3.api.create_connection` or its arguments, with bucket_name, or a boto3 Bucket. If
    they have a prefix, the destination's replaces the source's.

    Args:
        key: its full name in the source bucket.

    Returns:
        Whether every destination now holds the source's content; False if the source object does not exist.

    Raises:
        ConfigError: a connection has no bucket, or the list of destinations is empty.
    """
    return copy_one(route_of(source_connection, destination_connections), key, unconditional=True)


def _loaded(config: str | Path | Config | None) -> Config:
    return config if isinstance(config, Config) else configuration.load(config)


class StopSignal:
    """Thread-safe stop request; may be set before the coroutine that waits for it starts."""

    def __init__(self) -> None:
        self._requested: Future[None] = Future()

    def set(self) -> None:
        """Request the stop."""
        with suppress(InvalidStateError):  # requested already
            self._requested.set_result(None)

    @contextmanager
    def attached(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that is set by `set`, also by an earlier one. Reset it at the end."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        self._requested.add_done_callback(lambda _: loop.call_soon_threadsafe(event.set))
        try:
            yield event
        finally:
            self._requested = Future()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Set it on SIGTERM and SIGINT. Does nothing outside the main thread, which alone can handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, lambda *_: self.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
