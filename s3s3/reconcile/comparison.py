"""Decide per key and destination whether to copy, from listings and few HEADs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import S3S3Error
from ..model import Entry, Outcome, Proof, Result, md5_of_etag
from ..monitoring.metrics import Metrics
from ..queue.base import JobRequest
from ..s3 import ObjectInfo, Store
from ..transfer.decision import NEEDS_CONTENT, Action, Decision, Reason, decide
from .merge import Batch, Row
from .summary import ReconcileSummary

#: HEAD requests to one store in progress at the same time.
MAX_CONCURRENT_HEADS = 32


@dataclass(frozen=True)
class ReconcileOptions:
    """Options of a reconcile.

    Attributes:
        dry_run: report what would be copied and deleted, and change nothing.
        force: copy every object, equal ones too.
        since_ms: compare only objects modified at or after this time by the source's clock, and delete nothing.
        allow_empty: allow an empty source to empty its destinations.
        metadata: compare the headers of all objects, too, by a HEAD at each store; listings do not show them.
    """

    dry_run: bool = False
    force: bool = False
    since_ms: int | None = None
    allow_empty: bool = False
    metadata: bool = False


class Pair(NamedTuple):
    """A key's entries at the source and one destination, from listings or HEADs; one of them may be None."""

    destination: str
    key: str
    source_entry: Entry | ObjectInfo | None
    destination_entry: Entry | ObjectInfo | None


