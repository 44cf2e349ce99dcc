"""How a worker shuts down."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from s3s3.model import Job, Lane, Outcome
from s3s3.queue.base import JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, A, Copies, copied, enqueue_fresh, working


async def test_stop_waits_for_running_copies_and_claims_no_more(jobs: RedisJobQueue) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.may_continue.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=2)
    async with working(worker, stop):
        await enqueue_fresh(jobs, "a", "b", "c")
        await until(lambda: worker.running == 2)
        stop.set()
        await asyncio.sleep(0.3)
        copies.may_continue.set()
    assert [key for key, _ in copies.calls] == ["a", "b"]
    assert [job.key for job in (await jobs.claim(5, 5, 5, 0)).jobs] == ["c"]


async def test_idle_worker_stops_soon(jobs: RedisJobQueue) -> None:
    stop = asyncio.Event()
    async with working(Worker(ROUTE, jobs, Copies()), stop):
        await asyncio.sleep(0.05)
        stop.set()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 3


async def test_worker_stopped_before_its_start_claims_nothing(jobs: RedisJobQueue) -> None:
    stop = asyncio.Event()
    stop.set()
    await enqueue_fresh(jobs, "k")
    copies = Copies()
    await asyncio.wait_for(Worker(ROUTE, jobs, copies).run(stop), 5)
    assert copies.calls == []


@pytest.mark.parametrize("concurrency", [2, 8])
async def test_unfinished_jobs_are_released_with_a_recheck(jobs: RedisJobQueue, concurrency: int) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.may_continue.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=concurrency)
    async with working(worker, stop, drain_s=0.1):
        await jobs.enqueue([JobRequest("k1", (A,)), JobRequest("k2", BOTH)], Lane.FRESH)
        await until(lambda: worker.running == 2)
        stop.set()
    assert copies.running == 0
    released = (await jobs.claim(5, 5, 5, 0)).jobs
    assert sorted((job.key, job.destinations, dict(job.attempts)) for job in released) == [
        ("k1", (A,), {}),
        ("k2", BOTH, {}),
    ]
    assert (await jobs.stats()).rechecks == 2


async def test_cancellation_during_the_drain_releases_running_jobs(jobs: RedisJobQueue) -> None:
    copies = Copies()
    copies.may_continue.clear()
    stop = asyncio.Event()
    task = asyncio.create_task(Worker(ROUTE, jobs, copies).run(stop, drain_s=60.0))
    await enqueue_fresh(jobs, "k1", "k2")
    await until(lambda: copies.running == 2)
    stop.set()
    await asyncio.sleep(0.3)
    assert not task.done()
    await cancel([task])
    assert copies.running == 0
    assert sorted(job.key for job in (await jobs.claim(5, 5, 5, 0)).jobs) == ["k1", "k2"]


async def test_job_that_ends_during_its_cancellation_is_not_released(jobs: RedisJobQueue) -> None:
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
