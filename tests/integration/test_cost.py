"""What a copy and a comparison cost, counted and not timed: so that it shows on a busy machine, too.

The limits are about a tenth above the values counted when they were set. A change that exceeds one has made the hot
path more expensive; `make bench` measures by how much.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from redis.asyncio import Redis

import s3s3
from s3s3.config import WorkerSettings
from s3s3.model import Endpoint, Lane, Route, Secret
from s3s3.monitoring.metrics import JobObserver, Metrics
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.executor import InProcessExecutor
from s3s3.reconcile.reconciler import Reconciler
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.transfer.route_stores import opened
from s3s3.worker.worker import Worker
from tests.waiting import running, until

JOBS = 400
OBJECT = b"x" * 4096
ETAG = hashlib.md5(OBJECT).hexdigest()
PAGES = 3
SETTINGS = WorkerSettings(concurrency=32, max_attempts=8, lease_s=60, spool_dir=Path(), spool_bytes=1)

HEAD = "HTTP/1.1 200 OK\r\ndate: Tue, 06 Oct 2026 03:09:27 GMT\r\n"
ABOUT = f'last-modified: Tue, 06 Oct 2026 03:09:27 GMT\r\netag: "{ETAG}"\r\ncontent-type: text/plain\r\n'
GOT = f"{HEAD}{ABOUT}content-length: {len(OBJECT)}\r\n\r\n".encode() + OBJECT
WRITTEN = f'{HEAD}etag: "{ETAG}"\r\ncontent-length: 0\r\n\r\n'.encode()


def page(query: dict[str, list[str]]) -> bytes:
    """One of three pages of a thousand keys."""
    number = int(query["start-after"][0][4:]) + 1 if "start-after" in query else 0
    entries = "".join(
        f"<Contents><Key>key-{number + i:05}</Key><LastModified>2026-10-06T03:09:27.123Z</LastModified>"
        f"<ETag>&quot;{ETAG}&quot;</ETag><Size>4096</Size></Contents>"
        for i in range(1000)
    )
    truncated = str(number < 1000 * (PAGES - 1)).lower()
    body = (
        f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated><KeyCount>1000</KeyCount>{entries}</ListBucketResult>"
    )
    return f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode()


class Server(asyncio.Protocol):
    """A store that has every key and takes every object; it counts what is asked, by bucket and method."""

    def __init__(self, asked: Counter[str]) -> None:
        self._asked = asked
        self._raw = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._raw += data
        end = self._raw.find(b"\r\n\r\n")
        size = len(OBJECT) if self._raw.startswith(b"PUT") else 0
        if end < 0 or len(self._raw) < end + 4 + size:
            return
        method, target, _ = self._raw.split(b"\r\n", 1)[0].decode().split(" ")
        self._raw = b""
        url = urlsplit(target)
        query = parse_qs(url.query)
        bucket = url.path.split("/")[1]
        self._asked[f"{'LIST' if query else method} {bucket}"] += 1
        self._transport.write(page(query) if query else GOT if method == "GET" else WRITTEN)


@asynccontextmanager
async def store_that_counts() -> AsyncIterator[tuple[Route, Counter[str]]]:
    """A route from one bucket to two others, and what they were asked."""
    asked: Counter[str] = Counter()
    async with await asyncio.get_running_loop().create_server(lambda: Server(asked), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        def endpoint(name: str) -> Endpoint:
            return Endpoint(
                name, name, host="127.0.0.1", port=port, is_secure=False, access_key_id="a",
                secret_access_key=Secret("b"), server_side_copy=False,
            )  # fmt: skip

        yield Route("default", endpoint("source"), (endpoint("first"), endpoint("second"))), asked


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@contextmanager
def calls_counted() -> Iterator[Callable[[], int]]:
    """Count how often functions of s3s3 are called, and coroutines of it go on."""
    ours = str(Path(s3s3.__file__).parent)
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.startswith(ours):
            calls += 1

    sys.setprofile(count)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(None)


@pytest.mark.real
async def test_what_a_small_object_costs(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    round_trips = 0
    execute: Callable[..., Awaitable[Any]] = Redis.execute_command

    async def counted(self: Redis, *args: Any, **options: Any) -> Any:
        nonlocal round_trips
        round_trips += 1
        return await execute(self, *args, **options)

    async with store_that_counts() as (route, asked), opened(route, SETTINGS, metrics := Metrics()) as stores:
        jobs = RedisJobQueue(client, route.name, route.destination_names)
        await jobs.enqueue([JobRequest(f"key-{n:05}", route.destination_names) for n in range(JOBS)], Lane.FRESH)
        worker = Worker(route, jobs, stores.copier.copy_job, on_job_end=JobObserver(route.name, metrics).on_job_end)
        monkeypatch.setattr(Redis, "execute_command", counted)
        with calls_counted() as calls:
            stop = asyncio.Event()
            async with running(worker.run(stop)) as work:
                await until(lambda: metrics.copies["default", "second", "copied"] == JOBS, timeout_s=60)
                stop.set()
                await work
            calls_each = calls() / JOBS
        assert (await jobs.stats()).pending == 0
    assert asked == {"GET source": JOBS, "PUT first": JOBS, "PUT second": JOBS}, "one GET, N PUTs, and nothing else"
    assert round_trips / (JOBS / 100) < 25, "round trips to Redis for a hundred jobs"
    assert calls_each < 205, "calls of functions of s3s3 for a job"


async def test_what_an_unchanged_bucket_costs() -> None:
    async with store_that_counts() as (route, asked), opened(route, SETTINGS, Metrics()) as stores:
        summary = ReconcileSummary(route.name, route.destination_names)
        executor = InProcessExecutor(stores, 4, unconditional=False, on_outcome=summary.report_fields)
        reconcile = Reconciler(stores, executor, ReconcileOptions(), SETTINGS, summary)
        with calls_counted() as calls:
            tally = await reconcile.run()
            calls_each = calls() / (3 * 1000 * PAGES)
    assert tally.source_entries == 1000 * PAGES
    assert tally.complete
    assert asked == {"LIST source": PAGES, "LIST first": PAGES, "LIST second": PAGES}, "a page for each thousand keys"
    assert calls_each < 2, "calls of functions of s3s3 for an entry of a listing"
