"""A client of a cache, with URLs that boto3 signs."""

from __future__ import annotations

import asyncio
import hashlib
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
BIG = hashlib.sha256(b"seed").digest() * (4 * MIB // 32)


class CacheClient:
    """Asks a cache with presigned URLs."""

    def __init__(self, front: CacheService, store: Endpoint, http: aiohttp.ClientSession, metrics: Metrics) -> None:
        self.front, self.store, self.http, self.metrics = front, store, http, metrics
        self.base = f"http://127.0.0.1:{front.port}"

    def url(self, key: str, *, version: str = "s3", method: str = "get_object", expires_s: int = 60,
            secret: str = "", at: str = "", **parameters: Any) -> str:  # fmt: skip
        """A URL that boto3 signs, for the cache itself or (`at`) for a host whose place the cache takes."""
        client = boto3.client(
            "s3", endpoint_url=at or self.base, region_name="us-east-1",
            aws_access_key_id=self.store.access_key_id,
            aws_secret_access_key=secret or self.store.secret_access_key,
            config=Config(signature_version=version, s3={"addressing_style": "path"}),
        )  # fmt: skip
        made = client.generate_presigned_url(
            method, {"Bucket": self.store.bucket_name, "Key": key, **parameters}, expires_s
        )
        return self.base + made.removeprefix(at or self.base)

    async def ask(self, url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body; nothing is followed."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, yarl.URL(url, encoded=True), headers=named, allow_redirects=False) as got:
            return got.status, got.headers, await got.read()

    async def follow(self, url: str) -> bytes:
        async with self.http.get(yarl.URL(url, encoded=True)) as got:
            assert got.status == 200, await got.text()
            return await got.read()

    async def kept(self, url: str, **headers: str) -> tuple[int, Any, bytes]:
        """Ask until the answer comes from the disk."""
        for _ in range(200):
            answer = await self.ask(url, **headers)
            if answer[1].get("X-Cache") == "hit":
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"never kept: {answer}")

    def count(self, outcome: str) -> float:
        return self.metrics.mirror_requests["mirror.cache", outcome]

    def fills(self, outcome: str = "kept") -> float:
        return self.metrics.mirror_cache_fills["mirror.cache", outcome]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to be")


Cached = Callable[..., Awaitable[CacheClient]]
"""`await cached(**changes)` starts a cache."""

Put = Callable[..., None]
"""`put(key, content, **about)` writes into the store."""
