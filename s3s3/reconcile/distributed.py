"""Share one reconcile between processes by key range.

Any number of processes on any hosts take part. Each compares one range of keys at a time, until no range is left. Every
few seconds it waits for the outcomes of its jobs and commits them to Redis together with the new start of its range.
Where other processes lack work, it splits the rest of its range. Nothing is deleted: no process reads whole listings.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from functools import partial

from ..config import WorkerSettings
from ..errors import ConfigError, LeaseLost, ReconcileInProgress
from ..model import Route, matcher
from ..monitoring.formatting import time_text
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import MAX_OUTAGE_S, OutcomeTracker
from ..tasks import DRAIN_S, run_until_stopped, run_with_background
from ..transfer.route_stores import RouteStores
from ..worker.worker import OnCopied
from .comparison import Comparison, ReconcileOptions
from .lock import run_exclusive
from .merge import merge
from .range_splitter import split_points
from .reconciler import MAX_AHEAD, OnProgress, local_worker, no_progress, refuse_paused, save_summary, with_worker
from .shared_run import KeyRange, RunFinished, SharedRun
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

#: A process commits its progress after this many entries or seconds. A killed process loses at most this much.
COMMIT_ENTRIES = 20_000
COMMIT_INTERVAL_S = 5.0

#: Pieces of a range that is split; more pieces cost only a few more requests than two.
PIECES = 8

#: How often a process without a range looks for one, in seconds.
POLL_INTERVAL_S = 0.5

#: How often a process reads the counts of all processes, for its progress display, in seconds.
PROGRESS_INTERVAL_S = 1.0


async def reconcile_distributed(
    stores: RouteStores,
    jobs: RedisJobQueue | None,
    settings: WorkerSettings,
    options: ReconcileOptions,
    stop: asyncio.Event,
    *,
    restart: bool = False,
    wait_for_lock: bool = False,
    summary: ReconcileSummary,
    on_progress: OnProgress = no_progress,
    drain_s: float = DRAIN_S,
    on_copied: OnCopied | None = None,
) -> None:
    """Join or start the route's distributed reconcile, until its end or `stop`.

    Args:
        restart: discard an unfinished reconcile without live processes, and start a new one.
        wait_for_lock: wait for the end of a reconcile that is not distributed.
        summary: receives the counts of all processes, and the report lines of this process's ranges.
        drain_s: how long running copies may take to end after `stop`.
        on_copied: called after each copy; see `s3s3.notifications.chaining`.

    Raises:
        ConfigError: there is no queue.
        RoutePaused: the route is paused.
        ReconcileInProgress: another reconcile has the route's lock, or started with other options.
        S3S3Error: the source could not be listed, or Redis is unavailable. The next start continues the reconcile.
    """
    if jobs is None:
        raise ConfigError([
            "--distributed needs the configured Redis ([pubsub] url) and the configured buckets; remove "
            "--without-redis, --source-bucket and --dest-bucket"
        ])  # fmt: skip
    if not options.dry_run:
        await refuse_paused(stores.route, jobs)
    shared = SharedRun(jobs, settings.lease_s)
    options = await _start(shared, stores.route, options, restart)
    worker = _RangeWorker(stores, jobs, shared, options, summary, on_progress)
    try:
        if options.dry_run:
            await run_until_stopped(worker.run(), stop)
        else:
            copies = local_worker(stores, jobs, settings, on_copied)
            run = partial(with_worker, worker.run, stores.route.name, copies, stop, drain_s)
            await run_exclusive(stores.route.name, jobs, run, run_id=shared.id, wait_for_lock=wait_for_lock, stop=stop)
    except ReconcileInProgress:
        await shared.discard()
        raise
    await shared.load_counts(summary)
    if not summary.ended:
        summary.queued_keys = await worker.count_queued_keys()
    await save_summary(jobs, summary, options)


async def _start(shared: SharedRun, route: Route, options: ReconcileOptions, restart: bool) -> ReconcileOptions:
    """Start or join the reconcile; return its options, with a common `since_ms`."""
    endpoints = [[each.name, each.host, each.port, each.bucket_name, each.prefix]
                 for each in (route.source, *route.destinations)]  # fmt: skip
    compared = json.dumps([endpoints, list(route.include), list(route.exclude)])
    wanted = {
        "dry_run": options.dry_run,
        "force": options.force,
        "metadata": options.metadata,
        "since": options.since_ms is not None,
        "route": hashlib.sha256(compared.encode()).hexdigest()[:16],
    }
    await shared.start({**wanted, "since_ms": options.since_ms}, restart)
    since_ms = shared.options.pop("since_ms")
    started = time_text(shared.started_ms)
    if shared.options != wanted:
        raise ReconcileInProgress(
            f"route {route.name}: an unfinished distributed reconcile, started at {started}, has other options or "
            "another configuration: finish it with those, or discard it with --restart"
        )
    if not shared.is_new:
        log.info("route %s: joining the distributed reconcile started at %s", route.name, started)
    return replace(options, since_ms=since_ms)


class _RangeWorker:
    """One process of a distributed reconcile: acquires ranges and compares them."""

    def __init__(
        self,
        stores: RouteStores,
        jobs: RedisJobQueue,
        shared: SharedRun,
        options: ReconcileOptions,
        summary: ReconcileSummary,
        on_progress: OnProgress,
    ) -> None:
        self._route = stores.route
        self._stores = (stores.source, *stores.destinations)
        self._metrics = stores.metrics
        self._jobs = jobs
        self._shared = shared
        self._options = options
        self._matches = matcher(stores.route)
        self._summary = summary
        self._on_progress = on_progress
        self._start_counting()

    def _start_counting(self) -> None:
        """Replace what was compared and counted since the last commit."""
        self._counts = counts = self._summary.empty_copy()
        self._tracker = OutcomeTracker(
            self._jobs, unconditional=self._options.force, on_outcome=counts.report_fields, max_outage_s=MAX_OUTAGE_S
        )
        source, *destinations = self._stores
        self._comparison = Comparison(source, destinations, self._options, self._matches, counts, self._metrics)
        self._entries = 0
        self._started_s = time.monotonic()

    async def count_queued_keys(self) -> int:
        """Return the number of keys that this process put on the queue and that have no outcome."""
        await self._tracker.poll_all()
        return len(self._tracker)

    async def run(self) -> bool:
        """Compare ranges until none is left in any process."""
        with suppress(RunFinished):
            await run_with_background(self._compare_ranges(), self._report_progress())
        return True

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            await self._shared.load_counts(self._summary)
            self._on_progress(self._summary, len(self._tracker))

    async def _compare_ranges(self) -> None:
        while True:
            key_range = await self._shared.acquire_range()
            if key_range is None:
                await asyncio.sleep(POLL_INTERVAL_S)
                continue
            try:
                await run_with_background(self._compare_range(key_range), self._maintain_lease(key_range))
            except LeaseLost as error:
                log.warning("route %s: %s", self._route.name, error)
            except RunFinished:
                raise
            except BaseException:
                await self._shared.release_range(key_range)
                raise

    async def _maintain_lease(self, key_range: KeyRange) -> None:
        while True:
            await asyncio.sleep(self._shared.lease_s / 3)
            await self._shared.renew(key_range)

    async def _compare_range(self, key_range: KeyRange) -> None:
        """Compare a range to its end. Split the rest of it whenever other processes lack work."""
        self._start_counting()
        while True:
            if key_range.shortfall > 0:
                points = await split_points(self._stores, key_range.after, key_range.until, PIECES)
                if points:
                    await self._commit(key_range, key_range.after, points)
            async with AsyncExitStack() as stack:
                pages = [store.pages(start_after=key_range.after, until=key_range.until) for store in self._stores]
                source, *destinations = [await stack.enter_async_context(aclosing(listing)) for listing in pages]
                async for batch in await stack.enter_async_context(aclosing(merge(source, destinations))):
                    await self._tracker.enqueue(await self._comparison.compare(batch))
                    await self._wait_until_outstanding(MAX_AHEAD)
                    self._entries += len(batch.rows)
                    if batch.rows and self._can_commit(last_key := batch.rows[-1][0]):
                        await self._commit(key_range, last_key)
                        if key_range.shortfall > 0:
                            break
                else:
                    await self._commit(key_range, None)
                    return

    def _can_commit(self, key: str) -> bool:
        """Whether a commit is due, and every store can list the keys after this one."""
        is_due = self._entries >= COMMIT_ENTRIES or time.monotonic() - self._started_s >= COMMIT_INTERVAL_S
        return is_due and all(store.is_valid_key(key) for store in self._stores)

    async def _commit(self, key_range: KeyRange, position: str | None, points: Sequence[str] = ()) -> None:
        """Wait for the outcomes, then do what `SharedRun.commit_progress` does."""
        await self._wait_until_outstanding(0)
        await self._shared.commit_progress(key_range, position, self._counts, points)
        self._start_counting()

    async def _wait_until_outstanding(self, limit: int) -> None:
        while len(self._tracker) > limit:
            await self._tracker.poll()
