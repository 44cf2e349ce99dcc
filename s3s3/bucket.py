"""Reconcile: compare the source's whole bucket with every destination, and have what differs copied.

What differs goes through the queue like everything else, in the bulk lane, a bounded number ahead; the outcomes
come back by the run's id. So a run beside listeners copies nothing twice, and a run without listeners works when
a `Worker` runs beside it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from .broker import connected
from .comparison import Comparison, Options
from .config import Config, WorkerSettings
from .deletions import Candidates, refusal
from .errors import RoutePaused
from .jobs import Jobs, Put
from .jobs.memory import MemoryJobs
from .jobs.redis import RedisJobs
from .lease import lease_clock_s
from .limits import Limit, limits_of
from .matching import matcher
from .metrics import Metrics
from .model import Entry, Outcome, Result, Route, md5_of_etag
from .outstanding import Outstanding
from .reconcile import Reason, merge
from .report import Tally
from .run_worker import with_worker
from .store import Store
from .stores import RouteStores
from .tasks import DRAIN_S, unless_stopped
from .worker import Arrived

log = logging.getLogger(__name__)

Seen: TypeAlias = "Callable[[Tally, int], None]"

MOST_AHEAD = 1000
"""Jobs of one run that are on the queue at once."""


def unseen(tally: Tally, outstanding: int) -> None:
    """Nobody watches."""


class Reconcile:
    """One run over one route.

    Args:
        settings: say where what may have to be deleted is kept meanwhile, and how much room it may take.
        matches: whether the route is about this key.
        tally: counts, and reports, every object and destination; None: one of its own.
        seen: called every page and every second with the tally so far and the number of jobs outstanding.
    """

    def __init__(
        self,
        route: Route,
        source: Store,
        destinations: Sequence[Store],
        jobs: Jobs,
        options: Options,
        *,
        settings: WorkerSettings,
        matches: Callable[[str], bool],
        tally: Tally | None = None,
        seen: Seen = unseen,
    ) -> None:
        self._source = source
        self._destinations = destinations
        self._jobs = jobs
        self._options = options
        self._seen = seen
        self.tally = tally or Tally(route.name, route.destination_names)
        self._outstanding = Outstanding(jobs, unseen=options.force, tell=self.tally.tell_fields)
        self._candidates = Candidates(str(settings.spool_dir), settings.spool_bytes)
        gone = self._candidates.add if options.since_ms is None else None
        self._comparison = Comparison(destinations, options, matches, self.tally, gone)

    async def run(self) -> Tally:
        """Compare everything, wait for every outcome, and return what was counted.

        Raises:
            S3S3Error: the source's listing broke off, or Redis went away. Nothing was deleted then.
        """
        began_s = lease_clock_s()
        with self._candidates:
            try:
                return await self._compare_all(began_s)
            finally:
                self.tally.seconds = lease_clock_s() - began_s

    async def _compare_all(self, began_s: float) -> Tally:
        async for batch in merge(self._source.pages(), [store.pages() for store in self._destinations]):
            await self._outstanding.put(await self._comparison.differing(batch))
            self._seen(self.tally, len(self._outstanding))
            while len(self._outstanding) > MOST_AHEAD:
                await self._take_outcomes()
        await self._delete()
        while self._outstanding:
            await self._take_outcomes()
        self.tally.seconds = lease_clock_s() - began_s
        self.tally.ended = True
        if not self._options.dry_run and self._options.since_ms is None:
            summary = {**self.tally.summary()["summary"], "ended_s": round(time.time())}
            await self._jobs.note_reconcile(json.dumps(summary))
        return self.tally

    async def _delete(self) -> None:
        """Have deleted what only destinations have, now that all listings have ended; or none of it, and say why.

        A job to delete is a job like any other: the key goes only if a GET at the source, too, says that it is gone.
        """
        for store in self._destinations:
            count = self._candidates.counts.get(store.name, 0)
            if store.name not in self.tally.errors and (why := refusal(
                store.endpoint, count, entries=self._comparison.entries[store.name],
                source_entries=self.tally.source_entries, allow_empty=self._options.allow_empty,
            )):  # fmt: skip
                self.tally.kept[store.name] = why
        for name, there in self._candidates:
            if self.tally.kept or name in self.tally.errors:
                self.tally.tell(_of_candidate(name, there, Result.LEFT))
            elif self._options.dry_run:
                self.tally.tell(_of_candidate(name, there, Result.WOULD_DELETE))
            else:
                await self._outstanding.put([Put(there.key, (name,))])
            while len(self._outstanding) > MOST_AHEAD:
                await self._take_outcomes()

    async def _take_outcomes(self) -> None:
        await self._outstanding.take()
        self._seen(self.tally, len(self._outstanding))


def _of_candidate(destination: str, there: Entry, result: Result) -> Outcome:
    return Outcome(
        destination, there.key, result, Reason.SOURCE_GONE.value,
        destination_size_bytes=there.size_bytes, destination_md5=md5_of_etag(there.etag),
    )  # fmt: skip


async def last_entries(jobs: Jobs) -> int | None:
    """Return how many entries the source had when everything was compared last, if it ever was."""
    summary = await jobs.last_reconcile()
    return int(json.loads(summary)["source_entries"]) if summary else None


@asynccontextmanager
async def queue_of(route: Route, config: Config, without_redis: bool = False) -> AsyncIterator[Jobs]:
    """Yield the route's queue: in Redis where one is configured, else in memory for this run only.

    It is in memory, too, for a route with other buckets than the configuration's: what stands on the queue in Redis,
    listeners copy between the buckets that they know.

    Raises:
        RedisUnavailable: it is configured and cannot be reached.
    """
    if route not in config.routes:
        yield _own_queue(route)
        return
    if without_redis or not config.pubsub.url:
        log.warning("route %s: without Redis, this run knows nothing of listeners that copy the same objects, "
                    "and what fails is not tried again", route.name)  # fmt: skip
        yield _own_queue(route)
        return
    async with connected(config.pubsub.url) as client:
        yield RedisJobs.of(client, route, config.worker.lease_s)


def _own_queue(route: Route) -> MemoryJobs:
    """Return a queue that nobody else sees."""
    return MemoryJobs(route.destination_names, source=route.source.name)


def limits_in(jobs: Jobs, route: Route, metrics: Metrics) -> dict[str, Limit]:
    """Return the limits of a route's destinations, shared with whoever shares the queue."""
    return limits_of(route, jobs.client if isinstance(jobs, RedisJobs) else None, metrics)


