"""Page through listings of a scripted store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

import pytest

from s3s3.errors import AccessDenied, ListingOutOfOrder, NoSuchBucket, StoreRefused, StoreUnavailable
from s3s3.s3 import Store
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, eventually, respond, response


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
