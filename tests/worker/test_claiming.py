"""Which jobs a worker claims, and how many."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from s3s3.model import Job, Lane, Outcome
from s3s3.queue.base import ClaimResult
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, Copies, copied, enqueue_bulk, enqueue_fresh, until_done, working


async def test_every_job_is_copied_to_its_destinations_once(jobs: RedisJobQueue) -> None:
    copies = Copies()
    keys = [f"k{number}" for number in range(200)]
    async with working(Worker(ROUTE, jobs, copies)):
        await enqueue_fresh(jobs, *keys)
        await until_done(jobs)
    assert Counter(copies.calls) == Counter((key, BOTH) for key in keys)


async def test_concurrent_jobs_do_not_exceed_the_slots(jobs: RedisJobQueue) -> None:
    async def takes_its_time(job: Job, destination: str) -> Outcome:
        await asyncio.sleep(0.002)
        return copied(job, destination)

    copies = Copies(takes_its_time)
    worker = Worker(ROUTE, jobs, copies, concurrency=5)
    async with working(worker):
        for number in range(30):  # some of them while it waits for the first, in both lanes
            await asyncio.gather(enqueue_fresh(jobs, f"f{number}"), enqueue_bulk(jobs, f"b{number}"))
        await until_done(jobs)
    assert copies.max_running == 5
    assert worker.running == 0


async def test_freed_slot_is_filled_immediately(jobs: RedisJobQueue) -> None:
    gates: dict[str, asyncio.Event] = {key: asyncio.Event() for key in "abc"}

    async def waits(job: Job, destination: str) -> Outcome:
        await gates[job.key].wait()
        return copied(job, destination)

    copies = Copies(waits)
    worker = Worker(ROUTE, jobs, copies, concurrency=2)
    async with working(worker):
        await enqueue_fresh(jobs, "a", "b", "c")
        await until(lambda: len(copies.calls) == 2)
        assert worker.full
        gates["a"].set()
        await until(lambda: copies.times("c"))
        gates["b"].set()
        gates["c"].set()
        await until_done(jobs)


async def test_bulk_jobs_leave_slots_for_fresh_ones(jobs: RedisJobQueue) -> None:
    copies = Copies()
    copies.may_continue.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=8)
    async with working(worker):
        await enqueue_bulk(jobs, *(f"b{number}" for number in range(20)))
        await until(lambda: worker.running == 7)
        await asyncio.sleep(0.3)
        assert worker.running == 7
        await enqueue_fresh(jobs, "fresh")
        await until(lambda: copies.times("fresh"))
        copies.may_continue.set()
        await until_done(jobs)


@pytest.mark.long
async def test_bulk_jobs_follow_each_other_while_slots_are_reserved_for_fresh_ones(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for a fresh job, a worker must notice that bulk jobs have ended."""
    monkeypatch.setattr("s3s3.worker.worker.INITIAL_CLAIM_WAIT_S", 4.0)
    monkeypatch.setattr("s3s3.worker.worker.MAX_CLAIM_WAIT_S", 4.0)
    copies, stop = Copies(), asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies, concurrency=8), stop):
        started_s = time.monotonic()
        await enqueue_bulk(jobs, *(f"b{number}" for number in range(60)))
        await until(lambda: len(copies.calls) == 60, timeout_s=60)
        assert time.monotonic() - started_s < 20, "34 s if it waited each time"


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_neither_lane_starves_the_other(jobs: RedisJobQueue, concurrency: int) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=concurrency)):
        copies.may_continue.clear()
        await asyncio.gather(
            enqueue_fresh(jobs, *(f"f{number}" for number in range(60))),
            enqueue_bulk(jobs, *(f"b{number}" for number in range(60))),
        )
        copies.may_continue.set()
        await until_done(jobs)
    lanes = Counter(job.lane for job in copies.jobs[:60])
    assert min(lanes[lane] for lane in Lane) >= 15


async def test_the_first_claims_wait_briefly_so_that_a_short_run_ends_soon(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    claim = jobs.claim

    async def recorded(free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        waits.append(wait_s)
        return await claim(free, min_bulk, max_bulk, wait_s)

    monkeypatch.setattr(jobs, "claim", recorded)
    async with working(Worker(ROUTE, jobs, Copies())):
        await until(lambda: len(waits) >= 5)
    longest = [0.02, 0.04, 0.08, 0.1, 0.1]  # the tests' maximum is 0.1
    assert all(wait_s <= most_s <= 2 * wait_s for wait_s, most_s in zip(waits, longest, strict=False))


async def test_claimed_at_advances_with_each_claim(jobs: RedisJobQueue) -> None:
    worker = Worker(ROUTE, jobs, Copies())
    async with working(worker):
        started_s = time.monotonic()
        await until(lambda: worker.claimed_at_s > started_s + 0.2)


async def test_full_worker_is_silent_when_renewals_fail(jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies()
    copies.may_continue.clear()
    worker = Worker(ROUTE, jobs, copies, concurrency=1, lease_s=0.4)
    async with working(worker):
        await enqueue_fresh(jobs, "k")
        await until(lambda: worker.full)
        await asyncio.sleep(0.3)
        assert worker.silent_s < 0.25, "long copies do not count as silence"

        async def indeterminate(_: Sequence[Job]) -> set[str]:
            await asyncio.sleep(60)
            return set()

        monkeypatch.setattr(jobs, "renew", indeterminate)
        await until(lambda: worker.silent_s > 0.5)
        copies.may_continue.set()
        await until_done(jobs)
