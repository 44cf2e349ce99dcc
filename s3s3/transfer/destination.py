"""One destination of a copy: compare, write, verify, record the outcome."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from ..errors import (
    AccessDenied,
    DestinationTooSlow,
    IntegrityError,
    LeaseLost,
    S3S3Error,
    StoreError,
    StoreRefused,
    shown_key,
)
from ..model import Endpoint, Outcome, Proof, Result, md5_of_etag
from ..monitoring.log import log_fields
from ..s3 import (
    RECORDED_ETAG,
    RECORDED_HEADERS,
    WEBSITE_REDIRECT,
    ObjectInfo,
    ObjectStream,
    PutResult,
    Store,
    internal_error,
)
from .decision import COPY_METADATA, COPY_UNPROVEN, Action, Decision, Reason, decide
from .metadata import RefusedRecords, has_room_for_record, headers_digest, may_concern_metadata
from .verification import ChecksumKnowledge

log = logging.getLogger(__name__)

#: Opens a stream of the content.
Chunks: TypeAlias = Callable[[], AsyncIterator[bytes]]

#: Returns request headers for the tags and the ACL that a destination copies.
AttributeHeaders: TypeAlias = Callable[[Endpoint], Awaitable[dict[str, str]]]

#: Raises LeaseLost if another worker owns the job now.
LeaseCheck: TypeAlias = Callable[[], None]


#: A copy seems to be older than its source by up to this much: Ceph rounds dates down to seconds, and Swift up.
DATE_ROUNDING_MS = 1000

#: Reason, or its last part, of a copy without a proof.
UNPROVEN_COPY = "the store returned no ETag, so nothing proves the copy"

#: Part of the reason of a copy that lacks a header.
LOST_REDIRECT = f"copied without {WEBSITE_REDIRECT}, which the store does not support"


def etag_md5(info: ObjectInfo) -> str | None:
    """Return the object's MD5 (32 hex digits) if its ETag is one; None for parts and for encrypted objects."""
    return None if info.encrypted else md5_of_etag(info.etag)


