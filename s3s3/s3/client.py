"""Async S3 client for one bucket and prefix: get, head, put, copy, delete, list."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Literal

from ..errors import AccessDenied, IntegrityError, InvalidKey, NoSuchKey, S3S3Error, StoreError, UnexpectedResponse
from ..model import Endpoint, Entry, md5_of_etag
from .address import Query
from .attributes import ObjectAttributes
from .error_mapping import advice_for_pages, not_from_store, readable
from .listing import BucketLister, Page
from .multipart import Multipart
from .objects import (
    BodyReader,
    ObjectInfo,
    ObjectStream,
    PutResult,
    S3Response,
    Spool,
    body_chunks,
    has_store_header,
    is_encrypted,
    is_from_store,
    object_info,
    plain_etag,
    strong_etag,
)
from .request import (
    Body,
    KeyMapper,
    LeaseCheck,
    RateLimiter,
    Request,
    Retries,
    S3Requester,
    encode_key,
    internal_error,
    no_check,
)
from .transport.errors import TransportError
from .transport.limits import Timeouts
from .xml import etag_in_body

#: What to request an object with if the response of unknown length to the other one was not what the store has.
_OTHER_ENCODING = {"gzip": "identity", "identity": "gzip"}


class Store:
    """The objects of one endpoint.

    Keys are those of the source. All methods raise errors of StoreError's tree. A request is attempted three times
    within seconds if it fails with a transient error, except for a streamed PUT.

    Args:
        source_prefix: the prefix of the route's source, which `endpoint.prefix` replaces here; equal for the source.
        connections: the maximum number of connections.
        timeouts: None: the defaults, and what the endpoint's table sets.
        list_version: 1 if the store is known not to support list-type=2; otherwise the first listing finds out.
        rate_limiter: delays every request.
        spool: reads an object that a GET returns without Content-Length; None: such a response is refused.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        source_prefix: str = "",
        connections: int = 64,
        timeouts: Timeouts | None = None,
        list_version: Literal[1, 2] = 2,
        rate_limiter: RateLimiter | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self._mapper = KeyMapper(endpoint, source_prefix)
        timeouts = timeouts or Timeouts().for_endpoint(endpoint)
        self._requester = S3Requester(endpoint, connections=connections, timeouts=timeouts, rate_limiter=rate_limiter)
        put_headers = {
            "x-amz-storage-class": endpoint.storage_class,
            "x-amz-acl": endpoint.acl,
            "x-amz-server-side-encryption": endpoint.server_side_encryption,
        }
        self._put_headers = {name: value for name, value in put_headers.items() if value is not None}
        self._list_version = list_version
        self._spool = spool
        self.multipart = Multipart(self._requester, self._mapper, self._put_headers)
        self.attributes = ObjectAttributes(self._requester, self._mapper)

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._requester.close()

    def source_time_ms(self) -> int:
        """Return the time by the store's clock (Unix, ms); by the local clock before the first response."""
        return self._requester.time_ms()

    async def get(self, key: str) -> ObjectStream:
        """Open an object. Raises NoSuchKey, NoSuchBucket and the rest of StoreError's tree."""
        return (await self.fetch(key, -1))[0]

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object, and read it if it has at most `limit_bytes`. A body that breaks off is read again.

        A response that does not show that an S3 store sent it is confirmed by a HEAD. IntegrityError: they contradict.

        A proxy that changes the content cannot announce a Content-Length. Many decompress what has a Content-Encoding
        for a client that does not accept that (nginx with `gunzip`, GCS, R2), and others compress for one that does.
        So an object without a length is requested both ways. If it has none either way, its content is spooled.

        Returns the stream, and the content; None if the object is larger: the caller reads and closes the stream.
        """
        request = get = Request("GET", key, self._mapper.encoded_key(key))
        retries = Retries()
        confirmed = None
        while True:
            try:
                response = await self._requester.send(request)
                if response.length is None:
                    if not request.accept_encoding:
                        response.close()
                        request = request._replace(accept_encoding="gzip")
                        continue
                    stream = await self._spooled(request, response)
                    return stream, None if stream.info.size_bytes > limit_bytes else await stream.body()
                try:
                    info = object_info(self.name, "GET", key, response)
                except UnexpectedResponse:
                    response.close()
                    raise
                response.lift_deadline()
                stream = ObjectStream(info, response, lambda error: self._requester.transport_error(get, error))
                content = None if info.size_bytes > limit_bytes else await stream.body()
                if is_from_store(response.headers, info.etag) or confirmed == (info.size_bytes, info.etag):
                    return stream, content
                await stream.close()  # an open one occupies a connection, for which all HEADs could wait
                confirmed = await self._confirm_get(info)
                if content is not None:
                    return stream, content
            except StoreError as error:
                await retries.pause(error)
                if request.accept_encoding:
                    request = request._replace(accept_encoding=_OTHER_ENCODING[request.accept_encoding])
            except Exception as error:
                if isinstance(error, S3S3Error):
                    raise
                raise internal_error(error, self.name, "GET", key) from error

    async def _spooled(self, request: Request, response: S3Response) -> ObjectStream:
        """Read the body of a GET of unknown length to its end.

        Its end is proven by the MD5 in the ETag, or by a HEAD. IntegrityError: that shows another object.
        """
        assert request.key is not None
        headers = response.headers

        def to_store_error(error: TransportError) -> StoreError:
            return self._requester.transport_error(request, error)

        etag, size_bytes, md5 = strong_etag(headers), None, ""
        content: BodyReader = response
        has_evidence = is_from_store(headers, etag)
        try:
            if self._spool is not None and response.status == 200 and (has_evidence or has_store_header(headers)):
                response.lift_deadline()
                content, size_bytes, md5 = await self._spool(body_chunks(response, request.key, to_store_error))
            info = object_info(self.name, "GET", request.key, response, size_bytes)
            if not has_evidence or info.encrypted or md5_of_etag(etag) != md5:
                found = await self.head(request.key)
                if found is None or found.size_bytes != size_bytes or etag not in ("", found.etag):
                    raise self._contradiction("GET", info, "HEAD", found)  # noqa: TRY301
                info = info._replace(etag=found.etag)
        except BaseException:
            content.close(abort=True)
            raise
        return ObjectStream(info, content, to_store_error)

    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object. Return None on a 404, which can also mean that the bucket does not exist.

        A response that does not show that an S3 store sent it is confirmed by a LIST. IntegrityError: they contradict.
        """
        return (await self._head(key))[0]

    async def confirm_missing(self, key: str) -> ObjectInfo | None:
        """Look again for an object after a GET returned NoSuchKey. Return None if it does not exist.

        A HEAD must find no object, and neither must a LIST, unless it is denied: a store that answers GET and HEAD from
        the same file reports a lost object as missing twice, and only its listing still has it (Swift). Without a
        header that only object stores send, a LIST must not be denied either: any gateway answers 404.
        """
        info, has_evidence = await self._head(key)
        if info is None:
            try:
                entry = await self._listed(key)
            except AccessDenied as error:
                if not has_evidence or error.code != "AccessDenied":  # a page of a firewall is not the store's response
                    raise
                return None
            return None if entry is None else ObjectInfo(*entry)
        return info

    async def _head(self, key: str) -> tuple[ObjectInfo | None, bool]:
        """HEAD an object. Return what `head` does, and whether only an object store sends such a response."""
        request = Request("HEAD", key, self._mapper.encoded_key(key))
        response = await self._requester.call(request)
        if response.length is None and response.status == 200:  # see `fetch`
            response = await self._requester.call(request._replace(accept_encoding="gzip"))
        has_evidence = has_store_header(response.headers)
        try:
            if response.status == 404:
                return None, has_evidence
            if response.length is None and response.status == 200:
                return await self._head_of_unknown_length(key, response), has_evidence
            info = object_info(self.name, "HEAD", key, response)
        except Exception as error:
            if isinstance(error, StoreError):
                raise
            raise internal_error(error, self.name, "HEAD", key) from error
        if not has_evidence and not is_from_store(response.headers, info.etag):
            entry = await self._listed(key)
            etags = {info.etag, "" if entry is None else entry.etag} - {""}
            if entry is None or entry.size_bytes != info.size_bytes or len(etags) > 1:
                raise self._contradiction("HEAD", info, "the listing", entry)
        return info, has_evidence

    async def _head_of_unknown_length(self, key: str, response: S3Response) -> ObjectInfo:
        """Return an object's description with the size from a listing, of which a HEAD has none."""
        entry = await self._listed(key)
        info = object_info(self.name, "HEAD", key, response, entry and entry.size_bytes)
        if entry is None or info.etag not in ("", entry.etag):
            raise self._contradiction("HEAD", info, "the listing", entry)
        return info._replace(etag=entry.etag)

    async def _listed(self, key: str) -> Entry | None:
        """Return an object's entry in a listing; None if it has none. Raises UnexpectedResponse for other content."""
        endpoint_key = self._mapper.endpoint_key(key)
        lister = self._lister(replace(self.endpoint, prefix=endpoint_key))
        listed = await lister.fetch_page(max_keys=1)  # the first key with this prefix is the key itself
        return listed.entries[0] if listed.first_key == endpoint_key else None

    async def _confirm_get(self, info: ObjectInfo) -> tuple[int, str]:
        """Return size and ETag of an object if a HEAD agrees with its GET; raise IntegrityError if not."""
        found = await self.head(info.key)
        if found is None or (found.size_bytes, found.etag) != (info.size_bytes, info.etag):
            raise self._contradiction("GET", info, "HEAD", found)
        return info.size_bytes, info.etag

    def _contradiction(
        self, operation: str, info: ObjectInfo, other: str, found: ObjectInfo | Entry | None
    ) -> IntegrityError:
        seen = "no object" if found is None else _described(found)
        message = f"returned {_described(info)}, but {other} shows {seen}"
        return IntegrityError(
            readable(message, self._requester.signing_endpoint), store=self.name, operation=operation, key=info.key,
            advice=advice_for_pages(self.endpoint),
        )  # fmt: skip

    async def object_url(
        self, key: str, *, method: str = "GET", expires_s: int | None = None, query: Query = ()
    ) -> str:
        """Return an object's URL, presigned for a method and `expires_s`, or not signed (None: a public bucket)."""
        return await self._requester.object_url(self._mapper.encoded_key(key), method, expires_s, query)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        size_bytes: int,
        md5: bytes,
        headers: Mapping[str, str],
        check_lease: LeaseCheck = no_check,
        is_hashed: bool = True,
    ) -> PutResult:
        """Store an object by one PUT with Content-MD5.

        Args:
            body: bytes, which are sent again if an attempt fails; or a function that returns an iterator over them,
                which is sent once. If the iterator raises, even after its last chunk, the connection is reset before
                the body is complete, so that the store keeps its old object; the exception is raised here.
            md5: the digest of the body (16 bytes).
            headers: the object's own, as in `ObjectInfo.headers`.
            check_lease: called right before each attempt; what it raises is raised here, and nothing is sent.
            is_hashed: `md5` was computed from the body. False: a body that the store refuses is not sent again.

        `indeterminate` of a StoreError is set if an attempt was sent and never answered. If the ETag of the response is
        not the MD5, a HEAD has to show the object; UnexpectedResponse: it does not. The result has no ETag if neither
        response proves that the object has this content.
        """
        headers = {**headers, **self._put_headers, "content-md5": b64encode(md5).decode()}
        request = Request("PUT", key, self._mapper.encoded_key(key), (), headers, body, size_bytes)
        response = await self._requester.call(request, check_lease=check_lease, retry=isinstance(body, bytes),
                                              retry_mismatch=is_hashed)  # fmt: skip
        written = PutResult(strong_etag(response.headers), is_encrypted(response.headers), response.indeterminate)
        if written.etag == md5.hex() and not written.encrypted and response.status != 202:
            return written
        return await self._confirm_put(key, size_bytes, md5.hex(), written)

    async def _confirm_put(self, key: str, size_bytes: int, md5: str, written: PutResult) -> PutResult:
        """Return the result of a PUT after a HEAD; raise UnexpectedResponse if that does not show the object."""
        info = await self._head_after_write(key, written.indeterminate)
        if info is not None and info.size_bytes == size_bytes:
            if written.etag and written.etag == info.etag:
                return written._replace(encrypted=written.encrypted or info.encrypted)
            stored_md5 = None if info.encrypted else md5_of_etag(info.etag)
            if not written.etag and stored_md5 in (None, md5):  # None: it may be the object that was there before
                return written._replace(etag=stored_md5 or "")
        raise self._without_effect("PUT", key, "answered without storing the object", written.indeterminate)

    async def copy(
        self,
        key: str,
        source_bucket: str,
        *,
        etag: str,
        headers: Mapping[str, str] | None = None,
        check_lease: LeaseCheck = no_check,
    ) -> PutResult:
        """Have the store copy an object from another of its buckets, by a PUT without a body.

        The caller must compare the returned ETag with the source's: Ceph (16) ignores the condition on it.

        Args:
            source_bucket: a bucket of the same store.
            etag: the source's; the store is asked to copy only an object with this ETag.
            headers: the copy's own, instead of the source's; None: the same as the source's.
            check_lease: and errors: as for `put`.
        """
        signed = {
            **(headers or {}),
            **self._put_headers,
            # Encoded like a path (S3 API reference, "CopyObject").
            "x-amz-copy-source": f"/{encode_key(source_bucket)}/{encode_key(key)}",
            "x-amz-copy-source-if-match": f'"{etag}"',
        }
        if headers is not None:
            signed["x-amz-metadata-directive"] = "REPLACE"
        request = Request("PUT", key, self._mapper.encoded_key(key), headers=signed)
        response = await self._requester.call(request, check_lease=check_lease)
        etag = plain_etag(etag_in_body(response.content))
        return PutResult(etag, is_encrypted(response.headers), response.indeterminate)

    async def delete(self, key: str, *, check_lease: LeaseCheck = no_check) -> bool:
        """Delete an object; a missing one counts as deleted. `check_lease` and errors as for `put`.

        A response that does not show that an S3 store sent it counts if a HEAD finds no object.

        Returns whether an earlier attempt was sent and never answered: the store may still carry it out.
        """
        request = Request("DELETE", key, self._mapper.encoded_key(key))
        try:
            response = await self._requester.call(request, check_lease=check_lease)
        except NoSuchKey as error:
            return error.indeterminate
        is_proven = response.status == 204 or (
            response.status == 200 and not response.content and has_store_header(response.headers)
        )
        if not is_proven and await self._head_after_write(key, response.indeterminate) is not None:
            message = "answered without deleting the object"
            raise self._without_effect("DELETE", key, message, response.indeterminate)
        return response.indeterminate

    async def _head_after_write(self, key: str, indeterminate: bool) -> ObjectInfo | None:
        """HEAD an object after a write was answered; `indeterminate`: an earlier attempt at it was not."""
        try:
            return await self.head(key)
        except StoreError as error:
            error.indeterminate = indeterminate
            raise

    def _without_effect(self, operation: str, key: str, message: str, indeterminate: bool) -> UnexpectedResponse:
        error = not_from_store(self.endpoint, operation, key, message)
        error.indeterminate = indeterminate
        return error

    def pages(self, *, start_after: str = "", until: str | None = None) -> AsyncGenerator[Page, None]:
        """Yield the entries after `start_after`, up to `until`, in pages. The next page is fetched ahead.

        Raises ListingOutOfOrder if the keys do not ascend. A key repeated at a page border is dropped.
        """
        return self._lister().pages(self._mapper.endpoint_key(start_after) if start_after else "", until)

    async def list_after(self, start_after: str, max_keys: int) -> Page:
        """Return up to `max_keys` (1 to 1,000) entries after a key; an empty page at the end. Raises as `pages`."""
        return await self._lister().list_after(self._mapper.endpoint_key(start_after) if start_after else "", max_keys)

    def is_valid_key(self, key: str) -> bool:
        """Return whether an object at the endpoint can have this key, so that a listing can start after it."""
        try:
            self._mapper.endpoint_key(key)
        except InvalidKey:
            return False
        return True

    def _lister(self, endpoint: Endpoint | None = None) -> BucketLister:
        return BucketLister(self._requester, endpoint or self.endpoint, self._mapper, self._list_version)


def _described(info: ObjectInfo | Entry) -> str:
    return f"{info.size_bytes} bytes with {f'the ETag {info.etag}' if info.etag else 'no ETag'}"
