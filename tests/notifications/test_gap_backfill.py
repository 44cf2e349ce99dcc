"""The backfill of gaps, on a real Redis, with a fake source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Entry, Route
from s3s3.notifications import gap_backfill
from s3s3.notifications.gap_backfill import GapBackfill
from s3s3.notifications.watermark import Gap
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.tasks import cancel
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest", "copies"),), exclude=("no/*",))
HOUR_MS = 3_600_000

#: What the source's clock shows; not this machine's time.
SOURCE_TIME_MS = 100 * HOUR_MS


class FakeWatermark:
    """A watermark with the given gap, in the listener that leads.

    Args:
        from_ms: when the gap began, by the source's clock; 0: unknown, None: no gap.
    """

    def __init__(self, from_ms: int | None) -> None:
        self.is_leader = True
        self.from_ms = from_ms
        self.closed_generations: list[str] = []

    async def gap(self) -> Gap | None:
        if self.from_ms is None:
            return None
        return Gap(SOURCE_TIME_MS - self.from_ms if self.from_ms else None, "1")

    async def close_gap(self, generation: str) -> None:
        self.closed_generations.append(generation)
        self.from_ms = None


class Source:
    """Lists pages; the first `failures` listings fail after a page."""

    def __init__(self, pages: list[list[Entry]], failures: int = 0) -> None:
        self._pages = pages
        self.failures = failures

    def source_time_ms(self) -> int:
        return SOURCE_TIME_MS

    async def pages(self) -> AsyncIterator[list[Entry]]:
        for page in self._pages:
            yield page
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("unavailable", store="source")


class Reconcile:
    """Counts comparisons; the runs in `failing` could not list the destination."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = failing
        self.runs = 0

    async def __call__(self) -> Mapping[str, str]:
        self.runs += 1
        return {"dest": "dest: unavailable"} if self.runs in self.failing else {}


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_backfill, "CHECK_INTERVAL_S", 0.02)


@pytest.fixture
async def jobs(redis_url: str) -> AsyncIterator[RedisJobQueue]:
    client = connection.connect(redis_url)
    yield RedisJobQueue(client, "default", ROUTE.destination_names)
    await client.aclose()


def backfill(
    watermark: FakeWatermark,
    source: Source,
    jobs: RedisJobQueue,
    reconcile: Reconcile,
    margin_s: float = 3600,
    route: Route = ROUTE,
) -> GapBackfill:
    return GapBackfill(
        route,
        watermark,  # type: ignore[arg-type]
        source,  # type: ignore[arg-type]
        jobs,
        reconcile,
        is_leader=lambda: watermark.is_leader,
        margin_s=margin_s,
    )


async def claimed_keys(jobs: RedisJobQueue) -> list[str]:
    return sorted(job.key for job in (await jobs.claim(100, 100, 100, 0)).jobs)


async def test_objects_modified_during_the_gap_and_the_margin_before_it_are_enqueued(jobs: RedisJobQueue) -> None:
    from_ms = 10 * HOUR_MS
    pages = [
        [Entry("before", 1, "e", from_ms - HOUR_MS - 1), Entry("margin", 1, "e", from_ms - HOUR_MS)],
        [Entry("no/route", 1, "e", from_ms), Entry("since", 1, "e", from_ms + 5)],
    ]
    watermark, reconcile = FakeWatermark(from_ms), Reconcile()
    async with running(backfill(watermark, Source(pages), jobs, reconcile).run()):
        await until(lambda: watermark.closed_generations == ["1"])
    assert await claimed_keys(jobs) == ["margin", "since"]
    assert reconcile.runs == 0


async def test_a_second_gap_of_the_same_generation_is_backfilled_too(jobs: RedisJobQueue) -> None:
    watermark, source = FakeWatermark(HOUR_MS), Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(watermark, source, jobs, Reconcile()).run()):
        await until(lambda: watermark.closed_generations == ["1"])
        assert await claimed_keys(jobs) == ["a"]
        source._pages = [[Entry("b", 1, "e", HOUR_MS)]]
        watermark.from_ms = HOUR_MS
        await until(lambda: watermark.closed_generations == ["1", "1"])
    assert await claimed_keys(jobs) == ["b"]