@dataclass(eq=False, slots=True)
class DestinationCopy:
    """One key at one destination.

    Every method that writes or compares records the outcome instead of raising an error. An unforeseen exception is a
    failure of this destination, not of the others of the job.

    Attributes:
        refused_records: of all copies of this process.
        attributes: None if no destination copies any.
        info: result of a HEAD; None if none was sent or the destination does not have the object.
        decision: result of the comparison; None without one.
        verify_md5: compare contents if ETags prove nothing.
        unrecorded: names of the records that the store refused; the object is written without them.
        lost_redirect: the object is written without its WEBSITE_REDIRECT, which the store does not support.
        needs_md5: a store-verified write failed; the object is to be written again with an MD5 that is computed here.
        indeterminate: a write before the last one may still be carried out.
        outcome: None while undecided.
    """

    store: Store
    key: str
    route: str
    refused_records: RefusedRecords
    attributes: AttributeHeaders | None = None
    info: ObjectInfo | None = None
    decision: Decision | None = None
    verify_md5: bool = False
    unrecorded: tuple[str, ...] = ()
    lost_redirect: bool = False
    needs_md5: bool = False
    indeterminate: bool = False
    outcome: Outcome | None = None

    @property
    def is_reduced(self) -> bool:
        """Whether the object is written without something that the store refused."""
        return bool(self.unrecorded) or self.lost_redirect

    async def compare(self, source: ObjectInfo, source_verify_md5: bool, *, is_notified: bool = False) -> None:
        """HEAD the destination and decide; an equal copy or a failure is recorded as the outcome.

        `is_notified`: the source's object is new, and could be copied without a HEAD. So an equal copy that is older is
        written again: the HEAD may show the past (a cache, a replica that is behind), in which the source was this
        before. So is one that may not be read.
        """
        try:
            self.info = await self.store.head(self.key)
            self.verify_md5 = source_verify_md5 or self.store.endpoint.verify_md5
            self.decide(source, etag_md5(source), etag_md5(self.info) if self.info else None)
            is_older = self.info is not None and self.info.modified_ms < source.modified_ms - DATE_ROUNDING_MS
            if is_notified and is_older and self.outcome is not None:
                self.decision, self.outcome = COPY_UNPROVEN, None
        except S3S3Error as error:
            if is_notified and isinstance(error, AccessDenied):
                self.decision = COPY_UNPROVEN
            else:
                self.record_failure(error, source)
        except Exception as error:  # noqa: BLE001  logged and recorded
            self.record_internal_error(error, "HEAD", source)

    async def look_for_copy(self) -> None:
        """HEAD the destination, if it permits that; a failure is recorded as the outcome."""
        try:
            self.info = await self.store.head(self.key)
        except AccessDenied:
            pass
        except S3S3Error as error:
            self.record_failure(error)
        except Exception as error:  # noqa: BLE001  logged and recorded
            self.record_internal_error(error, "HEAD")

    def has_content(self, md5: str, size_bytes: int) -> bool:
        """Return whether the last HEAD showed a copy with this MD5 (hex) and size."""
        return self.info is not None and etag_md5(self.info) == md5 and self.info.size_bytes == size_bytes

    def decide(
        self, source: ObjectInfo, source_md5: str | None, destination_md5: str | None,
        *, contents_equal: bool | None = None,
    ) -> None:  # fmt: skip
        """Decide whether to copy; an equal copy is recorded as the outcome.

        Args:
            source_md5: for the report, if known; `destination_md5` likewise.
            contents_equal: result of comparing the contents; None if they were not read.
        """
        info, name = self.info, self.store.name
        ignore_headers = info is not None and self.refused_records.is_unchanged(name, source, info)
        decision = decide(
            source, info, verify_md5=self.verify_md5, contents_equal=contents_equal, ignore_headers=ignore_headers
        )
        if decision is COPY_UNPROVEN and (not has_room_for_record(source) or self.refused_records.has(name, source)):
            # A copy would have no record either, and would be made again by the next comparison.
            self.verify_md5 = True
            decision = decide(source, info, verify_md5=True, ignore_headers=ignore_headers)
        self.decision = decision
        if decision.action is Action.SAME:
            size_bytes = source.size_bytes
            self.outcome = Outcome(
                self.store.name, self.key, Result.SAME, decision.reason.value, size_bytes, size_bytes,
                source_md5, destination_md5, decision.proof,
            )  # fmt: skip

    async def put(
        self, source: ObjectInfo, body: bytes | Chunks, md5: bytes, check_lease: LeaseCheck,
        checksums: ChecksumKnowledge, *, is_hashed: bool = True, stream: ObjectStream | None = None,
    ) -> None:  # fmt: skip
        """Write the object by one PUT with Content-MD5, and verify it by the ETag of the response.

        If the store refuses s3s3's records of the source, the object is written without them. Where the body is a
        stream, the outcome stays open: the caller must call this again with a new stream.

        Args:
            md5: digest of the body (16 bytes).
            check_lease: called right before each attempt, and before the last bytes of a stream.
            checksums: this destination may be added.
            is_hashed: `md5` was computed from the body. False: it is the source's ETag; if the store refuses the body,
                or does not return this ETag, the outcome stays open and `needs_md5` is set.
            stream: what `body` reads, if its bytes need not pass through this process; see `ObjectStream.spliced`.
        """
        name, md5_hex, source_etag = self.store.name, md5.hex(), source.etag
        attempt = _WriteAttempt(body, check_lease, stream)
        headers, records = self.headers_of(source), None
        # Record the source's ETag if the two ETags alone will not prove the copies equal.
        needs_etag = bool(source_etag) and (
            source.encrypted
            or source_etag != md5_hex
            or name in checksums.non_md5
            or (self.info is not None and etag_md5(self.info) is None)
        )
        if needs_etag or self.info is not None or self.lost_redirect:
            records = self.records(source, needs_etag)
            headers.update(records)
        destination_md5: str | None
        proof: Proof | None
        try:
            if self.attributes is not None:
                headers.update(await self.attributes(self.store.endpoint))
            written = await self.store.put(
                self.key, attempt.body, size_bytes=source.size_bytes, md5=md5, headers=headers,
                check_lease=attempt.check_lease, is_hashed=is_hashed,
            )  # fmt: skip
            if not attempt.sent_whole:
                message = "the store responded with 200 before the whole object was sent"
                raise self.integrity_error("PUT", message)  # noqa: TRY301
            if not written.encrypted and written.etag == md5_hex:
                destination_md5, proof = written.etag, Proof.ETAG
            else:
                destination_md5, proof = None, self._proof_without_md5(written, md5_hex, checksums, is_hashed)
        except S3S3Error as error:
            if not is_hashed and isinstance(error, IntegrityError) and error.store == name:
                self.needs_md5 = True
                self.indeterminate = self.indeterminate or attempt.is_indeterminate(error)
            elif not self.omit_refused(source, records or {}, error):
                self.record_failure(error, source, indeterminate=attempt.is_indeterminate(error))
            elif isinstance(body, bytes):
                await self.put(source, body, md5, check_lease, checksums, is_hashed=is_hashed)
        except Exception as error:  # noqa: BLE001  logged and recorded
            self.record_internal_error(error, "PUT", source)
        else:
            self.record_copied(source, md5_hex, destination_md5, proof, indeterminate=written.indeterminate)

    def _proof_without_md5(
        self, written: PutResult, md5: str, checksums: ChecksumKnowledge, is_hashed: bool
    ) -> Proof | None:
        """Return the proof of a copy with another ETag than its MD5. Raises IntegrityError if that is an MD5, too."""
        name = self.store.name
        if written.encrypted or md5_of_etag(written.etag) is None:
            checksums.non_md5.add(name)
            if not is_hashed:
                raise self.integrity_error("PUT", "the ETag of the copy is not an MD5")
            # With an ETag, the store compared the body with its Content-MD5; else only a HEAD shows the size.
            return Proof.CONTENT if written.etag else None
        if not is_hashed:
            checksums.refute(name, "it stored other bytes than Content-MD5 announced")
        raise self.integrity_error("PUT", f"sent an object with MD5 {md5}, stored ETag is {written.etag}")

    def headers_of(self, source: ObjectInfo) -> dict[str, str]:
        """Return the headers to write, without a WEBSITE_REDIRECT that the store does not support."""
        headers = dict(source.headers)
        if self.lost_redirect or self.store.name in self.refused_records.without_redirects:
            self.lost_redirect = headers.pop(WEBSITE_REDIRECT, None) is not None
        return headers

    def records(self, source: ObjectInfo, needs_etag: bool) -> dict[str, str]:
        """Return the headers that record what the copy is made from, for later comparisons; {} if they were refused.

        The digest of the source's headers is recorded where they were the reason of a copy, this one or the last, and
        where the store does not keep one of them.
        """
        records = {RECORDED_ETAG: source.etag} if needs_etag else {}
        is_recorded = self.info is not None and self.info.recorded_headers
        if self.decision is COPY_METADATA or is_recorded or self.lost_redirect:
            records[RECORDED_HEADERS] = headers_digest(source.headers)
        if records and (self.unrecorded or self.refused_records.has(self.store.name, source)):
            self.unrecorded = tuple(records)
            return {}
        return records

    def omit_refused(self, source: ObjectInfo, records: Mapping[str, str], error: S3S3Error) -> bool:
        """Return whether to write the object again, without what the store may have refused."""
        if (
            isinstance(error, StoreRefused)
            and error.code == "NotImplemented"
            and WEBSITE_REDIRECT in source.headers
            and not self.lost_redirect
        ):
            self.lost_redirect = True
            return True
        return self.omit_records(records, error)

    def omit_records(self, records: Mapping[str, str], error: S3S3Error) -> bool:
        """Return whether to write the object again without these records, which the store may have refused."""
        if not records or not isinstance(error, StoreError) or not may_concern_metadata(error):
            return False
        self.unrecorded = tuple(records)
        self.indeterminate = self.indeterminate or error.indeterminate
        return True

    async def copy_server_side(
        self, source: ObjectInfo, source_bucket: str, check_lease: LeaseCheck
    ) -> StoreError | None:
        """Let the store copy the object from another of its buckets.

        Returns the reason if the outcome is still open: the store refused, or its copy has another ETag.
        """
        attempt = _WriteAttempt(b"", check_lease)
        records = self.records(source, needs_etag=False)
        # The source's own records are of another copy. A redirect is not copied unless it is sent (S3 API reference,
        # "CopyObject").
        is_changed = records or source.records or WEBSITE_REDIRECT in source.headers
        headers = {**source.headers, **records} if is_changed else None
        etag = source.etag
        try:
            written = await self.store.copy(
                self.key, source_bucket, etag=etag, headers=headers, check_lease=attempt.check_lease
            )
        except S3S3Error as error:
            if self.omit_records(records, error):
                return await self.copy_server_side(source, source_bucket, check_lease)
            if isinstance(error, StoreRefused) and not error.indeterminate:
                return error
            self.record_failure(error, source, indeterminate=attempt.is_indeterminate(error))
        except Exception as error:  # noqa: BLE001  logged and recorded
            self.record_internal_error(error, "COPY", source)
        else:
            if etag and not written.encrypted and written.etag == etag:
                self.record_copied(source, etag_md5(source), md5_of_etag(etag), Proof.ETAG,
                                   indeterminate=written.indeterminate)  # fmt: skip
                return None
            message = f"the source has the ETag {etag}, the server-side copy {written.etag or 'none'}"
            mismatch = self.integrity_error("COPY", message)
            if not written.indeterminate:
                return mismatch
            self.record_failure(mismatch, source, indeterminate=True)
        return None

    async def delete(self, check_lease: LeaseCheck, *, compare: bool) -> None:
        """Delete the object, which the source no longer has.

        `compare`: HEAD first, and skip a missing object: a versioned bucket adds a marker for each DELETE.
        """
        attempt = _WriteAttempt(b"", check_lease)
        try:
            if compare:
                self.info = await self.store.head(self.key)
                if self.info is None:
                    self.record_source_missing()
                    return
            indeterminate = await self.store.delete(self.key, check_lease=attempt.check_lease)
        except S3S3Error as error:
            self.record_failure(error, indeterminate=attempt.is_indeterminate(error))
        except Exception as error:  # noqa: BLE001  logged and recorded
            self.record_internal_error(error, "DELETE")
        else:
            self.outcome = Outcome(
                self.store.name, self.key, Result.DELETED, Reason.SOURCE_MISSING.value,
                destination_size_bytes=self.info.size_bytes if self.info else None,
                destination_md5=etag_md5(self.info) if self.info else None, indeterminate=indeterminate,
            )  # fmt: skip

    def record_failure(
        self, error: S3S3Error, source: ObjectInfo | None = None, *, indeterminate: bool = False
    ) -> None:
        """Record a failure; `indeterminate`: a write was sent and may still be applied."""
        self.outcome = Outcome(
            self.store.name, self.key, Result.FAILED, str(error),
            source_size_bytes=source.size_bytes if source else None,
            destination_size_bytes=self.info.size_bytes if self.info else None,
            destination_md5=etag_md5(self.info) if self.info else None, error=error,
            indeterminate=indeterminate or self.indeterminate,
        )  # fmt: skip

    def record_internal_error(self, error: Exception, operation: str, source: ObjectInfo | None = None) -> None:
        """Log an unforeseen exception, and record it as a failure; a write may still be applied after it."""
        internal = internal_error(error, self.store.name, operation, self.key)
        self.record_failure(internal, source, indeterminate=internal.indeterminate)

    def record_too_slow(self, operation: str) -> None:
        """Record that the destination delays the others of its job."""
        message = "the destination is slow; its copy continues in a separate job"
        error = DestinationTooSlow(f"{self.store.name}: {operation} of {shown_key(self.key)!r}: {message}")
        self.record_failure(error, indeterminate=operation == "PUT")

    def record_source_missing(self) -> None:
        """Record that the source does not have the object, and that nothing was deleted here."""
        self.outcome = Outcome(self.store.name, self.key, Result.SOURCE_MISSING, Reason.SOURCE_MISSING.value)

    def record_copied(
        self, source: ObjectInfo, md5: str | None, destination_md5: str | None, proof: Proof | None,
        *, indeterminate: bool = False,
    ) -> None:  # fmt: skip
        """Record a copy.

        Args:
            md5: of the source's content (hex).
            destination_md5: the copy's ETag, if it is an MD5.
            proof: ETAG, or CONTENT if the store compared the body with its Content-MD5; None: the store returned no
                ETag; this becomes part of the reason.
        """
        reasons = [self.decision.reason.value] if self.decision else []
        if proof is None:
            reasons.append(UNPROVEN_COPY)
        if self.lost_redirect:
            reasons.append(LOST_REDIRECT)
            if self.store.name not in self.refused_records.without_redirects:
                self.refused_records.without_redirects.add(self.store.name)
                log.warning("%s: %r is %s; so are other objects with this header", self.store.name, self.key,
                            LOST_REDIRECT, extra=log_fields(self.route, self.key))  # fmt: skip
        if self.unrecorded:
            what = " and ".join("headers" if name == RECORDED_HEADERS else "ETag" for name in self.unrecorded)
            reasons.append(f"copied without recording the source's {what}: the destination's metadata limit")
            self.refused_records.add(self.store.name, source, self.info if self.decision is COPY_METADATA else None)
        self.outcome = Outcome(
            self.store.name, self.key, Result.COPIED, ", ".join(reasons), source.size_bytes, source.size_bytes,
            md5, destination_md5, proof, None, indeterminate or self.indeterminate,
        )  # fmt: skip

    def integrity_error(self, operation: str, message: str) -> IntegrityError:
        """Return an error of this copy."""
        return IntegrityError(message, store=self.store.name, operation=operation, key=self.key)


