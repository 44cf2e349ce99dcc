"""A store that sends or takes a few bytes now and then is as unavailable as a silent one."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.mirror.upstream.origin import Origin
from s3s3.mirror.upstream.url_policy import UrlRules
from s3s3.s3 import Store, Timeouts
from s3s3.s3.transport.limits import RateWindow
from s3s3.transfer.budget import CopyBudget
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, error_response, respond, response

DRIP_S = 0.1


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.s3.request.ATTEMPTS", 1)


def dripping(raw: bytes, whole: bytes = b"") -> Script:
    """Return a script that sends `whole` at once, then `raw` byte by byte."""

    async def script(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write(whole)
        for byte in raw:
            received.write(bytes((byte,)))
            await asyncio.sleep(DRIP_S)

    return script


async def put(store: Store) -> None:
    await store.put("key", b"content", size_bytes=7, md5=b"m" * 16, headers={})


PAGE = response(body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")


@pytest.mark.parametrize(
    ("script", "request_", "message"),
    [
        (dripping(response(content_length="5")), lambda store: store.head("key"), "bytes of the response in 0.5 s"),
        (dripping(response(body=b"content")), lambda store: store.get("key"), "bytes of the response in 0.5 s"),
        (dripping(PAGE), lambda store: store.list_after("", 1), "bytes of the response in 0.9 s"),
        (dripping(PAGE[-60:], PAGE[:-60]), lambda store: store.list_after("", 1), "bytes of the response in 0.9 s"),
        (dripping(response(etag='"e"')), put, "bytes of the response in 0.7 s"),
        (dripping(b"x" * 50, response(content_length="50")), lambda store: store.attributes.tags("key"), "in 0.5 s"),
    ],
    ids=["HEAD", "head of a GET", "head of a LIST", "page of a LIST", "response to a PUT", "tags"],
)
async def test_a_dripped_response_times_out(
    script: Script, request_: Callable[[Store], Awaitable[object]], message: str
) -> None:
    timeouts = Timeouts(read_s=0.5, list_s=0.9, write_s=0.7)
    async with RawServer([script]) as server, server.store(timeouts=timeouts) as store:
        with pytest.raises(StoreUnavailable, match=f"did not answer in time: .*{message}"):
            await asyncio.wait_for(request_(store), 20)


async def test_a_dripped_error_page_leaves_the_status() -> None:
    error = error_response(503, "SlowDown")
    async with (
        RawServer([dripping(error[-60:], error[:-60])]) as server,
        server.store(timeouts=Timeouts(read_s=0.5)) as store,
    ):
        with pytest.raises(StoreUnavailable, match="503"):
            await asyncio.wait_for(store.get("key"), 20)


async def test_a_dripped_body_times_out_by_its_rate() -> None:
    script = dripping(b"x" * 1000, response(content_length="1000"))
    timeouts = Timeouts(rate_window_s=0.6, min_bytes_per_s=100)
    async with RawServer([script]) as server, server.store(timeouts=timeouts) as store:
        with pytest.raises(StoreUnavailable, match=r"did not answer in time: \d+ bytes sent in 0.6 s"):
            await asyncio.wait_for(store.fetch("key", 2000), 20)


async def test_a_body_above_the_minimum_rate_is_read() -> None:
    script = dripping(b"x" * 20, response(content_length="20"))
    async with (
        RawServer([script]) as server,
        server.store(timeouts=Timeouts(rate_window_s=0.4, min_bytes_per_s=2)) as store,
    ):
        assert (await store.fetch("key", 100))[1] == b"x" * 20


async def test_a_destination_that_takes_a_body_too_slowly_times_out() -> None:
    async def take_slowly(received: ReceivedRequest) -> None:
        transport = received.writer.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while True:
            await received.reader.readexactly(2000)
            await asyncio.sleep(0.05)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    timeouts = Timeouts(rate_window_s=0.6, min_bytes_per_s=1e9)
    async with RawServer([take_slowly]) as server, server.store(timeouts=timeouts) as store:
        with pytest.raises(StoreUnavailable, match=r"\d+ bytes taken in 0.6 s"):
            await asyncio.wait_for(store.put("key", endless, size_bytes=10**12, md5=b"m" * 16, headers={}), 20)


async def test_a_slow_reader_is_not_the_stores_fault() -> None:
    body = b"x" * 6_000_000
    timeouts = Timeouts(rate_window_s=0.2, min_bytes_per_s=10_000_000)
    async with RawServer([respond(response(body=body))]) as server, server.store(timeouts=timeouts) as store:
        stream = await store.get("key")
        read = b""
        async for chunk in stream.chunks(256 * 1024):
            read += chunk
            await asyncio.sleep(0.1)  # as for a destination that is slower, or a rate limit
        assert read == body


async def test_a_slow_source_is_not_the_destinations_fault() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000
            await asyncio.sleep(0.1)

    md5 = hashlib.md5(b"x" * 10_000)
    stored = respond(response(etag=f'"{md5.hexdigest()}"'))
    timeouts = Timeouts(rate_window_s=0.2, min_bytes_per_s=10_000_000)
    async with RawServer([stored]) as server, server.store(timeouts=timeouts) as store:
        put_ = await store.put("key", slow, size_bytes=10_000, md5=md5.digest(), headers={})
    assert put_.etag == md5.hexdigest()


async def test_a_listing_may_be_silent_for_longer_than_other_requests() -> None:
    async def think(received: ReceivedRequest) -> None:
        await asyncio.sleep(1.5)
        received.write(PAGE)

    async with RawServer([think]) as server, server.store(timeouts=Timeouts(read_s=0.4)) as store:
        assert await store.list_after("", 1) == []
    assert len(server.requests) == 1


def test_the_rate_counts_only_time_in_which_the_request_waits() -> None:
    window = RateWindow(0.0, 0)
    for second in range(1, 60):  # 1 KiB in each second of waiting
        assert not window.is_too_slow(float(second), second * 1024, 60, 1024)
    assert not window.is_too_slow(60.0, 60 * 1024, 60, 1024)
    for second in range(61, 120):
        assert not window.is_too_slow(float(second), 60 * 1024, 60, 1024)
    assert window.is_too_slow(120.0, 60 * 1024 + 7, 60, 1024)
    assert window.window_bytes == 7


def test_the_requests_in_progress_share_the_minimum_rate() -> None:
    window = RateWindow(0.0, 0)
    for second in range(1, 60):  # first alone, then as one of eight
        assert not window.is_too_slow(float(second), 0, 60, 800 if second <= 10 else 100)
    assert not window.is_too_slow(60.0, 10 * 800 + 50 * 100, 60, 100)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (dripping(response(body=b"content")), "no response in 0.7 s"),
        (dripping(b"x" * 1000, response(content_length="1000")), "bytes sent in 0.6 s"),
    ],
    ids=["head", "body"],
)
async def test_a_dripping_http_origin_times_out(script: Script, message: str) -> None:
    timeouts = Timeouts(connect_s=0.2, read_s=0.5, rate_window_s=0.6, min_bytes_per_s=100)
    async with RawServer([script]) as server, Origin(
            "upstream", key_to_url=lambda key: key, rules=UrlRules(private=[ip_network("127.0.0.0/8")]),
            headers_for=lambda key, fetched: {}, spool_budget=CopyBudget(), timeouts=timeouts,
        ) as origin:  # fmt: skip
        with pytest.raises(StoreUnavailable, match=message):
            await asyncio.wait_for(origin.fetch(f"http://127.0.0.1:{server.port}/x", 2000), 20)
