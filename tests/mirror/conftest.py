"""Front ends over real sockets, between a scripted origin and a real store."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from multidict import CIMultiDictProxy

from s3s3.config import WorkerSettings
from s3s3.config.mirror import CacheSettings, MirrorSettings
from s3s3.mirror.cache.service import open_cache
from s3s3.mirror.frontends import FrontEnd, open_frontends, run
from s3s3.mirror.mirrored_route import Shared
from s3s3.model import Endpoint
from s3s3.monitoring.metrics import Metrics
from s3s3.queue import connection
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.tasks import cancel
from s3s3.transfer.budget import CopyBudget
from tests.mirror.cache.client import BIG, CacheClient, PutObject, StartCache
from tests.mirror.origin_server import OriginServer


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    async with OriginServer() as server:
        yield server


class Mirror:
    """The front ends of one process, and a client that does not follow redirects."""

    def __init__(self, opened: list[FrontEnd], metrics: Metrics, http: aiohttp.ClientSession, redis_url: str) -> None:
        self.frontends = opened
        self.redis_url = redis_url
        self.metrics = metrics
        self.http = http

    async def fetch(self, path: str, method: str = "GET", **options: Any) -> tuple[int, str, str]:
        """Status, Location and body."""
        url = f"http://127.0.0.1:{self.frontends[0].port}{path}"
        async with self.http.request(method, yarl.URL(url, encoded=True), allow_redirects=False,
                                     **options) as got:  # fmt: skip
            return got.status, got.headers.get("Location", ""), await got.text()

    async def content(self, location: str) -> tuple[bytes, CIMultiDictProxy[str]]:
        """Follow a redirect; return body and headers."""
        async with self.http.get(yarl.URL(location, encoded=True), auto_decompress=False) as got:
            assert got.status == 200, await got.text()
            return await got.read(), got.headers


StartMirror = Callable[..., Awaitable[Mirror]]


@pytest.fixture
async def start_mirror(redis_url: str, tmp_path: Path) -> AsyncIterator[StartMirror]:
    """`await start_mirror(settings)` starts the front ends of one process; all mirrors of a test share Redis."""
    async with AsyncExitStack() as stack:

        async def start(settings: MirrorSettings, **options: Any) -> Mirror:
            return await stack.enter_async_context(_started(settings, redis_url, tmp_path, options))

        yield start


@asynccontextmanager
async def _started(
    settings: MirrorSettings, redis_url: str, directory: Path, options: dict[str, Any]
) -> AsyncIterator[Mirror]:
    metrics = Metrics()
    worker = WorkerSettings(concurrency=8, max_attempts=2, lease_s=5, spool_dir=directory, spool_bytes=64 * 1024**2)
    async with connection.connected(redis_url) as client, aiohttp.ClientSession() as http:
        shared = Shared(client, worker, CopyBudget(spool_dir=str(directory), spool_bytes=worker.spool_bytes), metrics)
        async with open_frontends(settings, shared, **options) as opened:
            running = asyncio.create_task(run(opened, asyncio.Event(), 0))
            try:
                yield Mirror(opened, metrics, http, redis_url)
            finally:
                await cancel([running])


@pytest.fixture
def bucket(swift: SwiftServer, new_bucket: Callable[..., str]) -> str:
    return new_bucket(swift)


@pytest.fixture
def put(swift: SwiftServer, bucket: str) -> PutObject:
    client = swift.boto3_client()

    def write(key: str, body: bytes = b"content", **options: Any) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=body, **options)

    return write


@pytest.fixture
def store(swift: SwiftServer, bucket: str) -> Endpoint:
    return swift.endpoint(bucket, "mirror.cache.store")


@pytest.fixture
async def start_cache(store: Endpoint, tmp_path: Path) -> AsyncIterator[StartCache]:
    """`await start_cache(**changes)` starts a cache; all caches of a test share a directory."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))

        async def start(**changes: Any) -> CacheClient:
            settings = CacheSettings(
                host="127.0.0.1", port=0, directory=tmp_path / "cache", max_fill=1.0, low_fill=1.0, revalidate_s=300,
                streams=False, accel_prefix="", store=store,
            )  # fmt: skip
            settings = replace(settings, **changes)
            metrics = Metrics()
            service = await stack.enter_async_context(open_cache(settings, metrics))
            return CacheClient(service, settings.store, http, metrics)

        yield start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
async def hit(start_cache: StartCache, put: PutObject) -> tuple[CacheClient, str]:
    put("key", BIG, ContentType="application/x-thing")
    client = await start_cache()
    url = client.url("key")
    await client.until_hit(url)
    return client, url
