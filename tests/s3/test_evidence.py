"""A success counts only with evidence that an S3 store sent it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from s3s3.errors import IntegrityError, StoreError, UnexpectedResponse
from s3s3.s3 import BucketAdmin, PutResult, Store
from s3s3.s3.listing import parse_page
from s3s3.s3.objects import is_from_store
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, response

CONTENT = b"content"
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER_MD5 = hashlib.md5(b"CONTENT").hexdigest()
PAGE = b"<html><body>Please log in</body></html>"
PAGE_MD5 = hashlib.md5(PAGE).hexdigest()
OPAQUE = '"5f3c-1a2b"'
LISTING = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>{entries}</ListBucketResult>"
ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-10-05T21:09:27.000Z</LastModified><ETag>{etag}</ETag>"
    "<Size>{size}</Size></Contents>"
)


def listing(*, key: str = "key", etag: str = "", size: int = len(CONTENT)) -> bytes:
    entries = ENTRY.format(key=key, etag=etag, size=size) if key else ""
    return response(body=LISTING.format(count=int(bool(key)), entries=entries).encode())


@dataclass
class Gateway:
    """Answers each method by its own script; a LIST is a GET of the bucket. Requests in `methods`, in order."""

    answers: Mapping[str, bytes]
    methods: list[str] = field(default_factory=list)

    async def __call__(self, received: ReceivedRequest) -> None:
        await received.read_body()
        method = "LIST" if received.target.startswith(b"/bucket/?") else received.method
        self.methods.append(method)
        received.write_unchanged(self.answers[method])


def object_response(method: str, body: bytes = CONTENT, **headers: Any) -> bytes:
    return response(body=b"" if method == "HEAD" else body, content_length=str(len(body)), **headers)


def described(**headers: Any) -> dict[str, bytes]:
    """The same object for GET and HEAD."""
    return {method: object_response(method, **headers) for method in ("GET", "HEAD")}


#: What a portal sends for every request.
PORTAL = {
    method: object_response(method, PAGE, content_type="text/html; charset=utf-8")
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "LIST")
}


def server_for(gateway: Gateway) -> RawServer:
    return RawServer([gateway])


async def put(store: Store, content: bytes = CONTENT) -> PutResult:
    return await store.put("key", content, size_bytes=len(content), md5=hashlib.md5(content).digest(), headers={})


@pytest.mark.parametrize(
    "headers",
    [
        {"etag": f'"{MD5}"'},
        {"etag": MD5},  # Swift's own API sends it without quotes
        {"etag": f'"{MD5}-2"'},
        {"etag": f'"{MD5}-N"'},  # a large object of Swift, through its S3 API
        {"etag": f'"{MD5.upper()}"', "x_oss_request_id": "1"},
        {"etag": OPAQUE, "x_amz_server_side_encryption": "aws:kms"},
        {"etag": f'"{MD5}"', "content_type": "text/html", "x_amz_request_id": "1"},
    ],
)
async def test_the_response_of_a_store_costs_no_further_request(headers: dict[str, str]) -> None:
    gateway = Gateway(described(**headers))
    async with server_for(gateway) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == CONTENT
        await (await store.get("key")).close()
        assert await store.head("key") is not None
    assert gateway.methods == ["GET", "GET", "HEAD"]


@pytest.mark.parametrize("etag", [OPAQUE, None, 'W/"5f3c"', f'W/"{MD5}"'])
async def test_an_unusual_etag_of_a_store_is_confirmed_by_a_head(etag: str | None) -> None:
    gateway = Gateway(described(etag=etag, x_amz_request_id="1"))
    async with server_for(gateway) as server, server.store() as store:
        stream, content = await store.fetch("key", 100)
    assert content == CONTENT
    assert stream.info.etag == ("5f3c-1a2b" if etag == OPAQUE else "")
    assert gateway.methods == ["GET", "HEAD"]


async def test_a_large_object_is_opened_again_after_its_head() -> None:
    """The first response is closed, so that all connections cannot wait for those of the HEADs."""
    gateway = Gateway(described(etag=OPAQUE, x_amz_request_id="1"))
    async with server_for(gateway) as server, server.store(connections=1) as store, await store.get("key") as stream:
        assert await stream.body() == CONTENT
    assert gateway.methods == ["GET", "HEAD", "GET"]


@pytest.mark.parametrize("etag", [OPAQUE, None])
async def test_an_object_without_a_header_of_a_store_is_confirmed_by_a_listing(etag: str | None) -> None:
    gateway = Gateway({**described(etag=etag), "LIST": listing(etag=etag or f'"{MD5}"')})
    async with server_for(gateway) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == CONTENT
    assert gateway.methods == ["GET", "HEAD", "LIST"]
    assert b"prefix=key" in server.requests[2].target
    assert b"max-keys=1" in server.requests[2].target


@pytest.mark.parametrize("etag", [None, OPAQUE, f'"{PAGE_MD5}"', f'W/"{PAGE_MD5}"'])
async def test_a_page_of_a_portal_is_not_an_object(etag: str | None) -> None:
    headers = {"etag": etag, "content_type": "text/html"}
    portal = {method: object_response(method, PAGE, **headers) for method in ("GET", "HEAD", "LIST")}
    async with server_for(Gateway(portal)) as server, server.store() as store:
        for operation in (store.fetch("key", 100), store.get("key"), store.head("key")):
            with pytest.raises(
                UnexpectedResponse, match=r"not a response of S3: check host and port in \[destination-raw"
            ):
                await operation


@pytest.mark.parametrize(
    "answers",
    [
        {"HEAD": object_response("HEAD", b"longer content", etag=f'"{MD5}"')},
        {"HEAD": object_response("HEAD", etag=f'"{OTHER_MD5}"')},
        {"HEAD": response(404)},
        {"LIST": listing(size=8)},
        {"LIST": listing(etag=f'"{MD5}"'), **described(etag=OPAQUE)},
        {"LIST": listing(key="key/2")},
        {"LIST": listing(key="")},
    ],
)
async def test_contradicting_answers_about_an_object_are_a_failure(answers: dict[str, bytes], monkeypatch: Any) -> None:
    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 0.0)
    async with server_for(Gateway({**described(), "LIST": listing(), **answers})) as server, server.store() as store:
        with pytest.raises(IntegrityError, match=r"but (HEAD|the listing) shows") as caught:
            await store.fetch("key", 100)
    assert caught.value.retriable


async def test_a_put_with_the_md5_as_etag_costs_no_further_request() -> None:
    gateway = Gateway({"PUT": response(etag=f'"{MD5}"')})
    async with server_for(gateway) as server, server.store() as store:
        assert (await put(store)).etag == MD5
    assert gateway.methods == ["PUT"]


async def test_a_put_answered_by_a_portal_has_failed() -> None:
    async with server_for(Gateway(PORTAL)) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="not a response of S3") as caught:
            await put(store)
        with pytest.raises(UnexpectedResponse):  # the page has the size of the object
            await put(store, b"x" * len(PAGE))
    assert (caught.value.retriable, caught.value.indeterminate) == (True, False)


@pytest.mark.parametrize(
    "head",
    [
        response(404),
        object_response("HEAD", b"longer content", etag=f'"{MD5}"'),
        object_response("HEAD", etag=f'"{OTHER_MD5}"'),  # of the object that was there before
    ],
)
async def test_a_put_that_a_gateway_swallows_has_failed(head: bytes) -> None:
    async with server_for(Gateway({**PORTAL, "HEAD": head})) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="answered without storing the object"):
            await put(store)


@pytest.mark.parametrize(
    ("put_etag", "head_etag", "etag"),
    [
        (None, f'"{MD5}"', MD5),
        (OPAQUE, OPAQUE, "5f3c-1a2b"),
        (None, None, ""),
        (None, OPAQUE, ""),  # it may be the object that was there before
    ],
)
async def test_a_put_without_the_md5_is_confirmed_by_a_head(
    put_etag: str | None, head_etag: str | None, etag: str
) -> None:
    head = object_response("HEAD", etag=head_etag, x_amz_request_id="1")
    gateway = Gateway({"PUT": response(etag=put_etag), "HEAD": head})
    async with server_for(gateway) as server, server.store() as store:
        assert await put(store) == PutResult(etag, encrypted=False, indeterminate=False)
    assert gateway.methods == ["PUT", "HEAD"]


@pytest.mark.parametrize(
    ("answers", "methods"),
    [
        ({"DELETE": response(204)}, ["DELETE"]),
        ({"DELETE": response(x_amz_request_id="1")}, ["DELETE"]),
        ({"DELETE": response(), "HEAD": response(404)}, ["DELETE", "HEAD"]),
        ({"DELETE": PORTAL["DELETE"], "HEAD": response(404)}, ["DELETE", "HEAD"]),
    ],
)
async def test_a_deletion_counts_with_evidence(answers: dict[str, bytes], methods: list[str]) -> None:
    gateway = Gateway(answers)
    async with server_for(gateway) as server, server.store() as store:
        assert await store.delete("key") is False
    assert gateway.methods == methods


@pytest.mark.parametrize("answers", [PORTAL, {**PORTAL, **described(etag=f'"{MD5}"')}])
async def test_a_deletion_answered_by_a_portal_has_failed(answers: dict[str, bytes]) -> None:
    async with server_for(Gateway(answers)) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse) as caught:
            await store.delete("key")
    assert caught.value.retriable


async def test_parts_and_tags_answered_by_a_portal_have_failed() -> None:
    async with server_for(Gateway(PORTAL)) as server, server.store() as store:
        uploads = store.multipart
        for operation in (
            uploads.create("key", headers={}, check_lease=lambda: None),
            uploads.upload_part("key", "id", 1, CONTENT, size_bytes=7, md5=b"m" * 16, check_lease=lambda: None),
            store.attributes.put_tags("key", {"x-amz-tagging": "a=b"}, check_lease=lambda: None),
            store.attributes.tags("key"),
            store.attributes.acl("key"),
        ):
            with pytest.raises(UnexpectedResponse):
                await operation
        assert not await uploads.complete("key", "id", ["a"], check_lease=lambda: None)


async def test_a_well_formed_page_is_not_a_set_of_tags() -> None:
    async with server_for(Gateway({"GET": response(body=b"<html/>")})) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="not a Tagging"):
            await store.attributes.tags("key")


@pytest.mark.parametrize("etag", ['W/"{}"', "W/&quot;{}&quot;"])
def test_a_weak_etag_in_a_listing_is_none(etag: str) -> None:
    listed = [ENTRY.format(key="W/b", etag=f'"{MD5}"', size=7), ENTRY.format(key="key", etag=etag.format(MD5), size=7)]
    page = parse_page(LISTING.format(count=2, entries="".join(listed)).encode())
    assert [(entry.key, entry.etag) for entry in page.entries] == [("W/b", MD5), ("key", "")]


async def test_a_page_is_not_a_bucket() -> None:
    async with server_for(Gateway({"LIST": response(body=b"<html/>")})) as server:
        buckets = BucketAdmin(server.endpoint())
        with pytest.raises(UnexpectedResponse, match="not a listing: it is a 'html'"):
            await buckets.create()
        await buckets.close()


@pytest.mark.parametrize(
    ("answers", "size", "methods"),
    [
        ({"HEAD": response(404, x_amz_request_id="1"), "LIST": listing(key="")}, None, ["HEAD", "LIST"]),
        ({"HEAD": response(404), "LIST": listing(key="")}, None, ["HEAD", "LIST"]),
        ({"HEAD": response(404), "LIST": listing(key="key/2")}, None, ["HEAD", "LIST"]),
        ({"HEAD": response(404), "LIST": listing(size=9)}, 9, ["HEAD", "LIST"]),
        (described(etag=f'"{MD5}"'), 7, ["HEAD"]),
    ],
)
async def test_an_object_is_missing_if_neither_head_nor_list_has_it(
    answers: dict[str, bytes], size: int | None, methods: list[str]
) -> None:
    gateway = Gateway(answers)
    async with server_for(gateway) as server, server.store() as store:
        info = await store.confirm_missing("key")
    assert (info and info.size_bytes) == size
    assert gateway.methods == methods


STORES_404 = response(404, x_amz_request_id="1")
DENIED = error_response(403, "AccessDenied", "Access Denied")


@pytest.mark.parametrize(
    ("answer", "size"),
    [(listing(key=""), None), (listing(key="key/2"), None), (listing(size=9), 9), (DENIED, None)],
    ids=["absent", "another key", "listed", "denied"],
)
async def test_the_listing_is_a_witness_of_its_own(answer: bytes, size: int | None) -> None:
    gateway = Gateway({"HEAD": STORES_404, "LIST": answer})
    async with server_for(gateway) as server, server.store() as store:
        info = await store.confirm_missing("key")
    assert (info and info.size_bytes) == size
    assert gateway.methods == ["HEAD", "LIST"]


@pytest.mark.parametrize(
    "answers",
    [
        {"HEAD": response(404), "LIST": DENIED},
        {"HEAD": STORES_404, "LIST": response(body=b"<html/>")},
        {"HEAD": STORES_404, "LIST": response(403, b"<html>no</html>", content_type="text/html")},
    ],
    ids=["denied, and no store's 404", "a page", "a page of a firewall"],
)
async def test_a_listing_that_fails_is_no_witness(answers: dict[str, bytes]) -> None:
    async with server_for(Gateway(answers)) as server, server.store() as store:
        with pytest.raises(StoreError):
            await store.confirm_missing("key")


async def test_a_404_of_an_ingress_is_not_a_witness() -> None:
    async with server_for(Gateway({**PORTAL, "HEAD": response(404)})) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse):
            await store.confirm_missing("key")


@pytest.mark.parametrize("etag", ["", "a" * 31, "g" * 32, "a" * 33, "a" * 32 + "x1", "5f3c-1a2b"])
def test_other_etags_are_no_evidence(etag: str) -> None:
    assert not is_from_store({}, etag)
