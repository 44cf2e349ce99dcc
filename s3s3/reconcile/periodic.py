"""The runs over a whole bucket that a daemon makes by itself: every so often, or where a gap is to be healed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from ..config import WorkerSettings
from ..errors import ReconcileInProgress, RedisUnavailable, S3S3Error
from ..model import matcher
from ..queue.lease import boottime_s
from ..queue.redis_queue import RedisJobQueue
from ..transfer.route_stores import RouteStores
from .comparison import ReconcileOptions
from .lock import run_exclusive
from .reconciler import Reconciler
from .summary import ReconcileSummary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How often a listener compares everything by itself (None: never), and whether it begins with that."""

    every_s: float | None = None
    initial: bool = True


class PeriodicReconcile:
    """Those over one route."""

    def __init__(self, stores: RouteStores, jobs: RedisJobQueue, settings: WorkerSettings, periodic: Schedule) -> None:
        self._stores = stores
        self._jobs = jobs
        self._settings = settings
        self._periodic = periodic
        self._name = stores.route.name

    async def run(self, waits: bool = False) -> ReconcileSummary:
        """Compare everything and have what differs copied; the workers of the fleet do it.

        Args:
            waits: for the end of another process's run.

        Raises:
            RunUnderWay: another process does so just now.
        """
        stores = self._stores
        reconcile = Reconciler(
            stores.route, stores.source, stores.destinations, self._jobs, ReconcileOptions(),
            settings=self._settings, matches=matcher(stores.route),
        )  # fmt: skip
        tally = await run_exclusive(self._name, self._jobs, reconcile.run, waits=waits)
        log.info("route %s: %s", self._name, tally.in_words)
        for name, why in tally.kept.items():
            log.warning("route %s: nothing was deleted, because of %s: %s", self._name, name, why)
        return tally

    async def keep(self) -> None:
        """Run every so often, for ever."""
        every_s = self._periodic.every_s
        if every_s is None:
            await asyncio.Event().wait()
            return
        if not self._periodic.initial:
            await asyncio.sleep(every_s)
        while True:
            began_s = boottime_s()
            try:
                await self.run()
            except ReconcileInProgress as error:
                log.info("%s: not begun a second time", error)
            except S3S3Error as error:
                log.warning("route %s: the comparison broke off: %s", self._name, error)
            await asyncio.sleep(max(every_s - (boottime_s() - began_s), 1.0))
            while (rest_s := await self._until_due_s(every_s)) > 0:
                await asyncio.sleep(rest_s)

    async def _until_due_s(self, every_s: float) -> float:
        """Return how long the comparison that any process of the fleet began last will do: one of them is enough."""
        try:
            summary = await self._jobs.load_reconcile_summary()
        except RedisUnavailable:
            return 0.0
        began_s = json.loads(summary)["ended_s"] - json.loads(summary)["seconds"] if summary else 0.0
        # What a listener itself began is as long ago as its interval: a second's rounding is no reason to wait again.
        return min(began_s + every_s - time.time() - 1.5, every_s)
