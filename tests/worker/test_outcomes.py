"""What becomes of a job after its copy, and who is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from s3s3.errors import DestinationTooSlow, IntegrityError, LeaseLost, StoreUnavailable, TooLarge
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.queue.base import JobQueue, JobRequest
from s3s3.worker.worker import Worker
from tests.waiting import until
from tests.worker.copies import (
    BOTH,
    ROUTE,
    A,
    B,
    Copies,
    bulk,
    copied,
    done,
    failed,
    fails_at,
    letters,
    notice,
    working,
)


async def test_what_failed_is_tried_again_until_it_succeeds(jobs: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)
    copies = Copies(fails_at(B, StoreUnavailable("away", store=B), times=3))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")
        await done(jobs)
    assert copies.asked == [("k", BOTH), ("k", (B,)), ("k", (B,)), ("k", (B,))]
    assert [dict(job.attempts) for job in copies.jobs] == [{}, {B: 1}, {B: 2}, {B: 3}]


async def test_what_failed_too_often_becomes_a_dead_letter(jobs: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.worker.retry_policy.INITIAL_RETRY_S", 0.01)
    copies = Copies(fails_at(B, IntegrityError("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies, max_attempts=3)):
        await notice(jobs, "k")
        await done(jobs)
    (letter,) = await letters(jobs, B)
    assert (letter.key, letter.attempts, letter.reason) == ("k", 3, "after 3 attempts: dest-b: bits")
    assert copies.times("k") == 3


async def test_what_waits_for_a_retry_waits(jobs: JobQueue) -> None:
    copies = Copies(fails_at(B, IntegrityError("bits", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")

        async def waits() -> bool:
            return (await jobs.stats()).retrying == 1

        await until(waits)
        await asyncio.sleep(0.2)
    assert copies.times("k") == 1


async def test_what_can_never_succeed_is_buried_at_once_and_the_others_are_copied(jobs: JobQueue) -> None:
    copies = Copies(fails_at(B, TooLarge("too large", store=B)))
    async with working(Worker(ROUTE, jobs, copies)):
        await notice(jobs, "k")
        await done(jobs)
    assert [letter.key for letter in await letters(jobs, B)] == ["k"]
    assert await letters(jobs, A) == []
    assert copies.asked == [("k", BOTH)]


async def test_a_destination_that_the_configuration_no_longer_has_is_done_with(jobs: JobQueue) -> None:
    copies = Copies()
    async with working(Worker(ROUTE, jobs, copies)):
        await jobs.enqueue([JobRequest("k1", (A, "dest-gone")), JobRequest("k2", ("dest-gone",))], Lane.FRESH)
        await done(jobs)
    assert copies.asked == [("k1", (A,))]


async def test_a_write_without_an_answer_leaves_a_look(jobs: JobQueue) -> None:
    error = StoreUnavailable("no answer", store=B)

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, error, indeterminate=name == B and job.key == "k1")

    async with working(Worker(ROUTE, jobs, Copies(behaviour), max_attempts=1)):
        await notice(jobs, "k1", "k2")
        await done(jobs)
    assert (await jobs.stats()).rechecks == 1


# -- those who are told


async def test_runs_are_told_each_outcome_and_whether_it_is_the_last_word(jobs: JobQueue) -> None:
    def behaviour(job: Job, name: str) -> Outcome:
        if name == A:
            return copied(job, name)
        error = TooLarge("big", store=B) if job.key == "k1" else IntegrityError("bits", store=B)
        return failed(job, name, error)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await bulk(jobs, "k1", "k2", run="run1")
        told: list[dict[str, Any]] = []
        while len(told) < 4:
            told += [json.loads(event) for event in await jobs.poll_outcomes("run1", 5)]
    assert {(event["key"], event["destination"]): (event["outcome"], event["final"]) for event in told} == {
        ("k1", A): ("copied", True),
        ("k1", B): ("failed", True),
        ("k2", A): ("copied", True),
        ("k2", B): ("failed", False),
    }


async def test_a_job_that_is_handed_back_has_no_outcome_yet(jobs: JobQueue) -> None:
    lost = iter([True, False])

    def behaviour(job: Job, name: str) -> Outcome:
        return failed(job, name, LeaseLost("over")) if next(lost) else copied(job, name)

    async with working(Worker(ROUTE, jobs, Copies(behaviour))):
        await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
        events = await until(lambda: jobs.poll_outcomes("run1", 1))
        await done(jobs)
    assert [json.loads(event)["outcome"] for event in events] == ["copied"]
    assert (await jobs.stats()).rechecks == 1, "an earlier attempt at its PUT may have been sent"


async def test_outcomes_are_told_once_the_queue_knows_them_and_arrivals_before(jobs: JobQueue) -> None:
    told: list[Any] = []

    async def on_copied(key: str, results: Collection[Result]) -> None:
        told.append((set(results), key, (await jobs.stats()).pending))

    def finished(job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        told.append((job.key, [outcome.result for outcome in outcomes], 0 <= took_s < 5))

    def behaviour(job: Job, name: str) -> Outcome:
        if job.key == "gone":
            return Outcome(name, job.key, Result.SOURCE_MISSING)
        return copied(job, name) if job.key == "new" and name == A else Outcome(name, job.key, Result.SAME)

    async with working(Worker(ROUTE, jobs, Copies(behaviour), on_job_end=finished, on_copied=on_copied)):
        await notice(jobs, "new")
        await done(jobs)
        for key in ("same", "gone"):
            await notice(jobs, key)
            await done(jobs)
    assert told == [
        ({Result.COPIED, Result.SAME}, "new", 1),
        ("new", [Result.COPIED, Result.SAME], True),
        ({Result.SAME}, "same", 1),
        ("same", [Result.SAME, Result.SAME], True),
        ("gone", [Result.SOURCE_MISSING, Result.SOURCE_MISSING], True),
    ]


# -- a destination that holds up the others


async def test_who_is_left_behind_gets_a_job_of_its_own_and_so_does_everything_after_it(jobs: JobQueue) -> None:
    async with working(Worker(ROUTE, jobs, copies := Copies(fails_at(B, DestinationTooSlow("slow"), times=1)))):
        await notice(jobs, "first")
        await done(jobs)
        await notice(jobs, "second")
        await done(jobs)
    assert copies.asked == [("first", BOTH), ("first", (B,)), ("second", (A,)), ("second", (B,))]
    assert [job.lane for job in copies.jobs] == [Lane.FRESH, Lane.BULK] * 2


async def test_runs_that_wait_hear_of_a_destination_that_was_left_behind_once_it_is_done(jobs: JobQueue) -> None:
    async with working(Worker(ROUTE, jobs, Copies(fails_at(B, DestinationTooSlow("slow"), times=1)))):
        await bulk(jobs, "k", run="run1")
        told: list[dict[str, Any]] = []
        while len(told) < 2:
            told += [json.loads(event) for event in await jobs.poll_outcomes("run1", 5)]
    assert [(event["destination"], event["outcome"]) for event in told] == [(A, "copied"), (B, "copied")]
