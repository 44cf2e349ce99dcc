"""Page through listings of a scripted store; parse pages of real stores, and invalid ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.errors import AccessDenied, ListingOutOfOrder, NoSuchBucket, StoreRefused, StoreUnavailable
from s3s3.model import Entry
from s3s3.s3 import Store, listing
from s3s3.s3.listing import parse_page
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, eventually, respond, response

SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ETAG = "9dd4e461268c8034f5c8564e155c67a6"
WHEN = "2026-10-05T21:09:27.250Z"
WHEN_MS = 1_791_234_567_250


@dataclass
class Bucket:
    """Responds to LIST like S3, with the given deviations."""

    keys: list[str]
    page_size: int = 3
    knows_v2: bool = True
    knows_start_after: bool = True
    knows_encoding: bool = True
    marker_included: bool = False
    empty_pages: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, received: ReceivedRequest) -> None:
        path, _, query = received.target.partition(b"?")
        assert path == b"/bucket/"
        asked = dict(parse_qsl(query.decode(), keep_blank_values=True))
        self.asked.append(asked)
        is_v2 = self.knows_v2 and asked.get("list-type") == "2"
        after = asked.get("start-after" if is_v2 else "marker", "")
        if is_v2 and not self.knows_start_after:
            after = ""
        after = asked.get("continuation-token", after)
        keys = [key for key in self.keys if key.startswith(asked.get("prefix", ""))]
        at = 0
        if after in keys:
            at = keys.index(after) + (not self.marker_included)
        elif after:
            at = sum(key.encode() <= after.encode() for key in keys)
        received.write(
            response(body=self._page(keys[at : at + self.page_size], len(keys) > at + self.page_size, is_v2, after))
        )

    def _page(self, keys: list[str], truncated: bool, is_v2: bool, after: str) -> bytes:
        token = ""
        if self.empty_pages:
            self.empty_pages -= 1
            keys, truncated, token = [], True, after or "!"
        contents = "".join(
            f"<Contents><Key>{quote(key) if self.knows_encoding else escape(key)}</Key>"
            f"<LastModified>2026-10-05T21:09:27.250Z</LastModified>"
            f"<ETag>&quot;{'a' * 32}&quot;</ETag><Size>1</Size></Contents>"
            for key in keys
        )
        return (
            f"<ListBucketResult><IsTruncated>{str(truncated).lower()}</IsTruncated>{contents}"
            f"{'<KeyCount>1</KeyCount>' if is_v2 else ''}"
            f"{'<EncodingType>url</EncodingType>' if self.knows_encoding else ''}"
            f"{f'<NextMarker>{token}</NextMarker>' if token else ''}</ListBucketResult>"
        ).encode()


async def listed(store: Store, **options: Any) -> list[str]:
    return [entry.key async for page in store.pages(**options) for entry in page]


KEYS = [f"{letter}{n}" for letter in ("a", "b/", "b b", "b+", "ü", "\uffff", "😀") for n in range(3)]
KEYS.sort(key=str.encode)


@pytest.mark.parametrize("page_size", [1, 2, 7, 100])
@pytest.mark.parametrize(
    "ways",
    [
        {},
        {"knows_v2": False},
        {"knows_start_after": False},
        {"knows_encoding": False},
        {"marker_included": True, "knows_v2": False},
    ],
    ids=str,
)
async def test_every_key_is_listed_once(ways: dict[str, Any], page_size: int) -> None:
    if ways.get("marker_included"):
        page_size += 1
    bucket = Bucket(KEYS, page_size, **ways)
    async with RawServer([bucket]) as server, server.store() as store:
        assert await listed(store) == KEYS
        for start in ("a1", "b", KEYS[-1]):
            after = [key for key in KEYS if key.encode() > start.encode()]
            assert await listed(store, start_after=start) == after


@pytest.mark.parametrize("page_size", [1, 2, 100])
@pytest.mark.parametrize("until", ["a1", "b", "b b1", KEYS[-1], "\U0010ffff", "0"])
async def test_a_listing_ends_at_until_without_another_request(until: str, page_size: int) -> None:
    bucket = Bucket(KEYS, page_size)
    async with RawServer([bucket]) as server, server.store() as store:
        assert await listed(store, until=until) == [key for key in KEYS if key <= until]
        assert all(asked.get("start-after", "") < until for asked in bucket.asked)
        assert await listed(store, start_after="a1", until=until) == [key for key in KEYS if "a1" < key <= until]


@pytest.mark.parametrize("ways", [{}, {"knows_v2": False}, {"empty_pages": 1}], ids=str)
async def test_list_after_requests_one_page(ways: dict[str, Any]) -> None:
    bucket = Bucket(KEYS, 1, **ways)
    async with RawServer([bucket]) as server, server.store() as store:
        for start, found in (("", KEYS[:1]), ("a1", ["a2"]), ("aa", ["b b0"]), (KEYS[-1], []), ("\U0010ffff", [])):
            assert [entry.key for entry in await store.list_after(start, 1)] == found
        assert {asked["max-keys"] for asked in bucket.asked} == {"1"}


async def test_version_2_is_requested_by_default() -> None:
    bucket = Bucket(KEYS)
    async with RawServer([bucket]) as server:
        async with server.store() as store:
            await listed(store)
        assert {asked.get("list-type") for asked in bucket.asked} == {"2"}
        bucket.asked.clear()
        async with server.store(list_version=1) as store:
            assert await listed(store) == KEYS
        assert {asked.get("list-type") for asked in bucket.asked} == {None}


@pytest.mark.parametrize("status", [400, 501])
async def test_version_1_is_requested_if_version_2_is_refused(status: int) -> None:
    bucket = Bucket(KEYS, knows_v2=False)

    async def refuse_v2(received: ReceivedRequest) -> None:
        await (respond(error_response(status, "NotImplemented")) if b"list-type" in received.target else bucket)(
            received
        )

    async with RawServer([refuse_v2]) as server, server.store() as store:
        assert await listed(store) == KEYS


async def test_entries_have_the_keys_of_the_source() -> None:
    bucket = Bucket(["copies/a", "copies/b", "copies/c", "copies/d"])
    mapped: dict[str, Any] = {"endpoint": {"prefix": "copies/"}, "source_prefix": "originals/"}
    async with RawServer([bucket]) as server, server.store(**mapped) as store:
        assert await listed(store) == [f"originals/{letter}" for letter in "abcd"]
        assert await listed(store, start_after="originals/b") == ["originals/c", "originals/d"]
    assert {asked["prefix"] for asked in bucket.asked} == {"copies/"}


async def test_an_empty_bucket_has_no_entries() -> None:
    for knows_v2 in (True, False):
        async with RawServer([Bucket([], knows_v2=knows_v2)]) as server, server.store() as store:
            assert await listed(store) == []


async def test_a_truncated_page_may_be_empty_if_it_has_a_token() -> None:
    async with RawServer([Bucket(["a", "b"], empty_pages=1)]) as server, server.store() as store:
        assert await listed(store) == ["a", "b"]
    async with RawServer([Bucket(["a", "b"], empty_pages=99)]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="does not advance"):
            await listed(store)


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a", "b", "c", "b", "d"], ["😀", "\uffff"], ["b", "B"]])
@pytest.mark.parametrize("knows_v2", [True, False])
async def test_descending_keys_are_an_error(keys: list[str], knows_v2: bool) -> None:
    async with RawServer([Bucket(keys, page_size=9, knows_v2=knows_v2)]) as server, server.store() as store:
        with pytest.raises(ListingOutOfOrder, match="comes after"):
            await listed(store)


async def test_a_listing_that_does_not_advance_is_an_error() -> None:
    class MarkerIgnored(Bucket):
        async def __call__(self, received: ReceivedRequest) -> None:
            self.asked.append({})
            received.write(response(body=self._page(["a", "b"], True, True, "")))

    bucket = MarkerIgnored([])
    async with RawServer([bucket]) as server, server.store() as store:
        with pytest.raises(ListingOutOfOrder):
            await listed(store)
    assert len(bucket.asked) < 10


async def test_keys_outside_of_the_prefix_are_refused() -> None:
    class Loose(Bucket):
        async def __call__(self, received: ReceivedRequest) -> None:
            received.write(response(body=self._page(["a", "b"], False, True, "")))

    async with RawServer([Loose([])]) as server, server.store(endpoint={"prefix": "a"}, source_prefix="a") as store:
        with pytest.raises(StoreRefused, match="outside of the requested prefix"):
            await listed(store)


async def test_one_page_is_fetched_ahead() -> None:
    bucket = Bucket(KEYS)
    async with RawServer([bucket]) as server, server.store() as store:
        async with aclosing(store.pages()) as pages:
            async for _ in pages:
                await eventually(lambda: len(bucket.asked) == 2)
                break
            await anext(pages)
            await eventually(lambda: len(bucket.asked) == 3)
            await asyncio.sleep(0.05)
            assert len(bucket.asked) == 3
        assert len(asyncio.all_tasks()) == 1 + len(server._tasks)


async def test_a_page_is_requested_again_and_errors_are_raised() -> None:
    bucket = Bucket(KEYS)
    scripts: list[Callable[[ReceivedRequest], Awaitable[Any]]] = [
        respond(error_response(503, "SlowDown")),
        respond(response(body=b"<ListBucketRes", content_length="99")),
        bucket,
    ]

    async def cut_short(received: ReceivedRequest) -> None:
        received.write(response(body=b"<ListBucketRes", content_length="99"))
        await received.close()

    scripts[1] = cut_short
    async with RawServer(scripts) as server, server.store() as store:
        assert await listed(store) == KEYS
    for script, kind in (
        (respond(error_response(404, "NoSuchBucket")), NoSuchBucket),
        (respond(error_response(403, "AccessDenied")), AccessDenied),
        (respond(error_response(500, "InternalError")), StoreUnavailable),
        (respond(response(body=b"<html>welcome</html>")), StoreRefused),
    ):
        async with RawServer([script]) as server, server.store() as store:
            with pytest.raises(kind, match="LIST"):
                await listed(store)


async def test_a_chunked_page_is_read() -> None:
    body = Bucket([])._page(KEYS, False, True, "")
    chunks = b"".join(
        b"%x;ext=1\r\n%s\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7)
    )
    raw = response(content_length=None, transfer_encoding="chunked") + chunks + b"0\r\ntrailer: x\r\n\r\n"

    async def drip(received: ReceivedRequest) -> None:
        for at in range(0, len(raw), 11):
            received.write(raw[at : at + 11])
            await asyncio.sleep(0)

    async with RawServer([drip]) as server, server.store() as store:
        for _ in range(2):
            assert await listed(store) == KEYS
        assert server.connections == 1


# pages


def page(*contents: str, about: str = "<EncodingType>url</EncodingType><KeyCount>1</KeyCount>") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{SPACE}"><Name>b</Name><Prefix></Prefix>'
        f"<IsTruncated>false</IsTruncated>{''.join(contents)}{about}</ListBucketResult>"
    ).encode()


def ceph(key: str) -> str:
    return (
        f"<Contents><Key>{quote(key, safe='')}</Key><LastModified>{WHEN}</LastModified><ETag>&quot;{ETAG}&quot;</ETag>"
        "<Size>7</Size><StorageClass>STANDARD</StorageClass><Owner><ID>u</ID><DisplayName>u</DisplayName></Owner>"
        "<Type>Normal</Type></Contents>"
    )


def swift(key: str) -> str:
    return (
        f'<Contents><Key>{quote(key)}</Key><LastModified>{WHEN}</LastModified><ETag>"{ETAG}"</ETag>'
        "<Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def aws(key: str) -> str:
    return (
        f"<Contents><Key>{quote_plus(key, safe='/')}</Key><LastModified>{WHEN}</LastModified><ETag>&quot;{ETAG}&quot;"
        "</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def rclone(key: str) -> str:
    return (
        f"\n  <Contents>\n    <Key>{quote_plus(key, safe='/')}</Key>\n    <LastModified>{WHEN}</LastModified>\n"
        f"    <ETag>&#34;{ETAG}&#34;</ETag>\n    <Size>7</Size>\n  </Contents>\n"
    )


def prefixed(key: str) -> str:
    return aws(key).replace("<", f'<s:Contents xmlns:s="{SPACE}"><').replace("x", "x")


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.lists(keys, max_size=5), st.sampled_from([ceph, swift, aws, rclone]))
def test_every_key_is_read_from_the_encoding_of_every_store(names: list[str], write: Callable[[str], str]) -> None:
    listed = parse_page(page(*map(write, names)))
    assert listed.entries == [Entry(name, 7, ETAG, WHEN_MS) for name in names]


@settings(max_examples=300, deadline=None)
@given(st.lists(keys, max_size=5), st.sampled_from([ceph, swift, aws]))
def test_the_regular_expression_and_the_xml_parser_agree(names: list[str], write: Callable[[str], str]) -> None:
    text = page(*map(write, names)).decode()
    quick = listing._match(text.replace("&quot;", '"'))
    assert quick is not None
    fields, about = listing._parse_xml(text)
    assert quick[0] == fields
    assert quick[1].items() <= about.items()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f\ufffe\uffff")), max_size=5)
)
def test_keys_that_are_not_encoded_are_read_unchanged(names: list[str]) -> None:
    contents = [ceph("k").replace("<Key>k<", f"<Key>{escape(name)}<") for name in names]
    for written in (contents, [text.replace("<Size>", " <Size>") for text in contents]):
        listed = parse_page(page(*written, about=""))
        assert [entry.key for entry in listed.entries] == names


def test_control_characters_outside_of_keys_are_accepted() -> None:
    about = "<EncodingType>url</EncodingType><NextContinuationToken>\x01\x7f</NextContinuationToken>"
    for contents in (ceph("\x01\x7f"), rclone("\x01\x7f")):
        assert parse_page(page(contents, about=about)).entries[0].key == "\x01\x7f"


def test_the_header_of_a_page_is_parsed() -> None:
    truncated = page(swift("a"), about="<NextMarker>x&amp;y</NextMarker>").replace(b">false<", b">true<")
    listed = parse_page(truncated)
    assert (listed.is_truncated, listed.is_v2, listed.token) == (True, False, "x&y")
    listed = parse_page(page())
    assert (listed.entries, listed.is_truncated, listed.is_v2, listed.token) == ([], False, True, "")


def test_a_key_that_looks_like_a_field_is_not_one() -> None:
    key = "<IsTruncated>true</IsTruncated>"
    raw = page(ceph("k").replace("<Key>k<", f"<Key>{escape(key)}<"), about="")
    assert parse_page(raw).is_truncated is False
    assert parse_page(raw).entries[0].key == key


@pytest.mark.parametrize(
    ("when", "expected_ms"),
    [
        ("2026-10-05T21:09:27.250Z", 1_791_234_567_250),
        ("2026-10-05T21:09:27Z", 1_791_234_567_000),
        ("2026-10-05T21:09:27.5Z", 1_791_234_567_500),
        ("2026-10-05T21:09:27.250999999Z", 1_791_234_567_250),
        ("1969-12-31T23:59:59.000Z", -1000),
        ("2026-10-05T23:09:27.250+02:00", 1_791_234_567_250),
        ("Mon, 05 Oct 2026 21:09:27 GMT", 1_791_234_567_000),
    ],
)
def test_times_are_parsed_to_the_millisecond(when: str, expected_ms: int) -> None:
    assert parse_page(page(swift("a").replace(WHEN, when))).entries[0].modified_ms == expected_ms


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html><body>welcome to the hotel</body></html>",
        b"<ListBucketResult>",
        b"\xff\xfe",
        page(swift("a")).replace(b"<IsTruncated>false</IsTruncated>", b""),
        page(swift("a").replace("<Size>7</Size>", "")),
        page(swift("a").replace("<Size>7", "<Size>many")),
        page(swift("a").replace(">a<", ">%FF<")),
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + page(swift("a")),
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult>&b;</ListBucketResult>',
    ],
)
def test_a_response_that_is_not_a_listing_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreRefused):
        parse_page(raw)


def test_entries_are_renamed() -> None:
    listed = parse_page(page(swift("own/a")), rename=lambda key: "source/" + key[4:])
    assert listed.entries[0].key == "source/a"
    assert listed.last_key == "own/a"


def page_of(entry: bytes, count: int) -> bytes:
    entries = b"".join(entry % number for number in range(count))
    return b"<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>" % entries


FULL_ENTRY = f"<Contents><Key>%06d</Key><LastModified>{WHEN}</LastModified><ETag>{ETAG}</ETag><Size>1</Size>"


@pytest.mark.parametrize(
    ("body", "is_long"),
    [
        (page_of(f"{FULL_ENTRY}<StorageClass>STANDARD</StorageClass></Contents>".encode(), 1000), False),
        (page_of(f"{FULL_ENTRY}<StorageClass>{'x' * 1000}</StorageClass></Contents>".encode(), 1000), True),
        (page_of(f"{FULL_ENTRY}{'<a/>' * 35}</Contents>".encode(), 1000), True),
    ],
    ids=["usual", "many bytes", "many elements"],
)
async def test_a_page_that_takes_long_to_parse_does_not_block_the_event_loop(
    body: bytes, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def parse(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return parse_page(*args)

    monkeypatch.setattr(listing, "parse_page", parse)
    async with RawServer([respond(response(body=body))]) as server, server.store() as store:
        assert len(await store.list_after("", 1000)) == 1000
    assert [thread is not threading.main_thread() for thread in threads] == [is_long]
