"""The contract of the job queue, step by step."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from s3s3.model import Job, Lane
from s3s3.queue.base import (
    PARKED_INTERVAL_S,
    DeadLetter,
    Disposition,
    DispositionKind,
    JobRequest,
    OpenCircuit,
    ReconcileRecord,
)
from s3s3.queue.records import read_records
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import (
    ALL_DONE,
    DEFER,
    DESTINATIONS,
    DONE,
    RELEASE,
    RETRY_LATER,
    RETRY_NOW,
    RETRY_UNCOUNTED,
    A,
    B,
    claim,
    claim_one,
    dead_letter,
    finish_all,
    notify,
    parked,
    retry,
    scope,
)
from tests.waiting import until

NewQueue = Callable[..., RedisJobQueue]


async def bulk(jobs: RedisJobQueue, *keys: str, destinations: tuple[str, ...] = DESTINATIONS) -> None:
    await jobs.enqueue([JobRequest(key, destinations) for key in keys], Lane.BULK)


async def promoted(jobs: RedisJobQueue) -> Job:
    """Promote due keys until there is a job; claim it."""

    async def promote_and_claim() -> list[Job]:
        await jobs.promote_due()
        return await claim(jobs)

    job: Job
    (job,) = await until(promote_and_claim)
    return job


async def dead_letters_of(jobs: RedisJobQueue, destination: str) -> list[DeadLetter]:
    return [letter async for letter in jobs.dead_letters(destination)]


# -- enqueue


async def test_an_enqueued_key_becomes_a_job_for_its_destinations(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", (B,), notified_ms=1234)], Lane.FRESH)
    job = await claim_one(jobs)
    assert (job.key, job.destinations, job.lane, job.notified_ms, dict(job.attempts)) == (
        "k",
        (B,),
        Lane.FRESH,
        1234,
        {},
    )
    assert await claim(jobs) == []


async def test_without_notified_ms_the_current_time_is_recorded(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    assert abs((await claim_one(jobs)).notified_ms / 1000 - time.time()) < 5


async def test_jobs_are_claimed_in_the_order_of_enqueueing(jobs: RedisJobQueue) -> None:
    keys = [f"k{number}" for number in range(1200)]
    await notify(jobs, *keys)
    found = [job.key for job in await claim(jobs, 700)] + [job.key for job in await claim(jobs, 700)]
    assert found == keys


async def test_enqueueing_a_queued_key_adds_destinations(jobs: RedisJobQueue) -> None:
    await bulk(jobs, "k", destinations=(A,))
    await bulk(jobs, "k", destinations=(B,))
    await bulk(jobs, "k", destinations=(A,))
    assert scope(await claim_one(jobs)) == ("k", (A, B))


async def test_a_notification_moves_a_bulk_key_to_the_fresh_lane_as_one_job(
    jobs: RedisJobQueue,
) -> None:
    await bulk(jobs, "first", "k")
    await notify(jobs, "k")
    (job,) = (await jobs.claim(10, 0, 0, 0)).jobs
    assert (job.key, job.lane, job.unconditional) == ("k", Lane.FRESH, True)
    await jobs.finish(job, ALL_DONE)
    assert [job.key for job in await finish_all(jobs)] == ["first"]


async def test_a_bulk_request_leaves_a_fresh_key_in_the_fresh_lane(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await bulk(jobs, "k")
    (job,) = (await jobs.claim(10, 0, 0, 0)).jobs
    assert (job.lane, job.unconditional) == (Lane.FRESH, True)
    assert await claim(jobs) == []


async def test_enqueueing_a_running_key_reruns_it_after_it_finishes(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await bulk(jobs, "k", destinations=(B,))
    assert await claim(jobs) == []
    await jobs.finish(job, ALL_DONE)
    again = await claim_one(jobs)
    assert (scope(again), again.lane) == (("k", (B,)), Lane.BULK)
    await jobs.finish(again, {B: DONE})
    assert await claim(jobs) == []


async def test_many_notifications_of_a_running_key_cost_one_rerun_that_compares_first(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    for _ in range(50):
        await notify(jobs, "k")
    await jobs.finish(job, ALL_DONE)
    (again,) = await finish_all(jobs)
    assert (scope(again), again.lane, again.unconditional) == (("k", DESTINATIONS), Lane.FRESH, False)


async def test_a_rerun_records_the_time_of_its_first_fresh_notification(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    for lane, notified_ms in [(Lane.BULK, 1), (Lane.FRESH, 2), (Lane.FRESH, 3), (Lane.BULK, 4)]:
        await jobs.enqueue([JobRequest("k", DESTINATIONS, notified_ms)], lane)
    await jobs.finish(job, ALL_DONE)
    again = await claim_one(jobs)
    assert (again.lane, again.notified_ms) == (Lane.FRESH, 2)


async def test_a_notification_queues_a_waiting_key_for_all_destinations(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    assert await claim(jobs) == []
    await notify(jobs, "k")
    job = await claim_one(jobs)
    assert (scope(job), job.unconditional, dict(job.attempts)) == (("k", (B, A)), True, {B: 1})
    await jobs.finish(job, ALL_DONE)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert (await jobs.stats()).pending == 0


async def test_enqueueing_a_waiting_key_keeps_its_destinations(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    await bulk(jobs, "k", destinations=(A,))
    assert sorted((await claim_one(jobs)).destinations) == [A, B]


# -- claim


async def test_fresh_jobs_are_unconditional_and_bulk_jobs_are_not(jobs: RedisJobQueue) -> None:
    await notify(jobs, "fresh")
    await bulk(jobs, "bulk")
    await jobs.enqueue([JobRequest("forced", DESTINATIONS)], Lane.BULK, unconditional=True)
    await jobs.enqueue([JobRequest("compared", DESTINATIONS)], Lane.FRESH, unconditional=False)
    assert {job.key: job.unconditional for job in await claim(jobs)} == {
        "fresh": True, "bulk": False, "forced": True, "compared": False,
    }  # fmt: skip


async def test_a_claim_fills_only_the_free_slots(jobs: RedisJobQueue) -> None:
    await notify(jobs, *"abcde")
    assert [job.key for job in await claim(jobs, 2)] == ["a", "b"]
    assert [job.key for job in await claim(jobs, 2)] == ["c", "d"]


async def test_a_claim_waits_for_the_first_job(jobs: RedisJobQueue) -> None:
    claiming = asyncio.create_task(jobs.claim(10, 5, 9, 4.0))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    await notify(jobs, "k")
    assert [job.key for job in (await asyncio.wait_for(claiming, 3.0)).jobs] == ["k"]


async def test_a_claim_returns_no_job_after_its_timeout(jobs: RedisJobQueue) -> None:
    started_s = time.monotonic()
    assert (await jobs.claim(10, 5, 9, 0.2)).jobs == []
    assert 0.15 < time.monotonic() - started_s < 3


async def test_a_claim_that_waits_fills_only_the_free_slots(jobs: RedisJobQueue) -> None:
    await jobs.claim(1, 1, 1, 0)
    claiming = asyncio.create_task(jobs.claim(1, 1, 1, 4.0))
    await asyncio.sleep(0.1)
    await asyncio.gather(notify(jobs, "fresh"), bulk(jobs, "bulk"))
    first = (await claiming).jobs
    second = (await jobs.claim(1, 1, 1, 0)).jobs
    assert (len(first), len(second)) == (1, 1)
    assert {first[0].key, second[0].key} == {"fresh", "bulk"}


@pytest.mark.parametrize(
    ("free", "min_bulk", "max_bulk", "expected"),
    [
        (4, 2, 3, {"bulk": 2, "fresh": 2}),
        (4, 0, 3, {"fresh": 4}),
        (4, 6, 6, {"bulk": 4}),
        (10, 2, 3, {"bulk": 3, "fresh": 6}),
        (10, 2, 2, {"bulk": 2, "fresh": 6}),
        (10, 0, 0, {"fresh": 6}),
    ],
)
async def test_the_lanes_share_the_slots(
    jobs: RedisJobQueue, free: int, min_bulk: int, max_bulk: int, expected: dict[str, int]
) -> None:
    await notify(jobs, *(f"fresh{number}" for number in range(6)))
    await bulk(jobs, *(f"bulk{number}" for number in range(6)))
    lanes = [job.lane.value for job in (await jobs.claim(free, min_bulk, max_bulk, 0)).jobs]
    assert {lane: lanes.count(lane) for lane in set(lanes)} == expected


async def test_with_max_bulk_0_a_bulk_job_does_not_end_the_wait(jobs: RedisJobQueue) -> None:
    await bulk(jobs, "k")
    assert (await jobs.claim(2, 0, 0, 0.1)).jobs == []
    assert [job.key for job in (await jobs.claim(2, 0, 1, 0)).jobs] == ["k"]


# -- renew


async def test_a_running_job_is_renewed_and_a_finished_one_is_not(jobs: RedisJobQueue) -> None:
    await notify(jobs, "runs", "ends")
    runs, ends = await claim(jobs)
    assert await jobs.renew([runs, ends]) == set()
    await jobs.finish(ends, ALL_DONE)
    assert await jobs.renew([runs, ends]) == {ends.token}
    assert await jobs.renew([]) == set()


async def test_every_claim_has_its_own_token(jobs: RedisJobQueue) -> None:
    tokens = set()
    for _ in range(3):
        await notify(jobs, "a", "b")
        for job in await claim(jobs):
            tokens.add(job.token)
            await jobs.finish(job, ALL_DONE)
    assert len(tokens) == 6


# -- finish


async def test_a_job_done_everywhere_leaves_no_record(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    assert await jobs.finish(await claim_one(jobs), ALL_DONE)
    await jobs.promote_due()
    counts = await jobs.stats()
    assert (counts.pending, counts.rechecks, await claim(jobs)) == (0, 0, [])


async def test_a_retry_waits_until_it_is_due(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    assert 0 < await jobs.promote_due() <= 5
    assert await claim(jobs) == []
    assert (await jobs.stats()).retrying == 1


async def test_a_due_retry_is_a_job_for_its_destination_that_compares_first(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: Disposition(DispositionKind.RETRY, delay_s=0.05)})
    job = await promoted(jobs)
    assert (scope(job), job.unconditional, dict(job.attempts)) == (("k", (B,)), False, {B: 1})


async def test_promote_due_returns_the_time_until_the_next_retry(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: Disposition(DispositionKind.RETRY, delay_s=3.0)})
    assert 1 < await jobs.promote_due() <= 3


async def test_the_first_due_retry_queues_all_waiting_destinations(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: RETRY_LATER, B: RETRY_NOW})
    assert (await promoted(jobs)).destinations == (A, B)


async def test_a_failure_before_the_retry_is_due_counts_no_attempt(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    for while_it_runs in (False, True) * 2:
        job = await claim_one(jobs)
        if while_it_runs:
            await notify(jobs, "k")
        await jobs.finish(job, {A: RETRY_LATER, B: DONE})
        if not while_it_runs:
            await notify(jobs, "k")
    assert dict((await claim_one(jobs)).attempts) == {A: 1}


async def test_repeated_notifications_do_not_postpone_a_retry(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    soon = {A: Disposition(DispositionKind.RETRY, delay_s=1.0), B: DONE}
    await jobs.finish(await claim_one(jobs), soon)
    for _ in range(2):
        await notify(jobs, "k")
        await jobs.finish(await claim_one(jobs), {A: RETRY_LATER, B: DONE})
    job = await promoted(jobs)
    assert dict(job.attempts) == {A: 1}
    await jobs.finish(job, soon)
    assert dict((await promoted(jobs)).attempts) == {A: 2}


async def test_attempts_are_counted_per_destination_until_it_is_done(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: RETRY_NOW, B: RETRY_NOW})
    await jobs.finish(job := await promoted(jobs), {A: RETRY_NOW, B: parked(B)})
    assert dict(job.attempts) == {A: 1, B: 1}
    job = await promoted(jobs)
    assert dict(job.attempts) == {A: 2, B: 1}
    await jobs.finish(job, {A: DONE, B: RETRY_NOW})
    assert dict((await promoted(jobs)).attempts) == {B: 2}


async def test_a_retry_joins_the_rerun_of_its_key(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await bulk(jobs, "k", destinations=(A,))
    await jobs.finish(job, {A: DONE, B: RETRY_LATER})
    again = await claim_one(jobs)
    assert (scope(again), dict(again.attempts)) == (("k", (A, B)), {B: 1})


async def test_a_released_destination_is_queued_again_without_an_attempt(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RELEASE})
    job = await claim_one(jobs)
    assert (scope(job), job.unconditional, dict(job.attempts)) == (("k", (B,)), False, {})


async def test_a_deferred_destination_is_queued_in_the_bulk_lane_without_an_attempt(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: DEFER})
    job = await claim_one(jobs)
    assert (scope(job), job.lane, job.unconditional, dict(job.attempts)) == (
        ("k", (B,)),
        Lane.BULK,
        False,
        {},
    )


async def test_a_notification_during_the_run_keeps_a_deferred_destination_in_the_fresh_lane(
    jobs: RedisJobQueue,
) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await notify(jobs, "k")
    await jobs.finish(job, {A: DONE, B: DEFER})
    again = await claim_one(jobs)
    assert (scope(again), again.lane) == (("k", (A, B)), Lane.FRESH)


async def test_a_due_retry_is_queued_in_the_bulk_lane(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_NOW})
    assert (await promoted(jobs)).lane is Lane.BULK


async def test_a_release_also_queues_the_destinations_to_retry(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: RETRY_LATER, B: RELEASE})
    job = await claim_one(jobs)
    assert (scope(job), dict(job.attempts)) == (("k", (A, B)), {A: 1})


async def test_a_dead_letter_is_recorded_for_its_destination(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_NOW})
    await jobs.finish(await promoted(jobs), {B: dead_letter("no space")})
    assert await dead_letters_of(jobs, A) == []
    (letter,) = await dead_letters_of(jobs, B)
    assert (letter.destination, letter.key, letter.reason, letter.attempts) == (B, "k", "no space", 2)
    assert abs(letter.dead_lettered_ms / 1000 - time.time()) < 5
    counts = await jobs.stats()
    assert (counts.dead_letters[A], counts.dead_letters[B], counts.pending) == (0, 1, 0)


async def test_a_dead_letter_has_the_failed_attempts_at_its_destination(jobs: RedisJobQueue) -> None:
    odd = 'dest-b: 500 "odd"\n100 %s \\ \udcff \u2028'
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: retry("a's"), B: retry(odd)})
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: retry("a's again"), B: RELEASE})
    await jobs.finish(await claim_one(jobs), {A: RETRY_NOW, B: dead_letter("no space")})
    (letter,) = await dead_letters_of(jobs, B)
    assert ([failure.reason for failure in letter.failures], letter.reason) == ([odd], "no space")
    assert abs(letter.failures[0].at_ms / 1000 - time.time()) < 5
    found = await jobs.dead_letter(B, "k")
    assert found is not None
    assert found.failures == letter.failures
    (record,) = (await read_records(jobs, ["k"])).records
    assert {name: [each.reason for each in some] for name, some in record.failures.items()} == {
        A: ["a's", "a's again", ""]
    }


async def test_the_failed_attempts_are_forgotten_with_a_success(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: RETRY_NOW, B: RETRY_NOW})
    await jobs.finish(await promoted(jobs), {A: DONE, B: RETRY_NOW})
    assert set((await read_records(jobs, ["k"])).records[0].failures) == {B}
    await jobs.finish(await promoted(jobs), ALL_DONE)
    assert await jobs.client.exists(f"{jobs.prefix}job:k") == 0


async def test_only_the_latest_of_many_failed_attempts_are_kept(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: retry("0")})
    for number in range(1, 15):
        await jobs.finish(await promoted(jobs), {B: retry(str(number), DispositionKind.RETRY_UNCOUNTED)})
    (record,) = (await read_records(jobs, ["k"])).records
    assert [failure.reason for failure in record.failures[B]] == [str(number) for number in range(5, 15)]


async def test_a_later_success_deletes_the_dead_letter(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k", "other")
    for job in await claim(jobs):
        await jobs.finish(job, {A: dead_letter("no"), B: dead_letter("no")})
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    assert [letter.key for letter in await dead_letters_of(jobs, A)] == ["other"]
    assert sorted(letter.key for letter in await dead_letters_of(jobs, B)) == ["k", "other"]


async def test_a_dead_letter_resets_the_attempts(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await notify(jobs, "k")
    await jobs.finish(job, {A: RETRY_NOW, B: RETRY_NOW})
    await jobs.finish(job := await claim_one(jobs), {A: RETRY_NOW, B: dead_letter("no")})
    assert dict(job.attempts) == {A: 1, B: 1}
    await notify(jobs, "k")
    assert dict((await claim_one(jobs)).attempts) == {A: 2}


async def test_finishing_a_lost_job_enqueues_all_destinations(jobs: RedisJobQueue) -> None:
    await bulk(jobs, "k", destinations=(B,))
    job = await claim_one(jobs)
    assert await jobs.finish(job, {B: DONE})
    assert not await jobs.finish(job, {B: DONE})
    again = await claim_one(jobs)
    assert (scope(again), again.lane, again.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)


async def test_an_old_claim_cannot_finish_a_newer_one(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    old = await claim_one(jobs)
    await jobs.finish(old, ALL_DONE)
    await notify(jobs, "k")
    job = await claim_one(jobs)
    assert not await jobs.finish(old, {A: dead_letter("no"), B: dead_letter("no")})
    assert (await dead_letters_of(jobs, A), await jobs.renew([job])) == ([], set())
    assert await jobs.finish(job, ALL_DONE)
    assert scope(await claim_one(jobs)) == ("k", DESTINATIONS)


# -- rechecks


async def test_a_recheck_is_a_bulk_job_for_all_destinations(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.05)
    await bulk(jobs, "k", destinations=(A,))
    await jobs.finish(await claim_one(jobs), {A: DONE}, recheck=True)
    job = await promoted(jobs)
    assert (scope(job), job.lane, job.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)
    await jobs.finish(job, ALL_DONE)
    assert (await jobs.stats()).rechecks == 0


async def test_a_recheck_stays_scheduled_after_enqueue_and_finish(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert (await jobs.stats()).rechecks == 1


async def test_a_later_recheck_replaces_an_earlier_one(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.3)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await asyncio.sleep(0.2)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    scheduled_s = time.monotonic()
    await promoted(jobs)
    assert time.monotonic() - scheduled_s > 0.25
    assert (await jobs.stats()).rechecks == 0


async def test_a_recheck_of_a_running_key_follows_it(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.0)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    await jobs.finish(job, ALL_DONE)
    assert scope(await claim_one(jobs)) == ("k", DESTINATIONS)


# -- parked keys and circuits


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 0.05)


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 60.0)


async def park(jobs: RedisJobQueue, store: str, *keys: str) -> None:
    await notify(jobs, *keys)
    claimed = await claim(jobs, len(keys))
    await asyncio.gather(*(jobs.finish(job, {A: DONE, B: parked(store)}) for job in claimed))


async def test_a_parked_key_is_queued_if_the_circuit_is_closed(jobs: RedisJobQueue) -> None:
    await park(jobs, B, "k")
    assert (await jobs.stats()).parked[B] == 1
    assert await claim(jobs) == []
    await jobs.promote_due()
    job = await claim_one(jobs)
    assert (scope(job), dict(job.attempts)) == (("k", (B,)), {})
    assert (await jobs.stats()).parked[B] == 0


async def test_parked_keys_wait_until_the_circuit_closes(jobs: RedisJobQueue, no_probes: None) -> None:
    keys = [f"k{number}" for number in range(450)]
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, *keys)
    await jobs.promote_due()
    assert await claim(jobs) == []
    counts = await jobs.stats()
    assert (counts.parked[B], dict(counts.circuits)) == (450, {B: "down"})
    await jobs.close_circuit(B)
    await jobs.promote_due()
    assert sorted(job.key for job in await claim(jobs, 1000)) == sorted(keys)
    assert (await jobs.stats()).circuits == {}


async def test_a_parked_key_that_is_running_by_now_is_not_queued(jobs: RedisJobQueue) -> None:
    await park(jobs, B, "k")
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert await jobs.finish(job, ALL_DONE)
    assert await claim(jobs) == []


async def test_a_claim_returns_the_open_circuits(jobs: RedisJobQueue) -> None:
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {}
    await jobs.trip_circuit(B, "down", "k")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("down")}
    await jobs.trip_circuit("source", "down", "k")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("down"), "source": OpenCircuit("down")}


async def test_one_key_at_a_time_probes_a_store(jobs: RedisJobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    await park(jobs, B, "k0", "k1", "k2")
    job = await promoted(jobs)
    await jobs.promote_due()
    claims = await jobs.claim(10, 0, 10, 0)
    assert (list(claims.jobs), claims.circuits) == ([], {B: OpenCircuit("down", job.key)})
    assert scope(job) == (job.key, (B,))


async def test_only_the_probe_s_failure_doubles_the_backoff(jobs: RedisJobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    await park(jobs, B, "k0", "k1", "k2")
    probe = await promoted(jobs)
    others = {"k0", "k1", "k2"} - {probe.key}
    for other in others:
        await jobs.trip_circuit(B, "down", other)
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("down", probe.key)}
    started_s = time.monotonic()
    await jobs.trip_circuit(B, "still down", probe.key)
    await jobs.finish(probe, {B: parked(B)})
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("still down")}
    await promoted(jobs)
    assert time.monotonic() - started_s >= 0.095  # the doubled backoff


async def test_the_backoff_of_a_circuit_is_bounded(
    jobs: RedisJobQueue, quick_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROBE_INTERVAL_S", 0.1)
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, "k")
    for _ in range(4):
        probe = await promoted(jobs)
        await jobs.trip_circuit(B, "down", probe.key)
        await jobs.finish(probe, {B: parked(B)})
    assert await jobs.promote_due() <= 0.1


async def test_a_circuit_without_parked_keys_is_deleted(jobs: RedisJobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, "k")
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)

    async def is_deleted() -> bool:
        await jobs.promote_due()
        return not (await jobs.stats()).circuits

    await until(is_deleted)
    assert (await jobs.stats()).parked[B] == 0


async def test_keys_parked_for_the_source_are_probed_one_at_a_time(jobs: RedisJobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit("source", "down", "k0")
    await park(jobs, "source", "k0", "k1")
    probe = await promoted(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    await jobs.close_circuit("source")
    await jobs.promote_due()
    assert {probe.key, (await claim_one(jobs)).key} == {"k0", "k1"}


@pytest.mark.long
async def test_a_probe_is_a_parked_key_that_was_not_tried_else_the_one_that_failed_first(
    jobs: RedisJobQueue, quick_probes: None
) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    failing = [f"k{number}" for number in range(3)]
    for key in failing:
        await notify(jobs, key)
        await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B, has_failed=True)})
        await asyncio.sleep(0.002)
    await park(jobs, B, "new 1", "new 2")
    probes = []
    for _ in range(8):
        probe = await promoted(jobs)
        probes.append(probe.key)
        await jobs.trip_circuit(B, "down", probe.key)
        await jobs.finish(probe, {B: parked(B, has_failed=True)})
        await asyncio.sleep(0.002)
    assert set(probes[:2]) == {"new 1", "new 2"}
    assert probes[2:5] == failing
    assert probes[5:7] == probes[:2]


async def test_another_key_does_not_wait_while_all_failures_are_of_one_key(
    jobs: RedisJobQueue, no_probes: None
) -> None:
    await jobs.trip_circuit(B, "down", "poison", is_only_key=True)
    await notify(jobs, "poison")
    claims = await jobs.claim(1, 0, 1, 0)
    assert claims.circuits == {B: OpenCircuit("down")}
    await jobs.finish(claims.jobs[0], {A: DONE, B: parked(B, has_failed=True)})
    await notify(jobs, "other", "third")
    claims = await jobs.claim(2, 0, 2, 0)
    assert claims.circuits == {B: OpenCircuit("down", "other")}
    await jobs.trip_circuit(B, "still down", "other", is_only_key=False)
    await notify(jobs, "fourth")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("still down")}, "another key has failed, too"


async def test_a_released_probe_is_followed_by_another_one_after_the_same_delay(
    jobs: RedisJobQueue, quick_probes: None
) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    await park(jobs, B, "k1", "k2")
    probe = await promoted(jobs)
    await jobs.release_probe(B, "not the probe")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("down", probe.key)}
    await jobs.release_probe(B, probe.key)
    await jobs.finish(probe, {B: dead_letter("odd")})
    assert {probe.key, (await promoted(jobs)).key} == {"k1", "k2"}
    await jobs.close_circuit(B)
    await jobs.release_probe(B, probe.key)
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {}


# -- failures that are not counted


async def test_an_uncounted_failure_is_retried_and_remembered(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    job = await claim_one(jobs)
    assert (dict(job.attempts), list(job.succeeded)) == ({}, [])
    for _ in range(10):
        await jobs.finish(job, {A: DONE, B: RETRY_UNCOUNTED})
        job = await promoted(jobs)
        assert (scope(job), dict(job.attempts)) == (("k", (B,)), {B: 0})
    await jobs.finish(job, {B: RETRY_NOW})
    job = await promoted(jobs)
    await jobs.finish(job, {B: RETRY_UNCOUNTED})
    job = await promoted(jobs)
    assert dict(job.attempts) == {B: 1}
    await jobs.finish(job, {B: parked(B, has_failed=True)})
    assert dict((await promoted(jobs)).attempts) == {B: 1}


async def test_a_key_that_was_parked_untried_has_not_failed(jobs: RedisJobQueue) -> None:
    await park(jobs, B, "k")
    await jobs.promote_due()
    assert dict((await claim_one(jobs)).attempts) == {}


async def test_a_job_knows_where_other_keys_succeeded_since_its_last_failure(jobs: RedisJobQueue) -> None:
    async def succeed(*stores: str) -> None:
        await asyncio.sleep(0.002)
        await notify(jobs, "other")
        await jobs.finish(await claim_one(jobs), ALL_DONE, succeeded=stores)
        await asyncio.sleep(0.002)

    await succeed("source", A, B)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_UNCOUNTED})
    job = await promoted(jobs)
    assert list(job.succeeded) == [], "before its failure"
    await jobs.finish(job, {B: parked(B, has_failed=True)})
    await succeed("source", A, f"{A}:write")
    await notify(jobs, "k")
    job = await claim_one(jobs)
    assert set(job.succeeded) == {"source", A, f"{A}:write"}, "a notification does not forget the failure"
    await jobs.finish(job, {A: DONE, B: RETRY_UNCOUNTED})
    assert list((await promoted(jobs)).succeeded) == []


async def test_a_key_queued_when_a_circuit_closes_knows_the_success_that_closed_it(jobs: RedisJobQueue) -> None:
    """The job that closes the circuit is finished later, after the parked keys may have been claimed."""
    await jobs.trip_circuit(B, "down", "k")
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B, has_failed=True)})
    await asyncio.sleep(0.002)
    await jobs.close_circuit(B, [B, f"{B}:write"])
    assert set((await promoted(jobs)).succeeded) == {B, f"{B}:write"}


# -- outcomes


def event(name: str) -> str:
    return json.dumps({"destination": name, "key": "k ü \U0001f30d\n"})


async def test_a_tracker_receives_the_outcomes_of_its_keys(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK, "run1")
    job = await claim_one(jobs)
    assert job.trackers == "run1"
    assert await jobs.poll_outcomes("run1", 0) == []
    await jobs.finish(
        job,
        {A: Disposition(DispositionKind.DONE, event=event(A)), B: Disposition(DispositionKind.RETRY, 60.0, event(B))},
    )
    assert await jobs.poll_outcomes("run1", 0) == [event(A), event(B)]
    assert await jobs.poll_outcomes("run1", 0) == []


async def test_poll_outcomes_waits_for_the_first_one(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
    job = await claim_one(jobs)
    waiting = asyncio.create_task(jobs.poll_outcomes("run1", 4.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await jobs.finish(job, {A: Disposition(DispositionKind.DONE, event=event(A))})
    assert await asyncio.wait_for(waiting, 3.0) == [event(A)]
    assert await jobs.poll_outcomes("run1", 0.05) == []


async def test_two_trackers_of_a_key_share_one_job_and_both_receive_its_outcomes(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
    await jobs.enqueue([JobRequest("k", (B,))], Lane.BULK, "run2")
    job = await claim_one(jobs)
    assert (scope(job), job.trackers) == (("k", (A, B)), "run1 run2")
    await jobs.finish(job, {name: Disposition(DispositionKind.DONE, event=event(name)) for name in DESTINATIONS})
    assert await jobs.poll_outcomes("run1", 0) == await jobs.poll_outcomes("run2", 0) == [event(A), event(B)]


async def test_a_tracker_added_while_the_key_runs_receives_the_outcome_of_the_rerun(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK, "run1")
    job = await claim_one(jobs)
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run2")
    await jobs.finish(
        job,
        {A: Disposition(DispositionKind.DONE, event=event(A)), B: Disposition(DispositionKind.DONE, event=event(B))},
    )
    assert await jobs.poll_outcomes("run2", 0) == []
    again = await claim_one(jobs)
    assert again.trackers == "run2"
    await jobs.finish(again, {A: Disposition(DispositionKind.DONE, event=event("again"))})
    assert await jobs.poll_outcomes("run1", 0) == [event(A), event(B)]
    assert await jobs.poll_outcomes("run2", 0) == [event("again")]


async def test_a_tracker_follows_the_remaining_destinations(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK, "run1")
    job = await claim_one(jobs)
    await notify(jobs, "k")
    await jobs.finish(job, {A: DONE, B: RETRY_LATER})
    again = await claim_one(jobs)
    assert again.trackers == "run1"
    await jobs.finish(again, {A: RELEASE, B: RETRY_LATER})
    job = await claim_one(jobs)
    assert job.trackers == "run1"
    await jobs.finish(job, {A: DONE, B: RETRY_NOW})
    assert (await promoted(jobs)).trackers == "run1"


async def test_a_tracker_can_be_added_to_a_waiting_key(jobs: RedisJobQueue) -> None:
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_LATER})
    await jobs.enqueue([JobRequest("k", (B,))], Lane.BULK, "run1")
    assert (await claim_one(jobs)).trackers == "run1"


# -- statistics


async def test_stats_count_jobs_by_state(jobs: RedisJobQueue, no_probes: None) -> None:
    await notify(jobs, "waits", "parked", "parked too", "dead")
    waits, first_parked, second_parked, dead = await claim(jobs)
    await jobs.trip_circuit(B, "down, B", "k")
    await jobs.trip_circuit("source", "down, source", "k")
    await jobs.finish(waits, {A: DONE, B: RETRY_LATER}, recheck=True)
    await jobs.finish(first_parked, {A: DONE, B: parked(B)})
    await jobs.finish(second_parked, {A: parked("source"), B: parked("source")})
    await jobs.finish(dead, {A: dead_letter("no"), B: DONE})
    await bulk(jobs, "1", "2", "3")
    await notify(jobs, "4", "5")
    await jobs.claim(1, 0, 0, 0)  # running jobs are counted, too
    counts = await jobs.stats()
    assert (counts.fresh, counts.bulk, counts.retrying, counts.rechecks, counts.paused) == (2, 3, 1, 1, False)
    assert counts.parked == {"source": 1, A: 0, B: 1}
    assert {name: counts.dead_letters[name] for name in DESTINATIONS} == {A: 1, B: 0}
    assert counts.circuits == {"source": "down, source", B: "down, B"}
    assert counts.pending == 2 + 3 + 1 + 2


async def test_stats_have_the_age_of_the_oldest_job(jobs: RedisJobQueue) -> None:
    assert (await jobs.stats()).oldest_s == 0
    await bulk(jobs, "k")
    await asyncio.sleep(0.1)
    await notify(jobs, "k2")
    assert 0.1 <= (await jobs.stats()).oldest_s < 5


@pytest.mark.parametrize("disposition", [parked(B), RETRY_LATER])
async def test_the_oldest_job_may_be_parked_or_wait_for_a_retry(jobs: RedisJobQueue, disposition: Disposition) -> None:
    notified_ms = int(time.time() * 1000) - 90_000
    await jobs.enqueue([JobRequest("old", (B,), notified_ms)], Lane.FRESH)
    (job,) = (await jobs.claim(1, 0, 0, 0)).jobs
    await jobs.finish(job, {B: disposition})
    await notify(jobs, "new")
    assert 90 <= (await jobs.stats()).oldest_s < 120


async def test_of_many_parked_keys_the_opening_of_the_circuit_counts(jobs: RedisJobQueue) -> None:
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, *(f"k{number}" for number in range(150)))
    since_ms = int(time.time() * 1000) - 90_000
    await jobs.client.hset(f"{jobs.prefix}circuit:{B}", "since", since_ms)
    assert 90 <= (await jobs.stats()).oldest_s < 120


async def test_the_record_of_the_last_complete_reconcile_is_kept(fleet: Callable[..., RedisJobQueue]) -> None:
    jobs = fleet()
    assert await jobs.load_reconcile_summary() is None
    await jobs.save_reconcile_summary(ReconcileRecord(1.5, 0.5, 7, {A: {"same": 7}}, {}))
    last = ReconcileRecord(2.5, 0.25, 8, {A: {"copied": 8}, B: {}}, {B: "\u00fc"})
    await jobs.save_reconcile_summary(last)
    assert await jobs.load_reconcile_summary() == last


# -- keys

ODD_KEYS = [
    " leading and trailing ",
    "a=b=2",
    f"{A}=2 {B}=3",
    f"{A} {B}",
    "line\nbreak\r\n\ttab",
    "\x00\x01\x7f",
    '"quotes" \\ and {json: [1, null]}',
    "*?[a-z]\\*",
    "s3s3:{default}:job:k",
    "{other}",
    "%s %d %%",
    "\u0085\u00a0\u2003\u2028",
    "ü é \u0065\u0301 日本語 \U0001f30d",
    "/../x//",
    "x" * 1024,
    "\U0001f30d" * 256,
    "0",
    "-1",
    "null",
]


async def test_unusual_keys_pass_unchanged(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in ODD_KEYS], Lane.FRESH, "run1")
    for _ in range(2):
        claimed = await claim(jobs, 100)
        assert sorted(job.key for job in claimed) == sorted(ODD_KEYS)
        assert {job.destinations for job in claimed} == {DESTINATIONS}
        assert await jobs.renew(claimed) == set()
        await notify(jobs, *ODD_KEYS)
        for job in claimed:
            assert await jobs.finish(job, {A: RETRY_NOW, B: dead_letter(job.key)}, recheck=True)
    assert sorted(letter.key for letter in await dead_letters_of(jobs, B)) == sorted(ODD_KEYS)
    assert {letter.key: letter.reason for letter in await dead_letters_of(jobs, B)} == {key: key for key in ODD_KEYS}
    for job in await claim(jobs, 100):
        assert dict(job.attempts) == {A: 2}
        await jobs.finish(job, {A: parked(A), B: Disposition(DispositionKind.DONE, event=event(job.key))})
    await jobs.promote_due()
    for job in await claim(jobs, 100):
        await jobs.finish(job, dict.fromkeys(job.destinations, DONE))
    counts = await jobs.stats()
    assert (counts.pending, counts.rechecks, counts.dead_letters[B]) == (0, len(ODD_KEYS), 0)
    assert sorted(await jobs.poll_outcomes("run1", 0)) == sorted(event(key) for key in ODD_KEYS)


async def test_promote_due_queues_at_most_the_given_number_of_parked_keys(jobs: RedisJobQueue) -> None:
    await jobs.enqueue([JobRequest(f"key {number}", (A,)) for number in range(5)], Lane.BULK)
    for job in (await jobs.claim(5, 5, 5, 0)).jobs:
        await jobs.finish(job, {A: Disposition(DispositionKind.PARK, circuit=A)})
    assert await jobs.promote_due({A: 0}) <= PARKED_INTERVAL_S, "more may be queued soon"
    assert not (await jobs.claim(5, 5, 5, 0)).jobs
    await jobs.promote_due({A: 2})
    assert len((await jobs.claim(5, 5, 5, 0)).jobs) == 2
    await jobs.promote_due()
    assert len((await jobs.claim(5, 5, 5, 0)).jobs) == 3
    assert await jobs.promote_due({A: 2}) > PARKED_INTERVAL_S, "no key is parked"
