"""Reconcile a route: compare whole buckets, and copy or delete what differs.

Differences become jobs in the bulk lane, a bounded number at a time, and their outcomes come back to the reconcile that
enqueued them. Beside listeners it copies nothing twice. `s3s3 bucket` runs a worker of its own meanwhile, or copies in
this process if there is no queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from ..config import Config, WorkerSettings
from ..errors import RoutePaused
from ..model import Outcome, Result, Route, matcher, md5_of_etag
from ..monitoring.heartbeat import claim_route
from ..monitoring.metrics import Metrics
from ..queue.base import Gap, JobRequest, ReconcileRecord
from ..queue.connection import connected
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import MAX_OUTAGE_S, OutcomeTracker
from ..tasks import DRAIN_S, cancel, run_until_stopped
from ..transfer.decision import Reason
from ..transfer.route_stores import RouteStores
from ..worker.rate_limiter import DestinationRateLimiter, rate_limiters
from ..worker.route_worker import RouteWorker
from ..worker.worker import OnCopied
from .comparison import Comparison, ReconcileOptions
from .deletions import DeletionCandidates, refusal
from .executor import InProcessExecutor
from .merge import merge
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Value = TypeVar("Value")

#: Called with the counts so far and the number of keys without a reported outcome.
OnProgress: TypeAlias = "Callable[[ReconcileSummary, int], None]"

#: Keys of one reconcile that may wait for their outcomes before it reads on.
MAX_AHEAD = 1000


def no_progress(summary: ReconcileSummary, outstanding: int) -> None:
    """Ignore the progress of a reconcile."""


@asynccontextmanager
async def open_queue(
    route: Route, config: Config, *, without_redis: bool = False, dry_run: bool = False, take_over: bool = False
) -> AsyncIterator[RedisJobQueue | None]:
    """Yield the route's queue, or None for a reconcile that copies in this process.

    That is one without Redis, or between other buckets than the configuration's: listeners copy a queued key between
    the buckets of their configuration.

    Args:
        dry_run: change nothing in Redis.
        take_over: replace what the route means to other processes.

    Raises:
        RedisUnavailable: Redis is configured and cannot be reached.
        RouteConflict: the route means something else to other processes.
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
        jobs = RedisJobQueue.of(client, route, config.worker.lease_s)
        if not dry_run:
            await claim_route(route, jobs, "bucket", take_over=take_over)
        yield jobs


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


async def save_summary(
    jobs: RedisJobQueue | None, summary: ReconcileSummary, options: ReconcileOptions, gap: Gap | None = None
) -> None:
    """Store the summary of a reconcile of all objects at some or all destinations.

    A destination with an error keeps the time of its last comparison, and a gap stays open there.

    Args:
        gap: the gap that was recorded when the reconcile began.
    """
    if jobs is None or not summary.ended or options.dry_run or options.since_ms is not None:
        return
    names, now_s = jobs.destinations, time.time()
    compared = [name for name in summary.counts if name not in summary.errors]
    last = await jobs.load_reconcile_summary() or ReconcileRecord(now_s, 0.0, 0, {}, {})
    errors = _of(names, {**_without(last.errors, compared), **summary.errors})
    await jobs.save_reconcile_summary(
        ReconcileRecord(
            now_s, summary.seconds, summary.source_entries, _of(names, {**last.destinations, **summary.counts}), errors,
            _of(names, {**last.compared_s, **dict.fromkeys(compared, now_s)}),
            _of(names, {**_without(last.deletions_withheld, compared), **summary.deletions_withheld}),
            last.failures + 1 if errors else 0,
        )
    )  # fmt: skip
    if gap is not None and compared:
        await jobs.heal_gap(gap.generation, compared)


def _of(names: Collection[str], values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name in names}


def _without(values: Mapping[str, Value], names: Collection[str]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name not in names}


