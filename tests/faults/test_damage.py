"""Flipped bits, cut and truncated bodies, errors dressed as success: nothing wrong is ever seen at a destination."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from s3s3.config import WorkerSettings
from s3s3.errors import S3S3Error
from s3s3.model import Lane, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.queue.tracker import OutcomeTracker
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.reconciler import Reconciler
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.scripts.demo.servers import StoreServer
from s3s3.transfer.route_stores import RouteStores, opened
from s3s3.worker.worker import Worker
from tests.faults import duration
from tests.faults.kinds import ERROR_IN_200, SLOW_DOWN, Cut, Fault, Flip, Respond, Truncated, getting, listing, putting
from tests.faults.lies import PAGE_WITH_ETAG, ForeignEncoding, Maintenance, Page, TwoLengths, WrongLength
from tests.faults.messages import Towards
from tests.faults.proxy import Proxy
from tests.faults.results import report
from tests.integration.objects import KIB, MIB
from tests.waiting import running, until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

FAULTS_WITHIN_S, ARRIVES_WITHIN_S = 60, 150
"""It takes a second or two where the machine has nothing else to do; each lease that runs out on a busy one takes five
more, and a store for which the circuit opened is asked every few seconds only."""

SHARE = 1 / 1000
"""Of a long run, for each of these."""

SETTINGS = WorkerSettings(concurrency=8, max_attempts=8, lease_s=5, spool_dir=Path(), spool_bytes=64 * MIB)
SIZES_BYTES = {"small": 4 * KIB, "in memory": 512 * KIB, "streamed": 5 * MIB}


@dataclass
class CopyPath:
    """A source and a destination with a proxy before each, and every content that the source ever had."""

    source: Proxy
    there: Proxy
    store: str
    route: Route
    source_client: S3Client
    client: S3Client
    redis_url: str
    checksum: str = "client"
    metrics: Metrics = field(default_factory=Metrics)
    contents: dict[str, list[bytes]] = field(default_factory=dict)
    seen: int = 0

    def write(self, key: str, content: bytes) -> None:
        self.contents.setdefault(key, []).append(content)
        self.source_client.put_object(Bucket=self.route.source.bucket_name, Key=key, Body=content)

    def held(self, key: str) -> bytes | None:
        """What the destination shows; that it is nothing but what the source once had is checked each time."""
        try:
            got = self.client.get_object(Bucket=self.route.destinations[0].bucket_name, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None
        self.seen += 1
        assert got in self.contents[key], f"{key}: what the source never had, {len(got)} bytes"
        return got

    async def arrives(self) -> None:
        while not await asyncio.to_thread(self.is_there):
            await asyncio.sleep(0.2)

    def is_there(self) -> bool:
        return [self.held(key) for key in self.contents] == [contents[-1] for contents in self.contents.values()]

    @property
    def mismatches(self) -> float:
        return sum(self.metrics.verify_mismatch.values())

    @property
    def injected(self) -> int:
        return self.source.injected.total() + self.there.injected.total()


@pytest.fixture(params=["swift", pytest.param("ceph", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest) -> StoreServer:
    found: StoreServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def checksum(request: pytest.FixtureRequest) -> Literal["client", "store"]:
    """The setting of the destination."""
    found: Literal["client", "store"] = getattr(request, "param", "client")
    return found


@pytest.fixture
def copy_path(
    store: StoreServer,
    new_bucket: Callable[..., str],
    redis_url: str,
    request: pytest.FixtureRequest,
    checksum: Literal["client", "store"],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[CopyPath]:
    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 0.01)
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.2)
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 0.3)
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROMOTE_INTERVAL_S", 0.2)
    with Proxy(store.port) as source, Proxy(store.port) as there:
        route = Route(
            "default",
            source.through(store.endpoint(new_bucket(store))),
            (there.through(store.endpoint(new_bucket(store, 1), "destination", account=1, checksum=checksum)),),
        )
        name = request.node.callspec.params["store"]
        yield CopyPath(source, there, name, route, store.boto3_client(), store.boto3_client(1), redis_url,
                       checksum)  # fmt: skip


@asynccontextmanager
async def copying(copy_path: CopyPath, max_attempts: int = 1000) -> AsyncIterator[tuple[RouteStores, RedisJobQueue]]:
    """A worker that retries without a limit."""
    async with opened(copy_path.route, SETTINGS, copy_path.metrics) as stores, connected(copy_path.redis_url) as client:
        jobs = RedisJobQueue.of(client, copy_path.route, SETTINGS.lease_s)
        worker = Worker(copy_path.route, jobs, stores.copier.copy_job, max_attempts=max_attempts, lease_s=5)
        stop = asyncio.Event()
        async with running(worker.run(stop, drain_s=5)):
            yield stores, jobs


FAULTS: list[tuple[str, str, Callable[[], Fault], bool | None]] = [
    ("a bit of what is read", "source", lambda: Flip(of=getting), True),
    ("a bit of what is written", "there", lambda: Flip(Towards.SERVER, of=putting), True),
    ("a short answer that looks whole", "source", lambda: Truncated(of=getting, kept_bytes=1000), True),
    ("a short request that looks whole", "there", lambda: Truncated(Towards.SERVER, of=putting, kept_bytes=1000), True),
    ("an answer cut off", "source", lambda: Cut(Towards.CLIENT, 1000, with_reset=False, of=getting), True),
    ("a request cut off", "there", lambda: Cut(Towards.SERVER, 1000, of=putting), False),
    ("an error with 200, not stored", "there", lambda: Respond(ERROR_IN_200, of=putting), False),
    ("an error with 200, stored", "there", lambda: Respond(ERROR_IN_200, of=putting, reaches=True), False),
    ("a storm of 503", "there", lambda: Respond(SLOW_DOWN, of=putting), False),
    ("a page with 200 for a GET", "source", lambda: Page(of=getting), None),
    ("a page with 200 for a PUT", "there", lambda: Page(of=putting), False),
]
MORE_FAULTS: list[tuple[str, str, Callable[[], Fault], bool | None]] = [
    ("a page with an ETag for a GET", "source", lambda: Page(PAGE_WITH_ETAG, of=getting), None),
    ("a page with an ETag for a PUT", "there", lambda: Page(PAGE_WITH_ETAG, of=putting), None),
    ("a page with 200 for everything", "source", Page, None),
    ("a page with 200 for everything, there", "there", Page, False),
    ("two lengths of what is read", "source", lambda: TwoLengths(of=getting), None),
    ("two lengths of the answer to a write", "there", lambda: TwoLengths(of=putting), False),
    ("a length that is too short", "source", lambda: WrongLength(-100, of=getting), None),
    ("a length that is too long", "source", lambda: WrongLength(100, of=getting), None),
    ("maintenance of the source", "source", Maintenance, False),
    ("maintenance of the destination", "there", Maintenance, False),
    ("errors in other encodings", "there", ForeignEncoding, False),
]
"""For the long form: their kinds are among the others. None: a mismatch may be counted, or not."""


@pytest.mark.parametrize(
    ("name", "side", "fault", "is_counted", "checksum"),
    [pytest.param(*case, "client", id=case[0]) for case in FAULTS]
    + [pytest.param(*case, "store", id=f"{case[0]}, store-verified") for case in FAULTS]
    + [
        pytest.param(*case, checksum, id=f"{case[0]}, {checksum}-verified", marks=pytest.mark.long)
        for checksum, cases in (("client", MORE_FAULTS), ("store", MORE_FAULTS))
        for case in cases
    ],
    indirect=["checksum"],
)
async def test_no_wrong_object_is_ever_seen_and_the_right_one_arrives_when_the_fault_ends(
    copy_path: CopyPath, name: str, side: str, fault: Callable[[], Fault], is_counted: bool | None
) -> None:
    proxy: Proxy = getattr(copy_path, side)
    keys = list(SIZES_BYTES)
    async with copying(copy_path) as (_, jobs):
        for number in duration.rounds(SHARE):
            before, injected = copy_path.mismatches, proxy.injected.total()
            for key in keys:
                copy_path.write(key, hashlib.md5(f"{key}{number}".encode()).digest() * (SIZES_BYTES[key] // 16))
            with proxy.injecting(fault()):
                await jobs.enqueue([JobRequest(key, ("destination",)) for key in keys], Lane.FRESH)
                enough = injected + 2 * len(keys)
                await until(lambda enough=enough: proxy.injected.total() >= enough, FAULTS_WITHIN_S)  # type: ignore[misc]
                await asyncio.to_thread(copy_path.is_there)
            await asyncio.wait_for(copy_path.arrives(), ARRIVES_WITHIN_S)
            assert is_counted is None or (copy_path.mismatches > before) is is_counted
    report(
        f"damage: {name}",
        verified_by=copy_path.checksum,
        store=copy_path.store,
        injected=proxy.injected.total(),
        mismatches_counted=round(copy_path.mismatches),
        objects_held_against_the_source=copy_path.seen,
    )


@pytest.mark.parametrize(
    "fault",
    [
        lambda: Flip(of=listing),
        lambda: Truncated(of=listing, kept_bytes=700),
        lambda: Cut(Towards.CLIENT, 700, of=listing),
    ],
    ids=["a bit", "truncated", "cut"],
)
@pytest.mark.parametrize("side", ["source", "there"])
async def test_a_damaged_listing_puts_no_wrong_object_anywhere_and_the_next_run_is_right(
    copy_path: CopyPath, side: str, fault: Callable[[], Fault]
) -> None:
    for number in range(20):
        copy_path.write(f"key-{number:03}", f"content {number}".encode())
    proxy: Proxy = getattr(copy_path, side)
    broke_off = 0
    async with copying(copy_path, max_attempts=2) as (stores, jobs):

        async def compared() -> None:
            summary = ReconcileSummary(copy_path.route.name, copy_path.route.destination_names)
            tracker = OutcomeTracker(jobs, unconditional=False, on_outcome=summary.report_fields)
            await Reconciler(stores, tracker, ReconcileOptions(), SETTINGS, summary).run()

        with proxy.injecting(fault()):
            for _ in duration.rounds(SHARE, at_least=3):
                try:
                    await compared()
                except S3S3Error:
                    broke_off += 1
                await asyncio.to_thread(held_keys, copy_path)
        await compared()
        await asyncio.wait_for(copy_path.arrives(), ARRIVES_WITHIN_S)
    assert set(held_keys(copy_path)) <= set(copy_path.contents)
    report(
        f"damaged listing: {', '.join(proxy.injected)}",
        of=f"the {'source' if side == 'source' else 'destination'}, in {copy_path.store}",
        injected=proxy.injected.total(),
        runs_that_broke_off=broke_off,
        objects_held_against_the_source=copy_path.seen,
    )


def held_keys(copy_path: CopyPath) -> list[str]:
    """The keys at the destination; what they hold is checked, and so is that the source has them."""
    listed = copy_path.client.list_objects_v2(Bucket=copy_path.route.destinations[0].bucket_name).get("Contents", [])
    for entry in listed:
        copy_path.held(entry["Key"])
    return [entry["Key"] for entry in listed]
