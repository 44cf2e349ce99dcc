from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from s3s3.broker import connect
from s3s3.demo.redis_server import RedisServer
from s3s3.errors import Damaged, LeaseLost, LeftBehind, RedisUnavailable, StoreUnavailable, TooLarge
from s3s3.jobs import DeadLetter, Jobs, Put
from s3s3.jobs.memory import MemoryJobs
from s3s3.jobs.redis import RedisJobs
from s3s3.lease import lease_clock_s
from s3s3.model import Endpoint, Job, Lane, Outcome, Result, Route
from s3s3.tasks import cancel
from s3s3.worker import Worker
from tests.waiting import until

A, B, SOURCE = "dest-a", "dest-b", "source"
BOTH = (A, B)
ROUTE = Route("default", Endpoint(SOURCE, "bucket"), (Endpoint(A, "bucket"), Endpoint(B, "bucket")))

NewQueue = Callable[..., Jobs]
Behaviour = Callable[[Job, str], Awaitable[Outcome] | Outcome]


class Copies:
    """A scripted `copy`: for each destination it does what `behaviour` says, and takes down what it was asked for."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or copied
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.jobs: list[Job] = []
        self.permits: list[Callable[[], None]] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, job: Job, destinations: Sequence[str], permit: Callable[[], None]) -> list[Outcome]:
        self.asked.append((job.key, tuple(destinations)))
        self.jobs.append(job)
        self.permits.append(permit)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            outcomes = []
            for name in destinations:
                outcome = self.behaviour(job, name)
                outcomes.append(outcome if isinstance(outcome, Outcome) else await outcome)
            return outcomes
        finally:
            self.running -= 1

    def times(self, key: str) -> int:
        return sum(asked == key for asked, _ in self.asked)


def copied(job: Job, destination: str) -> Outcome:
    return Outcome(destination, job.key, Result.COPIED, "missing")


def failed(job: Job, destination: str, error: Exception, unanswered: bool = False) -> Outcome:
    return Outcome(destination, job.key, Result.FAILED, str(error), error=error, unanswered=unanswered)


def fails_at(destination: str, error: Exception, times: int = 10**9) -> Behaviour:
    left = times

    def behaviour(job: Job, name: str) -> Outcome:
        nonlocal left
        if name != destination or left == 0:
            return copied(job, name)
        left -= 1
        return failed(job, name, error)

    return behaviour


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.worker.LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("s3s3.jobs.redis.LONGEST_TURN_S", 0.1)
    monkeypatch.setattr("s3s3.jobs.memory.LONGEST_TURN_S", 0.1)


@pytest.fixture
async def redis_queue(redis_url: str) -> AsyncIterator[NewQueue]:
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> RedisJobs:
            client = connect(redis_url)
            stack.push_async_callback(client.aclose)
            return RedisJobs(client, "default", BOTH, **options)

        yield make


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.real)])
def new_queue(request: pytest.FixtureRequest) -> NewQueue:
    if request.param == "memory":
        return lambda **options: MemoryJobs(BOTH, **options)
    made: NewQueue = request.getfixturevalue("redis_queue")
    return made


@pytest.fixture
def jobs(new_queue: NewQueue) -> Jobs:
    return new_queue()


@asynccontextmanager
async def working(worker: Worker, stop: asyncio.Event | None = None, drain_s: float = 10.0) -> AsyncIterator[None]:
    stop = stop or asyncio.Event()
    task = asyncio.create_task(worker.run(stop, drain_s))
    try:
        yield
        stop.set()
        await asyncio.wait_for(task, 20)
    finally:
        await cancel([task])


async def notice(jobs: Jobs, *keys: str) -> None:
    await jobs.put([Put(key, BOTH) for key in keys], Lane.FRESH)


async def bulk(jobs: Jobs, *keys: str, run: str = "") -> None:
    await jobs.put([Put(key, BOTH) for key in keys], Lane.BULK, run)


async def done(jobs: Jobs) -> None:
    """Wait until nothing is left to do but looks."""

    async def nothing_pending() -> bool:
        return (await jobs.counts()).pending == 0

    await until(nothing_pending)


async def letters(jobs: Jobs, destination: str) -> list[DeadLetter]:
    return [letter async for letter in jobs.dead_letters(destination)]  # type: ignore[attr-defined]


# -- claiming


async def test_every_job_is_copied_to_its_destinations_once(jobs: Jobs) -> None:
    copies = Copies()
    keys = [f"k{number}" for number in range(200)]
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, *keys)
        await done(jobs)
    assert Counter(copies.asked) == Counter((key, BOTH) for key in keys)


async def test_no_more_jobs_run_at_once_than_there_are_slots(jobs: Jobs) -> None:
    async def takes_its_time(job: Job, destination: str) -> Outcome:
        await asyncio.sleep(0.002)
        return copied(job, destination)

    copies = Copies(takes_its_time)
    worker = Worker(ROUTE, jobs, copies, concurrency=5)
    async with working(worker):
        for number in range(30):  # some of them while it waits for the first, in both lanes at once
            await asyncio.gather(notice(jobs, f"f{number}"), bulk(jobs, f"b{number}"))
        await done(jobs)
    assert copies.most_running == 5
    assert worker.running == 0


async def test_a_slot_that_is_freed_is_filled_at_once(jobs: Jobs) -> None:
    gates: dict[str, asyncio.Event] = {key: asyncio.Event() for key in "abc"}

    async def waits(job: Job, destination: str) -> Outcome:
        await gates[job.key].wait()
        return copied(job, destination)

    copies = Copies(waits)
    worker = Worker(ROUTE, jobs, copies, concurrency=2)
    async with working(worker):
        await notice(jobs, "a", "b", "c")
        await until(lambda: len(copies.asked) == 2)
        assert worker.full
        gates["a"].set()
        await until(lambda: copies.times("c"))
        gates["b"].set()
        gates["c"].set()
        await done(jobs)


async def test_fresh_jobs_find_slots_that_bulk_jobs_may_not_take(jobs: Jobs) -> None:
    copies = Copies()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=8)
    async with working(worker):
        await bulk(jobs, *(f"b{number}" for number in range(20)))
        await until(lambda: worker.running == 7)
        await asyncio.sleep(0.3)
        assert worker.running == 7
        await notice(jobs, "fresh")
        await until(lambda: copies.times("fresh"))
        copies.gate.set()
        await done(jobs)


async def test_bulk_jobs_follow_each_other_though_fresh_ones_would_find_a_slot(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for a fresh one, a worker must not overlook that bulk jobs have ended."""
    monkeypatch.setattr("s3s3.worker.LONGEST_WAIT_S", 4.0)
    copies, stop = Copies(), asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies, concurrency=8), stop):
        began_s = time.monotonic()
        await bulk(jobs, *(f"b{number}" for number in range(60)))
        await until(lambda: len(copies.asked) == 60, patience_s=60)
        assert time.monotonic() - began_s < 20, "34 s if it waited each time"


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_neither_lane_starves_the_other(jobs: Jobs, concurrency: int) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=concurrency)):
        copies.gate.clear()
        await asyncio.gather(
            notice(jobs, *(f"f{number}" for number in range(60))), bulk(jobs, *(f"b{number}" for number in range(60)))
        )
        copies.gate.set()
        await done(jobs)
    lanes = Counter(job.lane for job in copies.jobs[:60])
    assert min(lanes[lane] for lane in Lane) >= 15


