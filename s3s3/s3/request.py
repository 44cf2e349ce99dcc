"""One attempt at a request: a connection, a signature, the request, the head of its answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from ..errors import IntegrityError, StoreError, StoreRefused, StoreUnavailable
from ..model import Endpoint
from .address import address_of
from .credentials import CredentialProvider
from .error_mapping import ERROR_BODY_LIMIT_BYTES, WRITES, error_for_failure, error_for_response
from .keys import Query, encode_key, encode_query
from .objects import S3Response
from .signing import Credentials, RequestTarget, Signer, signer
from .timestamps import http_date_ms
from .transport.connection import Connection
from .transport.errors import TransportError
from .transport.http_parser import Head
from .transport.pool import Pool, Timeouts

ATTEMPTS = 3
INITIAL_BACKOFF_S = 0.5
PAUSE_FACTOR = 4

Body = bytes | Callable[[], AsyncIterator[bytes]]
LeaseCheck = Callable[[], None]
_Result = TypeVar("_Result")


class RateLimiter(Protocol):
    """What makes requests to a store wait for their turn."""

    async def admit(self, size_bytes: int, *, streamed: bool, urgent: bool, begun: bool) -> None:
        """Wait until a request may be sent, with its body of that size where it is not streamed.

        Raises HandedBack where `give_up` came first, and it does not belong to something that has `begun`.
        """

    def give_up(self) -> None:
        """Let nothing wait to begin any more, since this process is about to end."""

    async def send(self, size_bytes: int) -> None:
        """Wait until so much of a stream may be sent."""

    @property
    def piece_bytes(self) -> int:
        """How much of a stream to send at once."""

    def slots(self, share: int) -> int | None:
        """Return how many jobs may be under way to the store, given its share of a process's slots; None: any number.

        More would only wait, in the way of other stores.
        """


async def paced(chunks: AsyncIterator[bytes], rate_limiter: RateLimiter) -> AsyncGenerator[bytes, None]:
    """Yield a stream in pieces, each when its turn has come. A connection is not failed for what is waited for here."""
    try:
        async for chunk in chunks:
            at = 0
            while at < len(chunk):
                piece = chunk[at : at + rate_limiter.piece_bytes]
                await rate_limiter.send(len(piece))
                at += len(piece)
                yield piece
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def no_check() -> None:
    """The permit of who needs none."""


async def with_retries(attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Make an attempt up to ATTEMPTS times where trying again can help within seconds, with full jitter between."""
    longest_pause_s = INITIAL_BACKOFF_S
    for _ in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except (StoreUnavailable, IntegrityError) as error:
            if not _was_too_old(error):
                await asyncio.sleep(random.uniform(0, longest_pause_s))
                longest_pause_s *= PAUSE_FACTOR
    return await attempt()


def _was_too_old(error: StoreError) -> bool:
    """Tell whether a kept connection turned out to be closed: no sign that the store is in trouble."""
    cause = error.__cause__
    return isinstance(cause, TransportError) and cause.kept and not cause.answered and cause.__cause__ is None


