"""What the tests of a worker give it to do, and how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from s3s3.model import Endpoint, Job, Lane, Outcome, Result, Route
from s3s3.queue.base import DeadLetter, JobQueue, JobRequest
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until

A, B, SOURCE = "dest-a", "dest-b", "source"
BOTH = (A, B)
ROUTE = Route("default", Endpoint(SOURCE, "bucket"), (Endpoint(A, "bucket"), Endpoint(B, "bucket")))

NewQueue = Callable[..., JobQueue]
Behaviour = Callable[[Job, str], Awaitable[Outcome] | Outcome]


class Copies:
    """A scripted `copy`: for each destination it does what `behaviour` says, and takes down what it was asked for."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or copied
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.jobs: list[Job] = []
        self.permits: list[Callable[[], None]] = []
        self.running = self.most_running = 0
        self.rate_limiter = asyncio.Event()
        self.rate_limiter.set()

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        self.asked.append((job.key, tuple(destinations)))
        self.jobs.append(job)
        self.permits.append(check_lease)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.rate_limiter.wait()
            outcomes = []
            for name in destinations:
                outcome = self.behaviour(job, name)
                outcomes.append(outcome if isinstance(outcome, Outcome) else await outcome)
            return outcomes
        finally:
            self.running -= 1

    def times(self, key: str) -> int:
        return sum(asked == key for asked, _ in self.asked)


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


async def notice(jobs: JobQueue, *keys: str) -> None:
    await jobs.enqueue([JobRequest(key, BOTH) for key in keys], Lane.FRESH)


async def bulk(jobs: JobQueue, *keys: str, run: str = "") -> None:
    await jobs.enqueue([JobRequest(key, BOTH) for key in keys], Lane.BULK, run)


async def done(jobs: JobQueue) -> None:
    """Wait until nothing is left to do but looks."""

    async def nothing_pending() -> bool:
        return (await jobs.stats()).pending == 0

    await until(nothing_pending)


async def letters(jobs: JobQueue, destination: str) -> list[DeadLetter]:
    return [letter async for letter in jobs.dead_letters(destination)]  # type: ignore[attr-defined]
