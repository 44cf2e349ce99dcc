"""Responses without Content-Length: what the store has is copied, verified, or nothing is."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from s3s3.errors import IntegrityError
from s3s3.model import Endpoint, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import Store, Timeouts
from s3s3.scripts.demo.servers import free_ports
from s3s3.transfer.budget import MAX_IN_MEMORY_BYTES, MAX_SMALL_BYTES, CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.transfer.route_stores import RouteStores, opened
from s3s3.transfer.unsized_body import spool_body
from tests.field.nginx import running_nginx
from tests.field.workplace import SETTINGS
from tests.real.ceph_server import CephServer
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, response

NewBucket = Callable[..., str]

SIZES = pytest.mark.parametrize("size_bytes", [0, 69, MAX_SMALL_BYTES + 1, MAX_IN_MEMORY_BYTES + 1])

#: As an ingress or a web server is configured before a gateway. `sub_filter` clears Content-Length and ETag of what it
#: could change, of GET and HEAD.
NGINX = """
    server {{
        listen 127.0.0.1:{gunzip_port};
        gunzip on;
        location / {{ proxy_pass http://127.0.0.1:{store_port}; proxy_set_header Host $http_host; }}
    }}
    server {{
        listen 127.0.0.1:{filter_port};
        sub_filter_types *;
        sub_filter "http://internal.example.org" "https://www.example.org";
        location / {{ proxy_pass http://127.0.0.1:{store_port}; proxy_set_header Host $http_host; }}
    }}
"""


@dataclasses.dataclass(frozen=True)
class Nginx:
    gunzip_port: int
    filter_port: int


@pytest.fixture
def nginx(ceph: CephServer, tmp_path: Path) -> Iterator[Nginx]:
    """An nginx before Ceph."""
    ports = Nginx(*free_ports(2))
    servers = NGINX.format(store_port=ceph.port, **dataclasses.asdict(ports))
    with running_nginx(tmp_path, servers, ports.gunzip_port, ports.filter_port):
        yield ports


def compressible(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(64) * (size_bytes // 64 + 1)


@asynccontextmanager
async def route_of(source: Endpoint, destination: Endpoint) -> AsyncIterator[RouteStores]:
    destination = dataclasses.replace(destination, server_side_copy=False)
    async with opened(Route("default", source, (destination,)), SETTINGS, Metrics()) as stores:
        yield stores


async def copied(stores: RouteStores, key: str, *, compare: bool = False) -> Outcome:
    [outcome] = await stores.copier.copy(key, stores.destinations, check_lease=lambda: None, compare=compare)
    return outcome


@pytest.mark.real
@pytest.mark.parametrize("size_bytes", [0, 100, 3 * MAX_SMALL_BYTES, MAX_IN_MEMORY_BYTES + 1])
async def test_compressed_objects_behind_nginx_with_gunzip_are_copied_as_stored(
    ceph: CephServer, nginx: Nginx, new_bucket: NewBucket, size_bytes: int
) -> None:
    client = ceph.boto3_client()
    source = dataclasses.replace(ceph.endpoint(new_bucket(ceph), "source"), port=nginx.gunzip_port)
    destination = ceph.endpoint(new_bucket(ceph), "destination")
    stored = gzip.compress(random.Random(1).randbytes(size_bytes), mtime=0)
    put = partial(client.put_object, Bucket=source.bucket_name, ContentType="text/plain", Metadata={"a": "b"})
    put(Key="compressed", Body=stored, ContentEncoding="gzip")
    put(Key="plain", Body=stored)
    async with route_of(source, destination) as stores:
        for key in ("compressed", "plain"):
            assert (await copied(stores, key)).result is Result.COPIED
            copy = client.get_object(Bucket=destination.bucket_name, Key=key)
            assert copy["Body"].read() == client.get_object(Bucket=source.bucket_name, Key=key)["Body"].read()
            assert copy.get("ContentEncoding") == (None if key == "plain" else "gzip")
            assert copy["Metadata"] == {"a": "b"}
            again = await copied(stores, key, compare=True)
            assert (again.result, again.proof) == (Result.SAME, "etag")
    # and as a destination, whose copies are compared by HEAD
    async with route_of(destination, dataclasses.replace(source, name="destination")) as stores:
        assert (await copied(stores, "compressed", compare=True)).result is Result.SAME


@pytest.mark.real
@pytest.mark.parametrize("size_bytes", [69, MAX_SMALL_BYTES + 1, MAX_IN_MEMORY_BYTES + 1])
async def test_objects_without_length_and_etag_are_verified_by_the_listing(
    ceph: CephServer, nginx: Nginx, new_bucket: NewBucket, size_bytes: int
) -> None:
    client = ceph.boto3_client()
    source = dataclasses.replace(ceph.endpoint(new_bucket(ceph), "source"), port=nginx.filter_port)
    destination = ceph.endpoint(new_bucket(ceph), "destination")
    content = compressible(size_bytes)
    client.put_object(Bucket=source.bucket_name, Key="key", Body=content, ContentType="text/plain")
    client.put_object(Bucket=source.bucket_name, Key="changed", Body=b"http://internal.example.org/ " + content)
    async with route_of(source, destination) as stores:
        assert (await copied(stores, "key")).result is Result.COPIED
        assert client.get_object(Bucket=destination.bucket_name, Key="key")["Body"].read() == content
        assert (await copied(stores, "key", compare=True)).result is Result.SAME
        changed = await copied(stores, "changed")
        assert changed.result is Result.FAILED
        assert isinstance(changed.error, IntegrityError)
        assert changed.error.store == "source"
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=destination.bucket_name)["Contents"]] == ["key"]


# -- scripted


def in_chunks(content: bytes) -> bytes:
    framed = b"%x\r\n%s\r\n" % (len(content), content) if content else b""
    return framed + b"0\r\n\r\n"


@dataclasses.dataclass
class Gateway:
    """A store behind something that announces no length.

    Attributes:
        framing: "chunked", or "close": the body ends with the connection.
        sent: the body for each Accept-Encoding.
        head_length: the Content-Length of a HEAD; None: none.
        lose_bytes: how much of the body is not sent.
    """

    framing: str
    etag: str
    sent: dict[bytes, bytes]
    head_length: int | None = None
    lose_bytes: int = 0

    async def __call__(self, received: ReceivedRequest) -> None:
        headers: dict[str, Any] = {"etag": self.etag, "x-amz-request-id": "1", "content_length": None}
        if received.method == "HEAD":
            length = None if self.head_length is None else str(self.head_length)
            received.write_unchanged(response(**{**headers, "content_length": length}))
            return
        if b"list-type" in received.target:
            received.write_unchanged(response(403))
            return
        body = self.sent.get(received.headers["accept-encoding"], self.sent[b"identity"])
        if self.framing == "chunked":
            framed = in_chunks(body)
            received.write_unchanged(
                response(body=framed[: len(framed) - self.lose_bytes], **headers, transfer_encoding="chunked")
            )
        else:
            received.write_unchanged(response(body=body[: len(body) - self.lose_bytes], **headers, connection="close"))
        if self.framing == "close" or self.lose_bytes:
            await received.writer.drain()
            await received.close()


async def copy_from(gateway: Script) -> tuple[Outcome, list[bytes]]:
    """Copy from a gateway to a scripted destination; return the outcome, and the bodies of the complete PUTs."""

    async def store(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write(response())

    budget = CopyBudget(spool_bytes=1 << 30)
    timeouts = Timeouts(read_s=20, write_s=20)
    async with RawServer([gateway]) as origin, RawServer([store]) as target:
        spool = partial(spool_body, budget)
        async with (
            Store(origin.endpoint(name="source"), timeouts=timeouts, spool=spool) as source,
            target.store(timeouts=timeouts) as destination,
        ):
            copier = Copier(source, budget, metrics=Metrics(), route="default")
            outcomes = await asyncio.gather(
                *(copier.copy("key", [destination], check_lease=lambda: None, compare=False) for _ in range(2))
            )
        assert [outcome.result for [outcome] in outcomes].count(outcomes[0][0].result) == 2
    bodies = [received.body for received in target.requests if not received.is_truncated]
    assert budget._disk.free_bytes == 1 << 30, "the budget was not released"
    return outcomes[0][0], bodies


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 0.01)


def md5_etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@SIZES
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("etag", ["md5", "parts"])
async def test_an_object_of_unknown_length_is_copied(framing: str, etag: str, size_bytes: int) -> None:
    content = compressible(size_bytes)[:size_bytes]
    parts = f'"{"0" * 32}-2"'
    gateway = Gateway(
        framing, md5_etag(content) if etag == "md5" else parts, {b"identity": content},
        head_length=None if etag == "md5" else size_bytes,
    )  # fmt: skip
    outcome, bodies = await copy_from(gateway)
    assert (outcome.result, outcome.error) == (Result.COPIED, None)
    assert bodies == [content, content]


async def test_a_gateway_that_compresses_for_clients_that_accept_it() -> None:
    content = compressible(10_000)
    sent = {b"identity": content, b"gzip": gzip.compress(content, mtime=0)}
    outcome, bodies = await copy_from(Gateway("chunked", md5_etag(content), sent, head_length=len(content)))
    assert outcome.result is Result.COPIED
    assert bodies == [content, content]


@pytest.mark.parametrize("size_bytes", [69, MAX_SMALL_BYTES + 1, MAX_IN_MEMORY_BYTES + 1])
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("etag", ["md5", "parts"])
async def test_a_body_of_unknown_length_that_ends_early_is_not_copied(framing: str, etag: str, size_bytes: int) -> None:
    content = compressible(size_bytes)
    tag = md5_etag(content) if etag == "md5" else f'"{"0" * 32}-2"'
    gateway = Gateway(framing, tag, {b"identity": content}, head_length=len(content), lose_bytes=7)
    outcome, bodies = await copy_from(gateway)
    assert isinstance(outcome.error, IntegrityError)
    assert outcome.error.store == "source"
    assert bodies == []


async def test_a_body_whose_end_nothing_proves_is_not_copied() -> None:
    """HEAD has no length either, and the listing is forbidden."""
    outcome, bodies = await copy_from(Gateway("close", f'"{"0" * 32}-2"', {b"identity": b"content"}))
    assert outcome.result is Result.FAILED
    assert bodies == []
