"""How a worker ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from s3s3.model import Job, Lane, Outcome
from s3s3.queue.base import JobQueue, JobRequest
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, A, Copies, copied, notice, working


async def test_a_stop_lets_running_copies_end_and_claims_nothing_more(jobs: JobQueue) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.rate_limiter.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=2)
    async with working(worker, stop):
        await notice(jobs, "a", "b", "c")
        await until(lambda: worker.running == 2)
        stop.set()
        await asyncio.sleep(0.3)
        copies.rate_limiter.set()
    assert [key for key, _ in copies.asked] == ["a", "b"]
    assert [job.key for job in (await jobs.claim(5, 5, 5, 0)).jobs] == ["c"]


async def test_an_idle_worker_stops_soon(jobs: JobQueue) -> None:
    stop = asyncio.Event()
    async with working(Worker(ROUTE, jobs, Copies()), stop):
        await asyncio.sleep(0.05)
        stop.set()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 3


async def test_a_worker_that_is_stopped_before_it_begins_does_nothing(jobs: JobQueue) -> None:
    stop = asyncio.Event()
    stop.set()
    await notice(jobs, "k")
    copies = Copies()
    await asyncio.wait_for(Worker(ROUTE, jobs, copies).run(stop), 5)
    assert copies.asked == []


@pytest.mark.parametrize("concurrency", [2, 8])
async def test_what_does_not_end_in_time_is_handed_back_with_a_look(jobs: JobQueue, concurrency: int) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.rate_limiter.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=concurrency)
    async with working(worker, stop, drain_s=0.1):
        await jobs.enqueue([JobRequest("k1", (A,)), JobRequest("k2", BOTH)], Lane.FRESH)
        await until(lambda: worker.running == 2)
        stop.set()
    assert copies.running == 0
    handed_back = (await jobs.claim(5, 5, 5, 0)).jobs
    assert sorted((job.key, job.destinations, dict(job.attempts)) for job in handed_back) == [
        ("k1", (A,), {}),
        ("k2", BOTH, {}),
    ]
    assert (await jobs.stats()).rechecks == 2


async def test_who_cannot_wait_for_the_drain_cancels_and_what_runs_is_handed_back_all_the_same(jobs: JobQueue) -> None:
    copies = Copies()
    copies.rate_limiter.clear()
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


async def test_what_ends_at_the_last_moment_is_not_handed_back(jobs: JobQueue) -> None:
    async def ends_when_cancelled(job: Job, name: str) -> Outcome:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return copied(job, name)

    copies, stop = Copies(ends_when_cancelled), asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies), stop, drain_s=0.1):
        await jobs.enqueue([JobRequest("k", (A,))], Lane.FRESH)
        await until(lambda: copies.running)
        stop.set()
    counts = await jobs.stats()
    assert (counts.pending, counts.rechecks) == (0, 0)
