"""Objects that are written in parts, which nobody sees before the last step: "Multipart upload", S3 user guide."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

from ..errors import StoreError, StoreRefused
from .error_mapping import read_xml
from .keys import KeyMapper, Query
from .objects import PutResult, S3Response, encrypted
from .request import Body, LeaseCheck, S3Requester, with_retries

_Result = TypeVar("_Result")


class Multipart:
    """The multipart uploads of one endpoint. Keys, permits and errors are as for `Store.put`.

    Args:
        put_headers: those of the endpoint's settings, for every object.
    """

    def __init__(self, exchange: S3Requester, names: KeyMapper, put_headers: Mapping[str, str]) -> None:
        self._exchange = exchange
        self._names = names
        self._put_headers = put_headers

    async def begin(self, key: str, *, headers: Mapping[str, str], check_lease: LeaseCheck) -> str:
        """Begin an upload; return its id."""
        signed = {**headers, **self._put_headers}
        said = await self._unconditional(
            "POST", key, query=[("uploads", None)], headers=signed, check_lease=check_lease
        )
        upload_id = read_xml(said).findtext("UploadId")
        if not upload_id:
            raise StoreRefused("the store names no upload", operation="POST", key=key)
        return upload_id

    async def put(
        self, key: str, upload_id: str, number: int, body: Body, *, size_bytes: int, md5: bytes, check_lease: LeaseCheck
    ) -> PutResult:
        """Send a part, again where an attempt fails. Of its receipt, `indeterminate` says nothing.

        Args:
            number: from 1 on.
            body: what gives an iterator over the bytes, each time it is called.
            md5: the digest of the part (16 bytes).
        """
        endpoint_key = self._names.held(key)
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        headers = {"content-md5": b64encode(md5).decode()}

        async def attempt() -> PutResult:
            answer = await self._exchange.ask(
                "PUT",
                key,
                endpoint_key,
                query=query,
                headers=headers,
                body=body,
                size_bytes=size_bytes,
                check_lease=check_lease,
            )
            await self._exchange.read_result("PUT", key, answer)
            return PutResult(answer.headers.get("etag", "").strip('"'), encrypted(answer.headers), False)

        return await _without_effect(with_retries(attempt))

    async def complete(self, key: str, upload_id: str, etags: Sequence[str], *, check_lease: LeaseCheck) -> None:
        """Make the object of its parts, in one attempt: after a second nobody could tell what became of the first.

        Raises:
            StoreError: with `indeterminate` set where it may yet be carried out.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{escape(etag)}&quot;</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._exchange.ask(
            "POST", key, self._names.held(key), query=[("uploadId", upload_id)],
            headers={"content-type": "application/xml"}, body=body, size_bytes=len(body), check_lease=check_lease,
        )  # fmt: skip
        await self._exchange.read_result("POST", key, answer)

    async def abort(self, key: str, upload_id: str) -> None:
        """Give an upload up, with all its parts. One that there is not is as good as given up."""
        try:
            await self._unconditional("DELETE", key, query=[("uploadId", upload_id)])
        except StoreRefused as error:
            if error.status != 404:
                raise

    async def begun(self, key: str) -> list[str]:
        """Return the ids of the uploads of this key that were begun and are not ended.

        Raises:
            StoreRefused: also where the answer cannot be read.
        """
        endpoint_key = self._names.held(key)
        query: Query = [("encoding-type", "url"), ("prefix", endpoint_key), ("uploads", None)]

        async def attempt() -> bytes:
            answer = await self._exchange.ask("LIST", key, "", query=query)
            return await self._exchange.read_result("LIST", key, answer)

        said = await with_retries(attempt)
        root = read_xml(said)
        decoded = unquote_plus if root.findtext("EncodingType") == "url" else str
        uploads = [(upload.findtext("Key") or "", upload.findtext("UploadId") or "") for upload in root.iter("Upload")]
        return [upload_id for name, upload_id in uploads if decoded(name) == endpoint_key]

    async def _unconditional(
        self, operation: str, key: str, *, query: Query, headers: Mapping[str, str] | None = None,
        check_lease: LeaseCheck | None = None,
    ) -> bytes:  # fmt: skip
        """Ask for something that changes no object, and return what is said."""
        endpoint_key = self._names.held(key)

        async def attempt() -> bytes:
            answer: S3Response = await self._exchange.ask(
                operation, key, endpoint_key, query=query, headers=headers, check_lease=check_lease or (lambda: None)
            )
            return await self._exchange.read_result(operation, key, answer)

        return await _without_effect(with_retries(attempt))


async def _without_effect(asking: Awaitable[_Result]) -> _Result:
    """Await a request that changes no object: whether an answer came or not, nothing is in doubt."""
    try:
        return await asking
    except StoreError as error:
        error.indeterminate = False
        raise
