"""Create the objects to copy, and check the copies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cost import PeerFailed
from s3s3.s3 import Store, Timeouts
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import HOST, StoreServer

PARALLEL_PUTS = 16
PUT_TIMEOUT_S = 600.0
KIB, MIB, GIB = 1024, 1024**2, 1024**3


@dataclass(frozen=True)
class Copying:
    """Objects to be copied from one bucket to others of the same server.

    Attributes:
        destinations: empty buckets.
        folder: for files of the peers.
        port: the server's port, or that of a relay.
        ca_file: certificate of the authority that has signed the server's; None: plain HTTP.
    """

    server: StoreServer
    redis: RedisServer
    source: str
    destinations: tuple[str, ...]
    keys: Sequence[str]
    size_bytes: int
    folder: Path
    port: int
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http{'s' * (self.ca_file is not None)}://{HOST}:{self.port}"

    @property
    def total_bytes(self) -> int:
        """The total size of the objects."""
        return len(self.keys) * self.size_bytes


def keys_for(count: int) -> list[str]:
    """Return realistic keys: folders and a name."""
    return [f"2026/{number % 100:02}/object-{number:07}.bin" for number in range(count)]


def content_of(size_bytes: int) -> bytes:
    """Return reproducible bytes that do not compress well."""
    block = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(2048))
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


def fill(server: StoreServer, bucket: str, keys: Sequence[str], size_bytes: int) -> None:
    """Create a bucket with these objects."""
    server.boto3_client().create_bucket(Bucket=bucket)
    asyncio.run(_fill(server, bucket, keys, content_of(size_bytes)))


async def _fill(server: StoreServer, bucket: str, keys: Sequence[str], content: bytes) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    headers = {"content-type": "application/octet-stream"}
    left = iter(keys)
    timeouts = Timeouts(write_s=PUT_TIMEOUT_S)
    async with Store(server.endpoint(bucket), connections=PARALLEL_PUTS, timeouts=timeouts) as store:

        async def put_some() -> None:
            for key in left:
                await store.put(key, content, size_bytes=len(content), md5=md5, headers=headers)

        await asyncio.gather(*(put_some() for _ in range(PARALLEL_PUTS)))


def listed(server: StoreServer, bucket: str) -> dict[str, tuple[int, str]]:
    """Return size and ETag by key, listed with boto3."""
    pages = server.boto3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: (entry["Size"], entry["ETag"]) for page in pages for entry in page.get("Contents", [])}


def check(work: Copying) -> None:
    """Raise PeerFailed unless every destination lists what the source lists."""
    wanted = set(work.keys)
    source = {key: entry for key, entry in listed(work.server, work.source).items() if key in wanted}
    for bucket in work.destinations:
        copies = listed(work.server, bucket)
        if copies != source:
            equal = len(source.items() & copies.items())
            raise PeerFailed(f"only {equal} of {len(source)} objects in {bucket} equal the source")


def remove(server: StoreServer, buckets: Sequence[str]) -> None:
    """Remove large objects, which the servers keep in memory."""
    client = server.boto3_client()
    for bucket in buckets:
        for key in listed(server, bucket):
            client.delete_object(Bucket=bucket, Key=key)
