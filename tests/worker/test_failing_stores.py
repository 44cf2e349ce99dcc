"""Stores that are down."""

from __future__ import annotations

import asyncio

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Job, Outcome
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import (
    ROUTE,
    SOURCE,
    A,
    B,
    Copies,
    NewQueue,
    copied,
    dead_letters_of,
    enqueue_fresh,
    failed,
    until_done,
    working,
)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.1)


class DownStore:
    """A store that is down until `is_up`."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.is_up = False
        self.attempts = 0

    def __call__(self, job: Job, name: str) -> Outcome:
        if self.store not in (SOURCE, name):
            return copied(job, name)
        self.attempts += 1
        return copied(job, name) if self.is_up else failed(job, name, StoreUnavailable("away", store=self.store))


@pytest.mark.parametrize("store", [B, SOURCE])
async def test_store_that_is_down_gets_only_probes_and_recovers(
    jobs: RedisJobQueue, quick_probes: None, store: str
) -> None:
    down_store = DownStore(store)
    copies = Copies(down_store)
    keys = [f"k{number}" for number in range(100)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await enqueue_fresh(jobs, *keys)

        async def all_parked() -> bool:
            counts = await jobs.stats()
            return counts.parked[store] >= 90 and counts.fresh <= 1

        await until(all_parked)
        attempts = down_store.attempts
        await enqueue_fresh(jobs, *(f"late{number}" for number in range(50)))
        keys += [f"late{number}" for number in range(50)]
        await asyncio.sleep(1.0)
        assert down_store.attempts - attempts <= 10  # probes after 0.1, 0.2, 0.4 s
        assert list((await jobs.stats()).circuits) == [store]
        down_store.is_up = True
        await until_done(jobs)
    assert (await jobs.stats()).circuits == {}
    assert {key for key, names in copies.calls if B in names} == set(keys)
    assert await dead_letters_of(jobs, B) == []
    assert max(job.attempts.get(B, 0) for job in copies.jobs) <= 2  # parking does not count as an attempt


async def test_parked_keys_follow_the_probe_without_delay(
    jobs: RedisJobQueue, quick_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROMOTE_INTERVAL_S", 60.0)
    down_store = DownStore(B)
    async with working(Worker(ROUTE, jobs, Copies(down_store), concurrency=4)):
        await enqueue_fresh(jobs, *(f"k{number}" for number in range(20)))

        async def is_down() -> bool:
            return B in (await jobs.stats()).circuits

        async def nothing_is_parked() -> bool:
            stats = await jobs.stats()
            return not stats.circuits and not stats.parked[B] and not stats.bulk

        await until(is_down)
        down_store.is_up = True
        await until(nothing_is_parked)
    assert down_store.attempts > 10


async def test_destination_that_is_down_does_not_delay_the_others(jobs: RedisJobQueue, quick_probes: None) -> None:
    copies = Copies(DownStore(B))
    keys = [f"k{number}" for number in range(100)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await enqueue_fresh(jobs, *keys)
        await until(lambda: {key for key, names in copies.calls if A in names} == set(keys))


@pytest.mark.real
async def test_recovered_store_is_used_while_the_lane_is_long(redis_queue: NewQueue, quick_probes: None) -> None:
    jobs, down_store = redis_queue(), DownStore(B)

    async def takes_its_time(job: Job, name: str) -> Outcome:
        await asyncio.sleep(0.01)
        return down_store(job, name)

    copies = Copies(takes_its_time)
    async with working(Worker(ROUTE, jobs, copies, concurrency=4)):
        await enqueue_fresh(jobs, *(f"k{number}" for number in range(2000)))

        async def down() -> bool:
            return B in (await jobs.stats()).circuits

        await until(down)
        down_store.is_up = True

        async def up() -> bool:
            return not await down()

        await until(up, timeout_s=5)
        assert (await jobs.stats()).fresh > 500