class S3Requester:
    """Asks one store. Errors leave it as those of `s3s3.errors`."""

    def __init__(
        self, endpoint: Endpoint, *, connections: int, timeouts: Timeouts, rate_limiter: RateLimiter | None = None
    ) -> None:
        self._endpoint = endpoint
        self._rate_limiter = rate_limiter
        self._timeouts = timeouts
        self._address = address_of(endpoint)
        self._pool = Pool(
            self._address.host,
            self._address.port,
            is_secure=endpoint.is_secure,
            connections=connections,
            timeouts=timeouts,
        )
        self._key_source = CredentialProvider(endpoint)
        self._keys: Credentials | None = None
        self._signer: Signer | None = None
        self._date = ""
        self._clock_offset_ms = round((time.time() - time.monotonic()) * 1000)

    async def close(self) -> None:
        """Drop every connection."""
        await self._pool.close()

    def time_ms(self) -> int:
        """Return the time by the store's clock, learned from the Date of its answers; this machine's before one."""
        return round(time.monotonic() * 1000) + self._clock_offset_ms

    async def location(self, endpoint_key: str, method: str, signed_for_s: int | None, query: Query = ()) -> str:
        """Return an object's URL, with a signature of the endpoint's own version where it is to be signed."""
        address = self._address
        target = address.target(encode_key(endpoint_key), query)
        url = f"{address.url}{target.path}"
        if signed_for_s is None:
            return f"{url}?{encode_query(query)}" if query else url
        sign = await self._current_signer()
        signed = {"host": address.host_header} if self._endpoint.signature_version == "s3v4" else {}
        return f"{url}?{sign.presign(method, target, signed, signed_for_s, self.time_ms() / 1000)}"

    async def ask(
        self,
        operation: str,
        key: str | None,
        endpoint_key: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        size_bytes: int = 0,
        check_lease: LeaseCheck = no_check,
    ) -> S3Response:
        """Make one attempt. Return a 200 or 204 (or a 404 to a HEAD); raise what any other answer amounts to.

        Args:
            operation: GET, HEAD, PUT, POST, DELETE, or LIST, which is a GET of the bucket.
            key: for errors only.
            held_key: the key as the endpoint holds it; "" is the bucket.
            headers: to be signed and sent.
        """
        if self._rate_limiter is not None:  # before a connection is taken, and before the permit is asked for
            await self._rate_limiter.admit(
                size_bytes, streamed=not isinstance(body, bytes), urgent=operation == "LIST", begun=bool(query)
            )  # what has a query follows something else: a part, the tags of an object
        method = "GET" if operation == "LIST" else operation
        target = self._address.target(encode_key(endpoint_key), query)
        try:
            connection = await self._pool.acquire()
        except TransportError as error:
            raise self.failure(operation, key, error) from error
        try:
            sign = await self._current_signer()
            check_lease()
            request = self._request(method, target, headers or {}, size_bytes, sign)
            head = await self._send(connection, method, request, body, size_bytes)
        except BaseException as error:
            connection.abort()
            self._pool.release(connection)
            if isinstance(error, TransportError):
                raise self.failure(operation, key, error) from error
            raise
        answer = S3Response(head, connection, self._pool)
        date = head.headers.get("date", self._date)
        if date != self._date:
            self._learn_time(date)
        if head.status in (200, 204) or (head.status == 404 and method == "HEAD"):
            return answer
        raise await self.refusal(operation, key, answer)

    async def read_result(self, operation: str, key: str | None, answer: S3Response) -> bytes:
        """Return what follows a 200. Raises what S3 may put there (S3 API reference, "CopyObject")."""
        try:
            said = await answer.beginning(ERROR_BODY_LIMIT_BYTES)
        except TransportError as error:
            raise self.failure(operation, key, error) from error
        if b"<Error" in said:
            status, headers = answer.status, answer.headers
            raise error_for_response(self._endpoint, operation, key, status=status, headers=headers, body=said)
        return said

    async def refusal(self, operation: str, key: str | None, answer: S3Response) -> StoreError:
        """Return the error that an answer amounts to, and be done with the answer."""
        try:
            body = await answer.beginning(ERROR_BODY_LIMIT_BYTES)
        except TransportError:
            body = b""  # the status says enough
        return error_for_response(
            self._endpoint, operation, key, status=answer.status, headers=answer.headers, body=body
        )

    def failure(self, operation: str, key: str | None, error: TransportError) -> StoreError:
        """Return the error that an exchange without an answer amounts to."""
        return error_for_failure(self._endpoint, self._address, operation, key, error)

    async def _send(self, connection: Connection, method: str, request: bytes, body: Body, size_bytes: int) -> Head:
        if not isinstance(body, bytes):
            chunks = body() if self._rate_limiter is None else paced(body(), self._rate_limiter)
            try:
                await connection.stream(request, chunks, size_bytes)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            # From here on it can be carried out whole, so it must be over before anybody else may write.
            connection.end_within(self._timeouts.write_s)
            return await connection.head()
        if method in WRITES:
            connection.end_within(self._timeouts.write_s)
        connection.send(request, body, without_body=method == "HEAD")
        return await connection.head()

    async def _current_signer(self) -> Signer:
        keys = self._key_source.at_hand() or await self._key_source.keys()
        if keys is not self._keys or self._signer is None:
            self._keys = keys
            self._signer = signer(self._endpoint.signature_version, keys, self._endpoint.region)
        return self._signer

    def _request(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], size_bytes: int, sign: Signer
    ) -> bytes:
        """Return the request up to its body. Raises StoreRefused for a header that would begin another."""
        sent = {"host": self._address.host_header, **headers}
        sent.update(sign.sign(method, target, sent))
        if method in ("PUT", "POST"):
            sent["content-length"] = str(size_bytes)
        elif method == "GET":
            sent["accept-encoding"] = "identity"
        query = f"?{encode_query(target.query)}" if target.query else ""
        lines = [f"{name}: {value}\r\n" for name, value in sent.items()]
        text = f"{method} {target.path}{query} HTTP/1.1\r\n{''.join(lines)}\r\n"
        if not text.count("\n") == text.count("\r") == len(lines) + 2 or "\0" in text:
            raise StoreRefused("a header of the object holds a line break or a NUL", store=self._endpoint.name)
        return text.encode("utf-8", "surrogateescape")

    def _learn_time(self, date: str) -> None:
        """Take the store's time from a Date not seen before: its second has just begun."""
        theirs_ms = http_date_ms(date)
        if theirs_ms is not None:
            self._date = date
            self._clock_offset_ms = theirs_ms - round(time.monotonic() * 1000)
