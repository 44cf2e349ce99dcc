"""Each parser of text from outside accepts or refuses it, in linear time, and raises only errors of the tree."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from encodings.aliases import aliases

import pytest

from s3s3.errors import S3S3Error
from s3s3.mirror.copy_proxy import parse_wait, path_to_key
from s3s3.mirror.redirect import decode_url
from s3s3.mirror.upstream.url_policy import UrlRules
from s3s3.model import Endpoint, Secret
from s3s3.notifications.message import BadMessage, parse_message, printable_message
from s3s3.notifications.s3_events import parse_events
from s3s3.s3 import http_date_ms
from s3s3.s3.error_mapping import error_for_response
from s3s3.s3.listing import PAGE_LIMIT_BYTES, parse_page
from s3s3.s3.transport.connection import Connection
from s3s3.s3.transport.framing import Chunked, body_of, parse_head
from s3s3.s3.xml import RESULT_LIMIT_BYTES, etag_in_body, parse_result, unescape

ENDPOINT = Endpoint("destination", "bucket", secret_access_key=Secret("s3cr3t"))


def read_error(raw: bytes) -> None:
    headers = {"location": raw.decode("utf-8", "surrogateescape"), "date": raw.decode("utf-8", "surrogateescape")}
    for status in (301, 503):
        error = error_for_response(ENDPOINT, "PUT", "key", status=status, headers=headers, body=raw)
        assert len(str(error)) < 2000
        assert str(error).encode().decode().isprintable()


def read_head(raw: bytes) -> None:
    body_of(parse_head(b"HTTP/1.1 200 OK\r\n" + raw), is_head=False)


def read_length(raw: bytes) -> None:
    parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: " + raw)


def read_message(raw: bytes) -> None:
    printable_message(raw)
    parse_message(raw)


def read_upstream_url(raw: bytes) -> None:
    UrlRules().check_url("http://host/" + raw.decode("utf-8", "replace"))


def read_listed(element: str) -> Callable[[bytes], object]:
    """Return a reader of a listing in which one element of an entry has the text."""

    def read(raw: bytes) -> None:
        texts = {"Key": b"a", "LastModified": b"2026-10-05T21:09:27.250Z", "ETag": b"e", "Size": b"1", element: raw}
        fields = b"".join(b"<%s>%s</%s>" % (name.encode(), text, name.encode()) for name, text in texts.items())
        for space in (b"", b"\n"):  # with the line break, the XML parser reads it
            page = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>" + space + fields
            parse_page(page + b"</Contents></ListBucketResult>")

    return read


PARSERS: dict[str, tuple[Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "an error page": (read_error, ()),
    "a result": (parse_result, (S3S3Error,)),
    "the result of a copy": (etag_in_body, ()),
    "a reference in a listing": (lambda raw: unescape(raw.decode("utf-8", "replace").replace("<", "")), (S3S3Error,)),
    "a listing": (parse_page, (S3S3Error,)),
    "a listed key": (read_listed("Key"), (S3S3Error,)),
    "a listed time": (read_listed("LastModified"), (S3S3Error,)),
    "a listed size": (read_listed("Size"), (S3S3Error,)),
    "a response's head": (read_head, (ValueError,)),
    "a length": (read_length, (ValueError,)),
    "chunks": (lambda raw: Chunked().feed(raw), (ValueError,)),
    "a date": (lambda raw: http_date_ms(raw.decode("utf-8", "surrogateescape")), ()),
    "a message": (read_message, (BadMessage,)),
    "an event": (parse_events, ()),
    "a client's path": (lambda raw: path_to_key("/" + raw.decode("utf-8", "surrogateescape")), (ValueError,)),
    "a client's wait": (lambda raw: parse_wait(raw.decode("utf-8", "surrogateescape"), 1), ()),
    "a client's URL": (lambda raw: decode_url(raw.decode("utf-8", "replace")), ()),
    "a redirect": (read_upstream_url, (S3S3Error,)),
}

DIGITS = b"9" * 5000
ODD = [
    b"", b"\0", b"\xff\xfe<\0", b"\xed\xa0\x80", b"&#" + DIGITS + b";", b"&#x" + DIGITS + b";", DIGITS, b"-1", b"+1",
    b"1_0", b" 1", "\u0661".encode(), "\u00b2".encode(), b"0x1", b"1e9", b"nan", b"%", b"%ff", b"%zz", b"\x1b[2J",
    b"2026-10-06T03+05:00Z", b"2026-10-06T03:09:27+05:00Z", b"0000-00-00T00:00:00Z", b"9999-99-99T99:99:99Z",
    b"Tue, 06 Oct 2026 03:09:2\xd9\xa7 GMT", b"Tue, 06 Oct -001 03:09:27 GMT", b"[" * 100_000, b'{"a":' * 100_000,
    b"<a>" * 20_000, b"<Error><Code>" + DIGITS + b"</Code></Error>", b"<Error><Code>\n\x7f</Code></Error>",
    b"<Error><Message>&#27;[2J</Message><Code>A</Code></Error>", b"<p>&#27;[2J</p>", b"<script>", b"<!--", b"<!-->",
    json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": [[]], "s3": None}]}).encode(),
    json.dumps({"detail-type": "x", "source": [[]], "detail": {}}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_odd_text_is_accepted_or_refused(name: str) -> None:
    parse, refusals = PARSERS[name]
    for raw in ODD:
        with suppress(*refusals):
            parse(raw)


ENCODINGS = sorted({*aliases, *aliases.values(), "idna", "punycode", "undefined", "unicode_escape", "GBK", "no-such",
                    "../x", "a.b", "antigravity", "\u00e9", "x" * 60_000})  # fmt: skip


@pytest.mark.parametrize("name", ["an error page", "a result", "a listing"])
def test_every_declared_encoding_is_accepted_or_refused(name: str) -> None:
    parse, refusals = PARSERS[name]
    for encoding in ENCODINGS:
        for text in ("<Error><Code>SlowDown</Code></Error>", "<Error><Code>\u4e2d</Code></Error>"):
            with suppress(*refusals):
                parse(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode())


def test_an_event_with_a_deeply_nested_name_is_accepted() -> None:
    """json.loads accepts nesting for which `str` of the result raises RecursionError."""
    for depth in range(900, 1000, 3):
        name = "[" * depth + "]" * depth
        object_text = '"s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}'
        parse_events(f'{{"Records": [{{"eventSource": "aws:s3", "eventName": {name}, {object_text}}}]}}')
        parse_events(f'{{"detail-type": "x", "source": {name}, "detail": {{}}}}')


# Time


@dataclass(frozen=True)
class Repeated:
    """A text of a given size that begins with `start` and then repeats `part`."""

    part: bytes
    start: bytes = b""

    def __call__(self, size_bytes: int) -> bytes:
        return self.start + self.part * ((size_bytes - len(self.start)) // len(self.part))


WORST = [
    Repeated(b"<"), Repeated(b"<a"), Repeated(b"<a>"), Repeated(b"<a/>"), Repeated(b"<script"), Repeated(b"<script>"),
    Repeated(b"<style><script>"), Repeated(b"<!--"), Repeated(b"<!-->"), Repeated(b"</script"), Repeated(b"&"),
    Repeated(b"&#1"), Repeated(b"&#9", b"&#"), Repeated(b"9", b"&#"), Repeated(b"9"), Repeated(b" "), Repeated(b"\n"),
    Repeated(b"signature"), Repeated(b"signature="), Repeated(b"AWS "), Repeated(b"AWS a:"), Repeated(b"AWS"),
    Repeated(b"a:\r\n"), Repeated(b"a: b\r\n"), Repeated(b"\r\n"), Repeated(b":"), Repeated(b"1\r\na\r\n"),
    Repeated(b"a\r\n", b"0\r\n"), Repeated(b"%"), Repeated(b"%41"), Repeated(b"../"), Repeated(b"/."),
    Repeated(b"<ETag>"), Repeated(b"<Contents><Key>"), Repeated(b"<IsTruncated>"), Repeated(b"["), Repeated(b'{"a":'),
    Repeated(b'"'), Repeated(b'{"Type":"Notification","Message":"'), Repeated(b"a="), Repeated(b"<Contents>"),
    Repeated(b"<Checksum></Checksum>", b"<ListBucketResult><Contents><Key>k</Key><LastModified></LastModified>"
             b"<ETag></ETag>"),
    Repeated(b"a", b"<"), Repeated(b"> ", b"<!--"), Repeated(b"> ", b"<?a "), Repeated(b"> ", b"<a b='"),
    Repeated(b"> ", b"<ListBucketResult><![CDATA["), Repeated(b"> ", b"<ListBucketResult><Key a='"),
    Repeated(b"<Error><Code>A</Code>"), Repeated(b" a='1'", b"<Error"), Repeated(b"\xc4\xb0"), Repeated(b"\xff"),
]  # fmt: skip

#: Smaller differences are noise.
NOISE_S = 0.005


def cpu_s(parse: Callable[[bytes], object], refusals: tuple[type[Exception], ...], raw: bytes) -> float:
    """Return the CPU time of one call, the least of three."""
    times_s = []
    gc.disable()
    try:
        for _ in range(3):
            started_s = time.thread_time()
            with suppress(*refusals):
                parse(raw)
            times_s.append(time.thread_time() - started_s)
            if times_s[-1] > 0.1:
                break
    finally:
        gc.enable()
    return min(times_s)


def assert_linear(parse: Callable[[bytes], object], refusals: tuple[type[Exception], ...], size_bytes: int) -> None:
    """Four times the text takes about four times the time; quadratic time is sixteen. Repeated if it is not so."""
    for text in WORST:
        measured = []
        for _ in range(3):
            quarter_s, whole_s = (cpu_s(parse, refusals, text(size)) for size in (size_bytes // 4, size_bytes))
            if whole_s < 8 * quarter_s + NOISE_S:
                break
            measured.append(f"{quarter_s * 1000:.1f} ms, then {whole_s * 1000:.1f} ms")
        else:
            pytest.fail(f"{text}: {measured}")


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_the_worst_64_kib_take_linear_time(name: str) -> None:
    assert_linear(*PARSERS[name], RESULT_LIMIT_BYTES)


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.long)])
def test_the_worst_page_of_a_listing_takes_linear_time(share: int) -> None:
    assert_linear(parse_page, (S3S3Error,), PAGE_LIMIT_BYTES // share)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    created = asyncio.new_event_loop()
    yield created
    created.close()


def test_many_informational_responses_take_linear_time(loop: asyncio.AbstractEventLoop) -> None:
    class Received(Connection):
        def abort(self) -> None:
            self.closed = True

    def receive(raw: bytes) -> None:
        connection = Received(loop)
        connection._busy = True
        connection.data_received(raw)

    text = Repeated(b"HTTP/1.1 100 Continue\r\n\r\n")
    short_s, long_s = (cpu_s(receive, (), text(size)) for size in (80_000, 8_000_000))
    assert long_s < 3 * short_s + 5 * NOISE_S, "the first 64 KiB are read, however much has arrived"


@pytest.mark.long
def test_a_response_that_comes_byte_by_byte_takes_linear_time(loop: asyncio.AbstractEventLoop) -> None:
    def receive(raw: bytes) -> None:
        connection = Connection(loop)
        connection._busy = True
        for byte in raw:
            connection.data_received(bytes((byte,)))

    for start in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        for part in (b"a: b\r\n", b"a", b"1\r\na\r\n", b"\r"):
            text = Repeated(part, start)
            half_s, whole_s = (cpu_s(receive, (AttributeError,), text(size)) for size in (16_000, 32_000))
            assert whole_s < 3 * half_s + 5 * NOISE_S, f"{text}: {half_s * 1000:.1f} ms, then {whole_s * 1000:.1f} ms"