async def test_a_worker_tells_when_the_queue_last_answered_it(jobs: Jobs) -> None:
    worker = Worker(ROUTE, jobs, Copies())
    async with working(worker):
        began_s = lease_clock_s()
        await until(lambda: worker.claimed_at_s > began_s + 0.2)


async def test_a_worker_whose_slots_are_all_taken_tells_when_its_leases_are_no_longer_renewed(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=1, lease_s=0.4)
    async with working(worker):
        await notice(jobs, "k")
        await until(lambda: worker.full)
        await asyncio.sleep(0.3)
        assert worker.silent_s < 0.25, "long copies are no silence"

        async def unanswered(_: Sequence[Job]) -> set[str]:
            await asyncio.sleep(60)
            return set()

        monkeypatch.setattr(jobs, "renew", unanswered)
        await until(lambda: worker.silent_s > 0.5)
        copies.gate.set()
        await done(jobs)


# -- verdicts


async def test_what_failed_is_tried_again_until_it_succeeds(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.verdicts.FIRST_RETRY_S", 0.01)
    copies = Copies(fails_at(B, StoreUnavailable("away", store=B), times=3))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")
        await done(jobs)
    assert copies.asked == [("k", BOTH), ("k", (B,)), ("k", (B,)), ("k", (B,))]
    assert [dict(job.tries) for job in copies.jobs] == [{}, {B: 1}, {B: 2}, {B: 3}]


async def test_what_failed_too_often_becomes_a_dead_letter(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.verdicts.FIRST_RETRY_S", 0.01)
    copies = Copies(fails_at(B, Damaged("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies, max_tries=3)):
        await notice(jobs, "k")
        await done(jobs)
    (letter,) = await letters(jobs, B)
    assert (letter.key, letter.tries, letter.reason) == ("k", 3, "tried 3 times: dest-b: bits")
    assert copies.times("k") == 3


async def test_what_waits_for_a_retry_waits(jobs: Jobs) -> None:
    copies = Copies(fails_at(B, Damaged("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")

        async def waits() -> bool:
            return (await jobs.counts()).waiting == 1

        await until(waits)
        await asyncio.sleep(0.2)
    assert copies.times("k") == 1


async def test_what_can_never_succeed_is_buried_at_once_and_the_others_are_copied(jobs: Jobs) -> None:
    copies = Copies(fails_at(B, TooLarge("too large", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, B)] == ["k"]
    assert await letters(jobs, A) == []
    assert copies.asked == [("k", BOTH)]


async def test_a_destination_that_the_configuration_no_longer_has_is_done_with(jobs: Jobs) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies)):
        await jobs.put([Put("k1", (A, "dest-gone")), Put("k2", ("dest-gone",))], Lane.FRESH)
        await done(jobs)
    assert copies.asked == [("k1", (A,))]


async def test_a_write_without_an_answer_leaves_a_look(jobs: Jobs) -> None:
    error = StoreUnavailable("no answer", store=B)

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, error, unanswered=name == B and job.key == "k1")

    async with working(Worker(ROUTE, jobs, Copies(behaviour), max_tries=1)):
        await notice(jobs, "k1", "k2")
        await done(jobs)
    assert (await jobs.counts()).looks == 1


# -- defects


async def test_a_defect_in_copying_counts_as_a_failure_and_the_worker_lives(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s3s3.verdicts.FIRST_RETRY_S", 0.01)

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "bad":
            raise ZeroDivisionError("a defect")
        return copied(job, name)

    copies = Copies(behaviour)
    async with working(Worker(ROUTE, jobs, copies, max_tries=2)):
        await notice(jobs, "bad")
        await notice(jobs, *(f"k{number}" for number in range(20)))
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, A)] == ["bad"]
    assert "ZeroDivisionError" in (await letters(jobs, B))[0].reason
    assert copies.times("bad") == 2
    assert len(copies.asked) == 22
    assert (await jobs.counts()).looks == 1  # nobody knows what it had sent
    assert any(record.exc_info for record in caplog.records)


async def test_a_copy_that_says_nothing_of_a_destination_has_failed_there(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def copy(job: Job, destinations: Sequence[str], permit: Callable[[], None]) -> list[Outcome]:
        return [copied(job, A)]

    async with working(Worker(ROUTE, jobs, copy, max_tries=1)):
        await notice(jobs, "k")
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, B)] == ["k"]


async def test_a_defect_in_whoever_is_told_harms_nobody(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    def finished(job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        raise ZeroDivisionError("a defect")

    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=2, finished=finished)):
        await notice(jobs, *"abcdef")
        await done(jobs)
    assert len(copies.asked) == 6
    assert "ZeroDivisionError" in caplog.text


async def test_a_worker_of_which_a_part_has_died_ends_with_it_and_leaves_no_copy_behind(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies)
    task = asyncio.create_task(worker.run(asyncio.Event()))
    await notice(jobs, "k")
    await until(lambda: copies.running)

    async def dies() -> float:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(jobs, "turn", dies)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 10)
    assert copies.running == worker.running == 0


async def test_a_worker_that_is_cancelled_leaves_no_copy_behind(jobs: Jobs) -> None:
    copies = Copies()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies)
    task = asyncio.create_task(worker.run(asyncio.Event()))
    await notice(jobs, "k")
    await until(lambda: copies.running)
    await cancel([task])
    assert copies.running == worker.running == 0


# -- those who are told


async def test_runs_are_told_each_outcome_and_whether_it_is_the_last_word(jobs: Jobs) -> None:
    def behaviour(job: Job, name: str) -> Outcome:
        if name == A:
            return copied(job, name)
        error = TooLarge("big", store=B) if job.key == "k1" else Damaged("bits", store=B)
        return failed(job, name, error)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await bulk(jobs, "k1", "k2", run="run1")
        told: list[dict[str, Any]] = []
        while len(told) < 4:
            told += [json.loads(event) for event in await jobs.outcomes("run1", 5)]
    assert {(event["key"], event["destination"]): (event["outcome"], event["final"]) for event in told} == {
        ("k1", A): ("copied", True),
        ("k1", B): ("failed", True),
        ("k2", A): ("copied", True),
        ("k2", B): ("failed", False),
    }


async def test_a_job_that_is_handed_back_has_no_outcome_yet(jobs: Jobs) -> None:
    lost = iter([True, False])

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, LeaseLost("over")) if next(lost) else copied(job, name)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await jobs.put([Put("k", (A,))], Lane.BULK, "run1")
        events = await until(lambda: jobs.outcomes("run1", 1))
        await done(jobs)
    assert [json.loads(event)["outcome"] for event in events] == ["copied"]
    assert (await jobs.counts()).looks == 1, "an earlier attempt at its PUT may have been sent"


