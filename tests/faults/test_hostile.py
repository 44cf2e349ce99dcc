"""What comes from outside may be anything: no crash, no unbounded memory, no error that is not s3s3's own."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3s3 import config
from s3s3.errors import ConfigError, StoreError, StoreRefused
from s3s3.model import Endpoint, Secret
from s3s3.notifications.message import BadMessage, parse_message, printable_message
from s3s3.s3 import Store, request
from s3s3.s3.error_mapping import error_for_response
from s3s3.s3.listing import parse_page
from s3s3.s3.transport.framing import body_of, parse_head
from tests.config.configurations import SOUND
from tests.faults import duration, lies
from tests.faults.results import report
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, error_response, respond, response

MIB = 1024 * 1024
SECRET = "v3ry-s3cret/value"

PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><KeyCount>2</KeyCount><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    b"<Contents><Key>a%20b</Key><LastModified>2026-10-05T21:09:27.000Z</LastModified>"
    b"<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>0</Size></Contents>"
    b"<Contents><Key>c</Key><LastModified>2026-10-05T21:09:27.000Z</LastModified><ETag>x</ETag><Size>7</Size>"
    b"</Contents></ListBucketResult>"
)
BOMB = (
    "<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a '" + "x" * 1000 + "'>"
    + "".join(f"<!ENTITY {b} '{f'&{a};' * 20}'>" for a, b in itertools.pairwise("abcdefgh"))
    + "]><ListBucketResult><IsTruncated>false</IsTruncated><Name>&h;</Name></ListBucketResult>"
)  # fmt: skip
ERROR = b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>"
ERROR_PAGES = [answer.partition(b"\r\n\r\n")[2] for answer in (*lies.ERRORS, *lies.MAINTENANCE.values())]
ANSWERS = [response(200, PAGE), error_response(503, "SlowDown", "slow"), response(200, b"content", etag='"x"'),
           response(404), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]  # fmt: skip


def read_head_and_body(raw: bytes) -> None:
    head, _, rest = raw.partition(b"\r\n\r\n")
    body = body_of(parse_head(head), is_head=False)
    for start in range(0, len(rest), 7):
        body.feed(rest[start : start + 7])
    body.close()


def read_message(raw: bytes) -> None:
    assert len(printable_message(raw)) < 10_000
    assert parse_message(raw).encode() == raw


def read_error(raw: bytes) -> None:
    endpoint = Endpoint("destination", "bucket", secret_access_key=Secret(SECRET))
    headers = {"location": raw.decode("latin-1"), "x-amz-bucket-region": raw.decode("latin-1")[:40]}
    for status, body in ((500, raw), (200, b"<Error>" + raw), (301, b""), (403, raw + SECRET.encode())):
        message = str(error_for_response(endpoint, "PUT", "k", status=status, headers=headers, body=body))
        assert SECRET not in message
        assert len(message) < 2000


@dataclass(frozen=True)
class Inlet:
    """Where something comes in: what reads it, what it may raise, and sound examples to begin from."""

    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    examples: list[bytes]


INLETS = {
    "a message on the channel": Inlet(read_message, (BadMessage,), [b"a/key", "caf\u00e9".encode(), b"x" * 1025]),
    "a page of a listing": Inlet(
        parse_page, (StoreRefused,), [PAGE, BOMB.encode(), BOMB.encode("utf-16-le"), *ERROR_PAGES]
    ),
    "an HTTP answer": Inlet(read_head_and_body, (ValueError,), ANSWERS),
    "an error's body": Inlet(
        read_error, (), [ERROR, b"<html><b>502</b></html>", BOMB.encode("utf-16-be"), *ERROR_PAGES]
    ),
}
"""Another kind of notification belongs here, with what parses it."""


@st.composite
def damaged(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """A sound example of which some pieces are doubled, gone, or something else."""
    raw = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        instead = draw(st.one_of(st.binary(max_size=20), st.just(raw[start:end] * 2), st.sampled_from(NASTY)))
        raw = (raw[:start] + instead + raw[end:])[:100_000]
    return raw


NASTY = [b"\0", b"\r\n", b"\r\n\r\n", b"\n ", b"&#0;", b"&a;", b"<!DOCTYPE", b"]]>", b"<", b"%", b"%ff", b"-1", b"1_0"]
NASTY += [f'<?xml version="1.0" encoding="{encoding}"?>'.encode() for encoding in ("GBK", "Big5", "x", "idna", "zlib")]
NASTY += [b"9" * 5000, b"\xff\xfe", "\u00b2".encode(), b"\xed\xa0\x80", b"0000-99-99T99:99:99Z"]


SHARE = 1 / 200
"""The share of a long run for each test; hypothesis makes new choices in each round."""


@pytest.mark.parametrize("name", INLETS)
def test_any_message_is_understood_or_refused(name: str) -> None:
    inlet = INLETS[name]
    tried = 0

    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(raw=st.one_of(st.binary(max_size=2000), damaged(inlet.examples)))
    def attack(raw: bytes) -> None:
        nonlocal tried
        tried += 1
        with suppress(*inlet.raises):
            inlet.read(raw)

    for _ in duration.rounds(SHARE):
        attack()
    report("hostile input", inlet=name, examples=tried)


values: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["true", '""', "[]", "{}", "-1", "nan", "inf", "1e400", '"${NOPE}"', '"\\u0000"', "9" * 5000]),
    st.sampled_from(["2026-10-05", '"http://[::1"', '"redis://h:99999/x"', '[["a"]]', "{ a = { b = 1 } }"]),
    st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), max_size=20).map(lambda text: f'"{text}"'),
)
TABLES = ["[worker]", "[pubsub]", "[http]", "[routes.a]", "[[source]]", "[source.x]", "[dest\u00e9]", "]"]
KEYS = ["host", "port", "url", "channel", "prefix", "include", "lease_s", "spool_bytes", "bind", "delete", "max_delete"]
lines: st.SearchStrategy[str] = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(KEYS), values), st.sampled_from(TABLES), st.text(max_size=30)
)


def test_any_configuration_is_understood_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "s3s3.toml"
    tried = 0

    @settings(max_examples=80, suppress_health_check=list(HealthCheck))
    @given(added=st.lists(lines, max_size=6), at=st.integers(0, len(SOUND)), raw=st.binary(max_size=10))
    def attack(added: list[str], at: int, raw: bytes) -> None:
        nonlocal tried
        tried += 1
        text = SOUND[:at] + "\n" + "\n".join(added) + "\n" + SOUND[at:]
        path.write_bytes(text.encode("utf-8", "surrogatepass") + raw)
        try:
            config.load(path, environ={})
        except ConfigError as refused:
            assert refused.problems

    for _ in duration.rounds(SHARE):
        attack()
    report("hostile input", inlet="a configuration", examples=tried)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16"])
def test_a_listing_that_declares_entities_is_not_read_in_any_encoding(encoding: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(StoreRefused):
            parse_page(BOMB.encode(encoding))
        read_error(BOMB.encode(encoding))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


# -- the same on a connection, where it never need end


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "INITIAL_BACKOFF_S", 0.0)


def endless(head: bytes, piece: bytes) -> Script:
    """A response that does not end while the client reads."""

    async def script(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write(head)
        while not received.writer.is_closing():
            received.write(piece)
            await received.writer.drain()

    return script


@asynccontextmanager
async def facing(script: Script) -> AsyncIterator[Store]:
    async with RawServer([script]) as server, server.store() as store:
        yield store


async def ask_everything(store: Store) -> list[str]:
    """Use every operation of the store; return the refusals."""

    async def listed() -> None:
        async for _ in store.pages():
            pass

    refused = []
    for name, ask in (
        ("LIST", listed), ("HEAD", lambda: store.head("k")), ("GET", lambda: store.fetch("k", 1000)),
        ("PUT", lambda: store.put("k", b"x", size_bytes=1, md5=bytes(16), headers={})),
        ("DELETE", lambda: store.delete("k")),
    ):  # fmt: skip
        try:
            await ask()
        except StoreError:
            refused.append(name)
    return refused


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.long
@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 8000 + b"\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
        (b"", b"x" * 10_000),
        (CHUNKED, b"0" * 10_000),
        (CHUNKED, b"2000\r\n" + b"x" * 8192 + b"\r\n"),
        (CHUNKED + b"0\r\n", b"trailer: " + b"x" * 8000 + b"\r\n"),
        (b"HTTP/1.1 500 No\r\n\r\n", b"x" * 10_000),
        (b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 18 + b"\r\n\r\n", b"x" * 10_000),
    ],
    ids=["headers", "continues", "no HTTP", "a chunk's size", "chunks", "trailers", "an error", "a length"],
)
async def test_an_endless_response_takes_bounded_memory(head: bytes, piece: bytes) -> None:
    async with facing(endless(head, piece)) as store:
        tracemalloc.start()
        try:
            assert "LIST" in await ask_everything(store)
            assert tracemalloc.get_traced_memory()[1] < 256 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(
    "lie",
    {
        "a page": lies.PAGE,
        "a page with an ETag": lies.PAGE_WITH_ETAG,
        "a page in chunks": lies.PAGE_IN_CHUNKS,
        "an empty page": lies.EMPTY_PAGE,
        **lies.MAINTENANCE,
        **dict(zip((*lies.UNAVAILABLE_IN, lies.UNKNOWN_ENCODING), lies.ERRORS, strict=True)),
    }.items(),
    ids=lambda lie: lie[0],
)
async def test_nothing_is_believed_of_what_no_store_sent(lie: tuple[str, bytes]) -> None:
    async def script(received: ReceivedRequest) -> None:
        await received.read_body()
        head, end, body = lie[1].partition(b"\r\n\r\n")
        received.writer.write(head + end + (b"" if received.method == "HEAD" else body))

    async with facing(script) as store:
        refused = await ask_everything(store)
    is_404 = lie[1].startswith(b"HTTP/1.1 404")  # S3's own answer to a HEAD, too, which has no body
    assert refused == [name for name in ("LIST", "HEAD", "GET", "PUT", "DELETE") if name != "HEAD" or not is_404]


@pytest.mark.usefixtures("short_pauses")
async def test_randomly_damaged_responses_become_store_errors() -> None:
    chance = damaged(ANSWERS)
    tried = 0
    for _ in duration.rounds(SHARE):
        for raw in _drawn(chance, 25):
            tried += 1

            async def script(received: ReceivedRequest, raw: bytes = raw) -> None:
                await respond(raw)(received)
                await received.close()

            async with facing(script) as store:
                await ask_everything(store)
    report("hostile input", inlet="answers to a store's client", examples=tried)


def _drawn(strategy: st.SearchStrategy[bytes], count: int) -> list[bytes]:
    """A few examples, for a test that is not a function of one example."""
    drawn: list[bytes] = []

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def draw(raw: bytes) -> None:
        drawn.append(raw)

    draw()
    return drawn
