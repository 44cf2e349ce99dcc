"""What nobody heard is found again. On a real Redis, with a source that lists what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Entry, Route
from s3s3.notifications import gap_backfill
from s3s3.notifications.gap_backfill import GapBackfill
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.tasks import cancel
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest", "copies"),))
HOUR_MS = 3_600_000


class ToldEar:
    """An ear that leads and knows of the gap that it is given."""

    def __init__(self, from_ms: int | None) -> None:
        self.leads = True
        self.from_ms = from_ms
        self.healed_generations: list[str] = []

    async def gap(self) -> tuple[int, str] | None:
        return None if self.from_ms is None else (self.from_ms, "1")

    async def healed(self, generation: str) -> None:
        self.healed_generations.append(generation)
        self.from_ms = None


class Source:
    """Lists pages; the first listings break off as often as told."""

    def __init__(self, pages: list[list[Entry]], failures: int = 0) -> None:
        self._pages = pages
        self.failures = failures

    async def pages(self) -> AsyncIterator[list[Entry]]:
        for page in self._pages:
            yield page
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("away", store="source")


class Reconciles:
    """Counts how often everything was compared."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = failing
        self.runs = 0

    async def __call__(self) -> Mapping[str, str]:
        self.runs += 1
        return {"dest": "dest: away"} if self.runs in self.failing else {}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_backfill, "LOOK_EVERY_S", 0.02)


@pytest.fixture
async def jobs(redis_url: str) -> AsyncIterator[RedisJobQueue]:
    client = connection.connect(redis_url)
    yield RedisJobQueue(client, "default", ROUTE.destination_names)
    await client.aclose()


def backfill(
    ear: ToldEar,
    source: Source,
    jobs: RedisJobQueue,
    reconcile: Reconciles,
    margin_s: float = 3600,
    route: Route = ROUTE,
) -> GapBackfill:
    return GapBackfill(
        route,
        ear,  # type: ignore[arg-type]
        source,  # type: ignore[arg-type]
        jobs,
        reconcile,
        margin_s=margin_s,
        matches=lambda key: not key.startswith("no/"),
    )


async def claimed_keys(jobs: RedisJobQueue) -> list[str]:
    return sorted(job.key for job in (await jobs.claim(100, 100, 100, 0)).jobs)


async def test_what_the_source_changed_during_the_gap_and_the_margin_is_looked_at(jobs: RedisJobQueue) -> None:
    from_ms = 10 * HOUR_MS
    pages = [
        [Entry("before", 1, "e", from_ms - HOUR_MS - 1), Entry("margin", 1, "e", from_ms - HOUR_MS)],
        [Entry("no/route", 1, "e", from_ms), Entry("since", 1, "e", from_ms + 5)],
    ]
    ear, reconcile = ToldEar(from_ms), Reconciles()
    async with running(backfill(ear, Source(pages), jobs, reconcile).run()):
        await until(lambda: ear.healed_generations == ["1"])
    assert await claimed_keys(jobs) == ["margin", "since"]
    assert reconcile.runs == 0


async def test_a_second_gap_is_looked_at_as_the_first_was_though_redis_calls_it_the_same(jobs: RedisJobQueue) -> None:
    ear, source = ToldEar(HOUR_MS), Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(ear, source, jobs, Reconciles()).run()):
        await until(lambda: ear.healed_generations == ["1"])
        assert await claimed_keys(jobs) == ["a"]
        source._pages = [[Entry("b", 1, "e", HOUR_MS)]]
        ear.from_ms = HOUR_MS
        await until(lambda: ear.healed_generations == ["1", "1"])
    assert await claimed_keys(jobs) == ["b"]


async def test_jobs_of_a_heal_look_before_they_copy(jobs: RedisJobQueue) -> None:
    ear = ToldEar(HOUR_MS)
    async with running(backfill(ear, Source([[Entry("a", 1, "e", HOUR_MS)]]), jobs, Reconciles()).run()):
        await until(lambda: ear.healed_generations)
    (job,) = (await jobs.claim(1, 1, 1, 0)).jobs
    assert not job.unconditional


