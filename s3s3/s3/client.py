"""The async data path: one bucket of one store, under one prefix."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Literal

from ..errors import InvalidKey, NoSuchKey, StoreError, StoreRefused
from ..model import Endpoint
from .attributes import ObjectAttributes
from .error_mapping import etag_in_body
from .keys import KeyMapper, Query, encode_key
from .listing import BucketLister, Page
from .multipart import Multipart
from .objects import ObjectInfo, ObjectStream, PutResult, S3Response, encrypted, object_info
from .request import Body, LeaseCheck, RateLimiter, S3Requester, no_check, with_retries
from .transport.pool import Timeouts


class Store:
    """One endpoint of one route.

    Keys are names in the source. Every method raises errors of `s3s3.errors.StoreError`'s tree. A request whose body
    can be sent again is tried three times within seconds where that can help.

    Args:
        endpoint: bucket and prefix, and how to speak with the store.
        source_prefix: the prefix of the route's source; `endpoint.prefix` takes its place here. For the source itself
            both are the same.
        connections: kept and used at once, at most.
        timeouts: see Timeouts.
        list_version: 2, or 1 where it is known that the store has no list-type=2; it is found out otherwise.
        gate: makes every request wait for its turn.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        source_prefix: str = "",
        connections: int = 64,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
        list_version: Literal[1, 2] = 2,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self._names = KeyMapper(endpoint, source_prefix)
        self._exchange = S3Requester(endpoint, connections=connections, timeouts=timeouts, rate_limiter=rate_limiter)
        self._put_headers = _put_headers(endpoint)
        self._list_version = list_version
        self.multipart = Multipart(self._exchange, self._names, self._put_headers)
        self.marks = ObjectAttributes(self._exchange, self._names)

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections."""
        await self._exchange.close()

    def source_time_ms(self) -> int:
        """Return the time now by the store's clock (Unix, ms): this machine's until a first answer has come."""
        return self._exchange.time_ms()

    async def get(self, key: str) -> ObjectStream:
        """Open an object. Raises NoSuchKey, NoSuchBucket and the rest of StoreError's tree."""
        endpoint_key = self._names.held(key)
        return await with_retries(lambda: self._open(key, endpoint_key))

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object and, where it has at most `limit_bytes`, read it too.

        A body that breaks off is tried again like a request that failed. The content is None where the object is
        larger; the reading is then open, and the caller's to close.
        """
        endpoint_key = self._names.held(key)

        async def attempt() -> tuple[ObjectStream, bytes | None]:
            reading = await self._open(key, endpoint_key)
            if reading.info.size_bytes > limit_bytes:
                return reading, None
            return reading, await reading.body()

        return await with_retries(attempt)

    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object; None on a 404, which may mean that there is no such bucket."""
        endpoint_key = self._names.held(key)

        async def attempt() -> ObjectInfo | None:
            answer = await self._exchange.ask("HEAD", key, endpoint_key)
            answer.close()
            return None if answer.status == 404 else self._held("HEAD", key, answer)

        return await with_retries(attempt)

    async def location(
        self, key: str, *, method: str = "GET", signed_for_s: int | None = None, query: Query = ()
    ) -> str:
        """Return a URL of an object, for somebody else to ask.

        Args:
            method: what may be asked with it, where it is signed.
            signed_for_s: how long whoever holds it may use it; None: it is not signed, for a bucket that is public.
            query: to be asked with it.
        """
        return await self._exchange.location(self._names.held(key), method, signed_for_s, query)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int,
        md5: bytes,
        headers: Mapping[str, str],
        check_lease: LeaseCheck = no_check,
    ) -> PutResult:
        """Store an object in one PUT with Content-MD5.

        Args:
            key: its name in the source.
            body: the bytes, sent again where an attempt fails; or what gives an iterator over them, sent once. When
                the iterator raises, also after its last chunk, the connection is reset before the body is complete, so
                that the store keeps what it had, and the exception comes out of here.
            size_bytes: of the body.
            md5: the digest of the body (16 bytes).
            headers: the object's own, as `ObjectStream.headers` gives them.
            permit: called right before each attempt; what it raises comes out of here, and nothing is sent.

        Raises:
            StoreError: with `indeterminate` set where an attempt was sent and got no answer.
        """
        endpoint_key = self._names.held(key)
        signed = {**headers, **self._put_headers, "content-md5": b64encode(md5).decode()}
        indeterminate = False

        async def attempt() -> PutResult:
            nonlocal indeterminate
            try:
                answer = await self._exchange.ask(
                    "PUT", key, endpoint_key, headers=signed, body=body, size_bytes=size_bytes, check_lease=check_lease
                )
                await self._exchange.read_result("PUT", key, answer)
            except StoreError as error:
                indeterminate = error.indeterminate = error.indeterminate or indeterminate
                raise
            return PutResult(answer.headers.get("etag", "").strip('"'), encrypted(answer.headers), indeterminate)

        return await (with_retries(attempt) if isinstance(body, bytes) else attempt())

    async def copy(
        self,
        key: str,
        source_bucket: str,
        *,
        etag: str,
        headers: Mapping[str, str] | None = None,
        check_lease: LeaseCheck = no_check,
    ) -> PutResult:
        """Have the store copy an object from another of its buckets, by one PUT without a body.

        Whoever calls compares what `PutResult` says with what was to be copied: Ceph (16) heeds no condition.

        Args:
            key: its name in the source.
            source_bucket: where that is, in this same store.
            etag: only what has this ETag is to be copied.
            headers: the copy's own, in place of the source's; None: as the source has them.
            permit, and errors: as for `put`.
        """
        endpoint_key = self._names.held(key)
        signed = {
            **(headers or {}),
            **self._put_headers,
            # Encoded like a path (S3 API reference, "CopyObject").
            "x-amz-copy-source": f"/{encode_key(source_bucket)}/{encode_key(key)}",
            "x-amz-copy-source-if-match": f'"{etag}"',
        }
        if headers is not None:
            signed["x-amz-metadata-directive"] = "REPLACE"
        indeterminate = False

        async def attempt() -> PutResult:
            nonlocal indeterminate
            try:
                answer = await self._exchange.ask("PUT", key, endpoint_key, headers=signed, check_lease=check_lease)
                said = await self._exchange.read_result("PUT", key, answer)
            except StoreError as error:
                indeterminate = error.indeterminate = error.indeterminate or indeterminate
                raise
            return PutResult(etag_in_body(said), encrypted(answer.headers), indeterminate)

        return await with_retries(attempt)

    async def delete(self, key: str, *, check_lease: LeaseCheck = no_check) -> bool:
        """Delete an object; one that is not there is as good as deleted. `check_lease` and errors as for `put`.

        Returns whether an attempt before the one that succeeded got no answer: it may yet be carried out.
        """
        endpoint_key = self._names.held(key)
        indeterminate = False

        async def attempt() -> bool:
            nonlocal indeterminate
            try:
                answer = await self._exchange.ask("DELETE", key, endpoint_key, check_lease=check_lease)
                await self._exchange.read_result("DELETE", key, answer)
            except NoSuchKey:
                pass
            except StoreError as error:
                indeterminate = error.indeterminate = error.indeterminate or indeterminate
                raise
            return indeterminate

        return await with_retries(attempt)

    def pages(self, *, start_after: str = "", until: str | None = None) -> AsyncGenerator[Page, None]:
        """Yield what is held under the prefix, sorted, in pages; the next one is fetched while one is looked at.

        Args:
            start_after: the name after which to begin.
            until: the last name that is wanted.

        Raises:
            ListingOutOfOrder: the keys do not ascend; a key that comes again at the border of two pages is dropped.
            StoreError: the rest of its tree.
        """
        return self._lister().pages(self._names.held(start_after) if start_after else "", until)

    async def some(self, start_after: str, most: int) -> Page:
        """Return up to `most` entries (1 to 1,000) after a name, in order; none where nothing comes after it.

        Raises what `pages` raises, and InvalidKey for what no store takes as a name.
        """
        return await self._lister().some(self._names.held(start_after) if start_after else "", most)

    def can_name(self, key: str) -> bool:
        """Whether this is a key that the endpoint could hold, so that a listing can begin after it."""
        try:
            self._names.held(key)
        except InvalidKey:
            return False
        return True

    def _lister(self) -> BucketLister:
        return BucketLister(self._exchange, self.endpoint, self._names, self._list_version)

    async def _open(self, key: str, endpoint_key: str) -> ObjectStream:
        answer = await self._exchange.ask("GET", key, endpoint_key)
        return ObjectStream(
            self._held("GET", key, answer), answer, lambda error: self._exchange.failure("GET", key, error)
        )

    def _held(self, operation: str, key: str, answer: S3Response) -> ObjectInfo:
        try:
            return object_info(key, answer.headers)
        except ValueError as error:
            answer.close()
            raise StoreRefused(
                f"the store answered with {error}", store=self.name, operation=operation, key=key, status=answer.status
            ) from error


def _put_headers(endpoint: Endpoint) -> dict[str, str]:
    wanted = {
        "x-amz-storage-class": endpoint.storage_class,
        "x-amz-acl": endpoint.acl,
        "x-amz-server-side-encryption": endpoint.server_side_encryption,
    }
    return {name: value for name, value in wanted.items() if value is not None}
