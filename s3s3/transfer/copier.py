"""Copy one key from the source to all destinations, from memory, streamed or spooled.

size, ETag                                    how the object is copied
up to 256 KiB                                 read with the GET, written from memory: `ObjectCopy.copy`
up to 4 MiB                                   read into memory, within the budget
larger, ETag is an MD5                        streamed: each chunk is sent while the next one is read
over 512 KiB, verified by the stores          moved by the kernel if possible: `ObjectStream.can_be_spliced`
larger, ETag is not an MD5                    spooled to a temporary file, then written
over 5 GiB, or over `multipart_threshold`     in parts (`multipart_upload`) if allowed, else refused unread

Nothing is retried here: the store client retries for seconds, the queue for days.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import (
    ChecksumMismatch,
    ContentUnreadable,
    IntegrityError,
    NoSuchKey,
    S3S3Error,
)
from ..model import Endpoint, Job, Lane, Outcome
from ..monitoring.metrics import Metrics
from ..s3 import ObjectInfo, ObjectStream, Source, Store
from .budget import (
    MAX_SMALL_BYTES,
    STREAM_BYTES,
    BudgetRequest,
    CopyBudget,
    required_budget,
)
from .decision import MAX_UNCOMPARED_BYTES, NEEDS_CONTENT
from .destination import DestinationCopy, LeaseCheck, etag_md5
from .digest import md5_of_chunks
from .fanout import gather_or_cancel
from .metadata import RefusedRecords
from .object_write import CHUNK_BYTES, ObjectWrite, still_open
from .server_side_copy import ServerSideCopier
from .verification import ChecksumKnowledge


class Copier:
    """Copies keys from one source.

    Args:
        metrics: counts verification failures, under the name `route`.
        matches: whether the route includes a key; others are never deleted. None: it includes all.
        destinations: of the jobs, by name; `copy` accepts others, too.
        server_side: names of destinations in the source's own store, which copies to them itself.
        copy_attributes: some destination wants the objects' tags or ACLs.
    """

    def __init__(
        self, source: Source, budget: CopyBudget,
        *, metrics: Metrics, route: str, matches: Callable[[str], bool] | None = None,
        destinations: Mapping[str, Store] = MappingProxyType({}), server_side: Collection[str] = (),
        copy_attributes: bool = False,
    ) -> None:  # fmt: skip
        self.source = source
        self.budget = budget
        self.checksums = ChecksumKnowledge()
        self._refused_records = RefusedRecords()
        self._metrics = metrics
        self._route = route
        self._matches = matches
        self._destinations = destinations
        self._attributes_source = source if copy_attributes and isinstance(source, Store) else None
        self._server_side = ServerSideCopier(source, server_side) if server_side else None

    def copy_job(
        self, job: Job, destinations: Sequence[str], check_lease: LeaseCheck, *, isolate_slow: bool = True
    ) -> Coroutine[Any, Any, list[Outcome]]:
        """Run a job: make these destinations equal to the source. Implements a worker's `Copy`.

        `isolate_slow` False: wait for every destination, as a caller without a queue has to.
        """
        stores = [self._destinations[name] for name in destinations]
        return self.copy(
            job.key, stores, check_lease=check_lease, compare=not job.unconditional, isolate_slow=isolate_slow,
            compare_large=job.lane is Lane.FRESH,
        )  # fmt: skip

    async def copy(
        self, key: str, destinations: Sequence[Store],
        *, check_lease: LeaseCheck, compare: bool, isolate_slow: bool = False, compare_large: bool = False,
    ) -> list[Outcome]:  # fmt: skip
        """Make the destinations equal to the source's object under `key`; return their outcomes in order.

        Cancellation aborts the requests; a PUT from memory may have been sent as a whole and may still be applied.

        Args:
            check_lease: called before each write; raises LeaseLost if another worker has the job.
            compare: HEAD the destinations first and copy only what differs; False copies unconditionally.
            compare_large: compare objects of more than MAX_UNCOMPARED_BYTES in any case, as for a notification; not
                where tags or ACLs are copied, as no comparison sees them.
            isolate_slow: fail a destination that holds up the others with DestinationTooSlow.
        """
        source = self._attributes_source
        attributes = None if source is None else SourceAttributes(source, key).headers
        compare_large = compare_large and attributes is None
        copies = [DestinationCopy(store, key, self._route, self._refused_records, attributes) for store in destinations]
        object_copy = ObjectCopy(
            self.source, self.budget, self.checksums, key, check_lease, copies,
            isolate_slow=isolate_slow and len(copies) > 1, compare_large=compare_large,
        )  # fmt: skip
        pending = copies
        if self._server_side is not None:
            await self._server_side.copy(key, copies, check_lease, compare=compare, compare_large=compare_large)
            pending = [copy for copy in copies if copy.outcome is None]
        if pending:
            await (object_copy.compare_and_copy(pending) if compare else object_copy.copy(pending))
        if object_copy.missing:
            await self._settle_missing(key, object_copy.missing, check_lease, compare=compare)
        outcomes = [copy.outcome for copy in copies if copy.outcome is not None]
        assert len(outcomes) == len(copies), "every destination of a finished copy has an outcome"
        errors = {id(outcome.error): outcome.error for outcome in outcomes if isinstance(outcome.error, IntegrityError)}
        for error in errors.values():  # an error of the source is the same for every destination, and counts once
            self._metrics.verify_mismatch[self._route, error.store] += 1
        return outcomes

    async def _settle_missing(
        self, key: str, copies: Sequence[DestinationCopy], check_lease: LeaseCheck, *, compare: bool
    ) -> None:
        """Delete the copies of an object for which a GET returned NoSuchKey, where deletions are propagated.

        A store that has lost the content of an object answers NoSuchKey too, for some time or for good: the copies may
        be the last ones, or the object may be readable soon. So neither a HEAD nor the listing may have it; if one of
        them does, or fails, that is the failure of every copy.
        """
        is_included = self._matches is None or self._matches(key)
        doomed = [copy for copy in copies if copy.store.endpoint.delete and is_included]
        try:
            info = await self.source.confirm_missing(key)
            if info is not None:
                raise ContentUnreadable(
                    f"listed, but its content cannot be read; its size is {info.size_bytes} bytes",
                    store=self.source.name, operation="GET", key=key, status=404, code="NoSuchKey",
                    advice="its copies are kept; look for its lost parts in the store's data pool, or ask the store's "
                    "operators",
                )  # fmt: skip
        except S3S3Error as error:
            for copy in copies:
                copy.record_failure(error)
            return
        for copy in copies:
            if copy not in doomed:
                copy.record_source_missing()
        await gather_or_cancel(copy.delete(check_lease, compare=compare) for copy in doomed)


class SourceAttributes:
    """Tags and ACL of one source object, read when the first destination wants them."""

    def __init__(self, source: Store, key: str) -> None:
        self._attributes = source.attributes
        self._key = key
        self._reading = asyncio.Lock()
        self._tags: dict[str, str] | None = None
        self._acl: dict[str, str] | None = None

    async def headers(self, destination: Endpoint) -> dict[str, str]:
        """Return request headers for the attributes that the destination copies. Raises StoreError of the source."""
        headers: dict[str, str] = {}
        async with self._reading:
            if destination.copy_tags:
                self._tags = await self._attributes.tags(self._key) if self._tags is None else self._tags
                headers |= self._tags
            if destination.copy_acl:
                self._acl = await self._attributes.acl(self._key) if self._acl is None else self._acl
                headers |= self._acl
        return headers


@dataclass(eq=False)
class ObjectCopy(ObjectWrite):
    """The copy of one key: compare, read, write, and read again. Failures become outcomes of its destinations.

    Attributes:
        compare_large: see `Copier.copy`.
        missing: destinations for which a GET at the source returned NoSuchKey; their outcomes are still open.
    """

    compare_large: bool = False
    missing: list[DestinationCopy] = field(default_factory=list)

    async def copy(
        self, pending: Sequence[DestinationCopy], opened: tuple[ObjectStream, bytes | None] | None = None,
        *, is_reread: bool = False,
    ) -> None:  # fmt: skip
        """GET the object unless it is `opened` with its content if small, PUT it to every destination, verify.

        `fetch` returns the content of an object of up to 256 KiB together with its headers, so the usual copy is all
        here: one GET, an MD5 compared with the source's ETag, one `DestinationCopy.put` for each destination.
        """
        try:
            stream, content = opened or await self.source.fetch(self.key, MAX_SMALL_BYTES)
            if content is None:
                is_compared = any(copy.decision is not None for copy in pending)
                if self.compare_large and stream.info.size_bytes > MAX_UNCOMPARED_BYTES and not is_compared:
                    # Where nothing but reading the copy can prove it equal, writing it again costs no more.
                    await self._compare_opened(pending, (stream, None), is_notified=True)
                else:
                    await self._copy_large(pending, stream, is_reread)
                return
            md5 = hashlib.md5(content, usedforsecurity=False).digest()
            if stream.info.etag != md5.hex() and (mismatch := self.mismatch_of(stream, md5)):
                await self._reread_after_mismatch(pending, mismatch, is_reread)
            elif len(pending) == 1 and not self.isolate_slow:
                await pending[0].put(stream.info, content, md5, self.check_lease, self.checksums)
            else:
                await self.put_content(pending, stream, content, md5)
                await self._finish_slow(pending)
        except S3S3Error as error:
            self._record_source_error(pending, error)

    async def compare_and_copy(self, pending: Sequence[DestinationCopy]) -> None:
        """Compare every destination with the source, and copy to those that differ."""
        try:
            await self._compare_opened(pending, await self.source.fetch(self.key, MAX_SMALL_BYTES))
        except S3S3Error as error:
            self._record_source_error(pending, error)

    async def _compare_opened(
        self, pending: Sequence[DestinationCopy], opened: tuple[ObjectStream, bytes | None],
        *, is_notified: bool = False,
    ) -> None:  # fmt: skip
        stream, _ = opened
        async with stream:
            verify_md5 = self.source.endpoint.verify_md5
            comparisons = [copy.compare(stream.info, verify_md5, is_notified=is_notified) for copy in pending]
            await self.run_all(comparisons, self._any_compared)
            for copy in pending:
                if copy.outcome is None and copy.decision is None:
                    copy.record_too_slow("HEAD")
            unclear = [copy for copy in still_open(pending) if not is_notified and copy.decision is NEEDS_CONTENT]
            if differing := [copy for copy in still_open(pending) if copy not in unclear]:
                await self.copy(differing, opened)  # first: reading the contents of the others may take long
        if unclear:
            await self._compare_contents(unclear, stream.info)

    def _record_source_error(self, pending: Sequence[DestinationCopy], error: S3S3Error) -> None:
        """Record an error of the source; an error of a destination is an outcome already."""
        if isinstance(error, NoSuchKey):  # raised by GETs only
            self.missing += still_open(pending)
            return
        for copy in still_open(pending):
            copy.record_failure(error)

    async def _compare_contents(self, copies: Sequence[DestinationCopy], source: ObjectInfo) -> None:
        """Compare MD5s of contents, and copy to each destination that differs without waiting for the others."""
        source_md5 = etag_md5(source)
        if source_md5 is None:
            etag, md5 = await self._read_md5(self.source)
            self.md5_by_etag[etag] = md5
            source_md5 = md5.hex()
        await gather_or_cancel(self._compare_content(copy, source, source_md5) for copy in copies)

    async def _compare_content(self, copy: DestinationCopy, source: ObjectInfo, source_md5: str) -> None:
        try:
            destination_md5 = etag_md5(copy.info) if copy.info else None
            if destination_md5 is None:
                destination_md5 = (await self._read_md5(copy.store))[1].hex()
            copy.decide(source, source_md5, destination_md5, contents_equal=source_md5 == destination_md5)
        except S3S3Error as error:
            copy.record_failure(error, source)
        except Exception as error:  # noqa: BLE001  logged and recorded
            copy.record_internal_error(error, "GET", source)
        if copy.outcome is None:
            await self.copy([copy])

    async def _read_md5(self, store: Source) -> tuple[str, bytes]:
        """Read an object completely; return its ETag and MD5."""
        request = BudgetRequest(STREAM_BYTES)
        await self.budget.acquire(request)
        try:
            async with await store.get(self.key) as stream:
                return stream.info.etag, await md5_of_chunks(stream.chunks(CHUNK_BYTES))
        finally:
            self.budget.release(request)

    async def _reread_after_mismatch(
        self, pending: Sequence[DestinationCopy], mismatch: ChecksumMismatch, is_reread: bool
    ) -> None:
        """Read and copy a second time.

        Bytes that were damaged in transit differ from the first read; the same bytes mean that the ETag is not an MD5.

        Raises:
            IntegrityError: this was the second read, or a HEAD reports another length: a body that always ends early
                at the same byte would be the same twice. Or a destination has a copy with this ETag, so that the source
                has damaged the content since, and the copy may be the last good one.
        """
        if is_reread:
            raise self._damaged(f"two reads returned different bytes: {mismatch}") from mismatch
        info = await self.source.head(self.key)
        if info is not None and info.etag == mismatch.etag and info.size_bytes != mismatch.size_bytes:
            sizes = f"GET returned {mismatch.size_bytes} bytes, HEAD reports {info.size_bytes}"
            raise self._damaged(f"{mismatch}; {sizes}") from mismatch
        await gather_or_cancel(copy.look_for_copy() for copy in still_open(pending) if copy.decision is None)
        if intact := [copy.store.name for copy in pending if copy.has_content(mismatch.etag, mismatch.size_bytes)]:
            message = f"{mismatch}; the copy at {', '.join(intact)} has this ETag and is kept"
            raise self._damaged(message) from mismatch
        self.md5_by_etag[mismatch.etag] = mismatch.md5
        await self.copy(still_open(pending), is_reread=True)
        is_proven = [copy.outcome.source_md5 == mismatch.md5.hex() for copy in pending if copy.outcome is not None]
        if any(is_proven) and any(copy.needs_md5 for copy in pending):
            self.checksums.refute(self.source.name, "an ETag looks like an MD5 and is not")

    def _damaged(self, message: str) -> IntegrityError:
        return IntegrityError(message, store=self.source.name, operation="GET", key=self.key)

    def _any_compared(self) -> bool:
        return any(copy.decision is not None for copy in self.all_copies)

    async def _finish_slow(self, pending: Sequence[DestinationCopy]) -> None:
        """Fail slow destinations so that they get jobs of their own; copy to them now if all are slow."""
        slow = still_open(pending)
        if self.isolate_slow and len(slow) < len(self.all_copies):
            for copy in slow:
                copy.record_too_slow("PUT")
        else:
            await gather_or_cancel(self.copy([copy]) for copy in slow)

    # -- objects that do not come with the GET

    async def _copy_large(self, pending: Sequence[DestinationCopy], stream: ObjectStream, is_reread: bool) -> None:
        """Acquire the budget for the object in `stream`, open it again if that took time, copy it."""
        mismatch, is_rewritten = None, False
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(stream)
            request = self._required_budget(pending, stream)
            if self.budget.try_acquire(request):
                stack.callback(self.budget.release, request)
            else:
                await stream.close()  # the store would close an idle connection before the budget is free
                await self.budget.acquire(request)
                stack.callback(self.budget.release, request)
                stream, content = await self.source.fetch(self.key, MAX_SMALL_BYTES)
                await stack.enter_async_context(stream)
                is_rewritten = content is not None or self._required_budget(pending, stream) != request
            if not is_rewritten:
                mismatch = await self.write_large(pending, stream)
        if is_rewritten:
            await self.copy(pending, is_reread=is_reread)
        elif mismatch is not None:
            await self._reread_after_mismatch(pending, mismatch, is_reread)
        else:
            # A store has refused s3s3's records or a header, or a body that was not hashed here, and the stream is used
            # up.
            if unverified := [copy for copy in still_open(pending) if copy.needs_md5]:
                await self.copy(unverified)
            await gather_or_cancel(self.copy([copy]) for copy in still_open(pending) if copy.is_reduced)
            await self._finish_slow(pending)

    def _required_budget(self, pending: Sequence[DestinationCopy], stream: ObjectStream) -> BudgetRequest:
        """Return the memory and disk for this object. Raises SpoolTooSmall."""
        destinations = [copy.store.endpoint for copy in pending]
        md5_is_known = self.expected_md5(stream) is not None
        request = required_budget(stream.info.size_bytes, destinations, md5_is_known=md5_is_known)
        self.budget.check(request)
        return request
