"""The two commands and the copy of a single key, from Python.

    from s3s3.client import BucketClient, ListenClient, on_notify
    BucketClient("s3s3.toml").duplicate()
    ListenClient("s3s3.toml").listen()

They use a configuration file as the commands do, log to the logger `s3s3`, and work in scripts, threads and notebooks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from . import config as configuration
from .api import Connection, copy_one, route_of, tell_what_broke_off
from .config import Config, with_buckets
from .errors import S3S3Error
from .listener import listen, route_listeners, sources_for
from .monitoring.metrics import Metrics
from .notifications.chaining import on_copied_for
from .reconcile.comparison import ReconcileOptions
from .reconcile.lock import run_exclusive
from .reconcile.session import limits_in, queue_of, reconcile_with_worker
from .tasks import run_sync
from .transfer.route_stores import opened

__all__ = ["BucketClient", "ListenClient", "on_notify"]

log = logging.getLogger(__name__)


class ListenClient:
    """What `s3s3 listen` does, without its status page.

    Args:
        config: the configuration's path, or what `s3s3.config.load` returned; None: the first file that exists, as
            for the commands.

    Raises:
        ConfigError: there is no configuration, or something is wrong with it.
    """

    def __init__(self, config: str | Path | Config | None = None) -> None:
        self.config = _loaded(config)
        self._stop = StopSignal()

    def listen(self) -> None:
        """Copy what notices name until `stop` is called or, in the main thread, SIGTERM or SIGINT comes.

        What is being copied then is finished, for up to a minute, and handed back to the queue after that.

        Raises:
            ConfigError: no Redis is configured.
            StoreError: every source definitely refuses s3s3.
        """
        with self._stop.on_signals():
            run_sync(self._listen())

    def stop(self) -> None:
        """Let `listen`, in whatever thread, return. It is heeded, too, when `listen` has not begun yet."""
        self._stop.set()

    async def _listen(self) -> None:
        with self._stop.attached() as stop:
            metrics = Metrics()
            async with route_listeners(self.config, metrics) as listeners:
                await listen(listeners, sources_for(listeners, self.config, metrics), stop)


class BucketClient:
    """What `s3s3 bucket` does.

    Args:
        config: as for ListenClient.
        source_bucket: another source bucket than the configuration's.
        dest_bucket: another destination bucket, at every destination.
        route: only the route of this name. With several routes, buckets can be named for one only.

    Raises:
        ConfigError: there is no configuration, or something is wrong with it, or it has no such route.
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

        Returns:
            Whether every destination holds all objects of its source now.

        Raises:
            RedisUnavailable: a Redis is configured and cannot be reached.
            RunUnderWay: another process compares the same route just now.
            StoreError: a source could not be listed.
        """
        return run_sync(self._duplicate())

    async def _duplicate(self) -> bool:
        proven, errors = [], []
        for route in with_buckets(self._routes, self._source_bucket, self._dest_bucket):
            metrics = Metrics()
            try:
                async with (
                    queue_of(route, self.config) as jobs,
                    opened(route, self.config.worker, metrics, limits=limits_in(jobs, route, metrics)) as stores,
                ):
                    run = partial(
                        reconcile_with_worker, stores, jobs, self.config.worker, ReconcileOptions(), asyncio.Event(),
                        on_copied=on_copied_for(route, self.config, jobs),
                    )  # fmt: skip
                    tally = await run_exclusive(route.name, jobs, run)
            except S3S3Error as error:
                log.warning("route %s: the comparison broke off: %s", route.name, error)
                errors.append(error)  # the other routes are compared all the same
                continue
            log.info("route %s: %s", route.name, tally.text)
            tell_what_broke_off(tally)
            proven.append(tally.proven)
        if errors:
            raise errors[0]
        return all(proven)


def on_notify(
    source_connection: Connection, destination_connections: Connection | Sequence[Connection], key: str
) -> bool:
    """Copy one key now, as a listener does on a notice: without a look at the destinations first.

    A connection is what `s3s3.api.create_connection` returned or takes, with a bucket_name, or a boto3 Bucket. With a
    prefix, too, a destination's takes the place of the source's.

    Args:
        source_connection: where the key is.
        destination_connections: one connection, or a list of them.
        key: its whole name in the source's bucket.

    Returns:
        Whether every destination holds the source's content now. A source that is gone: False.

    Raises:
        ConfigError: a connection without a bucket, or no destination.
    """
    return copy_one(route_of(source_connection, destination_connections), key, unconditional=True)


def _loaded(config: str | Path | Config | None) -> Config:
    return config if isinstance(config, Config) else configuration.load(config)


class StopSignal:
    """A wish to stop, said in any thread, before or while a coroutine in another one heeds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a second signal may come while the first one's handler holds it
        self._said = False
        self._heeding: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def set(self) -> None:
        """Stop."""
        with self._lock:
            self._said = True
            if self._heeding is not None:
                loop, event = self._heeding
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def attached(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that is set when it is said, or has been. Afterwards it is forgotten."""
        event = asyncio.Event()
        with self._lock:
            self._heeding = asyncio.get_running_loop(), event
            if self._said:
                event.set()
        try:
            yield event
        finally:
            with self._lock:
                self._heeding, self._said = None, False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT say it, where this is the main thread; no other can hear signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, heeding in before.items():
                signal.signal(number, signal.SIG_DFL if heeding is None else heeding)
