"""A source announces another length than it sends: nothing is written, and the destination has not failed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from s3s3.errors import IntegrityError, StoreError, StoreUnavailable
from s3s3.mirror.cache.directory import CacheDirectory
from s3s3.mirror.cache.downloads import Downloads
from s3s3.mirror.cache.eviction import DiskSpace
from s3s3.mirror.upstream.origin import Origin
from s3s3.mirror.upstream.url_policy import UrlRules
from s3s3.model import Outcome, Result
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import ObjectInfo, ObjectStream, Timeouts
from s3s3.s3.transport.errors import TransportError
from s3s3.transfer.budget import MAX_IN_MEMORY_BYTES, MAX_SMALL_BYTES, CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.worker.retry_policy import unavailable_store
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, respond, response
from tests.waiting import until

#: A second request, which a destination would carry out if it came after the announced 10 bytes.
SMUGGLED = b"0123456789PUT /bucket/victim HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
SIZES = pytest.mark.parametrize("size_bytes", [69, MAX_SMALL_BYTES + 1, MAX_IN_MEMORY_BYTES + 1])


def in_chunks(content: bytes, **headers: str | None) -> bytes:
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    changed: dict[str, str | None] = {"content_length": None, "transfer_encoding": "chunked", **headers}
    return response(200, framed, **changed)


async def copy(script: Script, *, compare: bool = False) -> tuple[Outcome, RawServer]:
    """Copy from a scripted source to a scripted destination; return the outcome, and the destination."""
    stored = respond(response(etag='"e"'))
    timeouts = Timeouts(read_s=2, write_s=2)
    async with RawServer([script]) as origin, RawServer([stored]) as target:
        endpoint = {"name": "source"}
        async with (
            origin.store(endpoint=endpoint, timeouts=timeouts) as source,
            target.store(timeouts=timeouts) as store,
        ):
            copier = Copier(source, CopyBudget(spool_bytes=1 << 30), metrics=Metrics(), route="default")
            [outcome] = await copier.copy("key", [store], check_lease=lambda: None, compare=compare)
    return outcome, target


def assert_the_source_failed(outcome: Outcome, target: RawServer) -> None:
    assert outcome.result is Result.FAILED
    assert isinstance(outcome.error, StoreError)
    assert outcome.error.store == "source"
    assert unavailable_store(outcome.error) != "destination-raw"
    for received in target.requests:
        assert len(received.body) < int(received.headers["content-length"]), "a whole object was written"


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.s3.request.ATTEMPTS", 1)


@pytest.mark.parametrize("announced", ["10", "0", "69", "100"])
async def test_content_length_beside_chunks_is_refused(announced: str) -> None:
    etag = f'"{hashlib.md5(SMUGGLED).hexdigest()}"'
    outcome, target = await copy(respond(in_chunks(SMUGGLED, content_length=announced, etag=etag)))
    assert_the_source_failed(outcome, target)
    assert target.requests == []


@SIZES
@pytest.mark.parametrize("etag", ["md5", "parts"])
async def test_fewer_bytes_than_announced_are_a_failure_of_the_source(size_bytes: int, etag: str) -> None:
    body = b"x" * size_bytes
    tag = hashlib.md5(body).hexdigest() if etag == "md5" else f"{'0' * 32}-2"

    async def cut_short(received: ReceivedRequest) -> None:
        received.write(response(body=body, etag=f'"{tag}"')[:-1])
        await received.close()

    assert_the_source_failed(*await copy(cut_short))


@SIZES
async def test_more_bytes_than_announced_are_a_failure_of_the_source(size_bytes: int) -> None:
    body = b"x" * size_bytes
    raw = response(body=body + b"PUT / HTTP/1.1\r\n\r\n", content_length=str(size_bytes), etag='"e-2"')
    assert_the_source_failed(*await copy(respond(raw)))


@pytest.mark.parametrize("announced", ["+10", "1_0", "0x0a", " 1 0", "10, 10", "\u0661\u0660", "9" * 5000, "-1"])
async def test_a_length_that_is_not_a_number_is_refused(announced: str) -> None:
    outcome, target = await copy(respond(response(body=b"0123456789", content_length=announced)))
    assert_the_source_failed(outcome, target)
    assert target.requests == []


async def test_chunks_alone_have_no_length_to_announce() -> None:
    outcome, target = await copy(respond(in_chunks(SMUGGLED)))
    assert_the_source_failed(outcome, target)
    assert "no Content-Length" in outcome.reason


async def test_a_204_is_not_an_empty_object() -> None:
    outcome, target = await copy(respond(response(204)))
    assert_the_source_failed(outcome, target)


async def test_a_put_never_carries_another_length_than_its_body() -> None:
    async with RawServer([respond(response(etag='"e"'))]) as server, server.store() as store:
        for size_bytes in (10, 100):
            with pytest.raises(IntegrityError, match=f"69 bytes instead of the announced {size_bytes}"):
                await store.put("key", SMUGGLED, size_bytes=size_bytes, md5=b"m" * 16, headers={})
    assert server.requests == []


@pytest.mark.parametrize("extra", [-1, 1])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_stream_with_another_length_than_its_info_is_refused(extra: int, whole: bool) -> None:
    """The body may come from a response, memory or a file."""

    class Lying:
        content = b"x" * (10 + extra)

        async def read(self, size_bytes: int) -> bytes:
            content, self.content = self.content, b""
            return content

        def close(self, *, abort: bool = False) -> None:
            pass

    def to_store_error(error: TransportError) -> StoreError:
        return StoreUnavailable("", store="source")

    stream = ObjectStream(ObjectInfo("key", 10, "e"), Lying(), to_store_error)
    with pytest.raises(StoreError) as caught:
        await (stream.body() if whole else _read_all(stream.chunks(5)))
    assert isinstance(caught.value, IntegrityError) or extra < 0
    assert caught.value.store in ("source", "")


async def _read_all(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


@pytest.mark.parametrize(
    "raw",
    [in_chunks(SMUGGLED, content_length="10"), response(body=SMUGGLED, content_length="1_0"),
     response(body=SMUGGLED, content_length="10"), response(body=SMUGGLED, content_length="100")],
    ids=["both kinds of framing", "no number", "too short", "too long"],
)  # fmt: skip
async def test_an_http_origin_is_read_by_the_same_rules(raw: bytes) -> None:
    async def answer(received: ReceivedRequest) -> None:
        received.write(raw)
        await received.close()

    async with RawServer([answer]) as server, Origin(
            "upstream", key_to_url=lambda key: key, rules=UrlRules(private=[ip_network("127.0.0.0/8")]),
            headers_for=lambda key, fetched: {}, spool_budget=CopyBudget(spool_bytes=1 << 20),
        ) as origin:  # fmt: skip
        with pytest.raises(StoreError):
            await origin.fetch(f"http://127.0.0.1:{server.port}/x", 1000)


@pytest.mark.parametrize("announced", ["10", "100"])
async def test_the_cache_keeps_no_object_of_another_length(announced: str, tmp_path: Path) -> None:
    async def answer(received: ReceivedRequest) -> None:
        received.write(response(body=SMUGGLED, content_length=announced, etag='"e-2"'))
        await received.close()

    async with RawServer([answer]) as server, server.store() as store:
        directory = CacheDirectory(tmp_path, "bucket")
        directory.create()
        downloads = Downloads(store, directory, DiskSpace(directory, 1, 0.9), Metrics(), "cache")
        download = downloads.start("key", "")
        assert download is not None
        await until(lambda: not downloads.running)
        assert isinstance(download.error, StoreError)
        assert not download.is_verified
        assert directory.open("key") is None
