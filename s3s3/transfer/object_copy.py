"""The ordinary road of a copy: GET once, PUT to each destination, verify.

what is read                                       how it goes
up to 256 KiB                                      comes with the GET, goes out from memory
up to 4 MiB                                        through memory, within the room
more, and its MD5 is known (the ETag is one)       streamed: each chunk goes out while the next one comes in
more, and its MD5 is not known                     into a temporary file first
more than one PUT takes, or is to take             in parts (`parts`), or refused, unread
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from ..errors import DestinationTooSlow, IntegrityError, NoSuchKey, S3S3Error, TooLarge
from ..s3 import ObjectInfo, ObjectStream, Source
from .budget import BudgetRequest, CopyBudget
from .decision import NEEDS_CONTENT
from .destination import Chunks, DestinationCopy, LeaseCheck, md5_in_etag
from .digest import Digest, md5_of, md5_of_chunks
from .fanout import Take, fan_out, gather_or_cancel, gather_without_stragglers
from .multipart_upload import MultipartUpload
from .size_policy import AT_ONCE_BYTES, SMALL_BYTES, STREAM_BYTES, accepts_size, needs_multipart, required_budget

CHUNK_BYTES = 256 * 1024

Opened: TypeAlias = "tuple[ObjectStream, bytes | None]"
"""An opened object, and its content where that came at once."""


class ChecksumMismatch(S3S3Error):
    """The bytes read do not have the MD5 that the source's ETag, or an earlier reading, promised."""

    def __init__(self, read: ObjectInfo, md5: bytes) -> None:
        super().__init__(f"the ETag is {read.etag}, but the MD5 of what was read is {md5.hex()}")
        self.read = read
        self.md5 = md5