async def test_backfilled_jobs_compare_before_they_copy(jobs: RedisJobQueue) -> None:
    watermark = FakeWatermark(HOUR_MS)
    async with running(backfill(watermark, Source([[Entry("a", 1, "e", HOUR_MS)]]), jobs, Reconcile()).run()):
        await until(lambda: watermark.closed_generations)
    (job,) = (await jobs.claim(1, 1, 1, 0)).jobs
    assert not job.unconditional


async def test_a_gap_with_an_unknown_start_compares_everything(jobs: RedisJobQueue) -> None:
    watermark, reconcile = FakeWatermark(0), Reconcile()
    async with running(backfill(watermark, Source([]), jobs, reconcile).run()):
        await until(lambda: watermark.closed_generations == ["1"])
    assert reconcile.runs == 1


async def test_a_failed_backfill_is_repeated_and_the_gap_closed_only_at_its_end(jobs: RedisJobQueue) -> None:
    watermark = FakeWatermark(HOUR_MS)
    source = Source([[Entry("a", 1, "e", HOUR_MS)], [Entry("b", 1, "e", HOUR_MS)]], failures=2)
    async with running(backfill(watermark, source, jobs, Reconcile()).run()):
        await until(lambda: source.failures == 1)
        assert watermark.closed_generations == []
        await until(lambda: watermark.closed_generations == ["1"])
    assert await claimed_keys(jobs) == ["a", "b"]


async def test_each_failure_doubles_the_pause_until_a_backfill_succeeds(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_BACKOFF_S", 0.1)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(pause_s: float) -> None:
        pauses.append(pause_s)
        await sleep(0)

    source, watermark = Source([[Entry("a", 1, "e", HOUR_MS)]], failures=4), FakeWatermark(HOUR_MS)
    monkeypatch.setattr(asyncio, "sleep", slept)
    task = asyncio.create_task(backfill(watermark, source, jobs, Reconcile()).run())
    while not watermark.closed_generations:
        await sleep(0.01)
    await cancel([task])
    assert pauses[:6] == [0.02, 0.04, 0.08, 0.1, 0.1, 0.02]


async def test_a_follower_backfills_nothing(jobs: RedisJobQueue) -> None:
    watermark = FakeWatermark(HOUR_MS)
    watermark.is_leader = False
    async with running(backfill(watermark, Source([[Entry("a", 1, "e", HOUR_MS)]]), jobs, Reconcile()).run()):
        await asyncio.sleep(0.2)
    assert watermark.closed_generations == []
    assert await claimed_keys(jobs) == []


async def test_a_backfill_waits_while_the_bulk_lane_is_full(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_QUEUED", 20)
    pages = [[Entry(f"{page:02}/{number}", 1, "e", HOUR_MS) for number in range(10)] for page in range(10)]
    watermark = FakeWatermark(HOUR_MS)
    async with running(backfill(watermark, Source(pages), jobs, Reconcile()).run()):
        await until(lambda: has_bulk(jobs, 30))
        await asyncio.sleep(0.5)
        assert (await jobs.stats()).bulk == 30, "one page above the limit"
        assert watermark.closed_generations == []


async def has_bulk(jobs: RedisJobQueue, count: int) -> bool:
    return (await jobs.stats()).bulk == count


DELETING = Route("default", Endpoint("source", "images"), (Endpoint("dest", "copies", delete=True),))


async def test_a_route_that_propagates_deletions_also_compares_everything(jobs: RedisJobQueue) -> None:
    watermark, reconcile = FakeWatermark(HOUR_MS), Reconcile()
    source = Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(watermark, source, jobs, reconcile, route=DELETING).run()):
        await until(lambda: watermark.closed_generations == ["1"])
    assert reconcile.runs == 1
    assert await claimed_keys(jobs) == ["a"]


async def test_a_failed_comparison_for_deletions_is_repeated_without_enqueueing_again(
    jobs: RedisJobQueue,
) -> None:
    watermark, reconcile = FakeWatermark(HOUR_MS), Reconcile(failing=[1, 2])
    source = Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(watermark, source, jobs, reconcile, route=DELETING).run()):
        await until(lambda: reconcile.runs == 1)
        assert await claimed_keys(jobs) == ["a"]
        await until(lambda: watermark.closed_generations == ["1"])
    assert reconcile.runs == 3
    assert await claimed_keys(jobs) == []