def local_worker(
    stores: RouteStores, jobs: RedisJobQueue, settings: WorkerSettings, on_copied: OnCopied | None
) -> RouteWorker:
    """Return a worker on the route's queue, registered as `bucket`."""
    return RouteWorker(
        stores.route, jobs, stores.copier.copy_job, settings, stores.metrics, "bucket", on_copied=on_copied,
        limits=stores.limits, read_test=stores.read_error, checksums=stores.copier.checksums,
    )  # fmt: skip


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
    copies: OutcomeTracker | InProcessExecutor
    worker: RouteWorker | InProcessExecutor | None = None
    if jobs is None:
        copies = worker = InProcessExecutor(
            stores, settings.concurrency, unconditional=options.force, on_outcome=summary.report_fields
        )
    else:
        copies = OutcomeTracker(
            jobs, unconditional=options.force, on_outcome=summary.report_fields, max_outage_s=MAX_OUTAGE_S
        )
        if not options.dry_run:
            await refuse_paused(route, jobs)
            worker = local_worker(stores, jobs, settings, on_copied)
    reconciler = Reconciler(stores, copies, options, settings, summary, on_progress)
    if worker is None or options.dry_run:
        await run_until_stopped(reconciler.run(), stop)
    else:
        gap = await jobs.gap() if jobs is not None else None
        await with_worker(reconciler.run, route.name, worker, stop, drain_s)
        if not summary.ended:
            await copies.poll_all()  # of the copies that ended after `stop`
            summary.queued_keys = len(copies) if jobs is not None else 0
        await save_summary(jobs, summary, options, gap)
    return summary


class Reconciler:
    """One reconcile of one route.

    Args:
        copies: receives the jobs and reports their outcomes to `summary`; its `len` is the number of outstanding keys.
        settings: the directory and the size limit of the file that holds deletion candidates.
        on_progress: called after each page and each batch of outcomes.
    """

    def __init__(
        self,
        stores: RouteStores,
        copies: OutcomeTracker | InProcessExecutor,
        options: ReconcileOptions,
        settings: WorkerSettings,
        summary: ReconcileSummary,
        on_progress: OnProgress = no_progress,
    ) -> None:
        self._stores = stores
        self._copies = copies
        self._options = options
        self._on_progress = on_progress
        self._summary = summary
        self._candidates = DeletionCandidates(str(settings.spool_dir or ""), settings.spool_bytes)
        on_candidate = self._candidates.add if options.since_ms is None else None
        self._comparison = Comparison(
            stores.source, stores.destinations, options, matcher(stores.route), summary, stores.metrics, on_candidate
        )

    async def run(self) -> ReconcileSummary:
        """Compare everything, wait for every outcome, and return the summary.

        Raises:
            S3S3Error: the source could not be listed, or Redis is unavailable. Nothing was deleted then.
        """
        started_s = time.monotonic()
        try:
            async for batch in merge(
                self._stores.source.pages(), [store.pages() for store in self._stores.destinations]
            ):
                await self._copies.enqueue(await self._comparison.compare(batch))
                self._on_progress(self._summary, len(self._copies))
                await self._wait_until_outstanding(MAX_AHEAD)
            await self._delete()
            await self._wait_until_outstanding(0)
            self._summary.ended = True
        finally:
            self._summary.seconds = time.monotonic() - started_s
            self._candidates.close()
        return self._summary

    async def _delete(self) -> None:
        """Delete what only destinations have, after all listings are complete.

        A deletion is an ordinary job: the key is deleted only if a GET, a HEAD and a LIST of it find no object.
        """
        summary = self._summary
        for store in self._stores.destinations:
            reason = refusal(
                store.endpoint, self._candidates.counts.get(store.name, 0),
                entries=self._comparison.entries[store.name],
                source_entries=summary.source_entries, allow_empty=self._options.allow_empty,
            )  # fmt: skip
            if reason and store.name not in summary.errors:
                summary.deletions_withheld[store.name] = reason
        for name, entry in self._candidates:
            is_withheld = bool(summary.deletions_withheld) or name in summary.errors
            if is_withheld or self._options.dry_run:
                result = Result.EXTRANEOUS if is_withheld else Result.WOULD_DELETE
                summary.report(Outcome(
                    name, entry.key, result, Reason.SOURCE_MISSING.value,
                    destination_size_bytes=entry.size_bytes, destination_md5=md5_of_etag(entry.etag),
                ))  # fmt: skip
            else:
                await self._copies.enqueue([JobRequest(entry.key, (name,))])
                await self._wait_until_outstanding(MAX_AHEAD)

    async def _wait_until_outstanding(self, limit: int) -> None:
        while len(self._copies) > limit:
            await self._copies.poll()
            self._on_progress(self._summary, len(self._copies))
