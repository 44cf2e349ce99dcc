"""Read the headers of objects."""

from __future__ import annotations

import pytest

from s3s3.s3 import http_date_ms
from tests.s3.raw_server import RawServer, respond, response


@pytest.mark.parametrize(
    "text",
    ["Sat, 31 Feb 2026 03:09:27 GMT", "Wed, 31 Nov 2026 03:09:27 GMT", "Sun, 29 Feb 2026 03:09:27 GMT",
     "Tue, 00 Oct 2026 03:09:27 GMT", "Tue, 06 Oct 2026 24:09:27 GMT", "Tue, 06 Oct 2026 03:60:27 GMT",
     "Tue, 06 Oct 2026 03:09:61 GMT", "Tue, 06 Oct 2026 -1:09:27 GMT", "Tue, 06 Okt 2026 03:09:27 GMT", ""],
)  # fmt: skip
def test_an_invalid_date_is_none(text: str) -> None:
    assert http_date_ms(text) is None


def test_a_date_is_parsed_to_the_second() -> None:
    assert http_date_ms("Mon, 05 Oct 2026 21:09:27 GMT") == 1_791_234_567_000
    assert http_date_ms("Thu, 29 Feb 2024 23:59:60 GMT") == 1_709_251_200_000, "a leap second (RFC 9110, 5.6.7)"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("aws-chunked", None), ("gzip", "gzip"), ("aws-chunked,gzip", "gzip"), ("gzip, aws-chunked", "gzip"),
     ("AWS-Chunked , br,gzip", "br, gzip"), ("aws-chunked, aws-chunked", None), ("gzip,br", "gzip,br"),
     ("aws-chunked-not", "aws-chunked-not")],
)  # fmt: skip
async def test_the_coding_of_an_upload_is_no_property_of_the_object(sent: str, kept: str | None) -> None:
    server = RawServer([respond(response(body=b"content", content_encoding=sent))])
    async with server, server.store() as store:
        stream, _ = await store.fetch("key", 100)
        head = await store.head("key")
    assert head is not None
    assert stream.info.headers.get("content-encoding") == head.headers.get("content-encoding") == kept