async def test_outcomes_are_told_once_the_queue_knows_them_and_arrivals_before(jobs: Jobs) -> None:
    told: list[Any] = []

    async def arrived(key: str, results: Collection[Result]) -> None:
        told.append((set(results), key, (await jobs.counts()).pending))

    def finished(job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        told.append((job.key, [outcome.result for outcome in outcomes], 0 <= took_s < 5))

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "gone":
            return Outcome(name, job.key, Result.SOURCE_GONE)
        return copied(job, name) if job.key == "new" and name == A else Outcome(name, job.key, Result.SAME)

    async with working(Worker(ROUTE, jobs, Copies(behaviour), finished=finished, arrived=arrived)):
        await notice(jobs, "new")
        await done(jobs)
        for key in ("same", "gone"):
            await notice(jobs, key)
            await done(jobs)
    assert told == [
        ({Result.COPIED, Result.SAME}, "new", 1),
        ("new", [Result.COPIED, Result.SAME], True),
        ({Result.SAME}, "same", 1),
        ("same", [Result.SAME, Result.SAME], True),
        ("gone", [Result.SOURCE_GONE, Result.SOURCE_GONE], True),
    ]


# -- a destination that holds up the others


async def test_who_is_left_behind_gets_a_job_of_its_own_and_so_does_everything_after_it(jobs: Jobs) -> None:
    async with working(Worker(ROUTE, jobs, copies := Copies(fails_at(B, LeftBehind("slow"), times=1)))):
        await notice(jobs, "first")
        await done(jobs)
        await notice(jobs, "second")
        await done(jobs)
    assert copies.asked == [("first", BOTH), ("first", (B,)), ("second", (A,)), ("second", (B,))]
    assert [job.lane for job in copies.jobs] == [Lane.FRESH, Lane.BULK] * 2


async def test_runs_that_wait_hear_of_a_destination_that_was_left_behind_once_it_is_done(jobs: Jobs) -> None:
    async with working(Worker(ROUTE, jobs, Copies(fails_at(B, LeftBehind("slow"), times=1)))):
        await bulk(jobs, "k", run="run1")
        told: list[dict[str, Any]] = []
        while len(told) < 2:
            told += [json.loads(event) for event in await jobs.outcomes("run1", 5)]
    assert [(event["destination"], event["outcome"]) for event in told] == [(A, "copied"), (B, "copied")]


# -- stores that are down


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3s3.jobs.redis", "s3s3.jobs.memory"):
        monkeypatch.setattr(f"{module}.FIRST_PROBE_S", 0.1)
    monkeypatch.setattr("s3s3.verdicts.FIRST_RETRY_S", 0.1)


class Sick:
    """A store that is away until it is `well`."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.well = False
        self.tried = 0

    def __call__(self, job: Job, name: str) -> Outcome:
        if self.store not in (SOURCE, name):
            return copied(job, name)
        self.tried += 1
        return copied(job, name) if self.well else failed(job, name, StoreUnavailable("away", store=self.store))


@pytest.mark.parametrize("store", [B, SOURCE])
async def test_a_store_that_is_down_is_left_alone_but_for_probes_and_all_is_made_good_when_it_is_back(
    jobs: Jobs, quick_probes: None, store: str
) -> None:
    sick = Sick(store)
    copies = Copies(sick)
    keys = [f"k{number}" for number in range(100)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await notice(jobs, *keys)

        async def all_parked() -> bool:
            counts = await jobs.counts()
            return counts.parked[store] >= 90 and counts.fresh <= 1

        await until(all_parked)
        tried = sick.tried
        await notice(jobs, *(f"late{number}" for number in range(50)))
        keys += [f"late{number}" for number in range(50)]
        await asyncio.sleep(1.0)
        assert sick.tried - tried <= 10  # probes after 0.1, 0.2, 0.4 s
        assert list((await jobs.counts()).circuits) == [store]
        sick.well = True
        await done(jobs)
    assert (await jobs.counts()).circuits == {}
    assert {key for key, names in copies.asked if B in names} == set(keys)
    assert await letters(jobs, B) == []
    assert max(job.tries.get(B, 0) for job in copies.jobs) <= 2  # what was parked was not counted


async def test_a_sick_destination_does_not_hold_up_the_others(jobs: Jobs, quick_probes: None) -> None:
    copies = Copies(Sick(B))
    keys = [f"k{number}" for number in range(100)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await notice(jobs, *keys)
        await until(lambda: {key for key, names in copies.asked if A in names} == set(keys))


@pytest.mark.real
async def test_a_store_that_is_back_is_used_again_while_a_long_lane_is_worked_on(
    redis_queue: NewQueue, quick_probes: None
) -> None:
    jobs, sick = redis_queue(), Sick(B)

    async def takes_its_time(job: Job, name: str) -> Outcome:
        await asyncio.sleep(0.01)
        return sick(job, name)

    copies = Copies(takes_its_time)
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await notice(jobs, *(f"k{number}" for number in range(2000)))

        async def down() -> bool:
            return B in (await jobs.counts()).circuits

        await until(down)
        sick.well = True

        async def up() -> bool:
            return not await down()

        await until(up, patience_s=5)
        assert (await jobs.counts()).fresh > 500


# -- stopping


async def test_a_stop_lets_running_copies_end_and_claims_nothing_more(jobs: Jobs) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=2)
    async with working(worker, stop):
        await notice(jobs, "a", "b", "c")
        await until(lambda: worker.running == 2)
        stop.set()
        await asyncio.sleep(0.3)
        copies.gate.set()
    assert [key for key, _ in copies.asked] == ["a", "b"]
    assert [job.key for job in (await jobs.claim(5, 5, 5, 0)).jobs] == ["c"]


async def test_an_idle_worker_stops_soon(jobs: Jobs) -> None:
    stop = asyncio.Event()
    async with working(Worker(ROUTE, jobs, Copies()), stop):
        await asyncio.sleep(0.05)
        stop.set()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 3


async def test_a_worker_that_is_stopped_before_it_begins_does_nothing(jobs: Jobs) -> None:
    stop = asyncio.Event()
    stop.set()
    await notice(jobs, "k")
    copies = Copies()
    await asyncio.wait_for(Worker(ROUTE, jobs, copies).run(stop), 5)
    assert copies.asked == []


@pytest.mark.parametrize("concurrency", [2, 8])
async def test_what_does_not_end_in_time_is_handed_back_with_a_look(jobs: Jobs, concurrency: int) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.gate.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=concurrency)
    async with working(worker, stop, drain_s=0.1):
        await jobs.put([Put("k1", (A,)), Put("k2", BOTH)], Lane.FRESH)
        await until(lambda: worker.running == 2)
        stop.set()
    assert copies.running == 0
    handed_back = (await jobs.claim(5, 5, 5, 0)).jobs
    assert sorted((job.key, job.destinations, dict(job.tries)) for job in handed_back) == [
        ("k1", (A,), {}),
        ("k2", BOTH, {}),
    ]
    assert (await jobs.counts()).looks == 2


async def test_who_cannot_wait_for_the_drain_cancels_and_what_runs_is_handed_back_all_the_same(jobs: Jobs) -> None:
    copies = Copies()
    copies.gate.clear()
    stop = asyncio.Event()
    task = asyncio.create_task(Worker(ROUTE, jobs, copies).run(stop, drain_s=60.0))
    await notice(jobs, "k1", "k2")
    await until(lambda: copies.running == 2)
    stop.set()
    await asyncio.sleep(0.3)
    assert not task.done()
    await cancel([task])
    assert copies.running == 0
    assert sorted(job.key for job in (await jobs.claim(5, 5, 5, 0)).jobs) == ["k1", "k2"]


async def test_what_ends_at_the_last_moment_is_not_handed_back(jobs: Jobs) -> None:
    async def ends_when_cancelled(job: Job, name: str) -> Outcome:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return copied(job, name)

    copies, stop = Copies(ends_when_cancelled), asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies), stop, drain_s=0.1):
        await jobs.put([Put("k", (A,))], Lane.FRESH)
        await until(lambda: copies.running)
        stop.set()
    counts = await jobs.counts()
    assert (counts.pending, counts.looks) == (0, 0)


# -- leases


@pytest.mark.real
async def test_a_job_that_takes_longer_than_its_lease_is_not_taken_over(redis_queue: NewQueue) -> None:
    lease_s = 1.0
    first, second = redis_queue(lease_s=lease_s), redis_queue(lease_s=lease_s)
    copies, others = Copies(), Copies()
    copies.gate.clear()
    async with working(Worker(ROUTE, first, copies, lease_s=lease_s)):
        await notice(first, "k")
        await until(lambda: copies.running)
        async with working(Worker(ROUTE, second, others, lease_s=lease_s)):
            await asyncio.sleep(2.5 * lease_s)
            copies.permits[0]()
            copies.gate.set()
            await done(second)
    assert (copies.asked, others.asked) == ([("k", BOTH)], [])
    assert (await first.counts()).looks == 0


@pytest.mark.real
async def test_a_worker_whose_job_was_taken_over_writes_nothing_more_and_has_it_looked_at(
    redis_queue: NewQueue,
) -> None:
    lease_s = 6.0
    jobs, thief = redis_queue(lease_s=lease_s), redis_queue(lease_s=lease_s)
    assert isinstance(jobs, RedisJobs)
    writes: list[str] = []

    async def writes_until_it_may_not(job: Job, name: str) -> Outcome:
        while True:
            try:
                copies.permits[-1]()
            except LeaseLost as error:
                return failed(job, name, error)
            writes.append(name)
            await asyncio.sleep(0.01)

    copies = Copies(writes_until_it_may_not)
    stop = asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies, lease_s=lease_s), stop):
        await jobs.put([Put("k", (A,))], Lane.FRESH)
        await until(lambda: writes)
        began_s = lease_clock_s()
        job = copies.jobs[0]
        await jobs.client.xclaim(
            "s3s3:{default}:fresh", "s3s3", jobs.consumer, 0, [job.entry], idle=3600_000, justid=True
        )
        (stolen,) = (await thief.claim(1, 1, 1, 0)).jobs
        assert stolen.token != job.token
        stop.set()
        await until(lambda: not copies.running)
        assert lease_clock_s() - began_s < 0.8 * lease_s  # it learned it when it renewed, not when its time was over
        assert await thief.finish(stolen, {})
    (again,) = (await thief.claim(5, 5, 5, 0)).jobs
    assert (again.key, again.destinations, again.lane) == ("k", BOTH, Lane.BULK)


# -- a Redis that goes away


@pytest.mark.real
async def test_work_goes_on_when_redis_is_back(
    redis_queue: NewQueue, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def takes_its_time(job: Job, name: str) -> Outcome:
        await asyncio.sleep(0.01)
        return copied(job, name)

    copies = Copies(takes_its_time)
    jobs = redis_queue(lease_s=2.0)
    keys = [f"k{number}" for number in range(400)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=8, lease_s=2.0)):
        await notice(jobs, *keys)
        for _ in range(2):
            before = len(copies.asked)
            await until(lambda before=before: len(copies.asked) > before + 40)
            redis_server.kill()
            await asyncio.sleep(0.3)
            redis_server.start()
        await done(jobs)
    assert {key for key, _ in copies.asked} == set(keys)
    away = [record.message for record in caplog.records if "trying again" in record.message]
    assert len(away) <= 6


@pytest.mark.real
async def test_a_worker_that_is_stopped_while_redis_is_away_ends_in_time_and_its_jobs_lapse(
    redis_queue: NewQueue, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.gate.clear()
    jobs, other = redis_queue(lease_s=1.0), redis_queue(lease_s=1.0)
    async with working(Worker(ROUTE, jobs, copies, lease_s=1.0), stop, drain_s=0.5):
        await notice(jobs, "ends", "goes on")
        await until(lambda: copies.running == 2)
        redis_server.kill()
        copies.gate.set()  # what ended cannot be told
        await asyncio.sleep(0.2)
        stop.set()
    assert "taken over when their leases lapse" in caplog.text
    redis_server.start()

    async def lapsed() -> list[Job]:
        return list((await other.claim(5, 5, 5, 0)).jobs)

    found = await until(lapsed)
    assert {job.key for job in found} == {"ends", "goes on"}


@pytest.mark.real
async def test_a_redis_that_forgets_everything_loses_nothing_that_runs(redis_queue: NewQueue) -> None:
    jobs = redis_queue(lease_s=1.0)
    assert isinstance(jobs, RedisJobs)
    copies = Copies()
    copies.gate.clear()
    async with working(Worker(ROUTE, jobs, copies, concurrency=2, lease_s=1.0)):
        await notice(jobs, "k1", "k2")
        await until(lambda: copies.running == 2)
        await jobs.client.flushall()
        copies.gate.set()
        await until(lambda: copies.times("k1") >= 2 and copies.times("k2") >= 2)
        await notice(jobs, "k3")
        await done(jobs)
    assert copies.times("k3") == 1


async def test_an_outage_costs_no_claim_and_no_finish(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call fails now and then, before it was heard or after."""
    monkeypatch.setattr("s3s3.broker.FIRST_PAUSE_S", 0.001)
    calls = 0

    def flaky(method: Callable[..., Awaitable[Any]], after: bool) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % 3 == 0:
                raise RedisUnavailable("away")
            answer = await method(*args, **kwargs)
            if after and calls % 5 == 0:
                raise RedisUnavailable("away")
            return answer

        return call

    for name in ("claim", "finish", "turn", "renew", "trip", "close_circuit"):
        monkeypatch.setattr(jobs, name, flaky(getattr(jobs, name), after=name != "claim"))
    copies = Copies()
    keys = [f"k{number}" for number in range(50)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=3)):
        await notice(jobs, *keys)
        await done(jobs)
    assert {key for key, _ in copies.asked} == set(keys)
