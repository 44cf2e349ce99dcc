"""One run over a route, by any number of processes on any hosts: each compares ranges of keys until none is left.

The comparison is that of `bucket`, on a part of the listings. Every few seconds a process waits for what it had copied,
and counts it in Redis in the step that makes its range smaller. Where there are too few ranges for all, it
cuts what is left of its own. Nothing is deleted: what may be is known only to who has seen all listings.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..config import WorkerSettings
from ..errors import ConfigError, LeaseLost, ReconcileInProgress
from ..model import Route, matcher
from ..queue.lease import boottime_s
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker
from ..tasks import DRAIN_S, run_until_stopped, run_with_background
from ..transfer.route_stores import RouteStores
from ..worker.job_runner import OnCopied
from .comparison import Comparison, ReconcileOptions
from .local_worker import local_worker, with_worker
from .lock import run_shared
from .merge import Batch, merge
from .range_splitter import cuts
from .reconciler import MAX_AHEAD, OnProgress, no_progress
from .session import refuse_paused, save_summary
from .shared_run import KeyRange, RunFinished, SharedRun
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

TURN_ENTRIES = 20_000
TURN_S = 5.0
"""After so many entries, or so long, a process looks whether others lack work; whoever is killed loses no more."""

PIECES = 8
"""Of a range that is cut: a few more cost hardly more questions than two."""

PAUSE_S = 0.5


async def reconcile_together(
    stores: RouteStores,
    jobs: RedisJobQueue,
    settings: WorkerSettings,
    options: ReconcileOptions,
    stop: asyncio.Event,
    *,
    afresh: bool = False,
    wait_for_lock: bool = False,
    summary: ReconcileSummary,
    on_progress: OnProgress = no_progress,
    drain_s: float = DRAIN_S,
    on_copied: OnCopied | None = None,
) -> None:
    """Take part in a run over one route, or begin one, until it has ended or `stop` is set.

    Args:
        afresh: a run of which every process has gone is forgotten, not ended.
        wait_for_lock: wait for the end of another process's run over the route.
        drain_s: how long copies that are under way at the end may take.
        arrived: is told of what is copied (see `arrivals`).
        tally: gets what all processes counted; its report lines are of what this process compares.

    Raises:
        RoutePaused: the route is paused, so this would not come to its end.
        RunUnderWay: the route is compared by another run, or by one with other options.
        S3S3Error: a source's listing broke off, or Redis went away. Another start goes on.
    """
    if not options.dry_run:
        await refuse_paused(stores.route, jobs)
    shared = SharedRun(jobs, settings.lease_s)
    options = await _begin(shared, stores.route, options, afresh)
    part = _RangeWorker(stores, jobs, shared, options, summary, on_progress)

    async def run() -> bool | None:
        worker = local_worker(stores, jobs, settings, on_copied)
        return await with_worker(part.run, stores.route.name, worker, stop, drain_s)

    try:
        if options.dry_run:
            await run_until_stopped(part.run(), stop)
        else:
            await run_shared(stores.route.name, jobs, shared.id, run, wait_for_lock=wait_for_lock, stop=stop)
    except ReconcileInProgress:
        await shared.forget()
        raise
    await shared.state(summary)
    await save_summary(jobs, summary, options)


def shareable(jobs: RedisJobQueue | None) -> RedisJobQueue:
    """Return the queue, where other processes see it too. Raises ConfigError."""
    if jobs is not None:
        return jobs
    raise ConfigError([
        "--distributed: processes share a run through the Redis that is configured ([pubsub] url), between the buckets "
        "that are configured: without --without-redis, --source-bucket and --dest-bucket"
    ])  # fmt: skip


async def _begin(shared: SharedRun, route: Route, options: ReconcileOptions, afresh: bool) -> ReconcileOptions:
    """Begin the run or find it, and return its options: all processes count from one `since_ms`."""
    wanted = {
        "dry_run": options.dry_run,
        "force": options.force,
        "since": options.since_ms is not None,
        "route": _fingerprint(route),
    }
    await shared.begin({**wanted, "since_ms": options.since_ms}, afresh)
    began = datetime.fromtimestamp(shared.began_ms / 1000, timezone.utc)
    since_ms = shared.options.pop("since_ms")
    if shared.options != wanted:
        raise ReconcileInProgress(
            f"route {route.name}: a distributed run with other options, or another configuration, was begun at "
            f"{began:%Y-%m-%d %H:%M:%S} UTC and has not ended: end it with those, or forget it with --restart"
        )
    if not shared.is_new:
        log.info("route %s: taking part in the run that was begun at %s", route.name, f"{began:%Y-%m-%d %H:%M:%S} UTC")
    return replace(options, since_ms=since_ms)


def _fingerprint(route: Route) -> str:
    """Return a hash of what is compared: a run that goes on must not go on with other stores."""
    stores = [[each.name, each.host, each.port, each.bucket_name, each.prefix]
              for each in (route.source, *route.destinations)]  # fmt: skip
    said = json.dumps([stores, list(route.include), list(route.exclude)])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


class _RangeWorker:
    """What one process does in a run."""

    def __init__(
        self,
        stores: RouteStores,
        jobs: RedisJobQueue,
        shared: SharedRun,
        options: ReconcileOptions,
        tally: ReconcileSummary,
        on_progress: OnProgress,
    ) -> None:
        self._route = stores.route
        self._stores = (stores.source, *stores.destinations)
        self._shared = shared
        self._options = options
        self._matches = matcher(stores.route)
        self._tally = tally
        self._on_progress = on_progress
        self._jobs = jobs
        self._begin()

    async def run(self) -> bool:
        """Compare ranges until none is left anywhere."""
        await run_with_background(self._until_ended(), self._keep_telling())
        return True

    async def _until_ended(self) -> None:
        try:
            while True:
                held = await self._shared.take()
                if held is None:
                    await asyncio.sleep(PAUSE_S)
                    continue
                try:
                    await run_with_background(self._compare(held), self._keep(held))
                except LeaseLost as error:
                    log.warning("route %s: %s", self._route.name, error)
        except RunFinished:
            return

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._shared.state(self._tally)
            self._on_progress(self._tally, len(self._outstanding))

    async def _keep(self, held: KeyRange) -> None:
        while True:
            await asyncio.sleep(self._shared.lease_s / 3)
            if not await self._shared.renew(held):
                raise LeaseLost(f"the range after {held.after!r} is somebody else's now")

    # -- one range

    async def _compare(self, held: KeyRange) -> None:
        """Compare a range to its end, wherever that is when it is reached."""
        try:
            while not await self._compare_until_cut(held):
                pass
        except (LeaseLost, RunFinished):
            raise
        except BaseException:
            await self._shared.leave(held)
            raise

    async def _compare_until_cut(self, held: KeyRange) -> bool:
        """Compare, from where the range begins now. Returns False where it is worth cutting before it goes on."""
        if held.wanting > 0:
            points = await cuts(self._stores, held.after, held.until, PIECES)
            if points:
                await self._shared.go_on(held, held.after, self._tally.empty_copy(), points)
        self._begin()
        async with AsyncExitStack() as stack:
            source, *destinations = [
                await stack.enter_async_context(aclosing(store.pages(start_after=held.after, until=held.until)))
                for store in self._stores
            ]
            batches = await stack.enter_async_context(aclosing(merge(source, destinations)))
            return await self._go_through(batches, held)

    async def _go_through(self, batches: AsyncIterator[Batch], held: KeyRange) -> bool:
        entries, began_s = 0, boottime_s()
        async for batch in batches:
            await self._outstanding.enqueue(await self._comparison.differing(batch))
            while len(self._outstanding) > MAX_AHEAD:
                await self._outstanding.poll()
            entries += len(batch.rows)
            is_long = entries >= TURN_ENTRIES or boottime_s() - began_s >= TURN_S
            if batch.rows and is_long and all(store.is_valid_key(batch.rows[-1][0]) for store in self._stores):
                await self._end_turn(held, batch.rows[-1][0])
                entries, began_s = 0, boottime_s()
                if held.wanting > 0:
                    return False
        await self._end_turn(held, None)
        return True

    def _begin(self) -> None:
        """Wait for nothing that was put before: a range that was lost is somebody else's to count."""
        self._outstanding = OutcomeTracker(self._jobs, unconditional=self._options.force, on_outcome=self._tell)
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._turn = self._tally.empty_copy()
        self._comparison = Comparison(self._stores[1:], self._options, self._matches, self._turn)

    async def _end_turn(self, held: KeyRange, position: str | None) -> None:
        while self._outstanding:
            await self._outstanding.poll()
        await self._shared.go_on(held, position, self._turn)
        self._begin_turn()

    def _tell(self, fields: dict[str, Any]) -> None:
        self._turn.report_fields(fields)
