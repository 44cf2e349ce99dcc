"""Reconcile inside the listener, at a fixed interval or for a gap backfill."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from ..config import WorkerSettings
from ..errors import ReconcileInProgress, RedisUnavailable, S3S3Error
from ..events import DELETIONS_WITHHELD, RECONCILE_FAILED, RECONCILE_FINISHED, RECONCILE_INCOMPLETE, log_event
from ..monitoring.formatting import iso_time
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import MAX_OUTAGE_S, OutcomeTracker
from ..tasks import backoff_s
from ..transfer.route_stores import RouteStores
from .comparison import ReconcileOptions
from .lock import run_exclusive
from .reconciler import Reconciler, save_summary
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

#: A reconcile may start this much early, in seconds: the one before it was measured by several clocks.
CLOCK_TOLERANCE_S = 1.5

#: Longest pause before what a reconcile could not compare is compared again, in seconds; each failure doubles it. It is
#: never longer than the interval between reconciles.
INITIAL_RETRY_S = 60.0
MAX_RETRY_S = 3600.0


@dataclass(frozen=True)
class Schedule:
    """When a listener reconciles: every `every_s` (None: never), and at its start."""

    every_s: float | None = None
    initial: bool = True


class PeriodicReconcile:
    """Reconciles one route inside a listener; the workers of the fleet run the jobs."""

    def __init__(self, stores: RouteStores, jobs: RedisJobQueue, settings: WorkerSettings, schedule: Schedule) -> None:
        self._stores = stores
        self._jobs = jobs
        self._settings = settings
        self._schedule = schedule
        self._route = stores.route.name

    async def run(self, destinations: Collection[str] = (), wait_for_lock: bool = False) -> ReconcileSummary:
        """Reconcile once; log the destinations that could not be compared as a warning.

        Args:
            destinations: compare only these; none: all.
            wait_for_lock: start after the end of another process's reconcile.

        Raises:
            ReconcileInProgress: another process reconciles this route, and `wait_for_lock` is False.
            S3S3Error: the source could not be listed, or Redis is unavailable.
        """

        wanted = [store.name for store in self._stores.destinations if not destinations or store.name in destinations]
        summary = ReconcileSummary(self._route, tuple(wanted))

        async def reconcile() -> ReconcileSummary:
            return await self._reconcile(summary)

        await run_exclusive(
            self._route, self._jobs, reconcile, wait_for_lock=wait_for_lock, progress=lambda: summary.progress
        )
        event = RECONCILE_INCOMPLETE if summary.errors else RECONCILE_FINISHED
        log_event(
            log, event, summary.text, route=self._route, destination=",".join(summary.errors or summary.counts),
            duration_s=round(summary.seconds, 3), bytes=summary.copied_bytes,
        )  # fmt: skip
        for name, reason in summary.deletions_withheld.items():
            log_event(log, DELETIONS_WITHHELD, reason, route=self._route, destination=name)
        return summary

    async def _reconcile(self, summary: ReconcileSummary) -> ReconcileSummary:
        options = ReconcileOptions()
        wanted = [store for store in self._stores.destinations if store.name in summary.counts]
        stores = replace(self._stores, destinations=wanted)
        gap = await self._jobs.gap()
        tracker = OutcomeTracker(
            self._jobs, unconditional=False, on_outcome=summary.report_fields, max_outage_s=MAX_OUTAGE_S
        )
        await Reconciler(stores, tracker, options, self._settings, summary).run()
        await save_summary(self._jobs, summary, options, gap)
        return summary

    async def maintain(self) -> None:
        """Reconcile on schedule; never returns. What could not be compared is retried earlier."""
        every_s = self._schedule.every_s
        if every_s is None:
            await asyncio.Event().wait()
            return
        if not self._schedule.initial:
            await asyncio.sleep(every_s)
        destinations: Collection[str] = ()
        failures = 0  # without a summary: the source could not be listed
        while True:
            pause_s = 1.0
            try:
                await self.run(destinations)
                failures = 0
            except ReconcileInProgress as error:
                log.info("%s: skipping this one", error)
                pause_s = min(every_s, MAX_RETRY_S)
            except S3S3Error as error:
                failures += 1
                pause_s = _retry_s(failures, every_s)
                next_attempt = iso_time(time.time() + pause_s)
                log_event(log, RECONCILE_FAILED, str(error), route=self._route, next_attempt=next_attempt)
            await asyncio.sleep(pause_s)
            while True:
                rest_s, destinations = await self._next(every_s)
                if rest_s <= 0:
                    break
                await asyncio.sleep(rest_s)

    async def _next(self, every_s: float) -> tuple[float, Collection[str]]:
        """Return the seconds until a reconcile is due, and its destinations (none: all).

        What any process of the fleet compared counts.
        """
        try:
            last = await self._jobs.load_reconcile_summary()
        except RedisUnavailable:
            return 0.0, ()
        if last is None:
            return 0.0, ()
        names = self._jobs.destinations
        incomplete = [name for name in names if name in last.errors or name not in last.compared_s]
        oldest_s = min((last.compared_s[name] for name in names if name in last.compared_s), default=0.0)
        due_s = oldest_s - last.seconds + every_s
        if incomplete:
            retry_at_s = last.ended_s + _retry_s(last.failures, every_s)
            if retry_at_s < due_s or oldest_s == 0.0:
                return min(retry_at_s - time.time(), every_s), incomplete
        return min(due_s - time.time() - CLOCK_TOLERANCE_S, every_s), ()


def _retry_s(failures: int, every_s: float) -> float:
    return backoff_s(max(failures, 1), INITIAL_RETRY_S, min(MAX_RETRY_S, every_s))
