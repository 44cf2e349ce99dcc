"""Stores that are down."""

from __future__ import annotations

import asyncio

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Job, Outcome
from s3s3.queue.base import JobQueue
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import ROUTE, SOURCE, A, B, Copies, NewQueue, copied, done, failed, letters, notice, working


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.1)


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
    jobs: JobQueue, quick_probes: None, store: str
) -> None:
    sick = Sick(store)
    copies = Copies(sick)
    keys = [f"k{number}" for number in range(100)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await notice(jobs, *keys)

        async def all_parked() -> bool:
            counts = await jobs.stats()
            return counts.parked[store] >= 90 and counts.fresh <= 1

        await until(all_parked)
        tried = sick.tried
        await notice(jobs, *(f"late{number}" for number in range(50)))
        keys += [f"late{number}" for number in range(50)]
        await asyncio.sleep(1.0)
        assert sick.tried - tried <= 10  # probes after 0.1, 0.2, 0.4 s
        assert list((await jobs.stats()).circuits) == [store]
        sick.well = True
        await done(jobs)
    assert (await jobs.stats()).circuits == {}
    assert {key for key, names in copies.asked if B in names} == set(keys)
    assert await letters(jobs, B) == []
    assert max(job.attempts.get(B, 0) for job in copies.jobs) <= 2  # what was parked was not counted


async def test_a_sick_destination_does_not_hold_up_the_others(jobs: JobQueue, quick_probes: None) -> None:
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
            return B in (await jobs.stats()).circuits

        await until(down)
        sick.well = True

        async def up() -> bool:
            return not await down()

        await until(up, timeout_s=5)
        assert (await jobs.stats()).fresh > 500
