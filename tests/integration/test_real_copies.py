"""Copies between real stores, judged by another client; a proxy damages or slows them on the way where asked."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from s3s3.errors import IntegrityError, LeaseLost
from s3s3.model import Endpoint, Outcome, Proof, Result
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import RECORDED_ETAG, Store
from s3s3.scripts.demo.servers import HOST, StoreServer
from s3s3.transfer import object_write
from s3s3.transfer.budget import MAX_IN_MEMORY_BYTES, STREAM_BYTES, BudgetRequest, CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.transfer.fanout import fan_out
from tests.contents import random_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef

NewBucket = Callable[..., str]
Client = object
pytestmark = pytest.mark.real

MIB = 1024 * 1024
BIG = random_bytes(24 * MIB + 5)


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


class Buckets:
    """A source bucket and destination buckets of one server, and what copies between them."""

    def __init__(self, server: StoreServer, new_bucket: NewBucket, destinations: int = 2) -> None:
        self.client = server.boto3_client()
        names = ["source", *(f"destination-{number}" for number in range(destinations))]
        self.source, *self.destinations = [server.endpoint(new_bucket(server), name=name) for name in names]
        self.room = CopyBudget(spool_bytes=64 * MIB, memory_bytes=STREAM_BYTES)
        self.metrics = Metrics()

    async def copy(
        self, *keys: str, look: bool = False, check_lease: Callable[[], None] = lambda: None
    ) -> dict[str, list[Outcome]]:
        async with AsyncExitStack() as stack:
            source, *destinations = [
                await stack.enter_async_context(Store(endpoint, source_prefix=self.source.prefix))
                for endpoint in (self.source, *self.destinations)
            ]
            transfer = Copier(source, self.room, metrics=self.metrics, route="default")
            copies = [transfer.copy(key, destinations, check_lease=check_lease, compare=look) for key in keys]
            return dict(zip(keys, await asyncio.gather(*copies), strict=True))

    def write(self, endpoint: Endpoint, key: str, body: bytes, **about: Any) -> None:
        self.client.put_object(Bucket=endpoint.bucket_name, Key=key, Body=body, **about)

    def write_in_parts(self, key: str, body: bytes) -> None:
        bucket = self.source.bucket_name
        upload = self.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        parts = [body[: 5 * MIB], body[5 * MIB :]]
        etags = [
            self.client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
            for number, part in enumerate(parts, 1)
        ]
        made: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)
        ]
        self.client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": made})

    def read(self, endpoint: Endpoint, key: str) -> bytes:
        return self.client.get_object(Bucket=endpoint.bucket_name, Key=key)["Body"].read()

    def describe(self, endpoint: Endpoint, key: str) -> HeadObjectOutputTypeDef:
        return self.client.head_object(Bucket=endpoint.bucket_name, Key=key)

    def all_hold(self, key: str, body: bytes) -> bool:
        return all(self.read(endpoint, key) == body for endpoint in self.destinations)


@pytest.fixture
def buckets(server: StoreServer, new_bucket: NewBucket) -> Buckets:
    return Buckets(server, new_bucket)


class Proxy:
    """Passes bytes between a client and a real server.

    Attributes:
        flips: of all bytes that come back, those at these places are changed.
        bytes_per_s: how fast the request goes through at most.
    """

    def __init__(self, port: int, *, flips: Sequence[int] = (), bytes_per_s: int | None = None) -> None:
        self._upstream_port = port
        self.flips = flips
        self.passed_bytes = 0
        self.bytes_per_s = bytes_per_s
        self.connections = 0
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._upstream_port)
        with suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._up(reader, upstream_writer), self._down(upstream_reader, writer))
        for one in (writer, upstream_writer):
            one.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := bytearray(await reader.read(64 * 1024)):
            for place in self.flips:
                if 0 <= place - self.passed_bytes < len(data):
                    data[place - self.passed_bytes] ^= 1
            self.passed_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    @asynccontextmanager
    async def before(self, endpoint: Endpoint) -> AsyncIterator[Endpoint]:
        async with await asyncio.start_server(self._serve, HOST) as listening:
            self.port = listening.sockets[0].getsockname()[1]
            # The signature covers path and headers, but V2 not the Host.
            yield dataclasses.replace(endpoint, port=self.port)


CONTENTS: Sequence[bytes] = [b"", b"x", *map(random_bytes, (4096, 300_000, MAX_IN_MEMORY_BYTES)), BIG]


async def test_every_size_arrives_byte_identical_with_its_metadata(buckets: Buckets) -> None:
    keys = {f"folder/{len(body)} bytes": body for body in CONTENTS}
    for key, body in keys.items():
        about = {"ContentType": "image/fits", "CacheControl": "max-age=60", "Metadata": {"with-hyphens": "some value"}}
        buckets.write(buckets.source, key, body, **about)

    results = await buckets.copy(*keys)

    for key, body in keys.items():
        assert [outcome.result for outcome in results[key]] == [Result.COPIED] * 2
        assert all(outcome.destination_md5 == hashlib.md5(body).hexdigest() for outcome in results[key])
        assert buckets.all_hold(key, body)
        for endpoint in buckets.destinations:
            held = buckets.describe(endpoint, key)
            assert (held["ContentType"], held["CacheControl"]) == ("image/fits", "max-age=60")
            assert held["Metadata"] == {"with-hyphens": "some value"}
    for outcomes in (await buckets.copy(*keys, look=True)).values():
        assert [(outcome.result, outcome.proof) for outcome in outcomes] == [(Result.SAME, Proof.ETAG)] * 2
    assert buckets.room.try_acquire(BudgetRequest(STREAM_BYTES, 64 * MIB))


async def test_an_object_of_parts_is_spooled_recorded_and_known_again(buckets: Buckets) -> None:
    buckets.write_in_parts("parts", BIG)
    etag = str(buckets.describe(buckets.source, "parts")["ETag"]).strip('"')
    assert etag.endswith("-2")

    copied = await buckets.copy("parts")
    same = await buckets.copy("parts", look=True)

    assert [outcome.result for outcome in copied["parts"]] == [Result.COPIED] * 2
    assert buckets.all_hold("parts", BIG)
    for endpoint in buckets.destinations:
        metadata = buckets.describe(endpoint, "parts")["Metadata"]
        assert metadata == {RECORDED_ETAG.removeprefix("x-amz-meta-"): etag}
    assert [outcome.proof for outcome in same["parts"]] == [Proof.RECORDED_ETAG] * 2


async def test_contents_that_are_equal_without_a_record_are_found_equal_by_reading(buckets: Buckets) -> None:
    buckets.write_in_parts("parts", BIG)
    buckets.source = dataclasses.replace(buckets.source, verify_md5=True)
    content_type = str(buckets.describe(buckets.source, "parts")["ContentType"])
    buckets.write(buckets.destinations[0], "parts", BIG, ContentType=content_type)
    buckets.write(buckets.destinations[1], "parts", BIG[:-1] + b"?", ContentType=content_type)

    first, second = (await buckets.copy("parts", look=True))["parts"]

    assert (first.result, first.proof) == (Result.SAME, Proof.CONTENT)
    assert (second.result, second.reason) == (Result.COPIED, "content")
    assert buckets.all_hold("parts", BIG)


async def test_a_key_that_the_source_lacks_is_gone(buckets: Buckets) -> None:
    for look in (False, True):
        outcomes = (await buckets.copy("nothing", look=look))["nothing"]
        assert [outcome.result for outcome in outcomes] == [Result.SOURCE_MISSING] * 2


async def test_a_bit_flipped_on_the_way_from_the_source_leaves_the_old_object_standing(
    server: StoreServer, buckets: Buckets
) -> None:
    buckets.write(buckets.source, "big", BIG)
    for endpoint in buckets.destinations:
        buckets.write(endpoint, "big", b"the old one")
    # The same bit twice would look like a non-MD5 ETag; the second read flips another bit.
    proxy = Proxy(server.port, flips=[len(BIG) - 4 * MIB, 2 * len(BIG) - 5 * MIB])

    async with proxy.before(buckets.source) as damaging:
        honest, buckets.source = buckets.source, damaging
        outcomes = (await buckets.copy("big"))["big"]

    assert all(isinstance(outcome.error, IntegrityError) for outcome in outcomes)
    assert buckets.all_hold("big", b"the old one")
    assert buckets.metrics.verify_mismatch["default", "source"] == 1
    buckets.source = honest
    await buckets.copy("big")
    assert buckets.all_hold("big", BIG)


async def test_a_lease_that_ends_before_the_last_chunk_leaves_the_old_object_standing(buckets: Buckets) -> None:
    buckets.write(buckets.source, "big", BIG)
    buckets.write_in_parts("parts", BIG)
    for endpoint in buckets.destinations:
        for key in ("big", "parts"):
            buckets.write(endpoint, key, b"the old one")
    for key in ("big", "parts"):
        permits = iter([True, True])  # for the first byte of each destination, and for no last one

        def check_lease(permits: object = permits) -> None:
            if not next(permits, False):  # type: ignore[call-overload]
                raise LeaseLost("over")

        outcomes = (await buckets.copy(key, check_lease=check_lease))[key]

        assert all(isinstance(outcome.error, LeaseLost) and not outcome.indeterminate for outcome in outcomes)
        assert buckets.all_hold(key, b"the old one")


@pytest.mark.long
async def test_a_slow_destination_does_not_hold_up_the_quick_one(
    server: StoreServer, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_write, "fan_out", partial(fan_out, stall_budget_s=0.3))
    buckets.write(buckets.source, "big", BIG)
    quick, slow = buckets.destinations
    done: list[str] = []
    put = Store.put

    async def noted_put(store: Store, *arguments: object, **named: object) -> object:
        written = await put(store, *arguments, **named)  # type: ignore[arg-type]
        done.append(store.name)
        return written

    monkeypatch.setattr(Store, "put", noted_put)
    proxy = Proxy(server.port, bytes_per_s=8 * MIB)
    async with proxy.before(slow) as slowed:
        buckets.destinations = [quick, slowed]
        outcomes = (await buckets.copy("big"))["big"]

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert done == ["destination-0", "destination-1"]
    assert proxy.connections == 2, "the slow one was cut loose once, and had one attempt of its own"
    assert buckets.read(quick, "big") == buckets.read(slow, "big") == BIG
