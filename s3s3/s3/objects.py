"""Results of S3 calls: response, object metadata, body stream, PUT result."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from ..errors import IntegrityError, StoreError, StoreUnavailable, UnexpectedResponse
from ..model import Endpoint
from .dates import EPOCH, any_date_ms
from .transport.connection import Connection
from .transport.errors import ConnectionLost, TransportError
from .transport.framing import Head
from .transport.pool import Pool
from .transport.splice import SplicedBody, is_available

#: User metadata in which s3s3 records the source's ETag if the ETags alone cannot prove that a copy is equal.
RECORDED_ETAG = "x-amz-meta-s3s3-source-etag"

#: User metadata in which s3s3 records a digest of the source's headers if a copy does not return them as they were.
RECORDED_HEADERS = "x-amz-meta-s3s3-source-headers"

#: The headers of an object that are copied with it, besides user metadata.
KEPT_HEADERS = frozenset(
    ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires")
)

#: Where an object of a website redirects to. Ceph and AWS keep it; Swift refuses a PUT that has it.
WEBSITE_REDIRECT = "x-amz-website-redirect-location"

#: Headers that object stores send, and gateways, portals and web servers do not (S3 API reference, "Common response
#: headers"; x-trans-id is Swift's). Not x-amz-cf-id and x-amzn-requestid: CloudFront and API Gateway send those.
_STORE_HEADERS = frozenset(("x-amz-request-id", "x-amz-id-2", "x-trans-id", "x-oss-request-id"))
_STORE_HEADER_PREFIXES = ("x-amz-meta-", "x-amz-server-side-encryption", "x-goog-", "x-minio-", "x-rgw-")
_PAGE_TYPES = ("text/html", "application/xhtml")
_HEX_DIGITS = "0123456789abcdefABCDEF"
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: How much of a body of unknown length is read at a time.
_CHUNK_BYTES = 256 * 1024


class BodyReader(Protocol):
    """The body of an `ObjectStream`: of a response, in memory, or in a file."""

    async def read(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` or more; fewer at the end only, then b"". Raises TransportError."""

    def close(self, *, abort: bool = False) -> None:
        """Release what it uses; `abort`: the body has not been read to its end. May be called twice."""


class SpooledBody(NamedTuple):
    """A body that has been read to its end. `md5` is in hex digits."""

    content: BodyReader
    size_bytes: int
    md5: str


#: Reads a body of unknown length to its end. Raises TooLarge, SpoolUnavailable, and what the body raises.
Spool: TypeAlias = Callable[[AsyncGenerator[bytes, None]], Awaitable[SpooledBody]]