class _WriteAttempt:
    """The body of one write, and how far it was sent.

    Attributes:
        sent_whole: the store may have all of the body. `Store.put` sends the last bytes of a stream only after its
            iterator has ended.
    """

    __slots__ = ("_attempts", "_check_lease", "body", "sent_whole")

    def __init__(self, body: bytes | Chunks, check_lease: LeaseCheck, stream: ObjectStream | None = None) -> None:
        self.body: bytes | Chunks = body
        if not isinstance(body, bytes):
            chunks = partial(self._stream, body)
            self.body = chunks if stream is None else stream.spliced(chunks, self._permit_end)
        self.sent_whole = isinstance(body, bytes)
        self._check_lease = check_lease
        self._attempts = 0

    def check_lease(self) -> None:
        self._check_lease()
        self._attempts += 1

    def is_indeterminate(self, error: S3S3Error) -> bool:
        """Return whether the write may have been applied, or may still be, in spite of the error."""
        if isinstance(error, LeaseLost):  # raised before a retry, it hides the error of the attempt before
            return self.sent_whole and self._attempts > 0
        return self.sent_whole and isinstance(error, StoreError) and error.indeterminate

    async def _stream(self, chunks: Chunks) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks():
            yield chunk
        self._permit_end()

    def _permit_end(self) -> None:
        self._check_lease()
        self.sent_whole = True
