"""The number of unfinished keys of each destination."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from s3s3.model import Lane
from s3s3.queue import admin
from s3s3.queue.base import JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import DESTINATIONS, DONE, RETRY_LATER, A, B, claim, claim_one, notify, parked

pytestmark = pytest.mark.real


@pytest.fixture
def jobs(client: Redis) -> RedisJobQueue:
    return RedisJobQueue(client, "default", DESTINATIONS)


async def test_keys_are_counted_for_their_destinations_by_state(
    jobs: RedisJobQueue,
) -> None:
    assert await jobs.pending_by_destination() == dict.fromkeys(
        DESTINATIONS, admin.PendingStats(0, 0, 0, None, exact=True)
    )
    await notify(jobs, "retried", "parked")
    for job in await claim(jobs):
        await jobs.finish(job, {A: DONE, B: RETRY_LATER if job.key == "retried" else parked(B)})
    await notify(jobs, "queued", "running")
    await claim_one_of(jobs, "running")
    await jobs.enqueue([JobRequest("bulk", (A,))], Lane.BULK)
    found = await jobs.pending_by_destination()
    assert {name: one[:3] for name, one in found.items()} == {A: (3, 0, 0), B: (2, 1, 1)}
    assert found[B].total == 4


async def claim_one_of(jobs: RedisJobQueue, key: str) -> None:
    for job in await claim(jobs):
        if job.key != key:
            await jobs.finish(job, {A: DONE, B: DONE})
            await notify(jobs, job.key)


async def test_the_oldest_key_may_wait_for_a_retry(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", DESTINATIONS, notified_ms=1_000)], Lane.FRESH)
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    found = await jobs.pending_by_destination()
    assert found[A].oldest_s is None
    assert (found[B].oldest_s or 0) > 365 * 86_400


async def test_numbers_beyond_the_sample_are_extrapolated(jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SAMPLE_SIZE", 10)
    await jobs.enqueue([JobRequest(f"k{n}", (A,) if n % 2 else DESTINATIONS) for n in range(40)], Lane.FRESH)
    found = await jobs.pending_by_destination()
    assert {name: (one.queued, one.exact) for name, one in found.items()} == {A: (40, False), B: (20, False)}