class Comparison:
    """Compares the rows of merged listings.

    Args:
        matches: whether a key belongs to the route.
        on_candidate: called with the destination and entry of each deletion candidate; None: nothing is deleted.

    Attributes:
        entries: by destination, the number of objects that its listing contained.
    """

    def __init__(
        self,
        source: Store,
        destinations: Sequence[Store],
        options: ReconcileOptions,
        matches: Callable[[str], bool],
        summary: ReconcileSummary,
        metrics: Metrics,
        on_candidate: Callable[[str, Entry], None] | None = None,
    ) -> None:
        self._source = source
        self._stores = {store.name: store for store in destinations}
        self._names = tuple(self._stores)
        self._options = options
        self._matches = matches
        self._summary = summary
        self._entries_metric = metrics.reconcile_entries
        self._heads = {store.name: asyncio.Semaphore(MAX_CONCURRENT_HEADS) for store in (source, *destinations)}
        self._on_candidate = on_candidate
        self._deletes = {store.name for store in destinations if on_candidate is not None and store.endpoint.delete}
        self.entries = dict.fromkeys(self._names, 0)

    async def compare(self, batch: Batch) -> list[JobRequest]:
        """Report objects without differences; return jobs for the others."""
        for column, error in batch.failed.items():
            self._summary.errors.setdefault(self._names[column], str(error))
        rows = self._select(batch.rows)
        if not (self._summary.has_report or self._options.force or self._options.metadata):
            rows = self._count_equal(rows)
        columns = [(column, name) for column, name in enumerate(self._names) if column not in batch.failed]
        wanted: dict[str, list[str]] = {}
        inconclusive: dict[str, list[Pair]] = {}
        for key, source, entries in rows:
            for column, name in columns:
                pair = Pair(name, key, source, entries[column])
                if pair.destination_entry is not None:
                    self.entries[name] += 1
                elif source is None:
                    continue  # only another destination has the key
                if source is None:
                    self._summary.destination_only[name] += 1
                decision = decide(source, pair.destination_entry, delete=name in self._deletes)
                is_unclear = decision.action is Action.NEEDS_HEAD
                if (is_unclear or (self._options.metadata and decision.proof)) and not self._options.force:
                    inconclusive.setdefault(key, []).append(pair)
                else:
                    self._apply(pair, decision, wanted)
        for decided in await asyncio.gather(*map(self._decide_by_heads, inconclusive.values())):
            for pair, decision in decided:
                self._apply(pair, decision, wanted)
        return [JobRequest(key, tuple(names)) for key, names in wanted.items()]

    def _select(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of matching keys that were not modified before `since_ms`."""
        since_ms = self._options.since_ms
        selected = [row for row in rows if self._matches(row[0])]
        self._summary.source_entries += len(selected) - [source for _, source, _ in selected].count(None)
        if since_ms is None:
            return selected
        recent = [row for row in selected if row[1] is None or row[1].is_modified_since(since_ms)]
        self._summary.skipped_entries += len(selected) - len(recent)
        return recent

    def _count_equal(self, rows: Sequence[Row]) -> list[Row]:
        """Count the rows that are equal at every destination; return the others."""
        others = [row for row in rows if not _is_equal_everywhere(row)]
        count = len(rows) - len(others)
        for name in self._names if count else ():
            self.entries[name] += count
            self._summary.count(name, Result.SAME.value, Proof.ETAG.value, count)
            self._entries_metric[self._summary.route, name, Reason.SAME.value] += count
        return others

    def _apply(self, pair: Pair, decision: Decision, wanted: dict[str, list[str]]) -> None:
        """Report a final decision, or add the copy that it requires to `wanted`."""
        self._entries_metric[self._summary.route, pair.destination, decision.reason.value] += 1
        copy = decision.action in (Action.COPY, Action.NEEDS_CONTENT) or self._options.force
        if pair.source_entry is not None and copy:
            if self._options.dry_run:
                self._summary.report(_outcome(pair, Result.WOULD_COPY, decision))
            else:
                wanted.setdefault(pair.key, []).append(pair.destination)
        elif decision.action is Action.SAME:
            self._summary.report(_outcome(pair, Result.SAME, decision))
        elif decision.action is Action.DELETE and self._on_candidate and isinstance(pair.destination_entry, Entry):
            self._on_candidate(pair.destination, pair.destination_entry)
        else:
            self._summary.report(_outcome(pair, Result.EXTRANEOUS, decision))

    async def _decide_by_heads(self, pairs: Sequence[Pair]) -> list[tuple[Pair, Decision]]:
        """Decide for one key by HEADs of the source and its copies."""
        source = asyncio.ensure_future(self._head(self._source, pairs[0].key))
        decided = await asyncio.gather(*(self._decide_by_head(pair, source) for pair in pairs))
        return [each for each in decided if each is not None]

    async def _decide_by_head(
        self, pair: Pair, source_head: asyncio.Future[ObjectInfo | None]
    ) -> tuple[Pair, Decision] | None:
        name, key, *_ = pair
        store = self._stores[name]
        try:
            source, copy = await asyncio.gather(source_head, self._head(store, key))
        except S3S3Error as error:
            if not self._options.dry_run:
                return pair, NEEDS_CONTENT  # not compared, so a job does it, with retries
            self._summary.report(Outcome(name, key, Result.FAILED, str(error), error=error))
            return None
        if source is not None:
            return Pair(name, key, source, copy), decide(source, copy, verify_md5=store.endpoint.verify_md5)
        if self._options.dry_run:
            self._summary.report(Outcome(name, key, Result.SOURCE_MISSING, Reason.SOURCE_MISSING.value))
            return None
        return pair, NEEDS_CONTENT  # deleted since the listing: a job finds out what to do with the copy

    async def _head(self, store: Store, key: str) -> ObjectInfo | None:
        async with self._heads[store.name]:
            return await store.head(key)


def _is_equal_everywhere(row: Row) -> bool:
    """Whether size and ETag are the same in all listings; a fast `decide`."""
    _, source, entries = row
    if source is None or not source.etag:
        return False
    for entry in entries:
        if entry is None or entry.etag != source.etag or entry.size_bytes != source.size_bytes:
            return False
    return True


def _outcome(pair: Pair, result: Result, decision: Decision) -> Outcome:
    source, destination = pair.source_entry, pair.destination_entry
    return Outcome(
        pair.destination, pair.key, result, decision.reason.value,
        source_size_bytes=source.size_bytes if source else None,
        destination_size_bytes=destination.size_bytes if destination else None,
        source_md5=md5_of_etag(source.etag) if source else None,
        destination_md5=md5_of_etag(destination.etag) if destination else None,
        proof=decision.proof,
    )  # fmt: skip
