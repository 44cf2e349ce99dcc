"""One reconcile of a route at a time."""

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

KEY = "s3s3:{images}:reconcile-lock"


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
    monkeypatch.setattr(lock, "POLL_INTERVAL_S", 0.05)


class Run:
    """A reconcile that ends when the test allows it."""

    def __init__(self) -> None:
        self.started, self.may_end, self.times = asyncio.Event(), asyncio.Event(), 0

    async def __call__(self) -> str:
        self.times += 1
        self.started.set()
        await self.may_end.wait()
        return "done"


async def test_a_second_reconcile_is_refused_with_host_process_and_start_of_the_first(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.started.wait()
    with pytest.raises(ReconcileInProgress) as refused:
        await run_exclusive("images", jobs, second)
    assert f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-')}" in str(refused.value)
    assert second.times == 0
    first.may_end.set()
    assert await task == "done"


async def test_the_lock_is_renewed_during_the_reconcile_and_released_at_its_end(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    second.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await asyncio.sleep(1.5)  # more than two leases
    with pytest.raises(ReconcileInProgress):
        await run_exclusive("images", jobs, second)
    first.may_end.set()
    await task
    assert await run_exclusive("images", jobs, second) == "done"


async def test_a_waiting_reconcile_runs_when_the_lock_is_released(jobs: RedisJobQueue) -> None:
    first, second = Run(), Run()
    second.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.started.wait()
    waiting = asyncio.create_task(run_exclusive("images", jobs, second, wait_for_lock=True))
    await asyncio.sleep(0.2)
    assert second.times == 0
    first.may_end.set()
    assert await asyncio.wait_for(waiting, 2) == "done"
    await task


async def test_a_stop_ends_the_wait_for_the_lock(jobs: RedisJobQueue) -> None:
    first, stop = Run(), asyncio.Event()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.started.wait()
    waiting = asyncio.create_task(run_exclusive("images", jobs, Run(), wait_for_lock=True, stop=stop))
    await asyncio.sleep(0.1)
    stop.set()
    with pytest.raises(ReconcileInProgress):
        await asyncio.wait_for(waiting, 2)
    first.may_end.set()
    await task


async def test_the_lock_of_a_killed_process_expires(jobs: RedisJobQueue, client: Redis) -> None:
    await client.hset(KEY, mapping={"id": "killed", "host": "elsewhere", "pid": 7, "since_ms": 1})
    await client.pexpire(KEY, 300)
    run = Run()
    run.may_end.set()
    with pytest.raises(ReconcileInProgress, match="process 7 on elsewhere since 1970"):
        await run_exclusive("images", jobs, run)
    assert await asyncio.wait_for(run_exclusive("images", jobs, run, wait_for_lock=True), 2) == "done"


async def test_a_reconcile_that_lost_its_lock_is_stopped(jobs: RedisJobQueue, client: Redis) -> None:
    run = Run()
    task = asyncio.create_task(run_exclusive("images", jobs, run))
    await run.started.wait()
    await client.hset(KEY, "id", "another")
    with pytest.raises(ReconcileInProgress, match="this one was stopped"):
        await asyncio.wait_for(task, 2)
    assert await client.hget(KEY, "id") == "another", "a lost lock is not released"


async def test_a_failed_reconcile_releases_the_lock(jobs: RedisJobQueue) -> None:
    async def failing() -> str:
        raise RedisUnavailable("away")

    with pytest.raises(RedisUnavailable):
        await run_exclusive("images", jobs, failing)
    run = Run()
    run.may_end.set()
    assert await run_exclusive("images", jobs, run) == "done"


async def test_other_routes_and_reconciles_without_a_queue_need_no_lock(jobs: RedisJobQueue, client: Redis) -> None:
    first, second = Run(), Run()
    second.may_end.set()
    task = asyncio.create_task(run_exclusive("images", jobs, first))
    await first.started.wait()
    assert await run_exclusive("raw", RedisJobQueue(client, "raw", ["ceph"]), second) == "done"
    assert await run_exclusive("images", None, second) == "done"
    first.may_end.set()
    await task
