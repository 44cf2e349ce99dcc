"""Which deviations are accepted, and which refused, in what s3s3 reads from a store; as in docs/stores.md."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from s3s3.errors import IntegrityError, StoreError, StoreUnavailable, UnexpectedResponse
from s3s3.model import Entry
from s3s3.s3 import ObjectInfo, Store
from s3s3.s3.listing import parse_page
from tests.s3.raw_server import RawServer, ReceivedRequest, response
from tests.s3.test_evidence import Gateway

CONTENT = b"content"
MD5 = hashlib.md5(CONTENT).hexdigest()
MODIFIED_MS = 1_791_234_567_000
REQUEST_ID: dict[str, Any] = {"x_amz_request_id": "1"}
FROM_STORE: dict[str, Any] = {"etag": f'"{MD5}"', **REQUEST_ID}


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.s3.request.ATTEMPTS", 1)


# -- an object: GET and HEAD


def described(method: str, **changes: Any) -> bytes:
    headers = {"last_modified": "Mon, 05 Oct 2026 21:09:27 GMT", "content_length": "7", **FROM_STORE, **changes}
    return response(body=CONTENT if method == "GET" else b"", **headers)


async def read(**changes: Any) -> tuple[ObjectInfo, ObjectInfo]:
    """GET and HEAD an object with these headers."""
    gateway = Gateway({"GET": described("GET", **changes), "HEAD": described("HEAD", **changes)})
    async with RawServer([gateway]) as server, server.store() as store:
        stream, content = await store.fetch("key", 100)
        assert content == CONTENT
        head = await store.head("key")
        assert head is not None
        return stream.info, head


@pytest.mark.parametrize(
    ("header", "value", "field", "expected"),
    [
        ("etag", MD5, "etag", MD5),
        ("etag", f'"{MD5.upper()}"', "etag", MD5),
        ("etag", f'"{MD5.upper()}-2"', "etag", f"{MD5}-2"),
        ("etag", f' "{MD5}" ', "etag", MD5),
        ("etag", f'"{MD5}"\r\netag: "{MD5}"', "etag", MD5),
        ("etag", '"Base64+Capitals"', "etag", "Base64+Capitals"),
        ("etag", f'W/"{MD5}"', "etag", ""),
        ("etag", f'w/"{MD5}"', "etag", ""),
        ("etag", None, "etag", ""),
        ("last_modified", "Mon, 5 Oct 2026 21:09:27 GMT", "modified_ms", MODIFIED_MS),
        ("last_modified", "Monday, 05-Oct-26 21:09:27 GMT", "modified_ms", MODIFIED_MS),
        ("last_modified", "Mon Oct  5 21:09:27 2026", "modified_ms", MODIFIED_MS),
        ("last_modified", "Mon, 05 Oct 2026 23:09:27 +0200", "modified_ms", MODIFIED_MS),
        ("last_modified", "2026-10-05T21:09:27Z", "modified_ms", MODIFIED_MS),
        ("last_modified", "Mon, 05 Oct 2026 21:09:27 GMT\r\nlast-modified: Mon, 05 Oct 2026 21:09:27 GMT",
         "modified_ms", MODIFIED_MS),
        ("last_modified", "yesterday", "modified_ms", 0),
        ("last_modified", None, "modified_ms", 0),
        ("last_modified", "1" * 10_000, "modified_ms", 0),
        ("date", "yesterday", "etag", MD5),
        ("date", None, "etag", MD5),
        ("x_amz_expiration", 'rule-id="x", expiry-date="Fri, 23 Dec 2033 00:00:00 GMT"', "expires_ms",
         2_018_908_800_000),
        ("x_amz_expiration", 'expiry-date="soon"', "expires_ms", None),
        ("x_amz_expiration", "soon", "expires_ms", None),
        ("x_amz_server_side_encryption", "aws:kms:dsse", "encrypted", True),
        ("x_amz_server_side_encryption", "AES256", "encrypted", False),
        ("content_type", "text/plain\r\ncontent-type: text/plain", "headers", {"content-type": "text/plain"}),
        ("X-AMZ-Meta-A", "1", "headers", {"x-amz-meta-a": "1"}),
        ("content_length", "7\r\ncontent-length: 7", "size_bytes", 7),
    ],
)  # fmt: skip
async def test_accepted_in_the_description_of_an_object(
    header: str, value: str | None, field: str, expected: object
) -> None:
    for info in await read(**{header: value}):
        assert getattr(info, field) == expected


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("content_length", "+7"),
        ("content_length", "7, 8"),
        ("content_length", "7\r\ncontent-length: 8"),
        ("content_length", "seven"),
        ("transfer_encoding", "chunked"),  # beside a Content-Length
        ("transfer_encoding", "identity"),
        ("transfer_encoding", "gzip, chunked"),
        ("etag", "\r\n folded"),
    ],
)
async def test_refused_in_the_description_of_an_object(header: str, value: str) -> None:
    with pytest.raises(StoreError):
        await read(**{header: value})


@pytest.mark.parametrize("status", [201, 202, 203, 204, 206, 226, 304])
async def test_a_get_and_a_head_succeed_with_200_only(status: int) -> None:
    """A 206 has a part of the object, and a 203 what a proxy made of it."""

    async def script(received: ReceivedRequest) -> None:
        body = CONTENT if received.method == "GET" and status not in (204, 304) else b""
        received.write_unchanged(response(status, body, **{"content_length": str(len(body)), **FROM_STORE}))

    async with RawServer([script]) as server, server.store() as store:
        with pytest.raises(StoreError):
            await store.fetch("key", 100)
        with pytest.raises(StoreError):
            await store.head("key")


# -- writes


async def written(store: Store) -> bool:
    result = await store.put("key", CONTENT, size_bytes=7, md5=bytes.fromhex(MD5), headers={})
    return result.etag == MD5


#: The answer to the write, and the requests that follow.
PUTS: list[tuple[int, dict[str, Any], list[str]]] = [
    (200, FROM_STORE, []),
    (201, FROM_STORE, []),
    (204, FROM_STORE, []),
    (202, FROM_STORE, ["HEAD"]),
    (200, {**FROM_STORE, "etag": MD5.upper()}, []),
    (200, REQUEST_ID, ["HEAD"]),
    (201, {}, ["HEAD"]),
]


@pytest.mark.parametrize(("status", "headers", "then"), PUTS)
async def test_a_put_succeeds_with_its_md5_or_a_head(status: int, headers: dict[str, Any], then: list[str]) -> None:
    gateway = Gateway({"PUT": response(status, **headers), "HEAD": described("HEAD")})
    async with RawServer([gateway]) as server, server.store() as store:
        assert await written(store)
    assert gateway.methods == ["PUT", *then]


@pytest.mark.parametrize("status", [201, 202])
async def test_a_put_without_an_object_is_refused_whatever_its_success_is_called(status: int) -> None:
    gateway = Gateway({"PUT": response(status), "HEAD": response(404, **REQUEST_ID)})
    async with RawServer([gateway]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="without storing the object"):
            await written(store)


@pytest.mark.parametrize("status", [203, 205, 206, 207, 226, 299, 304])
async def test_other_statuses_are_no_success_of_a_write(status: int) -> None:
    gateway = Gateway({method: response(status, **FROM_STORE) for method in ("PUT", "DELETE")})
    async with RawServer([gateway]) as server, server.store() as store:
        with pytest.raises(StoreError):
            await written(store)
        with pytest.raises(StoreError):
            await store.delete("key")


@pytest.mark.parametrize(("status", "then"), [(200, []), (204, []), (201, ["HEAD"]), (202, ["HEAD"])])
async def test_a_delete_that_is_only_accepted_is_confirmed(status: int, then: list[str]) -> None:
    gone = response(404, **REQUEST_ID)
    gateway = Gateway({"DELETE": response(status, **REQUEST_ID), "HEAD": gone})
    async with RawServer([gateway]) as server, server.store() as store:
        await store.delete("key")
    assert gateway.methods == ["DELETE", *then]


async def test_a_delete_that_is_accepted_and_has_no_effect_is_refused() -> None:
    gateway = Gateway({"DELETE": response(202, **REQUEST_ID), "HEAD": described("HEAD")})
    async with RawServer([gateway]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="without deleting"):
            await store.delete("key")


# -- listings

ENTRY = {"Key": "a", "LastModified": "2026-10-05T21:09:27.000Z", "ETag": f"&quot;{MD5}&quot;", "Size": "7"}


def page(truncated: str | None = "<IsTruncated>false</IsTruncated>", **changes: str | None) -> bytes:
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in {**ENTRY, **changes}.items() if value is not None)
    header = f"{truncated or ''}<KeyCount>1</KeyCount>"
    return f"<ListBucketResult>{header}<Contents>{fields}</Contents></ListBucketResult>".encode()


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"LastModified": "2026-10-05T21:09:27Z"}, "modified_ms", MODIFIED_MS),
        ({"LastModified": "2026-10-05T23:09:27+02:00"}, "modified_ms", MODIFIED_MS),
        ({"LastModified": "2026-10-05 21:09:27"}, "modified_ms", MODIFIED_MS),
        ({"LastModified": "Mon, 05 Oct 2026 21:09:27 GMT"}, "modified_ms", MODIFIED_MS),
        ({"LastModified": "yesterday"}, "modified_ms", 0),
        ({"LastModified": "2026-13-45T21:09:27.000Z"}, "modified_ms", 0),
        ({"LastModified": "2026-10-05T21:09:27.xyzZ"}, "modified_ms", 0),
        ({"LastModified": ""}, "modified_ms", 0),
        ({"LastModified": None}, "modified_ms", 0),
        ({"ETag": MD5}, "etag", MD5),
        ({"ETag": f"&#34;{MD5.upper()}&#34;"}, "etag", MD5),
        ({"ETag": f"\n  {MD5}\n"}, "etag", MD5),
        ({"ETag": f"W/&quot;{MD5}&quot;"}, "etag", ""),
        ({"ETag": ""}, "etag", ""),
        ({"ETag": None}, "etag", ""),
        ({"Size": " 7 "}, "size_bytes", 7),
    ],
)
def test_accepted_in_a_listing(changes: dict[str, str | None], field: str, expected: object) -> None:
    [entry] = parse_page(page(**changes)).entries
    assert getattr(entry, field) == expected


@pytest.mark.parametrize("changes", [{"Key": None}, {"Size": None}, {"Size": "-1"}, {"Size": "7.0"}, {"Size": "1e3"}])
def test_refused_in_a_listing(changes: dict[str, str | None]) -> None:
    with pytest.raises(UnexpectedResponse):
        parse_page(page(**changes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("false", False), ("True", True), ("FALSE", False), ("1", True), ("0", False), (" true\n", True)],
)
def test_spellings_of_the_end_of_a_listing(text: str, expected: bool) -> None:
    assert parse_page(page(f"<IsTruncated>{text}</IsTruncated>")).is_truncated is expected


@pytest.mark.parametrize(
    "truncated", [None, *(f"<IsTruncated>{text}</IsTruncated>" for text in ("", "yes", "no", "2"))]
)
def test_a_listing_whose_end_is_unclear_is_refused(truncated: str | None) -> None:
    with pytest.raises(UnexpectedResponse):
        parse_page(page(truncated))


async def test_a_listing_does_not_end_at_an_unclear_page() -> None:
    async def script(received: ReceivedRequest) -> None:
        received.write(response(body=page("<IsTruncated>maybe</IsTruncated>")))

    async with RawServer([script]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="IsTruncated is 'maybe'"):
            async for _ in store.pages():
                pass


@pytest.mark.parametrize(("modified_ms", "expected"), [(99, False), (100, True), (0, True)])
def test_an_unknown_time_counts_as_modified(modified_ms: int, expected: bool) -> None:
    assert Entry("key", 1, "e", modified_ms).is_modified_since(100) is expected


# -- errors


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<Error><Code>SlowDown</Code></Error>", StoreUnavailable),
        (b'<?xml version="1.0"?>\n<Error xmlns="urn:x"><a>b</a><Code> BadDigest </Code></Error>', IntegrityError),
        (b"<error><code>NoSuchKey</code></error>", UnexpectedResponse),
        (b"<Error><Code>nosuchkey</Code></Error>", UnexpectedResponse),
        (b'{"Code": "NoSuchKey"}', UnexpectedResponse),
        (b"", UnexpectedResponse),
    ],
)  # fmt: skip
async def test_an_error_is_final_only_in_the_words_of_s3(body: bytes, kind: type[StoreError]) -> None:
    async def script(received: ReceivedRequest) -> None:
        received.write(response(404, body))

    async with RawServer([script]) as server, server.store() as store:
        with pytest.raises(StoreError) as caught:
            await store.get("key")
    assert type(caught.value) is kind
