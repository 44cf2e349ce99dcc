"""What the store hands out: an object's description, its content while it comes in, and the receipt of a write."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Protocol

from ..errors import IntegrityError, StoreError, StoreUnavailable
from ..model import Endpoint, Entry
from .timestamps import http_date_ms
from .transport.connection import Connection
from .transport.errors import ConnectionLost, TransportError
from .transport.http_parser import Head

RECORDED_ETAG = "x-amz-meta-s3s3-source-etag"
"""User metadata in which s3s3 records the source's ETag where ETags alone cannot tell that two objects are equal."""

KEPT_HEADERS = frozenset(
    ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires")
)


class Lender(Protocol):
    """Where a connection goes back to: a pool, most often."""

    def release(self, connection: Connection) -> None:
        """Take a connection back."""


class Content(Protocol):
    """What a reading reads: the body of an answer, or what was kept of one."""

    async def take(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` or more, less at the end only, b"" after that. Raises WireError."""

    def close(self, *, drop: bool = False) -> None:
        """Give back what it holds. Closing twice does nothing."""


class S3Response:
    """An answer whose head is there. Its connection goes back when the body has been read or it is closed."""

    __slots__ = ("_connection", "_pool", "headers", "status")

    def __init__(self, head: Head, connection: Connection, pool: Lender) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection: Connection | None = connection
        self._pool = pool

    async def take(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` of the body or more, less at its end only, b"" after that. Raises WireError."""
        if self._connection is None:
            return b""
        try:
            return await self._connection.take(size_bytes)
        except BaseException:
            self.close(drop=True)
            raise

    async def beginning(self, limit_bytes: int) -> bytes:
        """Return the body up to about `limit_bytes`, and be done with the answer. Raises WireError."""
        body = await self.take(limit_bytes)
        self.close()
        return body

    def close(self, *, drop: bool = False) -> None:
        """Give the connection back, or drop it where the body is unread. Closing twice does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if drop:
                connection.abort()
            self._pool.release(connection)


class ObjectInfo(NamedTuple):
    """An object as an answer's headers describe it.

    Attributes:
        entry: under the key's name in the source.
        headers: the object's own headers, to be kept with it (lower-case names, values as the bytes they came as).
        encrypted: the ETag is no MD5 although it may look like one (SSE-KMS, SSE-C).
        recorded_etag: the source's ETag, where s3s3 recorded it; never among `headers`.
        expires_ms: when a lifecycle rule of the bucket will delete it (Unix, ms), where the store says so.
    """

    entry: Entry
    headers: Mapping[str, str]
    encrypted: bool
    recorded_etag: str | None
    expires_ms: int | None = None


def object_info(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    """Read an object's description. Raises ValueError where the answer has no length."""
    length = headers.get("content-length")
    if length is None:
        raise ValueError("an object without a Content-Length")
    kept = {name: value for name, value in headers.items() if name in KEPT_HEADERS or name.startswith("x-amz-meta-")}
    recorded = kept.pop(RECORDED_ETAG, None)
    modified_ms = http_date_ms(headers.get("last-modified", "")) or 0
    entry = Entry(key, int(length), headers.get("etag", "").strip('"'), modified_ms)
    expiration = headers.get("x-amz-expiration")
    expires_ms = _expires_ms(expiration) if expiration else None
    return ObjectInfo(entry, kept, encrypted(headers), recorded, expires_ms)


def _expires_ms(expiration: str) -> int | None:
    """Read `expiry-date="Fri, 23 Dec 2012 00:00:00 GMT", rule-id="..."` (S3 API reference, "HeadObject")."""
    found = re.search(r'expiry-date="([^"]*)"', expiration)
    return http_date_ms(found[1]) if found else None


def encrypted(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer's ETag is no MD5 (S3 API reference, "Object": SSE-KMS and SSE-C)."""
    return (
        headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )


class Source(Protocol):
    """What objects are copied from: a store, or an origin."""

    name: str
    endpoint: Endpoint

    async def get(self, key: str) -> ObjectStream:
        """Open an object. Raises NoSuchKey and the rest of StoreError's tree."""

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object and, where it has at most `limit_bytes`, read it too; the reading is open otherwise."""

    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object; None where there is none, or nothing can be said of it."""


class ObjectStream:
    """An object that is being read: what `ObjectInfo` says, and the content.

    Use it as an async context manager, or close it.
    """

    __slots__ = ("_answer", "_failed", "_left", "encrypted", "entry", "headers", "recorded_etag")

    def __init__(self, about: ObjectInfo, answer: Content, failed: Callable[[TransportError], StoreError]) -> None:
        self.entry = about.entry
        self.headers = about.headers
        self.encrypted = about.encrypted
        self.recorded_etag = about.recorded_etag
        self._answer = answer
        self._failed = failed
        self._left = about.entry.size_bytes

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """Yield the content in pieces of at least `size_bytes` (the last may be less).

        Raises:
            Damaged: the store closed the connection before the end.
            StoreUnavailable: the connection was lost, or was silent for too long.
        """
        while self._left:
            yield await self._take(size_bytes)
        await self.close()

    async def body(self) -> bytes:
        """Return all of the content. Raises what `chunks` raises."""
        body = await self._take(self._left) if self._left else b""
        await self.close()
        return body

    async def close(self) -> None:
        """End the reading. Content that nobody has read costs the connection."""
        self._answer.close()

    async def _take(self, size_bytes: int) -> bytes:
        try:
            taken = await self._answer.take(size_bytes)
        except TransportError as error:
            raise self._short(error) from error
        if not taken:
            raise StoreUnavailable("the reading was closed before its end", key=self.entry.key)
        self._left -= len(taken)
        return taken

    def _short(self, error: TransportError) -> StoreError:
        failed = self._failed(error)
        if isinstance(error, ConnectionLost) and error.__cause__ is None:
            size = self.entry.size_bytes
            return IntegrityError(
                f"the content ended early; {size} bytes were announced",
                store=failed.store,
                operation="GET",
                key=self.entry.key,
            )
        return failed

    async def __aenter__(self) -> ObjectStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class PutResult(NamedTuple):
    """The receipt of a PUT.

    Attributes:
        etag: of what is now stored, without quotes.
        encrypted: it is no MD5.
        unanswered: an earlier attempt of this same PUT was sent and got no answer; it may yet be carried out.
    """

    etag: str
    encrypted: bool
    indeterminate: bool
