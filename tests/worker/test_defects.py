"""A defect of ours costs a job, not the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from s3s3.model import Job, Outcome
from s3s3.queue.base import JobQueue
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import ROUTE, A, B, Copies, copied, done, letters, notice, working


async def test_a_defect_in_copying_counts_as_a_failure_and_the_worker_lives(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "bad":
            raise ZeroDivisionError("a defect")
        return copied(job, name)

    copies = Copies(behaviour)
    async with working(Worker(ROUTE, jobs, copies, max_attempts=2)):
        await notice(jobs, "bad")
        await notice(jobs, *(f"k{number}" for number in range(20)))
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, A)] == ["bad"]
    assert "ZeroDivisionError" in (await letters(jobs, B))[0].reason
    assert copies.times("bad") == 2
    assert len(copies.asked) == 22
    assert (await jobs.stats()).rechecks == 1  # nobody knows what it had sent
    assert any(record.exc_info for record in caplog.records)


async def test_a_copy_that_says_nothing_of_a_destination_has_failed_there(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        return [copied(job, A)]

    async with working(Worker(ROUTE, jobs, copy, max_attempts=1)):
        await notice(jobs, "k")
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, B)] == ["k"]


async def test_a_defect_in_whoever_is_told_harms_nobody(jobs: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    def finished(job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        raise ZeroDivisionError("a defect")

    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=2, on_job_end=finished)):
        await notice(jobs, *"abcdef")
        await done(jobs)
    assert len(copies.asked) == 6
    assert "ZeroDivisionError" in caplog.text


async def at_work(jobs: JobQueue) -> tuple[Copies, Worker, asyncio.Task[None]]:
    """A worker in the middle of a copy that does not end."""
    copies = Copies()
    copies.rate_limiter.clear()
    worker = Worker(ROUTE, jobs, copies)
    task = asyncio.create_task(worker.run(asyncio.Event()))
    await notice(jobs, "k")
    await until(lambda: copies.running)
    return copies, worker, task


async def test_a_worker_of_which_a_part_has_died_ends_with_it_and_leaves_no_copy_behind(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, worker, task = await at_work(jobs)

    async def dies() -> float:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(jobs, "promote_due", dies)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 10)
    assert copies.running == worker.running == 0


async def test_a_worker_that_is_cancelled_leaves_no_copy_behind(jobs: JobQueue) -> None:
    copies, worker, task = await at_work(jobs)
    await cancel([task])
    assert copies.running == worker.running == 0
