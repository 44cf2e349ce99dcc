"""Compare whole buckets, and copy or delete what differs.

Differences become jobs in the bulk lane, a bounded number at a time, and their outcomes come back to the reconcile that
enqueued them. Beside listeners it copies nothing twice; without listeners it needs a worker of its own (`session`)
or copies in this process (`executor`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from ..config import WorkerSettings
from ..model import Entry, Outcome, Result, matcher, md5_of_etag
from ..queue.base import JobRequest
from ..queue.tracker import OutcomeTracker
from ..transfer.decision import Reason
from ..transfer.route_stores import RouteStores
from .comparison import Comparison, ReconcileOptions
from .deletions import DeletionCandidates, refusal
from .executor import InProcessExecutor
from .merge import merge
from .summary import ReconcileSummary

OnProgress: TypeAlias = "Callable[[ReconcileSummary, int], None]"

#: Receives jobs and reports their outcomes; its `len` is the number of keys without a reported outcome.
Copies: TypeAlias = "OutcomeTracker | InProcessExecutor"

#: Keys of one reconcile that may wait for their outcomes before it reads on.
MAX_AHEAD = 1000


def no_progress(summary: ReconcileSummary, outstanding: int) -> None:
    """Ignore the progress of a reconcile."""


class Reconciler:
    """One reconcile of one route.

    Args:
        copies: receives the jobs, and reports their outcomes to `summary`.
        settings: the directory and the size limit of the file that holds deletion candidates.
        on_progress: called after each page and each batch of outcomes with the summary and `len(copies)`.
    """

    def __init__(
        self,
        stores: RouteStores,
        copies: Copies,
        options: ReconcileOptions,
        settings: WorkerSettings,
        summary: ReconcileSummary,
        on_progress: OnProgress = no_progress,
    ) -> None:
        self._source = stores.source
        self._destinations = stores.destinations
        self._copies = copies
        self._options = options
        self._on_progress = on_progress
        self._summary = summary
        self._candidates = DeletionCandidates(str(settings.spool_dir), settings.spool_bytes)
        on_candidate = self._candidates.add if options.since_ms is None else None
        self._comparison = Comparison(
            stores.destinations, options, matcher(stores.route), summary, stores.metrics, on_candidate
        )

    async def run(self) -> ReconcileSummary:
        """Compare everything, wait for every outcome, and return the summary.

        Raises:
            S3S3Error: the source could not be listed, or Redis is unavailable. Nothing was deleted then.
        """
        started_s = time.monotonic()
        with self._candidates:
            try:
                await self._compare()
                await self._delete()
                await self._wait_until_outstanding(0)
                self._summary.ended = True
            finally:
                self._summary.seconds = time.monotonic() - started_s
        return self._summary

    async def _compare(self) -> None:
        async for batch in merge(self._source.pages(), [store.pages() for store in self._destinations]):
            await self._copies.enqueue(await self._comparison.compare(batch))
            self._on_progress(self._summary, len(self._copies))
            await self._wait_until_outstanding(MAX_AHEAD)

    async def _delete(self) -> None:
        """Delete what only destinations have, after all listings are complete.

        A deletion is an ordinary job: the key is deleted only if a GET at the source, too, finds no object.
        """
        summary = self._summary
        for store in self._destinations:
            reason = refusal(
                store.endpoint, self._candidates.counts.get(store.name, 0),
                entries=self._comparison.entries[store.name],
                source_entries=summary.source_entries, allow_empty=self._options.allow_empty,
            )  # fmt: skip
            if reason and store.name not in summary.errors:
                summary.deletions_withheld[store.name] = reason
        for name, entry in self._candidates:
            if summary.deletions_withheld or name in summary.errors:
                summary.report(_candidate_outcome(name, entry, Result.EXTRANEOUS))
            elif self._options.dry_run:
                summary.report(_candidate_outcome(name, entry, Result.WOULD_DELETE))
            else:
                await self._copies.enqueue([JobRequest(entry.key, (name,))])
            await self._wait_until_outstanding(MAX_AHEAD)

    async def _wait_until_outstanding(self, limit: int) -> None:
        while len(self._copies) > limit:
            await self._copies.poll()
            self._on_progress(self._summary, len(self._copies))


def _candidate_outcome(destination: str, entry: Entry, result: Result) -> Outcome:
    return Outcome(
        destination, entry.key, result, Reason.SOURCE_MISSING.value,
        destination_size_bytes=entry.size_bytes, destination_md5=md5_of_etag(entry.etag),
    )  # fmt: skip
