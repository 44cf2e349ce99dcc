"""The runs over a whole bucket that a daemon makes by itself: every so often, or where a gap is to be healed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from ..config import WorkerSettings
from ..errors import RedisUnavailable, RunUnderWay, S3S3Error
from ..model import matcher
from ..queue.lease import lease_clock_s
from ..queue.redis_queue import RedisJobs
from ..transfer.route_stores import RouteStores
from .comparison import Options
from .lock import run_alone
from .reconciler import Reconcile
from .summary import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Periodic:
    """How often a listener compares everything by itself (None: never), and whether it begins with that."""

    every_s: float | None = None
    initial: bool = True


class Runs:
    """Those over one route."""

    def __init__(self, stores: RouteStores, jobs: RedisJobs, settings: WorkerSettings, periodic: Periodic) -> None:
        self._stores = stores
        self._jobs = jobs
        self._settings = settings
        self._periodic = periodic
        self._name = stores.route.name

    async def run(self, waits: bool = False) -> Tally:
        """Compare everything and have what differs copied; the workers of the fleet do it.

        Args:
            waits: for the end of another process's run.

        Raises:
            RunUnderWay: another process does so just now.
        """
        stores = self._stores
        reconcile = Reconcile(
            stores.route, stores.source, stores.destinations, self._jobs, Options(),
            settings=self._settings, matches=matcher(stores.route),
        )  # fmt: skip
        tally = await run_alone(self._name, self._jobs, reconcile.run, waits=waits)
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
            began_s = lease_clock_s()
            try:
                await self.run()
            except RunUnderWay as error:
                log.info("%s: not begun a second time", error)
            except S3S3Error as error:
                log.warning("route %s: the comparison broke off: %s", self._name, error)
            await asyncio.sleep(max(every_s - (lease_clock_s() - began_s), 1.0))
            while (rest_s := await self._until_due_s(every_s)) > 0:
                await asyncio.sleep(rest_s)

    async def _until_due_s(self, every_s: float) -> float:
        """Return how long the comparison that any process of the fleet began last will do: one of them is enough."""
        try:
            summary = await self._jobs.last_reconcile()
        except RedisUnavailable:
            return 0.0
        began_s = json.loads(summary)["ended_s"] - json.loads(summary)["seconds"] if summary else 0.0
        # What a listener itself began is as long ago as its interval: a second's rounding is no reason to wait again.
        return min(began_s + every_s - time.time() - 1.5, every_s)