class ObjectCopy:
    """One key on its way.

    Attributes:
        gone: targets for which a GET at the source said that there is no such key; they are open still.

    Args:
        without_md5: names of the destinations whose ETags are known to be no MD5s; it may grow.
        everybody: the targets of this copy, also those that never come this road.
        wait_for_all: without, a destination that holds up the others fails with LeftBehind.
    """

    def __init__(
        self,
        source: Source,
        room: CopyBudget,
        non_md5_destinations: set[str],
        key: str,
        check_lease: LeaseCheck,
        everybody: Sequence[DestinationCopy],
        wait_for_all: bool,
    ) -> None:
        self._source = source
        self._room = room
        self._without_md5 = non_md5_destinations
        self._key = key
        self._check_lease = check_lease
        self._everybody = everybody
        self._wait_for_all = wait_for_all or len(everybody) == 1
        self.gone: list[DestinationCopy] = []
        self._known_md5: dict[str, bytes] = {}  # of contents that were read to their end, by the ETag they came with

    async def settle(
        self, targets: Sequence[DestinationCopy], road: Callable[[Sequence[DestinationCopy]], Awaitable[None]]
    ) -> None:
        """Go down a road. Where the source fails on it, that is the outcome of every target that is still open."""
        try:
            await road(targets)
        except NoSuchKey:  # of the source alone, and of a GET: what a target is told is an outcome already
            self.gone += _open(targets)
        except S3S3Error as error:
            for target in _open(targets):
                target.fail(error)

    async def look(self, targets: Sequence[DestinationCopy]) -> None:
        """Compare, and copy what differs."""
        opened = reading, _ = await self._fetch()
        async with reading:
            await gather_or_cancel(target.look(reading.info, self._source.endpoint.verify_md5) for target in targets)
            unclear = [target for target in targets if target.decision is NEEDS_CONTENT]
            if not unclear:
                await self.run(_open(targets), opened)
        if unclear:
            await self._compare_contents(unclear, reading.info)
            await self.run(_open(targets))

    async def _compare_contents(self, targets: Sequence[DestinationCopy], source: ObjectInfo) -> None:
        """Settle by its content what no ETag can tell. Read is what has no MD5 for its ETag, one after the other."""
        source_md5 = md5_in_etag(source)
        if source_md5 is None:
            etag, md5 = await self._md5_of_content(self._source)
            self._known_md5[etag] = md5
            source_md5 = md5.hex()
        for target in targets:
            try:
                md5_there = md5_in_etag(target.held) if target.held else None
                if md5_there is None:
                    md5_there = (await self._md5_of_content(target.store))[1].hex()
            except S3S3Error as error:
                target.fail(error, source)
            else:
                target.decide(source, (source_md5, md5_there), contents_equal=source_md5 == md5_there)

    async def _md5_of_content(self, store: Source) -> tuple[str, bytes]:
        """Return an object's ETag and MD5, read from its beginning to its end."""
        need = BudgetRequest(STREAM_BYTES)
        await self._room.take(need)
        try:
            async with await store.get(self._key) as reading:
                return reading.info.etag, await md5_of_chunks(reading.chunks(CHUNK_BYTES))
        finally:
            self._room.give(need)

    async def run(self, targets: Sequence[DestinationCopy], opened: Opened | None = None) -> None:
        """Copy to every target."""
        try:
            await self._read_and_put(targets, opened)
        except ChecksumMismatch as mismatch:
            # Either the bytes were damaged on their way, or the ETag is no MD5: then they come the same once more.
            await self._check_length(mismatch)
            self._known_md5[mismatch.read.etag] = mismatch.md5
            try:
                await self._read_and_put(_open(targets))
            except ChecksumMismatch as again:
                raise self._damaged(f"it was read twice, and what came was not the same: {again}") from again
        if cut_loose := _open(targets):
            if self._wait_for_all or len(cut_loose) == len(self._everybody):
                await gather_or_cancel(self.settle([target], self.run) for target in cut_loose)
            else:
                for target in cut_loose:
                    target.fail(_left_behind(target), indeterminate=True)

    async def _check_length(self, mismatch: ChecksumMismatch) -> None:
        """Ask the source once more how long it is: what is always cut short at the same place comes the same twice."""
        held = await self._source.head(self._key)
        if held is not None and held.etag == mismatch.read.etag:
            size_bytes = held.size_bytes
            if size_bytes != mismatch.read.size_bytes:
                said = f"a GET brought {mismatch.read.size_bytes} bytes, and a HEAD says that it has {size_bytes}"
                raise self._damaged(f"{mismatch}; {said}") from mismatch

    def _damaged(self, message: str) -> IntegrityError:
        return IntegrityError(message, store=self._source.name, operation="GET", key=self._key)

    async def _read_and_put(self, targets: Sequence[DestinationCopy], opened: Opened | None = None) -> None:
        """Read the source once and write it to all targets; a slow one may be cut loose, and is open still."""
        if not targets:
            return
        reading, content = opened or await self._fetch()
        if content is not None:  # by far the most frequent: all of it is here, and nothing is left open
            await self._put_content(targets, reading, content)
            return
        async with self._with_room(reading, targets) as (reading, content):
            if reading.info.size_bytes <= SMALL_BYTES:
                await self._put_content(targets, reading, await reading.body() if content is None else content)
                return
            takers = [target for target in targets if _takes(target, reading.info)]
            if not takers:
                return
            promised = self._promised_md5(reading)
            if promised or _all_in_parts(takers, reading):
                takes = [self._put_large(target, reading, promised) for target in takers]
                through = None if self._wait_for_all else self._somebody_is_through
                await fan_out(self._verified(reading, promised), takes, any_finished=through)
            else:
                with await self._room.spool(reading.chunks(CHUNK_BYTES)) as file:
                    await gather_or_cancel(self._put_large(target, reading, file.md5)(file.chunks) for target in takers)

    async def _put_content(self, targets: Sequence[DestinationCopy], reading: ObjectStream, content: bytes) -> None:
        md5 = await md5_of(content)
        promised = self._promised_md5(reading)
        if promised is not None and md5 != promised and md5.hex() != md5_in_etag(reading.info):
            raise ChecksumMismatch(reading.info, md5)
        puts = [self._put(target, reading, md5)(content) for target in targets]
        if len(puts) == 1 and self._wait_for_all:
            await puts[0]
        elif self._wait_for_all:
            await gather_or_cancel(puts)
        else:
            await gather_without_stragglers(puts, self._somebody_is_through)

    def _somebody_is_through(self) -> bool:
        return any(target.outcome is not None and target.outcome.error is None for target in self._everybody)

    async def _verified(self, reading: ObjectStream, promised: bytes | None) -> AsyncGenerator[bytes, None]:
        """Yield the content, and end only if it had the MD5 that was promised; where none was, it is known then."""
        digest = Digest()
        async for chunk in reading.chunks(CHUNK_BYTES):
            await digest.add(chunk)
            yield chunk
        md5 = await digest.end()
        if promised is None:
            self._known_md5[reading.info.etag] = md5
        elif md5 != promised:
            raise ChecksumMismatch(reading.info, md5)

    def _put_large(self, target: DestinationCopy, reading: ObjectStream, md5: bytes | None) -> Take:
        if needs_multipart(target.store.endpoint, reading.info.size_bytes):
            return MultipartUpload(target, reading, self._room, self._check_lease, self._known_md5).put
        assert md5 is not None, "one PUT needs the MD5 before its content"
        return self._put(target, reading, md5)

    def _put(
        self, target: DestinationCopy, reading: ObjectStream, md5: bytes
    ) -> Callable[[bytes | Chunks], Coroutine[Any, Any, None]]:
        return partial(
            target.put, reading.info, md5=md5, check_lease=self._check_lease, non_md5_destinations=self._without_md5
        )

    def _fetch(self) -> Awaitable[Opened]:
        return self._source.fetch(self._key, AT_ONCE_BYTES)

    @asynccontextmanager
    async def _with_room(self, reading: ObjectStream, targets: Sequence[DestinationCopy]) -> AsyncIterator[Opened]:
        """Take the room that copying this takes; where that means waiting, open the source again afterwards."""
        taken, content = BudgetRequest(), None
        try:
            while (need := self._need(reading, content, targets)) != taken:
                self._room.give(taken)
                taken = BudgetRequest()
                if not self._room.take_now(need):
                    await reading.close()  # left idle, the store would drop it before our turn comes
                    await self._room.take(need)
                    taken = need
                    reading, content = await self._fetch()  # it may have been rewritten
                taken = need
            yield reading, content
        finally:
            await reading.close()
            self._room.give(taken)

    def _need(self, reading: ObjectStream, content: bytes | None, targets: Sequence[DestinationCopy]) -> BudgetRequest:
        if content is not None:
            return BudgetRequest()
        destinations = [target.store.endpoint for target in targets]
        md5_is_known = self._promised_md5(reading) is not None
        need = required_budget(reading.info.size_bytes, destinations, md5_is_known=md5_is_known)
        self._room.check(need)
        return need

    def _promised_md5(self, reading: ObjectStream) -> bytes | None:
        known = self._known_md5.get(reading.info.etag)
        if known is not None:
            return known
        digits = md5_in_etag(reading.info)
        return bytes.fromhex(digits) if digits else None


def _open(targets: Sequence[DestinationCopy]) -> list[DestinationCopy]:
    return [target for target in targets if target.outcome is None]


def _left_behind(target: DestinationCopy) -> DestinationTooSlow:
    return DestinationTooSlow(
        f"{target.store.name}: PUT of {target.key!r}: it holds up the other destinations, and is tried alone"
    )


def _takes(target: DestinationCopy, source: ObjectInfo) -> bool:
    """Whether the target takes an object of this size; if not, that is its outcome."""
    if accepts_size(target.store.endpoint, source.size_bytes):
        return True
    target.fail(_too_large(target, source.size_bytes), source)
    return False


def _all_in_parts(targets: Sequence[DestinationCopy], reading: ObjectStream) -> bool:
    return all(needs_multipart(target.store.endpoint, reading.info.size_bytes) for target in targets)


def _too_large(target: DestinationCopy, size_bytes: int) -> TooLarge:
    return TooLarge(
        f"its {size_bytes} bytes are more than a single PUT takes (5 GiB)",
        store=target.store.name,
        operation="PUT",
        key=target.key,
        advice=f"multipart = true in [{target.store.name}] allows it, where the store takes objects in parts",
    )