async def test_a_gap_without_a_beginning_compares_everything(jobs: RedisJobQueue) -> None:
    ear, reconcile = ToldEar(0), Reconciles()
    async with running(backfill(ear, Source([]), jobs, reconcile).run()):
        await until(lambda: ear.healed_generations == ["1"])
    assert reconcile.runs == 1


async def test_a_heal_that_breaks_off_is_begun_again_and_only_its_end_heals_the_gap(jobs: RedisJobQueue) -> None:
    ear = ToldEar(HOUR_MS)
    source = Source([[Entry("a", 1, "e", HOUR_MS)], [Entry("b", 1, "e", HOUR_MS)]], failures=2)
    async with running(backfill(ear, source, jobs, Reconciles()).run()):
        await until(lambda: source.failures == 1)
        assert ear.healed_generations == []
        await until(lambda: ear.healed_generations == ["1"])
    assert await claimed_keys(jobs) == ["a", "b"]


async def test_each_failure_doubles_the_pause_and_a_heal_ends_that(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_BACKOFF_S", 0.1)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(pause_s: float) -> None:
        pauses.append(pause_s)
        await sleep(0)

    source, ear = Source([[Entry("a", 1, "e", HOUR_MS)]], failures=4), ToldEar(HOUR_MS)
    monkeypatch.setattr(asyncio, "sleep", slept)
    task = asyncio.create_task(backfill(ear, source, jobs, Reconciles()).run())
    while not ear.healed_generations:
        await sleep(0.01)
    await cancel([task])
    assert pauses[:6] == [0.02, 0.04, 0.08, 0.1, 0.1, 0.02]


async def test_a_listener_that_does_not_lead_heals_nothing(jobs: RedisJobQueue) -> None:
    ear = ToldEar(HOUR_MS)
    ear.leads = False
    async with running(backfill(ear, Source([[Entry("a", 1, "e", HOUR_MS)]]), jobs, Reconciles()).run()):
        await asyncio.sleep(0.2)
    assert ear.healed_generations == []
    assert await claimed_keys(jobs) == []


async def test_a_heal_puts_no_more_than_a_bounded_number_of_jobs_ahead(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_AHEAD", 20)
    pages = [[Entry(f"{page:02}/{number}", 1, "e", HOUR_MS) for number in range(10)] for page in range(10)]
    ear = ToldEar(HOUR_MS)
    async with running(backfill(ear, Source(pages), jobs, Reconciles()).run()):
        await until(lambda: has_bulk(jobs, 30))
        await asyncio.sleep(0.5)
        assert (await jobs.stats()).bulk == 30, "a page more than the bound, and then it waits"
        assert ear.healed_generations == []


async def has_bulk(jobs: RedisJobQueue, count: int) -> bool:
    return (await jobs.stats()).bulk == count


DELETING = Route("default", Endpoint("source", "images"), (Endpoint("dest", "copies", delete=True),))


async def test_where_deletions_are_carried_over_a_heal_compares_everything_too(jobs: RedisJobQueue) -> None:
    ear, reconcile = ToldEar(HOUR_MS), Reconciles()
    source = Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(ear, source, jobs, reconcile, route=DELETING).run()):
        await until(lambda: ear.healed_generations == ["1"])
    assert reconcile.runs == 1
    assert await claimed_keys(jobs) == ["a"]


async def test_a_heal_waits_for_a_destination_that_is_to_lose_objects_without_putting_jobs_again(
    jobs: RedisJobQueue,
) -> None:
    ear, reconcile = ToldEar(HOUR_MS), Reconciles(failing=[1, 2])
    source = Source([[Entry("a", 1, "e", HOUR_MS)]])
    async with running(backfill(ear, source, jobs, reconcile, route=DELETING).run()):
        await until(lambda: reconcile.runs == 1)
        assert await claimed_keys(jobs) == ["a"]
        await until(lambda: ear.healed_generations == ["1"])
    assert reconcile.runs == 3
    assert await claimed_keys(jobs) == []
