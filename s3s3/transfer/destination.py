"""One destination of a copy that is under way: what is known of it, one verified PUT to it, and what became of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol, TypeAlias

from ..errors import IntegrityError, LeaseLost, S3S3Error, StoreError, StoreRefused
from ..model import Endpoint, Outcome, Proof, Result, md5_of_etag
from ..s3 import RECORDED_ETAG, ObjectInfo, PutResult, Store
from .decision import Action, Decision, Reason, decide

Chunks: TypeAlias = Callable[[], AsyncIterator[bytes]]
LeaseCheck: TypeAlias = Callable[[], None]
MD5s: TypeAlias = "tuple[str | None, str | None]"


def md5_in_etag(held: ObjectInfo) -> str | None:
    """Return the MD5 (32 hex digits) that the ETag is; None where it is none, or its looks cannot be trusted."""
    return None if held.encrypted else md5_of_etag(held.etag)


class AttributeHeaders(Protocol):
    """Knows the tags and the ACL of the object that is copied."""

    async def headers(self, destination: Endpoint) -> dict[str, str]:
        """Return the headers that ask for what this destination is to have of them."""


class DestinationCopy:
    """One destination of one copy.

    Attributes:
        route: the name of the route that it is for.
        held: what a HEAD said of it; None where it was not asked or has nothing.
        decision: what the comparison said; None where it was not made.
        verify_md5: contents are to be compared where nothing else tells.
        outcome: None as long as it is open.
        marks: gives further headers for what is written there (tags, ACL); None where no destination wants any.
    """

    __slots__ = ("decision", "held", "key", "marks", "outcome", "route", "store", "verify_md5")

    def __init__(self, store: Store, key: str, route: str, marks: AttributeHeaders | None = None) -> None:
        self.store = store
        self.key = key
        self.route = route
        self.marks = marks
        self.held: ObjectInfo | None = None
        self.decision: Decision | None = None
        self.verify_md5 = False
        self.outcome: Outcome | None = None

    async def look(self, source: ObjectInfo, source_verify_md5: bool) -> None:
        """Ask the destination what it has, and decide. Equal copies and failures are outcomes already."""
        try:
            self.held = await self.store.head(self.key)
        except S3S3Error as error:
            self.fail(error, source)
        else:
            self.verify_md5 = source_verify_md5 or self.store.endpoint.verify_md5
            self.decide(source, (md5_in_etag(source), md5_in_etag(self.held) if self.held else None))

    def decide(self, source: ObjectInfo, md5s: MD5s, *, contents_equal: bool | None = None) -> None:
        """Decide whether it is to be copied; where not, that is the outcome.

        Args:
            md5s: those of source and destination, as far as they are known.
            contents_equal: whether the contents are, where somebody read them.
        """
        held = self.held
        decision = self.decision = decide(
            source,
            held,
            recorded_etag=held.recorded_etag if held else None,
            source_encrypted=source.encrypted,
            destination_encrypted=held is not None and held.encrypted,
            verify_md5=self.verify_md5,
            contents_equal=contents_equal,
        )
        if decision.action is Action.SAME:
            self.outcome = Outcome(
                self.store.name,
                self.key,
                Result.SAME,
                decision.reason.value,
                source_size_bytes=source.size_bytes,
                destination_size_bytes=source.size_bytes,
                source_md5=md5s[0],
                destination_md5=md5s[1],
                proof=decision.proof,
            )

    async def put(
        self,
        source: ObjectInfo,
        body: bytes | Chunks,
        *,
        md5: bytes,
        check_lease: LeaseCheck,
        non_md5_destinations: set[str],
    ) -> None:
        """Make one PUT and verify it. Its end is the outcome: nothing of S3S3Error's tree is raised.

        Args:
            source: what is copied.
            body: the bytes, or what opens a stream of them.
            md5: the digest of the body (16 bytes).
            permit: raises LeaseLost where nothing more may be written.
            without_md5: names of the destinations whose ETags are known to be no MD5s; it may grow.
        """
        sending = _WriteAttempt(body, check_lease)
        try:
            headers = self._headers(source, md5, non_md5_destinations)
            if self.marks is not None:
                headers.update(await self.marks.headers(self.store.endpoint))
            written = await self.store.put(
                self.key,
                sending.body,
                size_bytes=source.size_bytes,
                md5=md5,
                headers=headers,
                check_lease=sending.check_lease,
            )
            etag_md5 = None if written.encrypted else md5_of_etag(written.etag)
            if etag_md5 is None:
                non_md5_destinations.add(self.store.name)
            self._verify(sending, written, md5.hex(), etag_md5)
        except S3S3Error as error:
            self.fail(error, source, indeterminate=sending.indeterminate(error))
        else:
            proof = Proof.CONTENT if etag_md5 is None else Proof.ETAG
            self.copied(source, md5.hex(), etag_md5, proof, indeterminate=written.indeterminate)

    async def copy_within(self, source: ObjectInfo, source_bucket: str, check_lease: LeaseCheck) -> StoreError | None:
        """Have the store copy it by itself. Done, or failed so that it has to be tried again, that is the outcome.

        Returns why it is open still: the store refused, or what it says that it holds is not what the source has.
        """
        sending = _WriteAttempt(b"", check_lease)
        headers = source.headers if source.recorded_etag else None  # a record is never copied onward
        etag = source.etag
        try:
            written = await self.store.copy(
                self.key, source_bucket, etag=etag, headers=headers, check_lease=sending.check_lease
            )
        except StoreRefused as error:
            if not error.indeterminate:
                return error
            self.fail(error, source, indeterminate=True)
        except S3S3Error as error:
            self.fail(error, source, indeterminate=sending.indeterminate(error))
        else:
            if written.encrypted or written.etag != etag:
                wrong = IntegrityError(
                    f"the source has the ETag {etag}, but the store's own copy {written.etag or 'none'}",
                    store=self.store.name,
                    operation="COPY",
                    key=self.key,
                )
                if not written.indeterminate:
                    return wrong
                self.fail(wrong, source, indeterminate=True)
            else:
                self.copied(source, md5_in_etag(source), md5_of_etag(etag), Proof.ETAG,
                            indeterminate=written.indeterminate)  # fmt: skip
        return None

    def fail(self, error: S3S3Error, source: ObjectInfo | None = None, *, indeterminate: bool = False) -> None:
        """Say that it failed, and why."""
        self.outcome = Outcome(
            self.store.name,
            self.key,
            Result.FAILED,
            str(error),
            source_size_bytes=source.size_bytes if source else None,
            destination_size_bytes=self.held.size_bytes if self.held else None,
            destination_md5=md5_in_etag(self.held) if self.held else None,
            error=error,
            indeterminate=indeterminate,
        )

    async def delete(self, check_lease: LeaseCheck, *, look: bool) -> None:
        """Delete it, for the source has it no more. Its end is the outcome, as for `put`.

        Args:
            permit: raises LeaseLost where nothing more may be written.
            look: ask first whether it is there. Where versions are kept, each DELETE leaves another mark.
        """
        sending = _WriteAttempt(b"", check_lease)
        try:
            if look:
                self.held = await self.store.head(self.key)
                if self.held is None:
                    self.source_is_gone()
                    return
            indeterminate = await self.store.delete(self.key, check_lease=sending.check_lease)
        except S3S3Error as error:
            self.fail(error, indeterminate=sending.indeterminate(error))
        else:
            self.outcome = Outcome(
                self.store.name,
                self.key,
                Result.DELETED,
                Reason.SOURCE_MISSING.value,
                destination_size_bytes=self.held.size_bytes if self.held else None,
                destination_md5=md5_in_etag(self.held) if self.held else None,
                indeterminate=indeterminate,
            )

    def source_is_gone(self) -> None:
        """Say that the source has no such object any more, and that nothing is done about it here."""
        self.outcome = Outcome(self.store.name, self.key, Result.SOURCE_MISSING, Reason.SOURCE_MISSING.value)

    def copied(
        self, source: ObjectInfo, md5: str | None, etag_md5: str | None, proof: Proof, *, indeterminate: bool = False
    ) -> None:
        """Say that it is copied and verified.

        Args:
            md5: of the source's content (hex).
            etag_md5: the MD5 that the copy's ETag is, where it is one.
            proof: how it is known that the copy is equal. CONTENT: the store was given the MD5 of all that it got.
        """
        self.outcome = Outcome(
            self.store.name,
            self.key,
            Result.COPIED,
            self.decision.reason.value if self.decision else "",
            source_size_bytes=source.size_bytes,
            destination_size_bytes=source.size_bytes,
            source_md5=md5,
            destination_md5=etag_md5,
            proof=proof,
            indeterminate=indeterminate,
        )

    def _headers(self, source: ObjectInfo, md5: bytes, non_md5_destinations: set[str]) -> dict[str, str]:
        """Return the source's headers, and its ETag where the ETags alone will not tell that the copy is equal."""
        etag = source.etag
        untold = source.encrypted or etag != md5.hex()
        untold = (
            untold
            or self.store.name in non_md5_destinations
            or (self.held is not None and md5_in_etag(self.held) is None)
        )
        return {**source.headers, RECORDED_ETAG: etag} if untold and etag else dict(source.headers)

    def _verify(self, sending: _WriteAttempt, written: PutResult, md5: str, etag_md5: str | None) -> None:
        if not sending.whole:
            wrong = "the store answered 200 before it had the whole object"
        elif etag_md5 not in (None, md5):
            wrong = f"what was sent has the MD5 {md5}, but the store says that it holds {written.etag}"
        else:
            return
        raise IntegrityError(wrong, store=self.store.name, operation="PUT", key=self.key)


class _WriteAttempt:
    """What one call of `Store.put` sends, and how far it came.

    Attributes:
        whole: the store may have got all of the body. `Store.put` sends the end of a stream only after its iterator
            has ended.
    """

    def __init__(self, body: bytes | Chunks, check_lease: LeaseCheck) -> None:
        self.body = body if isinstance(body, bytes) else lambda: self._stream(body)
        self.whole = isinstance(body, bytes)
        self._check_lease = check_lease
        self._attempts = 0

    def check_lease(self) -> None:
        self._check_lease()
        self._attempts += 1

    def indeterminate(self, error: S3S3Error) -> bool:
        """Tell whether the PUT may yet be carried out, or was, in spite of the error."""
        if isinstance(error, LeaseLost):  # it came up before another attempt, and hides what became of the last one
            return self.whole and self._attempts > 0
        return self.whole and isinstance(error, StoreError) and getattr(error, "indeterminate", False)

    async def _stream(self, chunks: Chunks) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks():
            yield chunk
        self._check_lease()
        self.whole = True
