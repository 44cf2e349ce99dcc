"""Leases, and Redis outages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import pytest

from s3s3.errors import LeaseLost, RedisUnavailable
from s3s3.model import Job, Lane, Outcome
from s3s3.queue.base import JobRequest, boottime_s
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, A, Copies, NewQueue, copied, enqueue_fresh, failed, until_done, working


@pytest.mark.real
async def test_job_longer_than_its_lease_is_not_taken_over(redis_queue: NewQueue) -> None:
    lease_s = 1.0
    first, second = redis_queue(lease_s=lease_s), redis_queue(lease_s=lease_s)
    copies, others = Copies(), Copies()
    copies.may_continue.clear()
    async with working(Worker(ROUTE, first, copies, lease_s=lease_s)):
        await enqueue_fresh(first, "k")
        await until(lambda: copies.running)
        async with working(Worker(ROUTE, second, others, lease_s=lease_s)):
            await asyncio.sleep(2.5 * lease_s)
            copies.lease_checks[0]()
            copies.may_continue.set()
            await until_done(second)
    assert (copies.calls, others.calls) == ([("k", BOTH)], [])
    assert (await first.stats()).rechecks == 0


@pytest.mark.real
async def test_worker_that_lost_its_job_writes_nothing_and_leaves_a_recheck(
    redis_queue: NewQueue,
) -> None:
    lease_s = 6.0
    jobs, thief = redis_queue(lease_s=lease_s), redis_queue(lease_s=lease_s)
    assert isinstance(jobs, RedisJobQueue)
    writes: list[str] = []

    async def writes_until_it_may_not(job: Job, name: str) -> Outcome:
        while True:
            try:
                copies.lease_checks[-1]()
            except LeaseLost as error:
                return failed(job, name, error)
            writes.append(name)
            await asyncio.sleep(0.01)

    copies = Copies(writes_until_it_may_not)
    stop = asyncio.Event()
    async with working(Worker(ROUTE, jobs, copies, lease_s=lease_s), stop):
        await jobs.enqueue([JobRequest("k", (A,))], Lane.FRESH)
        await until(lambda: writes)
        started_s = boottime_s()
        job = copies.jobs[0]
        await jobs.client.xclaim(
            "s3s3:{default}:fresh", "s3s3", jobs.consumer, 0, [job.entry], idle=3600_000, justid=True
        )
        (stolen,) = (await thief.claim(1, 1, 1, 0)).jobs
        assert stolen.token != job.token
        stop.set()
        await until(lambda: not copies.running)
        assert boottime_s() - started_s < 0.8 * lease_s  # it learned this at a renewal, before the lease expired
        assert await thief.finish(stolen, {})
    (again,) = (await thief.claim(5, 5, 5, 0)).jobs
    assert (again.key, again.destinations, again.lane) == ("k", BOTH, Lane.BULK)


# -- Redis outages


@pytest.mark.long
@pytest.mark.real
async def test_work_continues_after_a_redis_outage(
    redis_queue: NewQueue, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def takes_its_time(job: Job, name: str) -> Outcome:
        await asyncio.sleep(0.01)
        return copied(job, name)

    copies = Copies(takes_its_time)
    jobs = redis_queue(lease_s=2.0)
    keys = [f"k{number}" for number in range(400)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=8, lease_s=2.0)):
        await enqueue_fresh(jobs, *keys)
        for _ in range(2):
            before = len(copies.calls)
            await until(partial(lambda before: len(copies.calls) > before + 40, before))
            redis_server.kill()
            await asyncio.sleep(0.3)
            redis_server.start()
        await until_done(jobs)
    assert {key for key, _ in copies.calls} == set(keys)
    away = [record.message for record in caplog.records if "Redis unavailable" in record.message]
    assert len(away) <= 6


@pytest.mark.real
async def test_worker_stopped_during_an_outage_ends_in_time_and_its_leases_expire(
    redis_queue: NewQueue, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    copies, stop = Copies(), asyncio.Event()
    copies.may_continue.clear()
    jobs, other = redis_queue(lease_s=1.0), redis_queue(lease_s=1.0)
    async with working(Worker(ROUTE, jobs, copies, lease_s=1.0), stop, drain_s=0.5):
        await enqueue_fresh(jobs, "ends", "goes on")
        await until(lambda: copies.running == 2)
        redis_server.kill()
        copies.may_continue.set()  # finished jobs cannot be settled
        await asyncio.sleep(0.2)
        stop.set()
    assert "their leases expire instead" in caplog.text
    redis_server.start()

    async def expired() -> list[Job]:
        return list((await other.claim(5, 5, 5, 0)).jobs)

    found = await until(expired)
    assert {job.key for job in found} == {"ends", "goes on"}


@pytest.mark.real
async def test_redis_that_loses_its_data_loses_no_running_job(redis_queue: NewQueue) -> None:
    jobs = redis_queue(lease_s=1.0)
    assert isinstance(jobs, RedisJobQueue)
    copies = Copies()
    copies.may_continue.clear()
    async with working(Worker(ROUTE, jobs, copies, concurrency=2, lease_s=1.0)):
        await enqueue_fresh(jobs, "k1", "k2")
        await until(lambda: copies.running == 2)
        await jobs.client.flushall()
        copies.may_continue.set()
        await until(lambda: copies.times("k1") >= 2 and copies.times("k2") >= 2)
        await enqueue_fresh(jobs, "k3")
        await until_done(jobs)
    assert copies.times("k3") == 1


async def test_outage_loses_no_claim_and_no_finish(jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some calls fail, before or after Redis has executed them."""
    monkeypatch.setattr("s3s3.queue.redis_calls.INITIAL_BACKOFF_S", 0.001)
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

    for name in ("claim", "finish", "promote_due", "renew", "trip_circuit", "close_circuit"):
        monkeypatch.setattr(jobs, name, flaky(getattr(jobs, name), after=name != "claim"))
    copies = Copies()
    keys = [f"k{number}" for number in range(50)]
    async with working(Worker(ROUTE, jobs, copies, concurrency=3)):
        await enqueue_fresh(jobs, *keys)
        await until_done(jobs)
    assert {key for key, _ in copies.calls} == set(keys)


async def test_a_worker_without_jobs_does_not_report_redis_as_available(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims = 0

    async def unavailable(*_: object) -> NoReturn:
        nonlocal claims
        claims += 1
        raise RedisUnavailable("Redis cannot be reached: refused")

    monkeypatch.setattr(jobs, "claim", unavailable)
    monkeypatch.setattr("s3s3.queue.redis_calls.MAX_BACKOFF_S", 0.1)
    monkeypatch.setattr(jobs, "promote_due", lambda _: asyncio.sleep(3600))
    async with working(Worker(ROUTE, jobs, Copies(), lease_s=0.1)):
        await until(lambda: claims > 10)
        jobs_log = caplog.text
        monkeypatch.undo()
    assert jobs_log.count("Redis unavailable: ") == 1
    assert "Redis available" not in jobs_log
