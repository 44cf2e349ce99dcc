"""Reconciles on schedule: what counts as compared, and when the rest is compared again."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from s3s3.config import WorkerSettings
from s3s3.errors import S3S3Error, StoreUnavailable
from s3s3.model import Endpoint, Entry, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue import connection
from s3s3.queue.base import ReconcileRecord
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile import periodic
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.periodic import PeriodicReconcile, Schedule
from s3s3.reconcile.reconciler import save_summary
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.transfer.route_stores import RouteStores
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "a"), (Endpoint("ceph", "b"), Endpoint("swift", "c")))
SETTINGS = WorkerSettings(
    concurrency=4, max_attempts=2, lease_s=10, spool_dir=Path(tempfile.gettempdir()), spool_bytes=2**20
)
DOWN = StoreUnavailable("HTTP 503", store="swift", operation="LIST")


class Listed:
    """A store with equal objects; `error` is raised instead of its listing."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self.error: S3S3Error | None = None
        self.listings = 0

    async def pages(self) -> AsyncIterator[list[Entry]]:
        self.listings += 1
        if self.error is not None:
            raise self.error
        yield [Entry(key, 1, "e" * 32) for key in ("a", "b")]


class Place:
    def __init__(self, client: Redis) -> None:
        self.jobs = RedisJobQueue.of(client, ROUTE, 10)
        self.source, self.ceph, self.swift = map(Listed, (ROUTE.source, *ROUTE.destinations))
        self.stores = RouteStores(
            ROUTE, self.source, [self.ceph, self.swift], None, Metrics(), {}  # type: ignore[arg-type, list-item]
        )  # fmt: skip

    def periodic(self, every_s: float | None = None) -> PeriodicReconcile:
        return PeriodicReconcile(self.stores, self.jobs, SETTINGS, Schedule(every_s))

    async def record(self) -> ReconcileRecord:
        record = await self.jobs.load_reconcile_summary()
        assert record is not None
        return record

    async def open_gap(self) -> None:
        await self.jobs.client.hset(f"{self.jobs.prefix}gap", mapping={"from_ms": 0, "generation": 1})

    async def healed(self) -> Sequence[str] | None:
        gap = await self.jobs.gap()
        return None if gap is None else sorted(gap.healed)


@pytest.fixture
async def place(redis_url: str) -> AsyncIterator[Place]:
    client = connection.connect(redis_url)
    yield Place(client)
    await client.aclose()


async def test_only_destinations_without_an_error_count_as_compared(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.periodic().run()
    first = await place.record()
    assert first.compared_s.keys() == {"ceph", "swift"}
    place.swift.error = DOWN
    with caplog.at_level(logging.INFO, "s3s3"):
        await place.periodic().run()
    second = await place.record()
    assert second.compared_s["swift"] == first.compared_s["swift"]
    assert second.compared_s["ceph"] > first.compared_s["ceph"]
    assert (second.errors, second.failures) == ({"swift": str(DOWN)}, 1)
    assert caplog.messages[-1] == (
        "reconcile incomplete: could not compare swift: LIST: HTTP 503; "
        "at ceph: compared 2 objects: 0 copied, 0 deleted, 0 failed"
    )
    assert caplog.records[-1].levelno == logging.WARNING


async def test_a_comparison_of_some_destinations_keeps_what_is_known_of_the_others(place: Place) -> None:
    place.swift.error = DOWN
    await place.periodic().run()
    await place.periodic().run(["ceph"])
    record = await place.record()
    assert record.errors == {"swift": str(DOWN)}
    assert record.destinations == {"ceph": {"same": 2}, "swift": {}}
    place.swift.error = None
    await place.periodic().run(["swift"])
    record = await place.record()
    assert (record.errors, record.failures, record.destinations["swift"]) == ({}, 0, {"same": 2})
    assert (place.ceph.listings, place.swift.listings) == (2, 2)


async def test_a_gap_is_healed_where_everything_was_compared(place: Place) -> None:
    await place.open_gap()
    place.swift.error = DOWN
    await place.periodic().run()
    assert await place.healed() == ["ceph"]
    place.swift.error = None
    await place.periodic().run(["swift"])
    assert await place.healed() is None


async def test_a_gap_recorded_during_a_comparison_is_not_healed_by_it(place: Place) -> None:
    await place.open_gap()
    gap = await place.jobs.gap()
    await place.jobs.client.hincrby(f"{place.jobs.prefix}gap", "generation", 1)
    summary = ReconcileSummary("default", ("ceph", "swift"))
    summary.ended = True
    await save_summary(place.jobs, summary, ReconcileOptions(), gap)
    assert await place.healed() == []


@pytest.mark.parametrize("options", [ReconcileOptions(dry_run=True), ReconcileOptions(since_ms=1)])
async def test_a_dry_run_and_a_part_of_the_objects_do_not_count(place: Place, options: ReconcileOptions) -> None:
    summary = ReconcileSummary("default", ("ceph", "swift"))
    summary.ended = True
    await save_summary(place.jobs, summary, options)
    assert await place.jobs.load_reconcile_summary() is None


async def test_withheld_deletions_are_kept_until_the_next_comparison(place: Place) -> None:
    summary = ReconcileSummary("default", ("ceph", "swift"))
    summary.ended = True
    summary.deletions_withheld["swift"] = "too many"
    await save_summary(place.jobs, summary, ReconcileOptions())
    assert (await place.record()).deletions_withheld == {"swift": "too many"}
    await place.periodic().run()
    assert (await place.record()).deletions_withheld == {}


@pytest.mark.long
async def test_what_could_not_be_compared_is_compared_again_before_the_next_interval(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic, "INITIAL_RETRY_S", 0.2)
    place.swift.error = DOWN
    async with running(place.periodic(3600).maintain()):
        await until(lambda: place.swift.listings == 3)
        place.swift.error = None
        await until(lambda: has_compared(place, "swift"))
        await asyncio.sleep(1.2)
    assert place.ceph.listings == 1
    assert place.swift.listings in (4, 5)


async def has_compared(place: Place, name: str) -> bool:
    return name in (await place.record()).compared_s


async def test_each_failure_doubles_the_pause_up_to_the_interval(place: Place) -> None:
    now_s = time.time()
    for failures, longest_s in ((1, 60), (2, 120), (3, 240), (9, 600)):
        await place.jobs.save_reconcile_summary(
            ReconcileRecord(now_s, 1, 2, {}, {"swift": "x"}, {"ceph": now_s}, {}, failures)
        )
        rest_s, destinations = await place.periodic()._next(600)
        assert longest_s / 2 - 5 < rest_s <= longest_s
        assert destinations == ["swift"] or longest_s == 600


async def test_a_source_that_cannot_be_listed_is_tried_again_before_the_next_interval(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic, "INITIAL_RETRY_S", 0.1)
    place.source.error = StoreUnavailable("HTTP 503", store="source")
    async with running(place.periodic(3600).maintain()):
        await until(lambda: place.source.listings == 3)
        place.source.error = None
        await until(place.jobs.load_reconcile_summary)


async def test_a_destination_that_is_new_in_the_configuration_is_compared_alone(place: Place) -> None:
    now_s = time.time()
    await place.jobs.save_reconcile_summary(ReconcileRecord(now_s - 120, 1, 2, {"ceph": {}}, {}, {"ceph": now_s - 120}))
    rest_s, destinations = await place.periodic()._next(3600)
    assert rest_s <= 0
    assert destinations == ["swift"]
