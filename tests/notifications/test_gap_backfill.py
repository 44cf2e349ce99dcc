"""The backfill of gaps, on a real Redis, with a scripted source."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager

import pytest
from redis.asyncio import Redis

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Entry, Route
from s3s3.notifications import gap_backfill
from s3s3.notifications.gap_backfill import GapBackfill
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest", "copies"),), exclude=("no/*",))
HOUR_MS = 3_600_000

#: What the source's clock shows; not this machine's time.
SOURCE_TIME_MS = 100 * HOUR_MS

GAP = "s3s3:{default}:gap"


class Source:
    """Lists pages; the first `failures` listings fail after a page."""

    def __init__(self, pages: list[list[Entry]], failures: int = 0) -> None:
        self._pages = pages
        self.failures = failures
        self.listings = 0

    def source_time_ms(self) -> int:
        return SOURCE_TIME_MS

    async def pages(self) -> AsyncIterator[list[Entry]]:
        self.listings += 1
        for page in self._pages:
            yield page
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("unavailable", store="source")


class Reconcile:
    """Compares by recording the destinations; those in `down` cannot be compared."""

    def __init__(self, jobs: RedisJobQueue, down: Collection[str] = ()) -> None:
        self._jobs = jobs
        self.down = set(down)
        self.runs: list[list[str]] = []

    async def __call__(self, destinations: Collection[str]) -> Mapping[str, str]:
        self.runs.append(list(destinations))
        gap = await self._jobs.gap()
        assert gap is not None
        await self._jobs.heal_gap(gap.generation, [name for name in destinations if name not in self.down])
        return {name: f"{name}: LIST: 503" for name in destinations if name in self.down}


class Place:
    """A route with a gap, and what backfills it."""

    def __init__(self, jobs: RedisJobQueue, route: Route, source: Source) -> None:
        self.jobs, self.route, self.source = jobs, route, source
        self.reconcile = Reconcile(jobs)
        self.is_leader = True
        self.probes = 0

    async def open_gap(self, from_ms: int) -> None:
        """`from_ms`: by the source's clock; 0: Redis has lost its data."""
        start_ms = int(time.time() * 1000) - (SOURCE_TIME_MS - from_ms) if from_ms else 0
        await self.jobs.client.hset(GAP, mapping={"from_ms": start_ms})
        await self.jobs.client.hincrby(GAP, "generation", 1)

    async def has_healed(self) -> bool:
        return await self.jobs.gap() is None

    async def _unavailable(self) -> Collection[str]:
        self.probes += 1
        return self.reconcile.down

    def backfill(self, margin_s: float = 3600) -> GapBackfill:
        return GapBackfill(
            self.route, self.source, self.jobs, self.reconcile, self._unavailable,  # type: ignore[arg-type]
            is_leader=lambda: self.is_leader, margin_s=margin_s,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_backfill, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(gap_backfill, "INITIAL_BACKOFF_S", 0.04)
    monkeypatch.setattr(gap_backfill, "PROBE_INTERVAL_S", 0.02)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connection.connect(redis_url)
    yield client
    await client.aclose()


async def place_with(
    client: Redis, *pages: list[Entry], from_ms: int = HOUR_MS, failures: int = 0, route: Route = ROUTE
) -> Place:
    jobs = RedisJobQueue(client, "default", route.destination_names)
    place = Place(jobs, route, Source(list(pages), failures))
    await place.open_gap(from_ms)
    return place


async def claimed(jobs: RedisJobQueue) -> dict[str, tuple[str, ...]]:
    return {job.key: job.destinations for job in (await jobs.claim(100, 100, 100, 0)).jobs}


async def test_objects_modified_during_the_gap_and_the_margin_before_it_are_enqueued(client: Redis) -> None:
    from_ms = 10 * HOUR_MS
    pages = [
        [Entry("before", 1, "e", from_ms - HOUR_MS - 60_000), Entry("margin", 1, "e", from_ms - HOUR_MS + 60_000)],
        [Entry("no/route", 1, "e", from_ms), Entry("since", 1, "e", from_ms + 5)],
    ]
    place = await place_with(client, *pages, from_ms=from_ms)
    async with running(place.backfill().run()):
        await until(place.has_healed)
    assert sorted(await claimed(place.jobs)) == ["margin", "since"]
    assert place.reconcile.runs == []


def events_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    """The events of the log, each with its fields but for the duration."""
    lines = [vars(record) for record in caplog.records if hasattr(record, "event")]
    return [(line["event"], {name: line["fields"][name] for name in line["fields"] if name != "duration_s"})
            for line in lines]  # fmt: skip


async def test_the_log_has_the_beginning_and_the_end_of_a_backfill(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    from_ms = 10 * HOUR_MS
    place = await place_with(client, [Entry("a", 1, "e", from_ms), Entry("b", 1, "e", from_ms)], from_ms=from_ms)
    async with running(place.backfill().run()):
        await until(lambda: "backfill finished" in caplog.text)
    names = ",".join(ROUTE.destination_names)
    assert events_of(caplog) == [
        ("backfill started", {"route": "default", "destination": names}),
        ("backfill finished", {"route": "default", "destination": names, "enqueued": 2}),
    ]


async def test_the_log_names_the_destinations_where_a_comparison_has_closed_a_gap(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    place = await place_with(client, from_ms=0, route=TWO)
    place.reconcile.down = {"swift"}
    async with running(place.backfill().run()):
        await until(lambda: "backfill failed" in caplog.text)
        place.reconcile.down = set()
        await until(lambda: caplog.text.count("backfill finished") == 2)
    finished = [fields for name, fields in events_of(caplog) if name == "backfill finished"]
    assert [fields["destination"] for fields in finished] == ["ceph", "swift"]
    failed = next(fields for name, fields in events_of(caplog) if name == "backfill failed")
    assert (failed["destination"], str(failed["next_attempt"])[-1]) == ("swift", "Z")


async def test_the_next_gap_is_backfilled_too(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)])
    async with running(place.backfill().run()):
        await until(place.has_healed)
        assert sorted(await claimed(place.jobs)) == ["a"]
        place.source._pages = [[Entry("b", 1, "e", HOUR_MS)]]
        await place.open_gap(HOUR_MS)
        await until(place.has_healed)
    assert sorted(await claimed(place.jobs)) == ["b"]


async def test_backfilled_jobs_compare_before_they_copy(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)])
    async with running(place.backfill().run()):
        await until(place.has_healed)
    (job,) = (await place.jobs.claim(1, 1, 1, 0)).jobs
    assert not job.unconditional