async def refuse_paused(route: Route, jobs: Jobs) -> None:
    """Raise RoutePaused where a person holds the whole route: a run would wait for that, and hold up other runs."""
    if (await jobs.counts()).paused:
        raise RoutePaused(
            f"route {route.name} is paused, so nothing of it is copied; s3s3 jobs resume --route {route.name} lets it "
            "go on, and s3s3 bucket --dry-run compares it all the same"
        )


async def reconcile_with_worker(
    stores: RouteStores,
    jobs: Jobs,
    settings: WorkerSettings,
    options: Options,
    stop: asyncio.Event,
    *,
    tally: Tally | None = None,
    seen: Seen = unseen,
    drain_s: float = DRAIN_S,
    arrived: Arrived | None = None,
) -> tuple[Tally, bool]:
    """Run over one route, working on its queue meanwhile, so that no listener is needed.

    Returns the tally and whether the run was complete: `stop` ends it early, and copies that are under way then have
    `drain_s` to end. `arrived` is told of what is copied (see `arrivals`). A dry run has no worker.

    Raises:
        RoutePaused: the route is paused, so this would not come to its end.
        S3S3Error: the source's listing broke off, or Redis went away.
    """
    route = stores.route
    if not options.dry_run:
        await refuse_paused(route, jobs)
    reconcile = Reconcile(
        route, stores.source, stores.destinations, jobs, options, settings=settings, matches=matcher(route),
        tally=tally, seen=seen,
    )  # fmt: skip
    if options.dry_run:
        ended = await unless_stopped(reconcile.run(), stop)
    else:
        ended = await with_worker(reconcile.run, stores, jobs, settings, stop, drain_s, arrived)
    return reconcile.tally, ended is not None
