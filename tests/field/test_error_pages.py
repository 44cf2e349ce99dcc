"""Error pages of proxies, in any encoding and of any size, harm only the store that sends them."""

from __future__ import annotations

import pytest

from s3s3.errors import StoreError, StoreRefused, StoreUnavailable
from s3s3.model import Endpoint, Secret
from s3s3.s3.error_mapping import error_for_response
from tests.s3.raw_server import RawServer, respond, response

DECLARED = ["GBK", "Shift_JIS", "EUC-KR", "Big5", "UTF-7", "idna", "base64", "utf-32", "no-such-encoding"]


def error_of(body: bytes, status: int = 503, **headers: str) -> StoreError:
    endpoint = Endpoint("destination", "bucket", secret_access_key=Secret("s3cr3t+key"), session_token=Secret("t0k/en"))
    return error_for_response(endpoint, "PUT", "key", status=status, headers=headers, body=body)


@pytest.mark.parametrize("encoding", DECLARED)
async def test_an_error_in_another_encoding_keeps_its_code(encoding: str) -> None:
    page = f'<?xml version="1.0" encoding="{encoding}"?><Error><Code>SlowDown</Code><Message>m</Message></Error>'
    async with RawServer([respond(response(503, page.encode()))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="503 SlowDown: m"):
            await store.get("key")
        with pytest.raises(StoreUnavailable, match="503 SlowDown: m"):
            await store.list_after("", 1)


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "big5"])
def test_a_code_is_read_beside_text_of_another_encoding(encoding: str) -> None:
    error = "<Error><Code>SlowDown</Code><Message>\u4e2d\u6587</Message></Error>"
    assert error_of(f'<?xml version="1.0" encoding="{encoding}"?>{error}'.encode(encoding)).code == "SlowDown"


@pytest.mark.parametrize("body", [b"&#" + b"9" * 5000 + b";", b"<p>&#x" + b"f" * 5000 + b";</p>"])
def test_a_reference_with_thousands_of_digits_is_text(body: bytes) -> None:
    assert isinstance(error_of(body), StoreUnavailable)


def test_a_message_is_one_printable_line() -> None:
    body = b"<Error><Code>A\nB</Code><Message>one\n2026-10-06 ERROR forged \x7f &#x85; \xe2\x80\xae</Message></Error>"
    text = str(error_of(body, location="http://x/\udcff\x1b[2J", status=301))
    assert text.isprintable()
    assert text.encode()


def test_a_page_of_64_kib_gives_a_short_message() -> None:
    page = b"<html><style>" + b"p {} " * 1000 + b"</style><body>" + b"<b>text</b> " * 4000
    error = error_of(page)
    assert error.message.startswith('a page with the text "text text')
    assert len(str(error)) < 500


def test_secrets_at_the_end_of_a_long_page_are_not_cut_but_removed() -> None:
    signature = "Signature=" + "a" * 40
    for secret in ("s3cr3t+key", "s3cr3t%2Bkey", "t0k%2Fen", signature):
        message = str(error_of(b"x" * 290 + b" " + secret.encode()))
        assert secret[:5] not in message.replace("Signature", "")


def test_a_comparison_in_plain_text_is_not_a_tag() -> None:
    assert "size < limit" in error_of(b"size < limit", 400).message
    assert isinstance(error_of(b"size < limit", 400), StoreRefused)