async def test_a_gap_with_an_unknown_start_compares_everything(client: Redis) -> None:
    place = await place_with(client, from_ms=0)
    async with running(place.backfill().run()):
        await until(place.has_healed)
    assert place.reconcile.runs == [["dest"]]


async def test_a_failed_backfill_is_repeated_and_the_gap_healed_only_at_its_end(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)], [Entry("b", 1, "e", HOUR_MS)], failures=2)
    async with running(place.backfill().run()):
        await until(lambda: place.source.failures == 1)
        assert not await place.has_healed()
        await until(place.has_healed)
    assert sorted(await claimed(place.jobs)) == ["a", "b"]


TWO = Route("default", Endpoint("source", "images"), (Endpoint("ceph", "copies"), Endpoint("swift", "copies")))


async def test_after_a_failure_only_the_destinations_that_failed_are_compared_again(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    place = await place_with(client, from_ms=0, route=TWO)
    place.reconcile.down = {"swift"}
    async with running(place.backfill().run()):
        await until(lambda: len(place.reconcile.runs) == 2)
        gap = await place.jobs.gap()
        assert gap is not None and gap.healed == {"ceph"}
        place.reconcile.down = set()
        await until(place.has_healed)
    assert place.reconcile.runs == [["ceph", "swift"], *[["swift"]] * (len(place.reconcile.runs) - 1)]
    assert "backfill failed: the gap stays open: swift: LIST: 503" in caplog.text


async def test_another_leader_continues_with_the_destinations_that_failed(client: Redis) -> None:
    place = await place_with(client, from_ms=0, route=TWO)
    place.reconcile.down = {"ceph"}
    async with running(place.backfill().run()):
        await until(lambda: place.reconcile.runs)
        await until(lambda: place.probes)
    successor = Place(place.jobs, TWO, place.source)
    async with running(successor.backfill().run()):
        await until(successor.has_healed)
    assert successor.reconcile.runs == [["ceph"]]


async def test_a_store_that_answers_again_ends_the_backoff(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_backfill, "CHECK_INTERVAL_S", 0.02)
    place = await place_with(client, from_ms=0, route=TWO)
    place.reconcile.down = {"swift"}
    with backing_off(monkeypatch, 3600):
        async with running(place.backfill().run()):
            await until(lambda: place.probes > 2)
            assert len(place.reconcile.runs) == 1
            place.reconcile.down = set()
            await until(place.has_healed)
    assert len(place.reconcile.runs) == 2


@contextmanager
def backing_off(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    """Every backoff takes this long."""
    wait = GapBackfill._wait
    monkeypatch.setattr(GapBackfill, "_wait", lambda self, _, names: wait(self, seconds, names))
    yield
    monkeypatch.setattr(GapBackfill, "_wait", wait)


async def test_each_failure_doubles_the_backoff_until_a_backfill_succeeds(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_BACKOFF_S", 0.1)
    backoffs: list[float] = []

    async def wait(_: object, backoff_s: float, names: Collection[str]) -> None:
        assert set(names) == {"source"}
        backoffs.append(backoff_s)

    monkeypatch.setattr(GapBackfill, "_wait", wait)
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)], failures=4)
    async with running(place.backfill().run()):
        await until(place.has_healed)
        place.source.failures = 1
        await place.open_gap(HOUR_MS)
        await until(place.has_healed)
    for backoff_s, longest_s in zip(backoffs, (0.04, 0.08, 0.1, 0.1, 0.04), strict=True):
        assert longest_s / 2 <= backoff_s <= longest_s


