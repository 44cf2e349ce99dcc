"""From merged listings to what is to be copied. Everything else is counted and reported on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import S3S3Error
from ..model import Entry, Outcome, Proof, Result, md5_of_etag
from ..queue.base import JobRequest
from ..s3 import Store
from ..transfer.decision import Action, Decision, decide
from .deletions import DeletionCandidate
from .merge import Batch
from .summary import ReconcileSummary

HEADS_AT_ONCE = 32


@dataclass(frozen=True)
class ReconcileOptions:
    """What a run is asked to do.

    Attributes:
        dry_run: copy nothing; say what would be.
        force: copy every object, whatever the comparison says.
        since_ms: look only at objects that the source changed since then, by its clock; nothing is deleted.
        allow_empty: delete also where the source is empty.
    """

    dry_run: bool = False
    force: bool = False
    since_ms: int | None = None
    allow_empty: bool = False


class Pair(NamedTuple):
    """A key as the source and one destination list it; never absent in both."""

    destination: str
    key: str
    source: Entry | None
    there: Entry | None


class Comparison:
    """Compares the rows of a merge, with a HEAD only where a listing cannot tell.

    Args:
        matches: whether the route is about this key.
        gone: takes what is to be deleted once all listings are known to be whole; None: nothing is.

    Attributes:
        entries: how many objects each destination was seen to hold.
    """

    def __init__(
        self,
        destinations: Sequence[Store],
        options: ReconcileOptions,
        matches: Callable[[str], bool],
        summary: ReconcileSummary,
        gone: Callable[[DeletionCandidate], None] | None = None,
    ) -> None:
        self._stores = {store.name: store for store in destinations}
        self._names = tuple(self._stores)
        self._options = options
        self._matches = matches
        self._summary = summary
        self._heads = asyncio.Semaphore(HEADS_AT_ONCE)
        self._gone = gone
        self._deleting = {store.name for store in destinations if gone is not None and store.endpoint.delete}
        self.entries = dict.fromkeys(self._names, 0)

    async def differing(self, batch: Batch) -> list[JobRequest]:
        """Return what is to be copied where; for a dry run nothing."""
        for position, error in batch.failed.items():
            self._summary.errors.setdefault(self._names[position], str(error))
        wanted: dict[str, list[str]] = {}
        unclear: list[Pair] = []
        for pair in self._pairs(batch):
            decision = decide(pair.source, pair.there, delete=pair.destination in self._deleting)
            if decision.action is Action.NEEDS_HEAD and not self._options.force:
                unclear.append(pair)
            else:
                self._settle(pair, decision, wanted)
        heads = await asyncio.gather(*(self._decide_by_head(pair) for pair in unclear))
        for pair, decided in zip(unclear, heads, strict=True):
            if decided is not None:
                self._settle(pair, decided, wanted)
        return [JobRequest(key, tuple(names)) for key, names in wanted.items()]

    def _pairs(self, batch: Batch) -> list[Pair]:
        """Return the pairs that are to be decided on. Equal ones that nobody wants a line for are only counted."""
        since_ms, count_only = self._options.since_ms, not (self._summary.has_report or self._options.force)
        columns = [column for column in range(len(self._names)) if column not in batch.failed]
        same = [0] * len(self._names)
        pairs = []
        for key, source, copies in batch.rows:
            if not self._matches(key):
                continue
            if source is not None:
                self._summary.source_entries += 1
                if since_ms is not None and source.modified_ms < since_ms:
                    self._summary.skipped_entries += 1
                    continue
            for column in columns:
                there = copies[column]
                if source is None:
                    if there is not None:
                        self._summary.destination_only[self._names[column]] += 1
                        pairs.append(Pair(self._names[column], key, source, there))
                elif count_only and there is not None and _plainly_same(source, there):
                    same[column] += 1
                else:
                    pairs.append(Pair(self._names[column], key, source, there))
        for name, count in zip(self._names, same, strict=True):
            if count:
                self._summary.count(name, Result.SAME.value, Proof.ETAG.value, count)
                self.entries[name] += count
        for pair in pairs:
            self.entries[pair.destination] += pair.there is not None
        return pairs

    def _settle(self, pair: Pair, decision: Decision, wanted: dict[str, list[str]]) -> None:
        """Report a decision that is final, or note the copy that it asks for."""
        copy = decision.action in (Action.COPY, Action.NEEDS_CONTENT) or self._options.force
        if pair.source is not None and copy:
            if self._options.dry_run:
                self._summary.report(_outcome(pair, Result.WOULD_COPY, decision))
            else:
                wanted.setdefault(pair.key, []).append(pair.destination)
        elif decision.action is Action.SAME:
            self._summary.report(_outcome(pair, Result.SAME, decision))
        elif decision.action is Action.DELETE and self._gone is not None and pair.there is not None:
            self._gone(DeletionCandidate(pair.destination, pair.there))
        else:
            self._summary.report(_outcome(pair, Result.EXTRANEOUS, decision))

    async def _decide_by_head(self, pair: Pair) -> Decision | None:
        """Ask the destination what was recorded at copy time. A HEAD that fails is an outcome of its own: None."""
        store = self._stores[pair.destination]
        try:
            async with self._heads:
                held = await store.head(pair.key)
        except S3S3Error as error:
            self._summary.report(Outcome(pair.destination, pair.key, Result.FAILED, str(error), error=error))
            return None
        if held is None:
            return decide(pair.source, None)
        return decide(
            pair.source, held, recorded_etag=held.recorded_etag, destination_encrypted=held.encrypted,
            verify_md5=store.endpoint.verify_md5,
        )  # fmt: skip


def _plainly_same(source: Entry, there: Entry) -> bool:
    """The commonest row of the comparison, without a call: same size, same ETag."""
    return source.etag == there.etag and source.size_bytes == there.size_bytes and bool(source.etag)


def _outcome(pair: Pair, result: Result, decision: Decision) -> Outcome:
    source, there = pair.source, pair.there
    return Outcome(
        pair.destination,
        pair.key,
        result,
        decision.reason.value,
        source_size_bytes=source.size_bytes if source else None,
        destination_size_bytes=there.size_bytes if there else None,
        source_md5=md5_of_etag(source.etag) if source else None,
        destination_md5=md5_of_etag(there.etag) if there else None,
        proof=decision.proof,
    )
