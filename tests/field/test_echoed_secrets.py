"""Error pages that repeat the request: no secret, and no text that controls a terminal, is logged, stored or shown."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from urllib.parse import quote

import pytest

from s3s3.errors import StoreError, printable_line, shown_key, without_queries
from s3s3.events import COPY_FAILED, log_event
from s3s3.monitoring.json_log import JsonFormatter
from s3s3.monitoring.log import PlainFormatter, log_fields
from s3s3.s3 import Store
from tests.s3.raw_server import RawServer, ReceivedRequest, response

TOKEN = "FwoGZXIvYXdzEBYaDH+token/of=the==environment" * 3
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

#: Make a response of what was sent in the request's headers.
Echo = Callable[[dict[str, str]], bytes]


def all_of(sent: dict[str, str]) -> str:
    return " ".join(f"{name}: {value}" for name, value in sent.items())


def signature_of(sent: dict[str, str]) -> str:
    return sent["authorization"].rpartition("Signature=")[2].rpartition(":")[2]


def error(code: str = "Odd", message: str = "", **fields: str) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{inner}</Error>".encode()


ECHOES: dict[str, Echo] = {
    "message": lambda sent: response(400, error(message=all_of(sent))),
    "code": lambda sent: response(400, error(f"Bad{signature_of(sent)}")),
    "code with token": lambda sent: response(400, error(TOKEN)),
    "region": lambda sent: response(400, error(Region=TOKEN)),
    "endpoint": lambda sent: response(301, error(Endpoint=f"{TOKEN}.{signature_of(sent)}")),
    "header": lambda sent: response(301, location=f"https://x/?t={quote(TOKEN, safe='')}", x_amz_bucket_region=TOKEN),
    "request id": lambda sent: response(400, error(), x_amz_request_id=TOKEN),
    "page": lambda sent: response(502, f"<html><body>you sent {all_of(sent)}</body></html>".encode()),
    "JSON": lambda sent: response(400, json.dumps(sent).replace("/", "\\/").encode()),
    "percent-encoded": lambda sent: response(400, f"t={quote(TOKEN)}&s={quote(signature_of(sent), safe='')}".encode()),
    "cut off": lambda sent: response(400, f"token {TOKEN[:40]}... secret {SECRET[:20]}...".encode()),
    "after a 200": lambda sent: response(200, error(message=all_of(sent)), etag='"x"'),
    "first line": lambda sent: b"HTTP/9.9 " + TOKEN.encode() + b"\r\n\r\n",
    "framing": lambda sent: response(200, transfer_encoding=TOKEN, content_length=None),
    "etag": lambda sent: response(200, b"content", etag=f'"{TOKEN}"'),
    "escapes": lambda sent: response(400, error("A\tB", "one\n2026-01-01 ERROR two\u202e\u2028three") + b"\x1b[2J"),
    "escapes in headers": lambda sent: response(301, location="\x1b[2Jhttps://x/", x_amz_bucket_region="a\x1b]0;x\x07"),
    "escape in the first line": lambda sent: b"HTTP/1.1 \x1b[2J\r\n\r\n",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setattr("s3s3.s3.request.ATTEMPTS", 1)


async def failures(store: Store) -> list[StoreError]:
    found = []
    for operation in (
        lambda: store.fetch("key", 1000),
        lambda: store.head("key"),
        lambda: store.list_after("", 1),
        lambda: store.put("key", b"content", size_bytes=7, md5=b"m" * 16, headers={}),
        lambda: store.delete("key"),
    ):
        try:
            await operation()
        except StoreError as error:
            found.append(error)
    return found


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("name", ECHOES)
async def test_no_response_brings_a_secret_or_a_control_character_into_an_error(name: str, version: str) -> None:
    signatures = []

    async def echo(received: ReceivedRequest) -> None:
        sent = {name: value.decode() for name, value in received.headers.items()}
        signatures.append(signature_of(sent))
        raw = ECHOES[name](sent)
        received.write_unchanged(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if received.method == "HEAD" else raw)

    endpoint = {"access_key_id": None, "secret_access_key": None, "signature_version": version}
    async with RawServer([echo]) as server, server.store(endpoint=endpoint) as store:
        found = await failures(store)
    assert found
    for error in found:
        for text in (str(error), repr(error), error.message, error.code, error.advice, error.request_id):
            assert text.isprintable()
            assert len(text) < 2000
            for secret in (SECRET, TOKEN, quote(TOKEN, safe=""), *signatures):
                assert secret not in text
                assert secret[:16] not in text


SIGNED = "https://user:pa55@host/a/b.gz?X-Amz-Signature=5167"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("https://host/a?b=c", "https://host/a?***"),
        (SIGNED, "https://***@host/a/b.gz?***"),
        (quote(SIGNED, safe=""), "https%3A%2F%2F***@host%2Fa%2Fb.gz%3F***"),
        ("HTTP://host/a b?c", "HTTP://host/a b?***"),
        ("https://host/a", "https://host/a"),
        ("a/b?c=d", "a/b?c=d"),
        ("httpd/a?b", "httpd/a?b"),
        ("", ""),
    ],
)
def test_a_key_that_is_a_url_is_shown_without_password_and_query(key: str, shown: str) -> None:
    assert shown_key(key) == shown
    error = StoreError("refused", store="upstream", operation="GET", key=key)
    assert str(error) == f"upstream: GET of {shown!r}: refused"


def test_a_text_keeps_its_urls_without_their_queries() -> None:
    text = f"cannot cache 'https://host/a?sig=1', nor {quote(SIGNED, safe='')} (see http://x/?y)"
    shown = without_queries(text)
    assert "sig=1" not in shown
    assert "5167" not in shown
    assert shown.startswith("cannot cache 'https://host/a?***', nor ")
    assert shown.endswith("(see http://x/?***)")


@pytest.mark.parametrize("formatter", [PlainFormatter, JsonFormatter])
def test_a_line_of_the_log_stays_one_line_without_queries(formatter: Callable[[], logging.Formatter]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter())
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("got \x1b[2J\n2026-01-01 00:00:00 ERROR forged \udcff %r", SIGNED, extra=log_fields("default", SIGNED))
    log_event(log, COPY_FAILED, f"\x1b[2J {SIGNED}", key=SIGNED, route="default")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.isprintable()
        assert "5167" not in line


def test_the_last_line_of_a_traceback_is_printable() -> None:
    formatter = PlainFormatter()
    error = ValueError(f"\x1b[2J {SIGNED}")
    text = formatter.formatException((ValueError, error, None))
    assert "\x1b" not in text
    assert "5167" not in text


def test_a_long_message_is_cut() -> None:
    assert len(str(StoreError("x" * 100_000))) <= 1000
    assert printable_line("a\r\n\tb\x00c") == "a b\ufffdc"