class S3Response:
    """A response after its head was received. Read or close it, which releases its connection.

    Attributes:
        headers: lower-case names, values as surrogateescaped bytes.
        length: of the body, as `Head.length`.
        content: the body, once `S3Requester.call` has read it.
        indeterminate: set by `S3Requester.call` if an earlier attempt of a write was sent and never answered.
    """

    __slots__ = ("_connection", "_pool", "content", "headers", "indeterminate", "length", "status")

    def __init__(self, head: Head, connection: Connection, pool: Pool) -> None:
        self.status, self.headers, _, self.length, _ = head
        self.content = b""
        self.indeterminate = False
        self._connection: Connection | None = connection
        self._pool = pool

    async def read(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` of the body or more; fewer at its end only, then b"". Raises TransportError."""
        if self._connection is None:
            return b""
        try:
            return await self._connection.read(size_bytes)
        except BaseException:
            self.close(abort=True)
            raise

    @property
    def connection(self) -> Connection | None:
        """The connection that the body comes from; None once it is released."""
        return self._connection

    def lift_deadline(self) -> None:
        """Let the body take as long as the store sends at least `Timeouts.min_bytes_per_s`."""
        if self._connection is not None:
            self._connection.end_within(math.inf)

    async def read_prefix(self, limit_bytes: int) -> bytes:
        """Return the body, or at least its first `limit_bytes`, and close the response. Raises TransportError."""
        body = await self.read(limit_bytes)
        self.close()
        return body

    def close(self, *, abort: bool = False) -> None:
        """Return the connection to the pool, or abort it. A connection with an unread body is not used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if abort:
                connection.abort()
            self._pool.release(connection)


class ObjectInfo(NamedTuple):
    """An object's metadata, from the headers of a HEAD or GET response. In a listing it is a `model.Entry`.

    Attributes:
        key: the object's name in the source.
        etag: without quotes.
        modified_ms: Unix time by the store's clock; 0 if unknown.
        headers: the object's own headers, to be copied with it (lower-case names, values as surrogateescaped bytes).
        encrypted: the ETag is not an MD5 although it may look like one (SSE-KMS, SSE-C).
        recorded_etag: the source's ETag if s3s3 recorded it; never among `headers`.
        recorded_headers: the digest of the source's headers, likewise.
        expires_ms: when a lifecycle rule of the bucket will delete the object (Unix time), if the store reports it.
    """

    key: str
    size_bytes: int
    etag: str
    modified_ms: int = 0
    headers: Mapping[str, str] = MappingProxyType({})
    encrypted: bool = False
    recorded_etag: str | None = None
    recorded_headers: str | None = None
    expires_ms: int | None = None

    @property
    def records(self) -> dict[str, str]:
        """The headers in which s3s3 recorded what the object was copied from."""
        records = {RECORDED_ETAG: self.recorded_etag, RECORDED_HEADERS: self.recorded_headers}
        return {name: value for name, value in records.items() if value is not None}


def object_info(
    store: str, operation: str, key: str, response: S3Response, size_bytes: int | None = None
) -> ObjectInfo:
    """Read an object's metadata; `size_bytes`: its size if the response has no Content-Length, but it is known.

    Raises UnexpectedResponse for a response without content, or of unknown size.
    """
    headers = response.headers
    size_bytes = response.length if size_bytes is None else size_bytes
    if size_bytes is None or response.status != 200:
        missing = "Content-Length" if size_bytes is None else "content"
        raise UnexpectedResponse(f"the response has no {missing}", store=store, operation=operation, key=key)
    own = {name: headers[name] for name in _own_names(tuple(headers))}
    if "content-encoding" in own:
        drop_transport_codings(own)
    recorded_etag, recorded_headers = own.pop(RECORDED_ETAG, None), own.pop(RECORDED_HEADERS, None)
    modified_ms = http_date_ms(headers.get("last-modified", "")) or 0
    expires_ms = None
    if expiration := headers.get("x-amz-expiration"):
        # `expiry-date="Fri, 23 Dec 2012 00:00:00 GMT", rule-id="..."` (S3 API reference, "HeadObject")
        found = re.search(r'expiry-date="([^"]*)"', expiration)
        expires_ms = http_date_ms(found[1]) if found else None
    etag = strong_etag(headers)
    return ObjectInfo(
        key, size_bytes, etag, modified_ms, own, is_encrypted(headers), recorded_etag, recorded_headers, expires_ms
    )


def drop_transport_codings(headers: dict[str, str]) -> None:
    """Remove `aws-chunked` from Content-Encoding: it describes the body of the PUT that wrote the object.

    Some stores keep it, although they have decoded the body (Ceph 16). AWS rejects a plain PUT that has it.
    """
    codings = [coding.strip() for coding in headers["content-encoding"].split(",")]
    kept = [coding for coding in codings if coding.lower() != "aws-chunked"]
    if not kept:
        del headers["content-encoding"]
    elif kept != codings:
        headers["content-encoding"] = ", ".join(kept)


@lru_cache(64)  # a store sends the same headers in each response to one kind of request
def _own_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        name for name in names if name in KEPT_HEADERS or name.startswith("x-amz-meta-") or name == WEBSITE_REDIRECT
    )


@lru_cache(1024)
def _day_ms(year: str, month: str, day: str) -> int:
    midnight = datetime(int(year), _MONTHS.index(month), int(day))  # strptime's %b follows the locale
    return (midnight - EPOCH).days * 86_400_000


def http_date_ms(text: str) -> int | None:
    """Parse an HTTP date ("Tue, 06 Oct 2026 03:09:27 GMT", RFC 9110 5.6.7) or another date; None if it is not one."""
    if not text or not text.isascii():  # int would accept other digits
        return None
    try:
        day_ms = _day_ms(text[12:16], text[8:11], text[5:7])
        hours, minutes, seconds = int(text[17:19]), int(text[20:22]), int(text[23:25])
    except ValueError:
        return any_date_ms(text)
    if text[25:] != " GMT":
        return any_date_ms(text)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):  # 60: a leap second
        return None
    return day_ms + (hours * 3600 + minutes * 60 + seconds) * 1000


def is_encrypted(headers: Mapping[str, str]) -> bool:
    """Return whether the ETag of a response is not an MD5: SSE-KMS and SSE-C (S3 API reference, "Object")."""
    return (
        headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )


def strong_etag(headers: Mapping[str, str]) -> str:
    """Return the ETag of a response as `plain_etag` does; "" if it has none, or a weak one (RFC 9110, 8.8.1)."""
    etag = headers.get("etag", "")
    if etag[:2] in ("W/", "w/"):
        return ""
    etag = etag.strip('" ')
    return etag if etag.islower() else plain_etag(etag)


def plain_etag(etag: str) -> str:
    """Return an ETag without quotes; with lower-case digits if it is an MD5, or one of an upload in parts.

    Alibaba Cloud's OSS sends capitals.
    """
    etag = etag.strip('" ')
    if not etag.islower() and len(etag) >= 32 and not etag[:32].strip(_HEX_DIGITS) and etag[32:33] in ("", "-"):
        return etag.lower()
    return etag


def is_from_store(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether the headers of a response that describes an object show that an S3 store sent it.

    The evidence is an ETag in a form that S3 uses, an MD5 or `MD5-N` of an upload in parts (`-N` verbatim for a large
    object of Swift), or encryption by the store. A page needs a header of a store, too: web frameworks send the MD5 of
    a page as its ETag (Django, older versions of Rack).
    """
    rest = etag[32:]
    if len(etag) >= 32 and not etag[:32].strip(_HEX_DIGITS) and (not rest or rest[0] == "-"):
        return not is_page(headers) or has_store_header(headers)
    return bool(etag) and is_encrypted(headers)


def is_page(headers: Mapping[str, str]) -> bool:
    """Return whether a response is an HTML page, with which gateways and portals answer any request."""
    return headers.get("content-type", "").lower().startswith(_PAGE_TYPES)


def has_store_header(headers: Mapping[str, str]) -> bool:
    """Return whether a response has a header that only object stores send."""
    return not _STORE_HEADERS.isdisjoint(headers) or any(name.startswith(_STORE_HEADER_PREFIXES) for name in headers)


async def body_chunks(
    body: BodyReader, key: str, to_store_error: Callable[[TransportError], StoreError]
) -> AsyncGenerator[bytes, None]:
    """Yield a body of unknown length, and close it at the end or after an error. Raises what `ObjectStream` raises."""
    is_complete = False
    try:
        while chunk := await body.read(_CHUNK_BYTES):
            yield chunk
        is_complete = True
    except TransportError as error:
        raise _read_error(error, to_store_error(error), key, "the content ended early") from error
    finally:
        body.close(abort=not is_complete)


def _read_error(error: TransportError, store_error: StoreError, key: str, message: str) -> StoreError:
    """Return the store's error, or IntegrityError if it has closed the connection before the end of the content."""
    if isinstance(error, ConnectionLost) and error.__cause__ is None:
        return IntegrityError(message, store=store_error.store, operation="GET", key=key)
    return store_error


class Source(Protocol):
    """Where objects are copied from: a `Store` or an HTTP origin."""

    name: str
    endpoint: Endpoint

    async def get(self, key: str) -> ObjectStream:
        """Open an object. Raises NoSuchKey and the rest of StoreError's tree."""

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object, and read it if it has at most `limit_bytes`; otherwise the caller reads the stream."""

    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object. None: there is none, or the source cannot describe it, as an HTTP origin."""

    async def confirm_missing(self, key: str) -> ObjectInfo | None:
        """Look again for an object after a GET raised NoSuchKey; return it if it exists, or seems to."""


class ObjectStream:
    """An object's `info` and its body, to be read once. Close it, or use it as an async context manager."""

    __slots__ = ("_body", "_left_bytes", "_to_store_error", "info")

    def __init__(
        self, info: ObjectInfo, body: BodyReader, to_store_error: Callable[[TransportError], StoreError]
    ) -> None:
        self.info = info
        self._body = body
        self._to_store_error = to_store_error
        self._left_bytes = info.size_bytes

    async def chunks(self, size_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield the body in chunks of at least `size_bytes`; the last one may be smaller.

        Raises IntegrityError if the store closes the connection before the end, or the content has another length
        than `info`, else StoreUnavailable.
        """
        while self._left_bytes:
            yield await self._read(size_bytes)
        await self.close()

    async def body(self) -> bytes:
        """Return the whole body. Raises what `chunks` raises."""
        body = await self._read(self._left_bytes) if self._left_bytes else b""
        self._body.close()
        if self._left_bytes:
            raise self._wrong_length("fewer")
        return body

    def can_be_spliced(self, destination: Endpoint) -> bool:
        """Return whether `spliced` can have the kernel move the body to this destination.

        It needs plain HTTP on both sides, a Content-Length, no limit in bytes per second, and Linux.
        """
        body = self._body
        return (
            isinstance(body, S3Response) and body.length == self._left_bytes == self.info.size_bytes
            and body.connection is not None and body.connection.has_plain_body
            and not destination.is_secure and not destination.max_bytes_per_s and is_available()
        )  # fmt: skip

    def spliced(
        self, chunks: Callable[[], AsyncIterator[bytes]], before_end: Callable[[], None]
    ) -> Callable[[], AsyncIterator[bytes]]:
        """Return a body for `Store.put` that the kernel moves, or `chunks` if the connections do not permit it.

        Args:
            chunks: reads this stream, and calls `before_end` before its end.
            before_end: called before the last bytes are sent; what it raises ends the PUT.
        """
        connection = self._body.connection if isinstance(self._body, S3Response) else None
        return SplicedBody(connection, chunks, before_end, self._to_read_error) if connection else chunks

    async def close(self) -> None:
        """End the stream. A connection with an unread body is not used again."""
        self._body.close()

    async def _read(self, size_bytes: int) -> bytes:
        try:
            chunk = await self._body.read(size_bytes)
        except TransportError as error:
            raise self._to_read_error(error) from error
        if not chunk:
            raise StoreUnavailable("the stream was closed before its end", key=self.info.key)
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            self._body.close(abort=True)
            raise self._wrong_length("more")
        return chunk

    def _to_read_error(self, error: TransportError) -> StoreError:
        message = f"the content ended early; {self.info.size_bytes} bytes were announced"
        return _read_error(error, self._to_store_error(error), self.info.key, message)

    def _wrong_length(self, relation: str) -> IntegrityError:
        store = self._to_store_error(ConnectionLost()).store
        message = f"the content has {relation} than the announced {self.info.size_bytes} bytes"
        return IntegrityError(message, store=store, operation="GET", key=self.info.key)

    async def __aenter__(self) -> ObjectStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class PutResult(NamedTuple):
    """The result of a PUT.

    Attributes:
        etag: of the stored object, without quotes; "" if the store sends none.
        encrypted: the ETag is not an MD5.
        indeterminate: an earlier attempt of this PUT was sent and never answered; the store may still carry it out.
    """

    etag: str
    encrypted: bool
    indeterminate: bool
