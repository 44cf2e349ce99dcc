"""Multipart uploads: create, upload part, complete, abort, list (S3 user guide, "Multipart upload").

The object is not visible before the upload is completed.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

from ..errors import StoreError, StoreRefused
from .address import Query
from .error_mapping import not_from_store
from .objects import PutResult, S3Response, has_store_header, is_encrypted, is_from_store, strong_etag
from .request import Body, KeyMapper, LeaseCheck, Priority, Request, S3Requester, no_check


class Multipart:
    """The multipart uploads of one endpoint. Keys, `check_lease` and errors are as for `Store.put`.

    Every object gets `put_headers`, those of the endpoint's settings.
    """

    def __init__(self, requester: S3Requester, mapper: KeyMapper, put_headers: Mapping[str, str]) -> None:
        self._requester = requester
        self._mapper = mapper
        self._put_headers = put_headers

    async def create(self, key: str, *, headers: Mapping[str, str], check_lease: LeaseCheck) -> str:
        """Create an upload and return its id."""
        request = Request(
            "POST", key, self._mapper.encoded_key(key), [("uploads", None)], {**headers, **self._put_headers}
        )
        response = await self._call(request, check_lease)
        upload_id = self._requester.parse(request, response).findtext("UploadId")
        if not upload_id:
            raise not_from_store(self._requester.endpoint, "POST", key, "the response has no upload id")
        return upload_id

    async def upload_part(
        self, key: str, upload_id: str, number: int, body: Body, *, size_bytes: int, md5: bytes, check_lease: LeaseCheck
    ) -> PutResult:
        """Upload a part, with retries. `indeterminate` of the result has no meaning.

        UnexpectedResponse: the response does not show that an S3 store sent it; completing the upload would fail.

        The `number` is from 1; a function `body` is called for each attempt; `md5` is the digest (16 bytes).
        """
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        headers = {"content-md5": b64encode(md5).decode()}
        request = Request("PUT", key, self._mapper.encoded_key(key), query, headers, body, size_bytes)
        response = await self._call(request, check_lease)
        headers = response.headers
        etag = strong_etag(headers)
        if not etag or not (is_from_store(headers, etag) or has_store_header(headers)):
            raise not_from_store(self._requester.endpoint, "PUT", key, f"answered without storing part {number}")
        etag = headers["etag"].strip('" ')  # unchanged: `complete` sends it back to the store
        return PutResult(etag, is_encrypted(headers), False)

    async def complete(self, key: str, upload_id: str, etags: Sequence[str], *, check_lease: LeaseCheck) -> bool:
        """Create the object from its parts, in one attempt: after a second one the effect of the first is unknown.

        Returns whether the response is that of a store which has done it; otherwise the object's ETag must show it.
        `indeterminate` of a StoreError is set if the store may still carry it out.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(etag)}&quot;</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        headers = {"content-type": "application/xml"}
        encoded_key = self._mapper.encoded_key(key)
        request = Request("POST", key, encoded_key, [("uploadId", upload_id)], headers, body, len(body))
        response = await self._requester.call(request, check_lease=check_lease, priority=Priority.STARTED, retry=False)
        return b"<CompleteMultipartUploadResult" in response.content

    async def abort(self, key: str, upload_id: str) -> None:
        """Abort an upload and delete its parts. A missing upload counts as aborted."""
        request = Request("DELETE", key, self._mapper.encoded_key(key), [("uploadId", upload_id)])
        try:
            await self._call(request, no_check)
        except StoreRefused as error:
            if error.status != 404:
                raise

    async def list_uploads(self, key: str) -> list[str]:
        """Return the ids of the key's uploads that are neither completed nor aborted."""
        endpoint_key = self._mapper.endpoint_key(key)
        query: Query = [("encoding-type", "url"), ("prefix", endpoint_key), ("uploads", None)]
        request = Request("LIST", key, "", query)
        root = self._requester.parse(request, await self._requester.call(request, priority=Priority.URGENT))
        decode = unquote_plus if (root.findtext("EncodingType") or "").lower() == "url" else str
        uploads = [(upload.findtext("Key") or "", upload.findtext("UploadId") or "") for upload in root.iter("Upload")]
        return [upload_id for uploaded_key, upload_id in uploads if decode(uploaded_key) == endpoint_key]

    async def _call(self, request: Request, check_lease: LeaseCheck) -> S3Response:
        """Send a request that changes no object, so that a missing response does not leave one indeterminate."""
        try:
            return await self._requester.call(request, check_lease=check_lease, priority=Priority.STARTED)
        except StoreError as error:
            error.indeterminate = False
            raise
