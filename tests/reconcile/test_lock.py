"""One comparison of a route at a time, whoever else is there."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.errors import ReconcileInProgress, RedisUnavailable
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile import lock
from s3s3.reconcile.lock import run_exclusive

pytestmark = pytest.mark.real

KEY = "s3s3:{images}:comparing"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connected(redis_url) as client:
        yield client


@pytest.fixture
def jobs(client: Redis) -> RedisJobQueue:
    return RedisJobQueue(client, "images", ["ceph"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_S", 0.6)
    monkeypatch.setattr(lock, "LOOK_EVERY_S", 0.05)


class Run:
    """A run that takes as long as the test says."""

    def __init__(self) -> None:
        self.began, self.may_end, self.times = asyncio.Event(), asyncio.Event(), 0

    async def __call__(self) -> str:
        self.times += 1
        self.began.set()
        await self.may_end.wait()
        return "done"


async def test_a_second_run_is_told_who_runs_where_and_since_when(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.began.wait()
    with pytest.raises(ReconcileInProgress) as said:
        await run_exclusive("images", jobs, second)
    assert f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-')}" in str(said.value)
    assert second.times == 0
    first.may_end.set()
    assert await task == "done"


async def test_it_is_kept_for_as_long_as_the_run_takes_and_given_up_at_its_end(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    second.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await asyncio.sleep(1.5)  # more than two leases
    with pytest.raises(ReconcileInProgress):
        await run_exclusive("images", jobs, second)
    first.may_end.set()
    await task
    assert await run_exclusive("images", jobs, second) == "done"


async def test_who_waits_has_its_turn_right_after(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    second.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.began.wait()
    waiting = asyncio.create_task(run_exclusive("images", jobs, second, wait_for_lock=True))
    await asyncio.sleep(0.2)
    assert second.times == 0
    first.may_end.set()
    assert await asyncio.wait_for(waiting, 2) == "done"
    await task


async def test_who_waits_heeds_a_stop(jobs: RedisJobQueue) -> None:
    first, stop = Run(), asyncio.Event()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.began.wait()
    waiting = asyncio.create_task(run_exclusive("images", jobs, Run(), wait_for_lock=True, stop=stop))
    await asyncio.sleep(0.1)
    stop.set()
    with pytest.raises(ReconcileInProgress):
        await asyncio.wait_for(waiting, 2)
    first.may_end.set()
    await task


async def test_a_killed_run_is_in_the_way_for_no_longer_than_its_lease(jobs: RedisJobQueue, client: Redis) -> None:
    await client.hset(KEY, mapping={"id": "killed", "host": "elsewhere", "pid": 7, "since_ms": 1})
    await client.pexpire(KEY, 300)
    run = Run()
    run.may_end.set()
    with pytest.raises(ReconcileInProgress, match="process 7 on elsewhere since 1970"):
        await run_exclusive("images", jobs, run)
    assert await asyncio.wait_for(run_exclusive("images", jobs, run, wait_for_lock=True), 2) == "done"


async def test_a_run_that_lost_its_place_ends(jobs: RedisJobQueue, client: Redis) -> None:
    run = Run()
    task = asyncio.create_task(run_exclusive("images", jobs, run))
    await run.began.wait()
    await client.hset(KEY, "id", "another")
    with pytest.raises(ReconcileInProgress, match="it has ended"):
        await asyncio.wait_for(task, 2)
    assert await client.hget(KEY, "id") == "another", "what is another's is not given up"


async def test_a_failed_run_lets_the_next_one_begin(jobs: RedisJobQueue) -> None:
    async def failing() -> str:
        raise RedisUnavailable("away")

    with pytest.raises(RedisUnavailable):
        await run_exclusive("images", jobs, failing)
    run = Run()
    run.may_end.set()
    assert await run_exclusive("images", jobs, run) == "done"


async def test_the_lock_concerns_neither_other_routes_nor_a_reconcile_without_a_queue(
    jobs: RedisJobQueue, client: Redis
) -> None:
    first, others = Run(), Run()
    others.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.began.wait()
    assert await run_exclusive("raw", RedisJobQueue(client, "raw", ["ceph"]), others) == "done"
    assert await run_exclusive("images", None, others) == "done"
    first.may_end.set()
    await task
