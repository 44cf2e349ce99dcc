"""Upload one object in parts and verify it.

Nothing is visible at the destination before all parts are verified. Each part is spooled to a temporary file, because
its MD5 is sent ahead of it; one part at a time, so an upload needs disk for one part and no memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from ..errors import S3S3Error, StoreError, StoreRefused
from ..model import Proof, md5_of_etag
from ..monitoring.log import log_fields
from ..s3 import TAGGING, ObjectStream, not_from_store
from .budget import CopyBudget, part_bytes_of
from .destination import Chunks, DestinationCopy, LeaseCheck, etag_md5

log = logging.getLogger(__name__)


class MultipartUpload:
    """A multipart upload of one object to one destination.

    Args:
        budget: of which the disk for one part was acquired.
        md5_by_etag: MD5s of contents by ETag; has the source's after the stream of chunks has ended.
    """

    def __init__(
        self, copy: DestinationCopy, source: ObjectStream, budget: CopyBudget, check_lease: LeaseCheck,
        md5_by_etag: dict[str, bytes],
    ) -> None:  # fmt: skip
        self._copy = copy
        self._uploads = copy.store.multipart
        self._source = source
        self._budget = budget
        self._check_lease = check_lease
        self._md5_by_etag = md5_by_etag
        self._part_bytes = part_bytes_of(copy.store.endpoint, source.info.size_bytes)
        self._completing = False

    async def put(self, chunks: Chunks) -> None:
        """Write the object, and record the outcome; raises no error of S3S3Error's tree.

        A failed upload is aborted, which deletes its parts. Those of a killed process are aborted by the next upload
        of the same key.
        """
        copy, source = self._copy, self._source
        try:
            await self._abort_unfinished()
            attributes = {} if copy.attributes is None else await copy.attributes(copy.store.endpoint)
            upload_id = await self._create(attributes)
            try:
                etags, etag = await self._send_parts(upload_id, chunks)
                is_answered = await self._uploads.complete(
                    copy.key, upload_id, etags, check_lease=self._check_lease_to_complete
                )
            except BaseException as error:
                # If the last request was sent and not refused, aborting could damage the object.
                may_complete = self._completing and (not isinstance(error, StoreError) or error.indeterminate)
                if not may_complete:
                    await self._abort(upload_id)
                raise
            await self._verify(etag, is_answered)
            if TAGGING in attributes:
                await self._put_tags(attributes)
        except S3S3Error as error:
            copy.record_failure(error, source.info, indeterminate=isinstance(error, StoreError) and error.indeterminate)
        except Exception as error:  # noqa: BLE001  logged and recorded
            copy.record_internal_error(error, "PUT", source.info)
        else:
            md5 = self._md5_by_etag.get(source.info.etag)
            copy.record_copied(source.info, md5.hex() if md5 else etag_md5(source.info), None, Proof.CONTENT)

    async def _create(self, attributes: Mapping[str, str]) -> str:
        """Begin the upload; begin it again without what the store refuses, once for each reason."""
        copy, source = self._copy, self._source.info
        while True:
            headers = {**copy.headers_of(source), **attributes}
            # The ETag of an upload in parts alone proves nothing, so that of the source is recorded.
            records = copy.records(source, needs_etag=bool(source.etag))
            try:
                recording = {**headers, **records}
                return await self._uploads.create(copy.key, headers=recording, check_lease=self._check_lease)
            except StoreError as error:
                if not copy.omit_refused(source, records, error):
                    raise

    async def _send_parts(self, upload_id: str, chunks: Chunks) -> tuple[list[str], str]:
        """Send all parts; return their ETags, and the ETag that the object should get."""
        splitter = _PartSplitter(chunks())
        etags: list[str] = []
        rest_bytes, md5s = self._source.info.size_bytes, b""
        while rest_bytes:
            size_bytes = min(self._part_bytes, rest_bytes)
            with await self._budget.spool(splitter.part(size_bytes)) as file:
                if splitter.part_bytes != size_bytes:
                    raise self._copy.integrity_error("GET", "the content ended early")
                number = len(etags) + 1
                written = await self._uploads.upload_part(
                    self._copy.key, upload_id, number, file.chunks, size_bytes=size_bytes, md5=file.md5,
                    check_lease=self._check_lease,
                )  # fmt: skip
            etag, md5 = written.etag, file.md5.hex()
            if not written.encrypted and md5_of_etag(etag) not in (None, md5):
                raise self._copy.integrity_error("PUT", f"part {number} has the MD5 {md5}, stored ETag is {etag}")
            etags.append(etag)
            md5s += file.md5
            rest_bytes -= size_bytes
        await splitter.drain()
        return etags, f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(etags)}"

    def _check_lease_to_complete(self) -> None:
        self._check_lease()
        self._completing = True

    async def _verify(self, etag: str, is_answered: bool) -> None:
        """HEAD the object: Ceph's response to the last request has no ETag.

        Unless the store has answered that request, only the ETag shows that it is not the object of before.
        """
        info = await self._copy.store.head(self._copy.key)
        if info is None or info.size_bytes != self._source.info.size_bytes:
            raise self._copy.integrity_error("HEAD", "the object is missing or incomplete after a successful upload")
        if not is_answered and info.etag != etag:
            message = "answered without completing the upload"
            raise not_from_store(self._copy.store.endpoint, "POST", self._copy.key, message)
        if not info.encrypted and info.etag.count("-") == 1 and info.etag != etag:
            raise self._copy.integrity_error("HEAD", f"the parts make the ETag {etag}, stored ETag is {info.etag}")

    async def _put_tags(self, headers: Mapping[str, str]) -> None:
        """Set the tags. A failure is not retriable: the next attempt would find an equal object and skip it."""
        copy = self._copy
        try:
            await copy.store.attributes.put_tags(copy.key, headers, check_lease=self._check_lease)
        except StoreError as error:
            raise StoreRefused(
                f"the object was written without its tags: {error.message}", store=copy.store.name, operation="PUT",
                key=copy.key, status=error.status, code=error.code, advice="`s3s3 publish` copies it again",
            ) from error  # fmt: skip

    async def _abort_unfinished(self) -> None:
        """Abort earlier uploads of this key, of killed processes or of workers whose lease has expired."""
        try:
            for upload_id in await self._uploads.list_uploads(self._copy.key):
                self._check_lease()
                await self._uploads.abort(self._copy.key, upload_id)
        except StoreRefused as error:
            log.info("%s: cannot list unfinished uploads, skipped: %s", self._copy.store.name, error,
                     extra=log_fields(self._copy.route, self._copy.key))  # fmt: skip

    async def _abort(self, upload_id: str) -> None:
        try:
            await self._uploads.abort(self._copy.key, upload_id)
        except S3S3Error as error:
            log.warning("%s: cannot abort an upload of %r, its parts remain until the next upload of that key: %s",
                        self._copy.store.name, self._copy.key, error,
                        extra=log_fields(self._copy.route, self._copy.key))  # fmt: skip


class _PartSplitter:
    """Splits a stream into parts; `part_bytes` of the last one, fewer than requested if the stream has ended."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.part_bytes = 0

    async def part(self, size_bytes: int) -> AsyncGenerator[bytes, None]:
        self.part_bytes = 0
        while self.part_bytes < size_bytes:
            chunk = self._rest or await anext(self._chunks, b"")
            if not chunk:
                return
            missing_bytes = size_bytes - self.part_bytes
            chunk, self._rest = chunk[:missing_bytes], chunk[missing_bytes:]
            self.part_bytes += len(chunk)
            yield chunk

    async def drain(self) -> None:
        """Read to the end of the stream, which raises if its MD5 is wrong."""
        async for _ in self._chunks:
            pass
