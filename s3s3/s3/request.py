"""Send one signed request and read the response head; retry transient failures."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import quote
from xml.etree.ElementTree import Element

from ..errors import (
    AccessDenied,
    IntegrityError,
    InternalError,
    InvalidKey,
    S3S3Error,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnexpectedResponse,
)
from ..model import MAX_KEY_BYTES, Endpoint
from ..tasks import backoff_s
from .address import Address, Query, RequestTarget, encode_query
from .error_mapping import WRITES, error_for_failure, error_for_response, not_from_store
from .objects import S3Response, http_date_ms
from .proxies import proxy_for
from .signing import CredentialProvider, Credentials, Signer, signer
from .transport.connecting import TlsSettings
from .transport.connection import Connection
from .transport.errors import TransportError
from .transport.limits import Timeouts
from .transport.pool import Pool
from .transport.splice import SplicedBody
from .xml import RESULT_LIMIT_BYTES, parse_result

log = logging.getLogger(__name__)

ATTEMPTS = 3
#: Longest pause before the second attempt, and before further ones, in s.
INITIAL_BACKOFF_S = 0.5
MAX_BACKOFF_S = 2.0

#: The whole body, or a function that returns an iterator over it.
Body = bytes | Callable[[], AsyncIterator[bytes]]
#: Called right before a write is sent; raises LeaseLost if it must not be sent.
LeaseCheck = Callable[[], None]

#: Statuses of a success. Some stores answer a PUT with 201, and a DELETE with 202, which promises nothing.
_READ = frozenset((200, 204))
_WRITTEN = frozenset((200, 201, 202, 204))

_UNRESERVED = re.compile(r"[A-Za-z0-9._~/-]*").fullmatch


class Priority(Enum):
    """When a rate limiter admits a request."""

    #: In turn. Refused if it has to wait after `stop_admitting`.
    NORMAL = "normal"
    #: In turn, also after `stop_admitting`: the request continues work that has started, such as a multipart upload.
    STARTED = "started"
    #: Ahead of all other requests.
    URGENT = "urgent"


class RateLimiter(Protocol):
    """Delays requests to one store."""

    async def admit(self, size_bytes: int, *, streamed: bool, priority: Priority) -> None:
        """Wait until a request may be sent. A streamed body of `size_bytes` is admitted by `admit_chunk`.

        Raises JobReleased after `stop_admitting`, if a request of NORMAL priority has to wait.
        """

    def stop_admitting(self) -> None:
        """Refuse requests of NORMAL priority that have to wait, because this process is shutting down."""

    async def admit_chunk(self, size_bytes: int) -> None:
        """Wait until the next `size_bytes` of a stream may be sent."""

    @property
    def chunk_bytes(self) -> int:
        """The largest chunk of a stream to send at a time."""

    def slots(self, share: int) -> int | None:
        """Return how many jobs may run for this store, given its share of the worker's slots; None: any number.

        More jobs would only wait, and occupy slots that other stores need.
        """


def encode_key(key: str) -> str:
    """Percent-encode a key for a path: all but A-Z a-z 0-9 - . _ ~ and / (S3 user guide, "Signature calculations").

    Dot segments, empty segments and a leading slash are part of the key and stay.
    """
    return key if _UNRESERVED(key) else quote(key, safe="/")


class KeyMapper:
    """Maps the key of an object in the source to its key at one endpoint, and back. `is_identity`: they are equal."""

    __slots__ = ("_prefix", "_source_prefix", "_store", "is_identity")

    def __init__(self, endpoint: Endpoint, source_prefix: str) -> None:
        self._store = endpoint.name
        self._prefix = endpoint.prefix
        self._source_prefix = source_prefix
        self.is_identity = endpoint.prefix == source_prefix

    def endpoint_key(self, key: str) -> str:
        """Return the key at the endpoint. Raises InvalidKey if no object there can have it.

        An empty key is invalid because it addresses the bucket: DELETE would delete the bucket.
        """
        if not key.startswith(self._source_prefix):
            raise self._invalid(key, f"the key is not under the route's prefix {self._source_prefix!r}")
        endpoint_key = key if self.is_identity else self._prefix + key[len(self._source_prefix) :]
        if not endpoint_key:
            raise self._invalid(key, "an empty key")
        if len(endpoint_key) * 3 > MAX_KEY_BYTES or not endpoint_key.isascii():
            try:
                size_bytes = len(endpoint_key.encode())
            except UnicodeEncodeError:
                raise self._invalid(key, "the key is not valid UTF-8") from None
            if size_bytes > MAX_KEY_BYTES:
                raise self._invalid(key, f"the key has {size_bytes} bytes; S3 allows {MAX_KEY_BYTES}")
        return endpoint_key

    def encoded_key(self, key: str) -> str:
        """Return the key at the endpoint, percent-encoded for a path. Raises InvalidKey."""
        endpoint_key = self.endpoint_key(key)
        return endpoint_key if _UNRESERVED(endpoint_key) else quote(endpoint_key, safe="/")

    def source_key(self, endpoint_key: str) -> str:
        """Return the key in the source of a key that a listing of the endpoint returned."""
        return endpoint_key if self.is_identity else self._source_prefix + endpoint_key[len(self._prefix) :]

    def _invalid(self, key: str, message: str) -> InvalidKey:
        return InvalidKey(message, store=self._store, key=key)


class Request(NamedTuple):
    """One S3 request.

    Attributes:
        operation: GET, HEAD, PUT, POST, DELETE, or LIST, which is a GET of the bucket.
        key: the object's name in the source, for error messages; None for the bucket.
        encoded_key: `KeyMapper.encoded_key`; "" addresses the bucket.
        headers: to be signed and sent.
        size_bytes: of the body.
        accept_encoding: "" means "identity" for a GET, and no such header for the other operations.
    """

    operation: str
    key: str | None
    encoded_key: str
    query: Query = ()
    headers: Mapping[str, str] = MappingProxyType({})
    body: Body = b""
    size_bytes: int = 0
    accept_encoding: str = ""


class Retries:
    """Counts the failed attempts at one request, and pauses after them."""

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures = 0

    async def pause(self, error: StoreError) -> None:
        """Wait before the next attempt; raise the error if no attempt is left or a retry cannot help in seconds."""
        self._failures += 1
        if self._failures >= ATTEMPTS or not isinstance(error, StoreUnavailable | IntegrityError):
            raise error
        cause = error.__cause__
        if isinstance(cause, TransportError) and cause.reused and not cause.answered and cause.__cause__ is None:
            return  # the store had already closed a kept connection, which does not mean that it has a problem
        await asyncio.sleep(backoff_s(self._failures, INITIAL_BACKOFF_S, MAX_BACKOFF_S))


def internal_error(error: Exception, store: str, operation: str, key: str | None) -> InternalError:
    """Log an unforeseen exception with its traceback; return it as an error of the store."""
    internal = InternalError(f"internal error: {error!r}"[:300], store=store, operation=operation, key=key)
    internal.indeterminate = operation in WRITES or operation == "COPY"
    internal.__cause__ = error
    log.error("%s", internal, exc_info=error)
    return internal


def no_check() -> None:
    """Accept every write: the caller owns the key."""


class S3Requester:
    """Sends requests to one endpoint. Raises errors of StoreError's tree only.

    Attributes:
        signing_endpoint: the endpoint with the credentials in use, wherever they are from, for `readable`.
    """

    def __init__(
        self, endpoint: Endpoint, *, connections: int, timeouts: Timeouts, rate_limiter: RateLimiter | None = None
    ) -> None:
        self.endpoint = endpoint
        self._rate_limiter = rate_limiter
        self._timeouts = timeouts
        self._address = address = Address.of(endpoint)
        self._proxy = proxy_for(address)
        tls = TlsSettings(endpoint.ca_file, endpoint.verify_tls, endpoint.client_cert_file, endpoint.client_key_file)
        self._pool = Pool(
            address.host, address.port, tls=tls if endpoint.is_secure else None, connections=connections,
            timeouts=timeouts, proxy=self._proxy,
        )  # fmt: skip
        # A request for plain HTTP is sent to the proxy itself, with the whole URL (RFC 9112, 3.2.2).
        self._proxied_url = "" if self._proxy is None or endpoint.is_secure else address.url
        self._provider = CredentialProvider(endpoint)
        self.signing_endpoint = endpoint
        self._credentials: Credentials | None = None
        self._signer: Signer | None = None
        self._date = ""
        self._clock_offset_ms = round((time.time() - time.monotonic()) * 1000)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    def time_ms(self) -> int:
        """Return the time by the store's clock, from the Date of its responses; by the local clock before the first."""
        return round(time.monotonic() * 1000) + self._clock_offset_ms

    async def object_url(self, encoded_key: str, method: str, expires_s: int | None, query: Query = ()) -> str:
        """Return an object's URL, presigned with the endpoint's signature version unless `expires_s` is None."""
        address = self._address
        target = address.target(encoded_key, query)
        url = f"{address.url}{target.path}"
        if expires_s is None:
            return f"{url}?{encode_query(query)}" if query else url
        signer = await self._current_signer()
        signed = {"host": address.host_header} if self.endpoint.signature_version == "s3v4" else {}
        return f"{url}?{signer.presign(method, target, signed, expires_s, self.time_ms() / 1000)}"

    async def send(
        self, request: Request, *, check_lease: LeaseCheck = no_check, priority: Priority = Priority.NORMAL
    ) -> S3Response:
        """Send a request once. Return its response if it is a success, or the 404 to a HEAD, with the body unread.

        The limit on the whole response (`Timeouts`) applies until `S3Response.lift_deadline`.

        Raises the error that any other response or a transport failure maps to, and what `check_lease` raises.
        """
        operation, _, encoded_key, query, headers, body, size_bytes, accept_encoding = request
        if self._rate_limiter is not None:  # before a connection is occupied and the lease is checked
            await self._rate_limiter.admit(size_bytes, streamed=not isinstance(body, bytes), priority=priority)
        method = "GET" if operation == "LIST" else operation
        try:
            connection = await self._pool.acquire()
        except TransportError as error:
            raise self.transport_error(request, error) from error
        try:
            signer = self._signer
            if signer is None or time.monotonic() >= self._provider.valid_until_s:
                signer = await self._current_signer()
            head = self._request_head(method, encoded_key, query, headers, size_bytes, accept_encoding, signer)
            check_lease()
            if isinstance(body, bytes):
                timeouts, is_list = self._timeouts, operation == "LIST"
                connection.send(
                    head, body, size_bytes=size_bytes, is_head=method == "HEAD", may_be_silent=is_list,
                    timeout_s=timeouts.write_s if method in WRITES else timeouts.list_s if is_list else timeouts.read_s,
                )  # fmt: skip
            elif isinstance(body, SplicedBody) and not self.endpoint.max_bytes_per_s and body.can_move_to(connection):
                await body.send(connection, head, size_bytes)
                connection.end_within(self._timeouts.write_s)
            else:
                await self._send_stream(connection, head, body(), size_bytes)
            response = S3Response(await connection.head(), connection, self._pool)
        except BaseException as error:
            connection.abort()
            self._pool.release(connection)
            if isinstance(error, TransportError):
                raise self.transport_error(request, error) from error
            raise
        date = response.headers.get("date", self._date)
        if date != self._date:
            store_ms = http_date_ms(date)
            if store_ms is not None:  # a Date that was not seen before: its second has just started
                self._date = date
                self._clock_offset_ms = store_ms - round(time.monotonic() * 1000)
        status = response.status
        if status in (_WRITTEN if method in WRITES else _READ) or (status == 404 and method == "HEAD"):
            return response
        try:
            error_body = await response.read_prefix(RESULT_LIMIT_BYTES)
        except TransportError:
            error_body = b""  # the status suffices
        raise self._response_error(request, response, error_body)

    async def call(
        self,
        request: Request,
        *,
        check_lease: LeaseCheck = no_check,
        priority: Priority = Priority.NORMAL,
        retry: bool = True,
        retry_mismatch: bool = True,
        limit_bytes: int = RESULT_LIMIT_BYTES,
    ) -> S3Response:
        """Send a request, and read its response, up to `limit_bytes`, into `S3Response.content`.

        Attempts that fail with a transient error are repeated if `retry`; with `retry_mismatch` False not those that
        fail with IntegrityError, such as BadDigest. `indeterminate` of the response, or of the
        error, is set if any attempt of a write was sent and never answered.
        """
        indeterminate = False
        retries = Retries()
        while True:
            try:
                response = await self.send(request, check_lease=check_lease, priority=priority)
                if response.length == 0:
                    response.close()
                else:
                    try:
                        content = response.content = await response.read_prefix(limit_bytes)
                    except TransportError as error:
                        raise self.transport_error(request, error) from error
                    if b"<Error" in content:  # S3 may report one after a 200 (S3 API reference, "CopyObject")
                        raise self._response_error(request, response, content)  # noqa: TRY301
            except StoreError as error:
                indeterminate = error.indeterminate = error.indeterminate or indeterminate
                if not retry or (isinstance(error, IntegrityError) and not retry_mismatch):
                    raise
                await retries.pause(error)
            except Exception as error:
                if isinstance(error, S3S3Error) or not isinstance(request.body, bytes):  # or one of a body's iterator
                    raise
                raise internal_error(error, self.endpoint.name, request.operation, request.key) from error
            else:
                response.indeterminate = indeterminate
                return response

    def parse(self, request: Request, response: S3Response) -> Element:
        """Return the root of a response's XML after `call`. Raises UnexpectedResponse."""
        try:
            return parse_result(response.content)
        except UnexpectedResponse as error:
            raise not_from_store(self.signing_endpoint, request.operation, request.key, error.message) from error

    def transport_error(self, request: Request, error: TransportError) -> StoreError:
        """Return the error of s3s3's tree for a request that got no complete response."""
        endpoint, address = self.signing_endpoint, self._address
        return error_for_failure(endpoint, address, request.operation, request.key, error, self._proxy)

    def _response_error(self, request: Request, response: S3Response, body: bytes) -> StoreError:
        error = error_for_response(
            self.signing_endpoint,
            request.operation,
            request.key,
            status=response.status,
            headers=response.headers,
            body=body,
            proxy=self._proxy,
        )
        if isinstance(error, AccessDenied):  # also InvalidCredentials; a 403 to a HEAD may be either
            self._provider.on_refused()
        return error

    async def _send_stream(
        self, connection: Connection, head: bytes, chunks: AsyncIterator[bytes], size_bytes: int
    ) -> None:
        if self._rate_limiter is not None:
            chunks = _rate_limited(chunks, self._rate_limiter)
        try:
            await connection.send_stream(head, chunks, size_bytes)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        # The store has the whole body and may store it: the request must end before another worker may write the key.
        connection.end_within(self._timeouts.write_s)

    async def _current_signer(self) -> Signer:
        """Return a signer for the current credentials. Raises InvalidCredentials if there are none."""
        credentials = await self._provider.load()
        if self._signer is None or credentials is not self._credentials:
            self._credentials = credentials
            self.signing_endpoint = replace(
                self.endpoint, access_key_id=credentials.access_key_id,
                secret_access_key=credentials.secret_access_key, session_token=credentials.session_token,
            )  # fmt: skip
            self._signer = signer(self.endpoint.signature_version, credentials, self.endpoint.region)
        return self._signer

    def _request_head(
        self, method: str, encoded_key: str, query: Query, headers: Mapping[str, str], size_bytes: int,
        accept_encoding: str, signer: Signer,
    ) -> bytes:  # fmt: skip
        """Return the request line and headers. Raises StoreRefused for a header that contains a line break."""
        address = self._address
        path = f"{address.base}/{encoded_key}"
        sent = {"host": address.host_header, **headers}
        sent.update(signer.sign(method, RequestTarget(path, f"{address.resource_base}/{encoded_key}", query), sent))
        if method in ("PUT", "POST"):
            sent["content-length"] = str(size_bytes)
        elif accept_encoding or method == "GET":
            sent["accept-encoding"] = accept_encoding or "identity"
        if query:
            path = f"{path}?{encode_query(query)}"
        if self._proxied_url and self._proxy is not None:
            path = self._proxied_url + path
            sent.update(self._proxy.headers)
        lines = "\r\n".join(map(": ".join, sent.items()))
        text = f"{method} {path} HTTP/1.1\r\n{lines}\r\n\r\n"
        values = "".join(sent.values())  # paths are encoded, and names come from the heads of responses
        if "\n" in values or "\r" in values or "\0" in values:
            raise StoreRefused("a header of the object contains a line break or a NUL", store=self.endpoint.name)
        return text.encode("utf-8", "surrogateescape")


async def _rate_limited(chunks: AsyncIterator[bytes], rate_limiter: RateLimiter) -> AsyncGenerator[bytes, None]:
    """Yield a stream in chunks as they are admitted. The connection's read timeout does not apply to this wait."""
    try:
        async for chunk in chunks:
            at = 0
            while at < len(chunk):
                part = chunk[at : at + rate_limiter.chunk_bytes]
                await rate_limiter.admit_chunk(len(part))
                at += len(part)
                yield part
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