async def test_a_follower_backfills_nothing(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)])
    place.is_leader = False
    async with running(place.backfill().run()):
        await asyncio.sleep(0.2)
    assert not await place.has_healed()
    assert await claimed(place.jobs) == {}


async def test_a_listener_that_does_not_know_yet_that_another_one_leads_backfills_nothing(client: Redis) -> None:
    """As after Redis has lost its data, and with it the old leader's lease."""
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)])
    await client.set(f"{place.jobs.prefix}leader", "another listener")
    async with running(place.backfill().run()):
        await asyncio.sleep(0.2)
        assert not await place.has_healed()
        assert await claimed(place.jobs) == {}
        await client.set(f"{place.jobs.prefix}leader", place.jobs.consumer)
        await until(place.has_healed)


async def test_a_backfill_waits_while_the_bulk_lane_is_full(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_backfill, "MAX_QUEUED", 20)
    pages = [[Entry(f"{page:02}/{number}", 1, "e", HOUR_MS) for number in range(10)] for page in range(10)]
    place = await place_with(client, *pages)
    async with running(place.backfill().run()):
        await until(lambda: has_bulk(place.jobs, 30))
        await asyncio.sleep(0.5)
        assert (await place.jobs.stats()).bulk == 30, "one page above the limit"
        assert not await place.has_healed()


async def has_bulk(jobs: RedisJobQueue, count: int) -> bool:
    return (await jobs.stats()).bulk == count


DELETING = Route(
    "default", Endpoint("source", "images"), (Endpoint("ceph", "copies"), Endpoint("swift", "copies", delete=True))
)


async def test_a_destination_that_propagates_deletions_is_compared_instead(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)], route=DELETING)
    async with running(place.backfill().run()):
        await until(place.has_healed)
    assert place.reconcile.runs == [["swift"]]
    assert await claimed(place.jobs) == {"a": ("ceph",)}


async def test_a_failed_comparison_for_deletions_is_repeated_without_enqueueing_again(client: Redis) -> None:
    place = await place_with(client, [Entry("a", 1, "e", HOUR_MS)], route=DELETING)
    place.reconcile.down = {"swift"}
    async with running(place.backfill().run()):
        await until(lambda: len(place.reconcile.runs) == 2)
        place.reconcile.down = set()
        await until(place.has_healed)
    assert place.source.listings == 1
