"""How jobs are settled after their copies, and which callbacks and trackers are notified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from s3s3.errors import DestinationTooSlow, IntegrityError, LeaseLost, TooLarge
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.queue.base import Disposition, JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import (
    BOTH,
    ROUTE,
    A,
    B,
    Copies,
    copied,
    dead_letters_of,
    enqueue_bulk,
    enqueue_fresh,
    failed,
    fails_at,
    until_done,
    working,
)


async def test_failed_destination_is_retried_until_it_succeeds(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)
    copies = Copies(fails_at(B, IntegrityError("bits", store=B), times=3))
    async with working(Worker(ROUTE, jobs, copies)):
        await enqueue_fresh(jobs, "k")
        await until_done(jobs)
    assert copies.calls == [("k", BOTH), ("k", (B,)), ("k", (B,)), ("k", (B,))]
    assert [dict(job.attempts) for job in copies.jobs] == [{}, {B: 1}, {B: 2}, {B: 3}]


async def test_too_many_failures_make_a_dead_letter(jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)
    copies = Copies(fails_at(B, IntegrityError("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies, max_attempts=3)):
        await enqueue_fresh(jobs, "k")
        await until_done(jobs)
    (letter,) = await dead_letters_of(jobs, B)
    assert (letter.key, letter.attempts, letter.reason) == ("k", 3, "after 3 attempts: dest-b: bits")
    assert [failure.reason for failure in letter.failures] == ["dest-b: bits"] * 2
    assert copies.times("k") == 3


async def test_retry_waits_for_its_delay(jobs: RedisJobQueue) -> None:
    copies = Copies(fails_at(B, IntegrityError("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await enqueue_fresh(jobs, "k")

        async def waits() -> bool:
            return (await jobs.stats()).retrying == 1

        await until(waits)
        await asyncio.sleep(0.2)
    assert copies.times("k") == 1


async def test_permanent_failure_is_dead_lettered_immediately_for_its_destination(jobs: RedisJobQueue) -> None:
    copies = Copies(fails_at(B, TooLarge("too large", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await enqueue_fresh(jobs, "k")
        await until_done(jobs)
    assert [letter.key for letter in await dead_letters_of(jobs, B)] == ["k"]
    assert await dead_letters_of(jobs, A) == []
    assert copies.calls == [("k", BOTH)]


async def test_destination_that_is_no_longer_configured_is_done(jobs: RedisJobQueue) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies)):
        await jobs.enqueue([JobRequest("k1", (A, "dest-gone")), JobRequest("k2", ("dest-gone",))], Lane.FRESH)
        await until_done(jobs)
    assert copies.calls == [("k1", (A,))]


async def test_indeterminate_write_schedules_a_recheck(jobs: RedisJobQueue) -> None:
    error = IntegrityError("no answer", store=B)

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, error, indeterminate=name == B and job.key == "k1")

    async with working(Worker(ROUTE, jobs, Copies(behaviour), max_attempts=1)):
        await enqueue_fresh(jobs, "k1", "k2")
        await until_done(jobs)
    assert (await jobs.stats()).rechecks == 1


# -- trackers and callbacks


async def test_trackers_receive_each_outcome_and_whether_it_is_final(jobs: RedisJobQueue) -> None:
    def behaviour(job: Job, name: str) -> Outcome:
        if name == A:
            return copied(job, name)
        error = TooLarge("big", store=B) if job.key == "k1" else IntegrityError("bits", store=B)
        return failed(job, name, error)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await enqueue_bulk(jobs, "k1", "k2", tracker_id="run1")
        events: list[dict[str, Any]] = []
        while len(events) < 4:
            events += [json.loads(event) for event in await jobs.poll_outcomes("run1", 5)]
    assert {(event["key"], event["destination"]): (event["outcome"], event["final"]) for event in events} == {
        ("k1", A): ("copied", True),
        ("k1", B): ("failed", True),
        ("k2", A): ("copied", True),
        ("k2", B): ("failed", False),
    }


async def test_released_job_has_no_outcome_yet(jobs: RedisJobQueue) -> None:
    lost = iter([True, False])

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, LeaseLost("over")) if next(lost) else copied(job, name)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
        events = await until(lambda: jobs.poll_outcomes("run1", 1))
        await until_done(jobs)
    assert [json.loads(event)["outcome"] for event in events] == ["copied"]
    assert (await jobs.stats()).rechecks == 1, "an earlier attempt at its PUT may have been sent"


async def test_on_copied_runs_before_the_queue_is_settled_and_on_job_end_after(jobs: RedisJobQueue) -> None:
    events: list[Any] = []

    async def on_copied(key: str, results: Collection[Result]) -> None:
        events.append((set(results), key, (await jobs.stats()).pending))

    def on_job_end(job: Job, outcomes: Sequence[Outcome], took_s: float, _: Mapping[str, Disposition]) -> None:
        events.append((job.key, [outcome.result for outcome in outcomes], 0 <= took_s < 5))

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "gone":
            return Outcome(name, job.key, Result.SOURCE_MISSING)
        return copied(job, name) if job.key == "new" and name == A else Outcome(name, job.key, Result.SAME)

    async with working(Worker(ROUTE, jobs, Copies(behaviour), on_job_end=on_job_end, on_copied=on_copied)):
        await enqueue_fresh(jobs, "new")
        await until_done(jobs)
        for key in ("same", "gone"):
            await enqueue_fresh(jobs, key)
            await until_done(jobs)
    assert events == [
        ({Result.COPIED, Result.SAME}, "new", 1),
        ("new", [Result.COPIED, Result.SAME], True),
        ({Result.SAME}, "same", 1),
        ("same", [Result.SAME, Result.SAME], True),
        ("gone", [Result.SOURCE_MISSING, Result.SOURCE_MISSING], True),
    ]


# -- slow destinations


async def test_slow_destination_gets_jobs_of_its_own(jobs: RedisJobQueue) -> None:
    async with working(Worker(ROUTE, jobs, copies := Copies(fails_at(B, DestinationTooSlow("slow"), times=1)))):
        await enqueue_fresh(jobs, "first")
        await until_done(jobs)
        await enqueue_fresh(jobs, "second")
        await until_done(jobs)
    assert copies.calls == [("first", BOTH), ("first", (B,)), ("second", (A,)), ("second", (B,))]
    assert [job.lane for job in copies.jobs] == [Lane.FRESH, Lane.BULK] * 2


async def test_trackers_receive_the_outcome_of_a_slow_destination_once_it_is_done(jobs: RedisJobQueue) -> None:
    async with working(Worker(ROUTE, jobs, Copies(fails_at(B, DestinationTooSlow("slow"), times=1)))):
        await enqueue_bulk(jobs, "k", tracker_id="run1")
        events: list[dict[str, Any]] = []
        while len(events) < 2:
            events += [json.loads(event) for event in await jobs.poll_outcomes("run1", 5)]
    assert [(event["destination"], event["outcome"]) for event in events] == [(A, "copied"), (B, "copied")]
