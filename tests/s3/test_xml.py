"""XML with a DTD is refused at every place that reads XML, in any encoding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from s3s3.errors import UnexpectedResponse
from s3s3.s3 import BucketAdmin, Store
from s3s3.s3.error_mapping import error_for_response
from s3s3.s3.listing import parse_page
from s3s3.s3.xml import RESULT_LIMIT_BYTES, etag_in_body, parse_result, unescape
from tests.s3.raw_server import RawServer, respond, response

ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-16")

READERS: dict[str, tuple[str, Callable[[Store], Awaitable[object]]]] = {
    "tags": ("Tagging", lambda store: store.attributes.tags("key")),
    "ACL": ("AccessControlPolicy", lambda store: store.attributes.acl("key")),
    "created upload": (
        "InitiateMultipartUploadResult",
        lambda store: store.multipart.create("key", headers={}, check_lease=lambda: None),
    ),
    "uploads": ("ListMultipartUploadsResult", lambda store: store.multipart.list_uploads("key")),
    "lifecycle rules": ("LifecycleConfiguration", lambda store: BucketAdmin(store.endpoint).expire_after(3)),
    "listing": ("ListBucketResult", lambda store: store.list_after("", 1)),
}


def with_dtd(root: str) -> str:
    return (
        f'<?xml version="1.0"?><!DOCTYPE {root} [<!ENTITY e "value">]>'
        f"<{root}><UploadId>&e;</UploadId><IsTruncated>false</IsTruncated></{root}>"
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("reader", READERS)
async def test_a_response_with_a_dtd_is_refused(reader: str, encoding: str) -> None:
    root, read = READERS[reader]
    body = with_dtd(root).encode(encoding)
    async with RawServer([respond(response(body=body))]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse):
            await read(store)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_error_body_with_a_dtd_is_read_as_text(encoding: str) -> None:
    body = '<!DOCTYPE Error [<!ENTITY e "NoSuchKey">]><Error><Code>&e;</Code></Error>'.encode(encoding)
    endpoint = RawServer([]).endpoint()
    error = error_for_response(endpoint, "GET", "key", status=404, headers={}, body=body)
    assert (type(error), error.code) == (UnexpectedResponse, "")


async def test_a_refused_response_names_store_operation_and_key() -> None:
    async with RawServer([respond(response(body=b"<Tagging>"))]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse, match="destination-raw: GET of 'key': 200: the response is not XML"):
            await store.attributes.tags("key")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"text",
        b"<a>",
        b"<a/>more",
        b"<a>&undefined;</a>",
        b"\xff\xfe<",
        "<?xml version='1.0' encoding='gbk'?><a>\u4e2d</a>".encode("gbk"),
        b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        b"<a>" + b"x" * RESULT_LIMIT_BYTES + b"</a>",
    ],
)
def test_every_parse_error_is_a_store_error(body: bytes) -> None:
    with pytest.raises(UnexpectedResponse):
        parse_result(body)


@pytest.mark.parametrize("encoding", ["gbk", "euc-kr", "utf-16", "base64", "idna", "no-such-encoding", "x" * 60_000])
def test_a_declared_encoding_is_ignored(encoding: str) -> None:
    assert parse_result(f"<?xml version='1.0' encoding='{encoding}'?><a>\u4e2d</a>".encode()).text == "\u4e2d"


def test_tags_have_no_namespace() -> None:
    root = parse_result(b"<a xmlns='urn:x'><!-- a comment --><b xmlns:y='urn:y'>1</b><y:c xmlns:y='urn:y'/></a>")
    assert [root.tag, *(child.tag for child in root)] == ["a", "b", "c"]


def test_references_are_replaced() -> None:
    assert unescape("a&amp;b&#10;&#x263A;&lt;") == "a&b\n\u263a<"
    with pytest.raises(UnexpectedResponse):
        unescape("&nbsp;")
    with pytest.raises(UnexpectedResponse):
        parse_page(b"<ListBucketResult><IsTruncated>&x;</IsTruncated></ListBucketResult>")


def test_the_etag_of_a_copy_is_read_without_quotes() -> None:
    assert etag_in_body(b"<CopyObjectResult><ETag>&quot;abc-2&quot;</ETag></CopyObjectResult>") == "abc-2"
    assert etag_in_body(b"<CompleteMultipartUploadResult/>") == ""
