"""A client of a cache, with URLs that boto3 signs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import boto3
import yarl
from botocore.config import Config

from s3s3.mirror.cache.service import CacheService
from s3s3.model import Endpoint
from s3s3.monitoring.metrics import Metrics

MIB = 1024 * 1024
HIT_WITHIN_S = 60.0
BIG = hashlib.sha256(b"seed").digest() * (4 * MIB // 32)


class CacheClient:
    """Sends presigned requests to a cache."""

    def __init__(self, service: CacheService, store: Endpoint, http: aiohttp.ClientSession, metrics: Metrics) -> None:
        self.service, self.store, self.http, self.metrics = service, store, http, metrics
        self.base = f"http://127.0.0.1:{service.port}"

    def url(self, key: str, *, version: str = "s3", method: str = "get_object", expires_s: int = 60,
            secret: str = "", at: str = "", **parameters: Any) -> str:  # fmt: skip
        """Return a URL signed by boto3: for the cache's host, or for another host (`at`) that it replaces."""
        assert self.store.secret_access_key
        client = boto3.client(
            "s3", endpoint_url=at or self.base, region_name="us-east-1",
            aws_access_key_id=self.store.access_key_id,
            aws_secret_access_key=secret or self.store.secret_access_key.get_secret_value(),
            config=Config(signature_version=version, s3={"addressing_style": "path"}),
        )  # fmt: skip
        signed = client.generate_presigned_url(
            method, {"Bucket": self.store.bucket_name, "Key": key, **parameters}, expires_s
        )
        return self.base + signed.removeprefix(at or self.base)

    async def fetch(self, url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        """Return status, headers and body; redirects are not followed."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, yarl.URL(url, encoded=True), headers=named, allow_redirects=False) as got:
            return got.status, got.headers, await got.read()

    async def follow(self, url: str) -> bytes:
        async with self.http.get(yarl.URL(url, encoded=True)) as got:
            assert got.status == 200, await got.text()
            return await got.read()

    async def until_hit(self, url: str, **headers: str) -> tuple[int, Any, bytes]:
        """Repeat a request until it is a hit. A download takes seconds where other tests keep the disk busy."""
        deadline_s = time.monotonic() + HIT_WITHIN_S
        while True:
            got = await self.fetch(url, **headers)
            if got[1].get("X-Cache") == "hit":
                return got
            assert time.monotonic() < deadline_s, f"never cached: {got}"
            await asyncio.sleep(0.05)

    def count(self, outcome: str) -> float:
        return self.metrics.mirror_requests["mirror.cache", outcome]

    def downloads(self, outcome: str = "cached") -> float:
        return self.metrics.mirror_cache_fills["mirror.cache", outcome]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("timeout")


#: `await start_cache(**changes)` starts a cache.
StartCache = Callable[..., Awaitable[CacheClient]]
#: `put(key, content, **options)` writes to the store.
PutObject = Callable[..., None]
