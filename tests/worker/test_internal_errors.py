"""An internal error affects a job, not the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from s3s3.model import Job, Outcome
from s3s3.queue.base import Disposition
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.tasks import cancel
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import ROUTE, A, B, Copies, copied, dead_letters_of, enqueue_fresh, until_done, working

pytestmark = pytest.mark.internal_errors


async def test_internal_error_of_a_copy_is_a_failure_and_the_worker_continues(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "bad":
            raise ZeroDivisionError("internal error")
        return copied(job, name)

    copies = Copies(behaviour)
    async with working(Worker(ROUTE, jobs, copies, max_attempts=2)):
        await enqueue_fresh(jobs, "bad")
        await enqueue_fresh(jobs, *(f"k{number}" for number in range(20)))
        await until_done(jobs)
    assert [letter.key for letter in await dead_letters_of(jobs, A)] == ["bad"]
    assert "ZeroDivisionError" in (await dead_letters_of(jobs, B))[0].reason
    assert copies.times("bad") == 2
    assert len(copies.calls) == 22
    assert (await jobs.stats()).rechecks == 1  # a write may have been sent before the error
    assert any(record.exc_info for record in caplog.records)


async def test_missing_outcome_is_a_failure(jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        return [copied(job, A)]

    async with working(Worker(ROUTE, jobs, copy, max_attempts=1)):
        await enqueue_fresh(jobs, "k")
        await until_done(jobs)
    assert [letter.key for letter in await dead_letters_of(jobs, B)] == ["k"]


async def test_error_in_on_job_end_does_not_affect_jobs(jobs: RedisJobQueue, caplog: pytest.LogCaptureFixture) -> None:
    def on_job_end(job: Job, outcomes: Sequence[Outcome], took_s: float, _: Mapping[str, Disposition]) -> None:
        raise ZeroDivisionError("internal error")

    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies, concurrency=2, on_job_end=on_job_end)):
        await enqueue_fresh(jobs, *"abcdef")
        await until_done(jobs)
    assert len(copies.calls) == 6
    assert "ZeroDivisionError" in caplog.text


async def at_work(jobs: RedisJobQueue) -> tuple[Copies, Worker, asyncio.Task[None]]:
    """Return a worker whose copy does not end."""
    copies = Copies()
    copies.may_continue.clear()
    worker = Worker(ROUTE, jobs, copies)
    task = asyncio.create_task(worker.run(asyncio.Event()))
    await enqueue_fresh(jobs, "k")
    await until(lambda: copies.running)
    return copies, worker, task


async def test_worker_whose_background_task_fails_ends_without_running_copies(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, worker, task = await at_work(jobs)

    async def dies(_: object) -> float:
        raise ZeroDivisionError("internal error")

    monkeypatch.setattr(jobs, "promote_due", dies)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 10)
    assert copies.running == worker.running == 0


async def test_cancelled_worker_leaves_no_running_copies(jobs: RedisJobQueue) -> None:
    copies, worker, task = await at_work(jobs)
    await cancel([task])
    assert copies.running == worker.running == 0
