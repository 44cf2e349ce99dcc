"""Reconcile: compare the source's whole bucket with every destination, and have what differs copied.

What differs goes through the queue like everything else, in the bulk lane, a bounded number ahead; the outcomes
come back by the run's id. So a run beside listeners copies nothing twice, and a run without listeners works when
a `Worker` runs beside it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..config import WorkerSettings
from ..model import Entry, Outcome, Result, Route, md5_of_etag
from ..queue.base import JobQueue, JobRequest
from ..queue.lease import boottime_s
from ..queue.tracker import OutcomeTracker
from ..s3 import Store
from ..transfer.decision import Reason
from .comparison import Comparison, ReconcileOptions
from .deletions import DeletionCandidates, refusal
from .merge import merge
from .summary import ReconcileSummary

log = logging.getLogger(__name__)

OnProgress: TypeAlias = "Callable[[ReconcileSummary, int], None]"

MAX_AHEAD = 1000
"""Jobs of one run that are on the queue at once."""


def no_progress(tally: ReconcileSummary, outstanding: int) -> None:
    """Nobody watches."""


class Reconciler:
    """One run over one route.

    Args:
        settings: say where what may have to be deleted is kept meanwhile, and how much room it may take.
        matches: whether the route is about this key.
        tally: counts, and reports, every object and destination; None: one of its own.
        on_progress: called every page and every second with the tally so far and the number of jobs outstanding.
    """

    def __init__(
        self,
        route: Route,
        source: Store,
        destinations: Sequence[Store],
        jobs: JobQueue,
        options: ReconcileOptions,
        *,
        settings: WorkerSettings,
        matches: Callable[[str], bool],
        tally: ReconcileSummary | None = None,
        on_progress: OnProgress = no_progress,
    ) -> None:
        self._source = source
        self._destinations = destinations
        self._jobs = jobs
        self._options = options
        self._on_progress = on_progress
        self.tally = tally or ReconcileSummary(route.name, route.destination_names)
        self._outstanding = OutcomeTracker(jobs, unconditional=options.force, tell=self.tally.tell_fields)
        self._candidates = DeletionCandidates(str(settings.spool_dir), settings.spool_bytes)
        gone = self._candidates.add if options.since_ms is None else None
        self._comparison = Comparison(destinations, options, matches, self.tally, gone)

    async def run(self) -> ReconcileSummary:
        """Compare everything, wait for every outcome, and return what was counted.

        Raises:
            S3S3Error: the source's listing broke off, or Redis went away. Nothing was deleted then.
        """
        began_s = boottime_s()
        with self._candidates:
            try:
                return await self._compare_all(began_s)
            finally:
                self.tally.seconds = boottime_s() - began_s

    async def _compare_all(self, began_s: float) -> ReconcileSummary:
        async for batch in merge(self._source.pages(), [store.pages() for store in self._destinations]):
            await self._outstanding.put(await self._comparison.differing(batch))
            self._on_progress(self.tally, len(self._outstanding))
            while len(self._outstanding) > MAX_AHEAD:
                await self._take_outcomes()
        await self._delete()
        while self._outstanding:
            await self._take_outcomes()
        self.tally.seconds = boottime_s() - began_s
        self.tally.ended = True
        if not self._options.dry_run and self._options.since_ms is None:
            summary = {**self.tally.summary()["summary"], "ended_s": round(time.time())}
            await self._jobs.save_reconcile_summary(json.dumps(summary))
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
                self.tally.tell(_of_candidate(name, there, Result.EXTRANEOUS))
            elif self._options.dry_run:
                self.tally.tell(_of_candidate(name, there, Result.WOULD_DELETE))
            else:
                await self._outstanding.put([JobRequest(there.key, (name,))])
            while len(self._outstanding) > MAX_AHEAD:
                await self._take_outcomes()

    async def _take_outcomes(self) -> None:
        await self._outstanding.take()
        self._on_progress(self.tally, len(self._outstanding))


def _of_candidate(destination: str, there: Entry, result: Result) -> Outcome:
    return Outcome(
        destination, there.key, result, Reason.SOURCE_MISSING.value,
        destination_size_bytes=there.size_bytes, destination_md5=md5_of_etag(there.etag),
    )  # fmt: skip
