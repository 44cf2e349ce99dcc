"""Which jobs a worker claims, and how many at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from s3s3.model import Job, Lane, Outcome
from s3s3.queue.base import JobQueue
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, Copies, bulk, copied, done, notice, working


async def test_every_job_is_copied_to_its_destinations_once(jobs: JobQueue) -> None:
    copies = Copies()
    keys = [f"k{number}" for number in range(200)]
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, *keys)
        await done(jobs)
    assert Counter(copies.asked) == Counter((key, BOTH) for key in keys)


async def test_no_more_jobs_run_at_once_than_there_are_slots(jobs: JobQueue) -> None:
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


async def test_a_slot_that_is_freed_is_filled_at_once(jobs: JobQueue) -> None:
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


async def test_fresh_jobs_find_slots_that_bulk_jobs_may_not_take(jobs: JobQueue) -> None:
    copies = Copies()
    copies.rate_limiter.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=8)
    async with working(worker):
        await bulk(jobs, *(f"b{number}" for number in range(20)))
        await until(lambda: worker.running == 7)
        await asyncio.sleep(0.3)
        assert worker.running == 7
        await notice(jobs, "fresh")
        await until(lambda: copies.times("fresh"))
        copies.rate_limiter.set()
        await done(jobs)


async def test_bulk_jobs_follow_each_other_though_fresh_ones_would_find_a_slot(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for a fresh one, a worker must not overlook that bulk jobs have ended."""
    monkeypatch.setattr("s3s3.worker.worker.MAX_CLAIM_WAIT_S", 4.0)
    copies, stop = Copies(), asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies, concurrency=8), stop):
        began_s = time.monotonic()
        await bulk(jobs, *(f"b{number}" for number in range(60)))
        await until(lambda: len(copies.asked) == 60, timeout_s=60)
        assert time.monotonic() - began_s < 20, "34 s if it waited each time"


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_neither_lane_starves_the_other(jobs: JobQueue, concurrency: int) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=concurrency)):
        copies.rate_limiter.clear()
        await asyncio.gather(
            notice(jobs, *(f"f{number}" for number in range(60))), bulk(jobs, *(f"b{number}" for number in range(60)))
        )
        copies.rate_limiter.set()
        await done(jobs)
    lanes = Counter(job.lane for job in copies.jobs[:60])
    assert min(lanes[lane] for lane in Lane) >= 15


async def test_a_worker_tells_when_the_queue_last_answered_it(jobs: JobQueue) -> None:
    worker = Worker(ROUTE, jobs, Copies())
    async with working(worker):
        began_s = time.monotonic()
        await until(lambda: worker.claimed_at_s > began_s + 0.2)


async def test_a_worker_whose_slots_are_all_taken_tells_when_its_leases_are_no_longer_renewed(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies()
    copies.rate_limiter.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=1, lease_s=0.4)
    async with working(worker):
        await notice(jobs, "k")
        await until(lambda: worker.full)
        await asyncio.sleep(0.3)
        assert worker.silent_s < 0.25, "long copies are no silence"

        async def indeterminate(_: Sequence[Job]) -> set[str]:
            await asyncio.sleep(60)
            return set()

        monkeypatch.setattr(jobs, "renew", indeterminate)
        await until(lambda: worker.silent_s > 0.5)
        copies.rate_limiter.set()
        await done(jobs)
