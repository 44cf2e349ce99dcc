"""Reconcile inside the listener, at a fixed interval or for a gap backfill."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from ..config import WorkerSettings
from ..errors import ReconcileInProgress, RedisUnavailable, S3S3Error
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker
from ..transfer.route_stores import RouteStores
from .comparison import ReconcileOptions
from .lock import run_exclusive
from .reconciler import Reconciler, save_summary
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

#: A reconcile may start this much early, in seconds: the one before it was measured by several clocks.
CLOCK_TOLERANCE_S = 1.5


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

    async def run(self, wait_for_lock: bool = False) -> ReconcileSummary:
        """Reconcile once; with `wait_for_lock`, after the end of another process's reconcile.

        Raises:
            ReconcileInProgress: another process reconciles this route, and `wait_for_lock` is False.
            S3S3Error: the source could not be listed, or Redis is unavailable.
        """
        summary = await run_exclusive(self._route, self._jobs, self._reconcile, wait_for_lock=wait_for_lock)
        log.info("route %s: %s", self._route, summary.text)
        for name, reason in summary.deletions_withheld.items():
            log.warning("route %s: deletions withheld at %s: %s", self._route, name, reason)
        return summary

    async def _reconcile(self) -> ReconcileSummary:
        options = ReconcileOptions()
        summary = ReconcileSummary(self._route, self._stores.route.destination_names)
        tracker = OutcomeTracker(self._jobs, unconditional=False, on_outcome=summary.report_fields)
        await Reconciler(self._stores, tracker, options, self._settings, summary).run()
        await save_summary(self._jobs, summary, options)
        return summary

    async def maintain(self) -> None:
        """Reconcile on schedule; never returns."""
        every_s = self._schedule.every_s
        if every_s is None:
            await asyncio.Event().wait()
            return
        if not self._schedule.initial:
            await asyncio.sleep(every_s)
        while True:
            started_s = time.monotonic()
            try:
                await self.run()
            except ReconcileInProgress as error:
                log.info("%s: skipping this one", error)
            except S3S3Error as error:
                log.warning("route %s: reconcile failed: %s", self._route, error)
            await asyncio.sleep(max(every_s - (time.monotonic() - started_s), 1.0))
            while (rest_s := await self._until_due_s(every_s)) > 0:
                await asyncio.sleep(rest_s)

    async def _until_due_s(self, every_s: float) -> float:
        """Return the seconds until a reconcile is due; any process of the fleet counts."""
        try:
            last = await self._jobs.load_reconcile_summary()
        except RedisUnavailable:
            return 0.0
        return min(last.ended_s - last.seconds + every_s - time.time() - CLOCK_TOLERANCE_S, every_s) if last else 0.0
