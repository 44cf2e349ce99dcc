"""Write the opened object of one key to its destinations: from memory, streamed, or from a spool file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import ChecksumMismatch, TooLarge
from ..s3 import ObjectStream, Source
from .budget import MAX_IN_MEMORY_BYTES, CopyBudget, accepts_size, needs_multipart
from .destination import Chunks, DestinationCopy, LeaseCheck, etag_md5
from .digest import Digest, md5_of
from .fanout import Consume, fan_out, gather_or_cancel, gather_without_stragglers
from .multipart_upload import MultipartUpload
from .verification import ChecksumKnowledge, is_store_verified

CHUNK_BYTES = 256 * 1024

#: Up to this size a copy through memory takes less CPU time than the system calls of `s3.transport.splice`.
MIN_SPLICED_BYTES = 512 * 1024


@dataclass(eq=False)
class ObjectWrite:
    """Writes the opened object of one key to its destinations. Failures become their outcomes.

    Attributes:
        checksums: of all copies of this process; more may be added.
        all_copies: every destination of the job, also those copied server-side.
        isolate_slow: fail a destination that is slower than the others with DestinationTooSlow, instead of waiting.
        md5_by_etag: of contents that were read completely.
    """

    source: Source
    budget: CopyBudget
    checksums: ChecksumKnowledge
    key: str
    check_lease: LeaseCheck
    all_copies: Sequence[DestinationCopy]
    isolate_slow: bool
    md5_by_etag: dict[str, bytes] = field(default_factory=dict)

    async def put_content(
        self, pending: Sequence[DestinationCopy], stream: ObjectStream, content: bytes, md5: bytes,
        *, is_hashed: bool = True,
    ) -> None:  # fmt: skip
        """Write content from memory to several destinations; the outcome of an isolated slow one stays open."""
        puts = [
            copy.put(stream.info, content, md5, self.check_lease, self.checksums, is_hashed=is_hashed)
            for copy in pending
        ]
        await self.run_all(puts, self.any_finished)

    async def run_all(self, work: Sequence[Coroutine[Any, Any, None]], any_finished: Callable[[], bool]) -> None:
        """Run what concerns one destination each; with `isolate_slow`, cancel what takes much longer than the rest."""
        if self.isolate_slow:
            await gather_without_stragglers(work, any_finished)
        else:
            await gather_or_cancel(work)

    def any_finished(self) -> bool:
        """Return whether a copy has succeeded."""
        return any(copy.outcome is not None and copy.outcome.error is None for copy in self.all_copies)

    async def write_large(self, pending: Sequence[DestinationCopy], stream: ObjectStream) -> ChecksumMismatch | None:
        """Write an object within the budget that was acquired; return the mismatch if its MD5 is wrong.

        The outcome of a destination stays open if it has to be written again from a new stream: it is slow, or it
        refused s3s3's records, or a body that was not hashed here.
        """
        expected_md5, size_bytes = self.expected_md5(stream), stream.info.size_bytes
        if expected_md5 is not None and self._can_be_spliced(pending, stream):
            await pending[0].put(
                stream.info, partial(stream.chunks, CHUNK_BYTES), expected_md5, self.check_lease, self.checksums,
                is_hashed=False, stream=stream,
            )  # fmt: skip
            return None
        if size_bytes <= MAX_IN_MEMORY_BYTES:
            return await self._write_from_memory(pending, stream)
        accepting = []
        for copy in pending:
            if accepts_size(copy.store.endpoint, size_bytes):
                accepting.append(copy)
                continue
            message = f"its {size_bytes} bytes exceed the limit of a single PUT (5 GiB)"
            advice = f"multipart = true in [{copy.store.name}] allows multipart uploads, if the store supports them"
            error = TooLarge(message, store=copy.store.name, operation="PUT", key=copy.key, advice=advice)
            copy.record_failure(error, stream.info)
        if not accepting:
            return None
        all_in_parts = all(needs_multipart(copy.store.endpoint, size_bytes) for copy in accepting)
        if expected_md5 is None and not all_in_parts:
            with await self.budget.spool(stream.chunks(CHUNK_BYTES)) as file:
                for _ in range(2):  # the second time where a store has refused s3s3's records
                    writes = [self._large_put(copy, stream, file.md5)(file.chunks) for copy in still_open(accepting)]
                    await gather_or_cancel(writes)
            return None
        is_hashed = not self._is_store_verified(accepting, stream)
        puts = [self._large_put(copy, stream, expected_md5, is_hashed=is_hashed) for copy in accepting]
        chunks = self._verified_chunks(stream, expected_md5) if is_hashed else stream.chunks(CHUNK_BYTES)
        try:
            await fan_out(chunks, puts, any_finished=self.any_finished if self.isolate_slow else None)
        except ChecksumMismatch as mismatch:  # the stream failed, so no destination has got its last bytes
            return mismatch
        return None

    async def _write_from_memory(
        self, pending: Sequence[DestinationCopy], stream: ObjectStream
    ) -> ChecksumMismatch | None:
        content, expected_md5 = await stream.body(), self.expected_md5(stream)
        if expected_md5 is not None and self._is_store_verified(pending, stream):
            await self.put_content(pending, stream, content, expected_md5, is_hashed=False)
            pending = [copy for copy in still_open(pending) if copy.needs_md5]
            if not pending:
                return None
        md5 = await md5_of(content)
        if mismatch := self.mismatch_of(stream, md5):
            return mismatch
        await self.put_content(pending, stream, content, md5)
        return None

    def _is_store_verified(self, copies: Sequence[DestinationCopy], stream: ObjectStream) -> bool:
        """Return whether the stores verify these copies; no copy is tried so a second time."""
        info = stream.info
        if info.etag in self.md5_by_etag or any(copy.needs_md5 for copy in copies):
            return False
        destinations = [copy.store.endpoint for copy in copies]
        return is_store_verified(info.size_bytes, etag_md5(info), self.source.name, destinations, self.checksums)

    def _can_be_spliced(self, pending: Sequence[DestinationCopy], stream: ObjectStream) -> bool:
        """Return whether the bytes need not pass through this process: one destination, verified by the stores."""
        if len(pending) != 1 or self.isolate_slow or stream.info.size_bytes <= MIN_SPLICED_BYTES:
            return False
        destination = pending[0].store.endpoint
        can_be_spliced = accepts_size(destination, stream.info.size_bytes) and stream.can_be_spliced(destination)
        return can_be_spliced and self._is_store_verified(pending, stream)

    def _large_put(
        self, copy: DestinationCopy, stream: ObjectStream, md5: bytes | None, *, is_hashed: bool = True
    ) -> Consume:
        if needs_multipart(copy.store.endpoint, stream.info.size_bytes):
            return MultipartUpload(copy, stream, self.budget, self.check_lease, self.md5_by_etag).put

        async def put(chunks: Chunks) -> None:
            assert md5 is not None, "a single PUT needs the MD5 before its content"
            await copy.put(stream.info, chunks, md5, self.check_lease, self.checksums, is_hashed=is_hashed)

        return put

    async def _verified_chunks(self, stream: ObjectStream, expected_md5: bytes | None) -> AsyncGenerator[bytes, None]:
        """Yield the content; raise ChecksumMismatch after the last chunk if the MD5 is not the expected one."""
        digest = Digest()
        async for chunk in stream.chunks(CHUNK_BYTES):
            await digest.add(chunk)
            yield chunk
        md5 = await digest.end()
        if expected_md5 is None:
            self.md5_by_etag[stream.info.etag] = md5
        elif md5 != expected_md5:
            raise ChecksumMismatch(stream.info.etag, stream.info.size_bytes, md5)

    def mismatch_of(self, stream: ObjectStream, md5: bytes) -> ChecksumMismatch | None:
        """Return the mismatch of content that has neither the MD5 in the ETag nor that of an earlier read."""
        if self.expected_md5(stream) in (None, md5) or md5.hex() == etag_md5(stream.info):
            return None
        return ChecksumMismatch(stream.info.etag, stream.info.size_bytes, md5)

    def expected_md5(self, stream: ObjectStream) -> bytes | None:
        """Return the MD5 that the content should have; None if the ETag is not an MD5 and it was not read yet."""
        digits = etag_md5(stream.info)
        return self.md5_by_etag.get(stream.info.etag) or (bytes.fromhex(digits) if digits else None)


def still_open(copies: Sequence[DestinationCopy]) -> list[DestinationCopy]:
    """Return the copies without an outcome."""
    return [copy for copy in copies if copy.outcome is None]
