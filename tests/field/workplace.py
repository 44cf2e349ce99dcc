"""A worker in this process between two buckets of a real store, with a proxy before each of them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from s3s3.config import WorkerSettings
from s3s3.model import Endpoint, Lane, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import DeadLetter, JobRequest, QueueStats
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.servers import StoreServer
from s3s3.tasks import cancel
from s3s3.transfer.route_stores import RouteStores, opened
from s3s3.worker.route_worker import RouteWorker
from tests.faults.proxy import Proxy
from tests.integration.objects import keys_of
from tests.waiting import until

DESTINATION = "destination"
SETTINGS = WorkerSettings(concurrency=8, max_attempts=3, lease_s=5.0, spool_dir=Path("/tmp"), spool_bytes=1 << 30)


@dataclasses.dataclass
class Workplace:
    """A source and a destination with objects, and the proxies that lead to them."""

    server: StoreServer
    source_bucket: str
    bucket: str
    source_proxy: Proxy
    proxy: Proxy
    jobs: RedisJobQueue
    stores: RouteStores

    def put(self, *keys: str) -> None:
        """Put objects into the source, each with its key as its content."""
        client = self.server.boto3_client()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: client.put_object(Bucket=self.source_bucket, Key=key, Body=key.encode()), keys))

    def copied(self) -> set[str]:
        """Return the keys at the destination."""
        return set(keys_of(self.server.boto3_client(), self.bucket))

    async def notify(self, *keys: str) -> None:
        await self.jobs.enqueue([JobRequest(key, (DESTINATION,)) for key in keys], Lane.FRESH)

    async def stats(self) -> QueueStats:
        return await self.jobs.stats()

    async def is_parked(self) -> bool:
        return DESTINATION in (await self.stats()).circuits

    async def dead_letters(self) -> dict[str, DeadLetter]:
        return {letter.key: letter async for letter in self.jobs.dead_letters(DESTINATION)}

    async def until_done(self, timeout_s: float = 30.0) -> None:
        async def nothing_pending() -> bool:
            return not (await self.stats()).pending

        await until(nothing_pending, timeout_s)


def shorten_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry and probe within tenths of a second instead of up to half a minute."""
    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 0.01)
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.2)
    monkeypatch.setattr("s3s3.worker.retry_policy.MAX_PROBE_INTERVAL_S", 0.1)
    for module in ("s3s3.queue.redis_queue", "s3s3.reconcile.executor"):
        monkeypatch.setattr(f"{module}.INITIAL_PROBE_INTERVAL_S", 0.05)
        monkeypatch.setattr(f"{module}.MAX_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROMOTE_INTERVAL_S", 0.1)
    monkeypatch.setattr("s3s3.worker.worker.MAX_CLAIM_WAIT_S", 0.2)


@asynccontextmanager
async def workplace(server: StoreServer, new_bucket: Callable[..., str], redis_url: str) -> AsyncIterator[Workplace]:
    """Yield a workplace with empty buckets and no worker."""
    source_bucket, bucket = await asyncio.to_thread(lambda: (new_bucket(server), new_bucket(server)))
    with Proxy(server.port) as source_proxy, Proxy(server.port) as proxy:
        source = source_proxy.through(server.endpoint(source_bucket))
        # Server-side copies would bypass the content, as the buckets are of one store.
        destination: Endpoint = dataclasses.replace(
            proxy.through(server.endpoint(bucket, DESTINATION)), server_side_copy=False
        )
        route = Route("default", source, (destination,))
        async with connected(redis_url) as client, opened(route, SETTINGS, Metrics()) as stores:
            jobs = RedisJobQueue.of(client, route, SETTINGS.lease_s)
            yield Workplace(server, source_bucket, bucket, source_proxy, proxy, jobs, stores)


@asynccontextmanager
async def working(place: Workplace) -> AsyncIterator[RouteWorker]:
    """Run a worker meanwhile."""
    stores = place.stores
    worker = RouteWorker(
        stores.route,
        place.jobs,
        stores.copier.copy_job,
        SETTINGS,
        stores.metrics,
        "listen",
        read_test=stores.read_error,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop, 5.0))
    try:
        yield worker
        stop.set()
        await task
    finally:
        await cancel([task])
