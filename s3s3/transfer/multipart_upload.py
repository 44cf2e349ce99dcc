"""One destination that gets an object in parts, of which nothing is visible before all of it has been verified.

Each part lies in a temporary file before it is sent: its MD5 goes ahead of it. A part costs room on disk, not memory,
and only one is there at a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from ..errors import IntegrityError, S3S3Error, StoreError, StoreRefused
from ..model import Proof, md5_of_etag
from ..monitoring.log import log_fields
from ..s3 import RECORDED_ETAG, TAGGING, ObjectStream
from .budget import CopyBudget
from .destination import Chunks, DestinationCopy, LeaseCheck, md5_in_etag
from .size_policy import part_bytes_of

log = logging.getLogger(__name__)


class MultipartUpload:
    """One object's way to one target.

    Args:
        room: of which one part's size on disk has been taken.
        known_md5: MD5s by ETag; it has the source's when the stream of chunks has ended.
    """

    def __init__(
        self,
        target: DestinationCopy,
        source: ObjectStream,
        room: CopyBudget,
        check_lease: LeaseCheck,
        md5_by_etag: dict[str, bytes],
    ) -> None:
        self._target = target
        self._uploads = target.store.multipart
        self._source = source
        self._room = room
        self._check_lease = check_lease
        self._known_md5 = md5_by_etag
        self._part_bytes = part_bytes_of(target.store.endpoint, source.info.size_bytes)
        self._completing = False

    async def put(self, chunks: Chunks) -> None:
        """Write the object. The end is the target's outcome: nothing of S3S3Error's tree is raised.

        An upload that does not come to its end is given up, and its parts with it. What a killed process leaves is
        given up by whoever writes the same key next.
        """
        target, source = self._target, self._source
        try:
            await self._give_up_left_behind()
            headers = await self._headers()
            upload_id = await self._uploads.begin(target.key, headers=headers, check_lease=self._check_lease)
            try:
                etags, etag = await self._send(upload_id, chunks)
                await self._uploads.complete(target.key, upload_id, etags, check_lease=self._permit_completing)
            except BaseException as error:
                if not self._may_be_completed(error):
                    await self._give_up(upload_id)
                raise
            await self._verify(etag)
            if TAGGING in headers:
                await self._put_tags(headers)
        except S3S3Error as error:
            target.fail(error, source.info, indeterminate=isinstance(error, StoreError) and error.indeterminate)
        else:
            md5 = self._known_md5.get(source.info.etag)
            target.copied(source.info, md5.hex() if md5 else md5_in_etag(source.info), None, Proof.CONTENT)

    async def _headers(self) -> dict[str, str]:
        """Return the source's headers, and its ETag: the one of an object of parts tells nothing."""
        etag = self._source.info.etag
        headers = {**self._source.info.headers, RECORDED_ETAG: etag} if etag else dict(self._source.info.headers)
        marks = self._target.marks
        return {**headers, **await marks.headers(self._target.store.endpoint)} if marks is not None else headers

    async def _send(self, upload_id: str, chunks: Chunks) -> tuple[list[str], str]:
        """Send all parts; return the ETag of each, and the one that the whole ought to have."""
        cut = _Cut(chunks())
        etags: list[str] = []
        left_bytes, md5s = self._source.info.size_bytes, b""
        while left_bytes:
            size_bytes = min(self._part_bytes, left_bytes)
            with await self._room.spool(cut.part(size_bytes)) as file:
                if cut.taken_bytes != size_bytes:
                    raise self._damaged("GET", "the content ended early")
                number = len(etags) + 1
                written = await self._uploads.put(
                    self._target.key, upload_id, number, file.chunks, size_bytes=size_bytes, md5=file.md5,
                    check_lease=self._check_lease,
                )  # fmt: skip
            etag = written.etag
            if not written.encrypted and md5_of_etag(etag) not in (None, file.md5.hex()):
                raise self._damaged("PUT", f"part {number} has the MD5 {file.md5.hex()}, but the store says {etag}")
            etags.append(etag)
            md5s += file.md5
            left_bytes -= size_bytes
        await cut.end()  # which comes only if what was read is what was promised
        return etags, f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(etags)}"

    def _permit_completing(self) -> None:
        self._check_lease()
        self._completing = True

    def _may_be_completed(self, error: BaseException) -> bool:
        """Whether the last step was sent and not refused. Giving an upload up meanwhile could harm the object."""
        return self._completing and (not isinstance(error, StoreError) or error.indeterminate)

    async def _verify(self, etag: str) -> None:
        """Ask what is there now: Ceph's answer to the last step has no ETag."""
        held = await self._target.store.head(self._target.key)
        if held is None or held.size_bytes != self._source.info.size_bytes:
            raise self._damaged("HEAD", "it is not there whole, although the store said that it was written")
        if not held.encrypted and held.etag.count("-") == 1 and held.etag != etag:
            raise self._damaged("HEAD", f"its parts make the ETag {etag}, but the store says {held.etag}")

    async def _put_tags(self, headers: Mapping[str, str]) -> None:
        """Give the object its tags. Trying again would find it there, and equal: so that is left to a person."""
        target = self._target
        try:
            await target.store.marks.put_tags(target.key, headers, check_lease=self._check_lease)
        except StoreError as error:
            raise StoreRefused(
                f"it is there, but without its tags: {error.message}", store=target.store.name, operation="PUT",
                key=target.key, status=error.status, code=error.code, advice="s3s3 publish has it copied again",
            ) from error  # fmt: skip

    async def _give_up_left_behind(self) -> None:
        """Give up what is begun of this key: a killed process left it, or writes on although its lease is over."""
        try:
            for upload_id in await self._uploads.begun(self._target.key):
                self._check_lease()
                await self._uploads.abort(self._target.key, upload_id)
        except StoreRefused as error:
            log.info("%s: parts that were left behind are not looked for: %s", self._target.store.name, error,
                     extra=log_fields(self._target.route, self._target.key))  # fmt: skip

    async def _give_up(self, upload_id: str) -> None:
        try:
            await self._uploads.abort(self._target.key, upload_id)
        except S3S3Error as error:
            log.warning("%s: parts of %r that came to nothing are left behind until it is written again: %s",
                        self._target.store.name, self._target.key, error,
                        extra=log_fields(self._target.route, self._target.key))  # fmt: skip

    def _damaged(self, operation: str, message: str) -> IntegrityError:
        return IntegrityError(message, store=self._target.store.name, operation=operation, key=self._target.key)


class _Cut:
    """A stream of chunks, cut into parts.

    Attributes:
        taken_bytes: how much the last part really had.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.taken_bytes = 0

    async def part(self, size_bytes: int) -> AsyncGenerator[bytes, None]:
        self.taken_bytes = 0
        while self.taken_bytes < size_bytes:
            chunk = self._rest or await anext(self._chunks, b"")
            if not chunk:
                return
            left_bytes = size_bytes - self.taken_bytes
            chunk, self._rest = chunk[:left_bytes], chunk[left_bytes:]
            self.taken_bytes += len(chunk)
            yield chunk

    async def end(self) -> None:
        """Wait for the stream's end. What fails it, comes out of here."""
        async for _ in self._chunks:
            pass
