"""A scripted `copy` and helpers for the tests of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from s3s3.model import Endpoint, Job, Lane, Outcome, Result, Route
from s3s3.queue.base import DeadLetter, JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until

A, B, SOURCE = "dest-a", "dest-b", "source"
BOTH = (A, B)
ROUTE = Route("default", Endpoint(SOURCE, "bucket"), (Endpoint(A, "bucket"), Endpoint(B, "bucket")))

NewQueue = Callable[..., RedisJobQueue]
Behaviour = Callable[[Job, str], Awaitable[Outcome] | Outcome]


class Copies:
    """A scripted `copy` that returns the outcome of `behaviour` for each destination and records its calls."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or copied
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.jobs: list[Job] = []
        self.lease_checks: list[Callable[[], None]] = []
        self.running = self.max_running = 0
        self.may_continue = asyncio.Event()
        self.may_continue.set()

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        self.calls.append((job.key, tuple(destinations)))
        self.jobs.append(job)
        self.lease_checks.append(check_lease)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self.may_continue.wait()
            outcomes = []
            for name in destinations:
                outcome = self.behaviour(job, name)
                outcomes.append(outcome if isinstance(outcome, Outcome) else await outcome)
            return outcomes
        finally:
            self.running -= 1

    def times(self, key: str) -> int:
        return sum(calls == key for calls, _ in self.calls)


def copied(job: Job, destination: str) -> Outcome:
    return Outcome(destination, job.key, Result.COPIED, "missing")


def failed(job: Job, destination: str, error: Exception, indeterminate: bool = False) -> Outcome:
    return Outcome(destination, job.key, Result.FAILED, str(error), error=error, indeterminate=indeterminate)


def fails_at(destination: str, error: Exception, times: int = 10**9) -> Behaviour:
    left = times

    def behaviour(job: Job, name: str) -> Outcome:
        nonlocal left
        if name != destination or left == 0:
            return copied(job, name)
        left -= 1
        return failed(job, name, error)

    return behaviour


@asynccontextmanager
async def working(worker: Worker, stop: asyncio.Event | None = None, drain_s: float = 10.0) -> AsyncIterator[None]:
    stop = stop or asyncio.Event()
    task = asyncio.create_task(worker.run(stop, drain_s))
    try:
        yield
        stop.set()
        await asyncio.wait_for(task, 20)
    finally:
        await cancel([task])


async def enqueue_fresh(jobs: RedisJobQueue, *keys: str) -> None:
    await jobs.enqueue([JobRequest(key, BOTH) for key in keys], Lane.FRESH)


async def enqueue_bulk(jobs: RedisJobQueue, *keys: str, tracker_id: str = "") -> None:
    await jobs.enqueue([JobRequest(key, BOTH) for key in keys], Lane.BULK, tracker_id)


async def until_done(jobs: RedisJobQueue) -> None:
    """Wait until only rechecks are left."""

    async def nothing_pending() -> bool:
        return (await jobs.stats()).pending == 0

    await until(nothing_pending)


async def dead_letters_of(jobs: RedisJobQueue, destination: str) -> list[DeadLetter]:
    return [letter async for letter in jobs.dead_letters(destination)]
