"""The queue's rule, row by row, for every kind of queue."""

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
    JobQueue,
    JobRequest,
    ReconcileRecord,
)
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import (
    ALL_DONE,
    ASIDE,
    BACK,
    DESTINATIONS,
    DONE,
    LATER,
    SOON,
    A,
    B,
    buried,
    claim,
    claim_one,
    drained,
    notice,
    parked,
    what,
)
from tests.waiting import until

NewQueue = Callable[..., JobQueue]


async def bulk(jobs: JobQueue, *keys: str, destinations: tuple[str, ...] = DESTINATIONS) -> None:
    await jobs.enqueue([JobRequest(key, destinations) for key in keys], Lane.BULK)


async def woken(jobs: JobQueue) -> Job:
    """Turn until something is queued."""

    async def turned() -> list[Job]:
        await jobs.promote_due()
        return await claim(jobs)

    job: Job
    (job,) = await until(turned)
    return job


async def letters(jobs: JobQueue, destination: str) -> list[DeadLetter]:
    return [letter async for letter in jobs.dead_letters(destination)]  # type: ignore[attr-defined]


# -- put


async def test_a_key_that_is_put_is_a_job_for_its_destinations(jobs: JobQueue) -> None:
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


async def test_a_key_that_is_put_without_a_time_was_noticed_now(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    assert abs((await claim_one(jobs)).notified_ms / 1000 - time.time()) < 5


async def test_jobs_come_in_the_order_in_which_their_keys_were_put(jobs: JobQueue) -> None:
    keys = [f"k{number}" for number in range(1200)]
    await notice(jobs, *keys)
    found = [job.key for job in await claim(jobs, 700)] + [job.key for job in await claim(jobs, 700)]
    assert found == keys


async def test_a_put_on_a_queued_key_lets_its_destinations_grow(jobs: JobQueue) -> None:
    await bulk(jobs, "k", destinations=(A,))
    await bulk(jobs, "k", destinations=(B,))
    await bulk(jobs, "k", destinations=(A,))
    assert what(await claim_one(jobs)) == ("k", (A, B))


async def test_a_notice_of_a_key_in_the_bulk_lane_brings_it_into_the_fresh_lane_and_leaves_one_job(
    jobs: JobQueue,
) -> None:
    await bulk(jobs, "first", "k")
    await notice(jobs, "k")
    (job,) = (await jobs.claim(10, 0, 0, 0)).jobs
    assert (job.key, job.lane, job.unconditional) == ("k", Lane.FRESH, True)
    await jobs.finish(job, ALL_DONE)
    assert [job.key for job in await drained(jobs)] == ["first"]


async def test_a_bulk_put_of_a_fresh_key_changes_nothing_about_its_place(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await bulk(jobs, "k")
    (job,) = (await jobs.claim(10, 0, 0, 0)).jobs
    assert (job.lane, job.unconditional) == (Lane.FRESH, True)
    assert await claim(jobs) == []


async def test_a_put_on_a_running_key_is_one_more_job_after_it_ends(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await bulk(jobs, "k", destinations=(B,))
    assert await claim(jobs) == []
    await jobs.finish(job, ALL_DONE)
    again = await claim_one(jobs)
    assert (what(again), again.lane) == (("k", (B,)), Lane.BULK)
    await jobs.finish(again, {B: DONE})
    assert await claim(jobs) == []


async def test_a_burst_of_notices_while_a_key_runs_costs_one_more_job_that_looks_first(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    for _ in range(50):
        await notice(jobs, "k")
    await jobs.finish(job, ALL_DONE)
    (again,) = await drained(jobs)
    assert (what(again), again.lane, again.unconditional) == (("k", DESTINATIONS), Lane.FRESH, False)


async def test_a_key_that_ran_meanwhile_was_noticed_when_its_first_notice_came(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    for lane, notified_ms in [(Lane.BULK, 1), (Lane.FRESH, 2), (Lane.FRESH, 3), (Lane.BULK, 4)]:
        await jobs.enqueue([JobRequest("k", DESTINATIONS, notified_ms)], lane)
    await jobs.finish(job, ALL_DONE)
    again = await claim_one(jobs)
    assert (again.lane, again.notified_ms) == (Lane.FRESH, 2)


async def test_a_notice_of_a_waiting_key_queues_it_at_once_with_all_destinations(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: LATER})
    assert await claim(jobs) == []
    await notice(jobs, "k")
    job = await claim_one(jobs)
    assert (what(job), job.unconditional, dict(job.attempts)) == (("k", (B, A)), True, {B: 1})
    await jobs.finish(job, ALL_DONE)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert (await jobs.stats()).pending == 0


async def test_a_put_of_some_destinations_on_a_waiting_key_keeps_those_it_waits_for(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: LATER})
    await bulk(jobs, "k", destinations=(A,))
    assert sorted((await claim_one(jobs)).destinations) == [A, B]


# -- claim


async def test_fresh_jobs_are_copied_unseen_and_bulk_jobs_are_not(jobs: JobQueue) -> None:
    await notice(jobs, "fresh")
    await bulk(jobs, "bulk")
    await jobs.enqueue([JobRequest("forced", DESTINATIONS)], Lane.BULK, unconditional=True)
    await jobs.enqueue([JobRequest("looked at", DESTINATIONS)], Lane.FRESH, unconditional=False)
    assert {job.key: job.unconditional for job in await claim(jobs)} == {
        "fresh": True, "bulk": False, "forced": True, "looked at": False,
    }  # fmt: skip


async def test_a_claim_takes_no_more_than_there_are_slots(jobs: JobQueue) -> None:
    await notice(jobs, *"abcde")
    assert [job.key for job in await claim(jobs, 2)] == ["a", "b"]
    assert [job.key for job in await claim(jobs, 2)] == ["c", "d"]


async def test_a_claim_waits_for_the_first_job(jobs: JobQueue) -> None:
    claiming = asyncio.create_task(jobs.claim(10, 5, 9, 4.0))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    await notice(jobs, "k")
    assert [job.key for job in (await asyncio.wait_for(claiming, 3.0)).jobs] == ["k"]


async def test_a_claim_that_waits_in_vain_comes_back_empty(jobs: JobQueue) -> None:
    began_s = time.monotonic()
    assert (await jobs.claim(10, 5, 9, 0.2)).jobs == []
    assert 0.15 < time.monotonic() - began_s < 3


async def test_a_claim_that_waits_never_brings_more_than_there_are_slots(jobs: JobQueue) -> None:
    await jobs.claim(1, 1, 1, 0)
    claiming = asyncio.create_task(jobs.claim(1, 1, 1, 4.0))
    await asyncio.sleep(0.1)
    await asyncio.gather(notice(jobs, "fresh"), bulk(jobs, "bulk"))
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
    jobs: JobQueue, free: int, min_bulk: int, max_bulk: int, expected: dict[str, int]
) -> None:
    await notice(jobs, *(f"fresh{number}" for number in range(6)))
    await bulk(jobs, *(f"bulk{number}" for number in range(6)))
    lanes = [job.lane.value for job in (await jobs.claim(free, min_bulk, max_bulk, 0)).jobs]
    assert {lane: lanes.count(lane) for lane in set(lanes)} == expected


async def test_bulk_jobs_that_may_not_be_taken_are_not_waited_for(jobs: JobQueue) -> None:
    await bulk(jobs, "k")
    assert (await jobs.claim(2, 0, 0, 0.1)).jobs == []
    assert [job.key for job in (await jobs.claim(2, 0, 1, 0)).jobs] == ["k"]


# -- renew


async def test_a_running_job_is_renewed_and_a_finished_one_is_not(jobs: JobQueue) -> None:
    await notice(jobs, "runs", "ends")
    runs, ends = await claim(jobs)
    assert await jobs.renew([runs, ends]) == set()
    await jobs.finish(ends, ALL_DONE)
    assert await jobs.renew([runs, ends]) == {ends.token}
    assert await jobs.renew([]) == set()


async def test_every_claim_has_a_token_of_its_own(jobs: JobQueue) -> None:
    tokens = set()
    for _ in range(3):
        await notice(jobs, "a", "b")
        for job in await claim(jobs):
            tokens.add(job.token)
            await jobs.finish(job, ALL_DONE)
    assert len(tokens) == 6


# -- finish


async def test_a_job_that_is_done_everywhere_leaves_nothing_behind(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    assert await jobs.finish(await claim_one(jobs), ALL_DONE)
    await jobs.promote_due()
    counts = await jobs.stats()
    assert (counts.pending, counts.rechecks, await claim(jobs)) == (0, 0, [])


async def test_what_is_to_be_retried_waits_alone_until_it_is_due(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: LATER})
    assert 0 < await jobs.promote_due() <= 5
    assert await claim(jobs) == []
    assert (await jobs.stats()).retrying == 1


async def test_a_retry_that_is_due_is_a_job_for_its_destination_alone_that_looks_first(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: Disposition(DispositionKind.RETRY, delay_s=0.05)})
    job = await woken(jobs)
    assert (what(job), job.unconditional, dict(job.attempts)) == (("k", (B,)), False, {B: 1})


async def test_a_turn_says_when_the_next_retry_is_due(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: Disposition(DispositionKind.RETRY, delay_s=3.0)})
    assert 1 < await jobs.promote_due() <= 3


async def test_the_first_retry_that_is_due_wakes_all_that_wait(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: LATER, B: SOON})
    assert (await woken(jobs)).destinations == (A, B)


async def test_a_notice_that_comes_before_a_retry_is_due_uses_up_none_of_its_tries(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    for while_it_runs in (False, True) * 2:
        job = await claim_one(jobs)
        if while_it_runs:
            await notice(jobs, "k")
        await jobs.finish(job, {A: LATER, B: DONE})
        if not while_it_runs:
            await notice(jobs, "k")
    assert dict((await claim_one(jobs)).attempts) == {A: 1}


async def test_a_key_that_is_noticed_again_and_again_is_tried_no_later_than_it_would_be(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    soon = {A: Disposition(DispositionKind.RETRY, delay_s=1.0), B: DONE}
    await jobs.finish(await claim_one(jobs), soon)
    for _ in range(2):
        await notice(jobs, "k")
        await jobs.finish(await claim_one(jobs), {A: LATER, B: DONE})
    job = await woken(jobs)
    assert dict(job.attempts) == {A: 1}
    await jobs.finish(job, soon)
    assert dict((await woken(jobs)).attempts) == {A: 2}


async def test_tries_are_counted_for_each_destination_until_it_is_done(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: SOON, B: SOON})
    await jobs.finish(job := await woken(jobs), {A: SOON, B: parked(B)})
    assert dict(job.attempts) == {A: 1, B: 1}
    job = await woken(jobs)
    assert dict(job.attempts) == {A: 2, B: 1}
    await jobs.finish(job, {A: DONE, B: SOON})
    assert dict((await woken(jobs)).attempts) == {B: 2}


async def test_what_is_retried_joins_what_was_noticed_meanwhile(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await bulk(jobs, "k", destinations=(A,))
    await jobs.finish(job, {A: DONE, B: LATER})
    again = await claim_one(jobs)
    assert (what(again), dict(again.attempts)) == (("k", (A, B)), {B: 1})


async def test_what_is_handed_back_is_queued_at_once_and_no_try_is_counted(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: BACK})
    job = await claim_one(jobs)
    assert (what(job), job.unconditional, dict(job.attempts)) == (("k", (B,)), False, {})


async def test_what_is_put_aside_is_queued_at_once_in_the_bulk_lane_and_no_try_is_counted(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: ASIDE})
    job = await claim_one(jobs)
    assert (what(job), job.lane, job.unconditional, dict(job.attempts)) == (("k", (B,)), Lane.BULK, False, {})


async def test_a_notice_while_it_ran_brings_back_what_was_put_aside(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await notice(jobs, "k")
    await jobs.finish(job, {A: DONE, B: ASIDE})
    again = await claim_one(jobs)
    assert (what(again), again.lane) == (("k", (A, B)), Lane.FRESH)


async def test_a_retry_waits_in_the_bulk_lane_where_it_holds_up_no_notice(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: SOON})
    assert (await woken(jobs)).lane is Lane.BULK


async def test_what_is_handed_back_takes_along_what_was_to_be_retried(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: LATER, B: BACK})
    job = await claim_one(jobs)
    assert (what(job), dict(job.attempts)) == (("k", (A, B)), {A: 1})


async def test_what_is_buried_becomes_a_dead_letter_of_its_destination(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: SOON})
    await jobs.finish(await woken(jobs), {B: buried("no room")})
    assert await letters(jobs, A) == []
    (letter,) = await letters(jobs, B)
    assert (letter.destination, letter.key, letter.reason, letter.attempts) == (B, "k", "no room", 2)
    assert abs(letter.dead_lettered_ms / 1000 - time.time()) < 5
    counts = await jobs.stats()
    assert (counts.dead_letters[A], counts.dead_letters[B], counts.pending) == (0, 1, 0)


async def test_a_dead_letter_goes_when_a_later_job_is_done_there(jobs: JobQueue) -> None:
    await notice(jobs, "k", "other")
    for job in await claim(jobs):
        await jobs.finish(job, {A: buried("no"), B: buried("no")})
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: LATER})
    assert [letter.key for letter in await letters(jobs, A)] == ["other"]
    assert sorted(letter.key for letter in await letters(jobs, B)) == ["k", "other"]


async def test_a_key_that_was_buried_starts_over_with_its_tries(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await notice(jobs, "k")
    await jobs.finish(job, {A: SOON, B: SOON})
    await jobs.finish(job := await claim_one(jobs), {A: SOON, B: buried("no")})
    assert dict(job.attempts) == {A: 1, B: 1}
    await notice(jobs, "k")
    assert dict((await claim_one(jobs)).attempts) == {A: 2}


async def test_whoever_finishes_a_job_that_is_not_his_any_more_has_everything_looked_at_again(jobs: JobQueue) -> None:
    await bulk(jobs, "k", destinations=(B,))
    job = await claim_one(jobs)
    assert await jobs.finish(job, {B: DONE})
    assert not await jobs.finish(job, {B: DONE})
    again = await claim_one(jobs)
    assert (what(again), again.lane, again.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)


async def test_an_old_claim_ends_nothing_that_was_claimed_since(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    old = await claim_one(jobs)
    await jobs.finish(old, ALL_DONE)
    await notice(jobs, "k")
    job = await claim_one(jobs)
    assert not await jobs.finish(old, {A: buried("no"), B: buried("no")})
    assert (await letters(jobs, A), await jobs.renew([job])) == ([], set())
    assert await jobs.finish(job, ALL_DONE)
    assert what(await claim_one(jobs)) == ("k", DESTINATIONS)


# -- looks


async def test_a_look_is_a_bulk_job_for_all_destinations(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.05)
    await bulk(jobs, "k", destinations=(A,))
    await jobs.finish(await claim_one(jobs), {A: DONE}, recheck=True)
    job = await woken(jobs)
    assert (what(job), job.lane, job.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)
    await jobs.finish(job, ALL_DONE)
    assert (await jobs.stats()).rechecks == 0


async def test_a_look_is_not_due_before_its_time_and_neither_put_nor_finish_touches_it(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert (await jobs.stats()).rechecks == 1


async def test_a_later_look_puts_off_an_earlier_one(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.3)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await asyncio.sleep(0.2)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    looked_s = time.monotonic()
    await woken(jobs)
    assert time.monotonic() - looked_s > 0.25
    assert (await jobs.stats()).rechecks == 0


async def test_a_look_that_is_due_while_its_key_runs_comes_after_it(queue: NewQueue) -> None:
    jobs = queue(recheck_delay_s=0.0)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE, recheck=True)
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    await jobs.finish(job, ALL_DONE)
    assert what(await claim_one(jobs)) == ("k", DESTINATIONS)


# -- parked, and circuits


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 0.05)


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.INITIAL_PROBE_INTERVAL_S", 60.0)


async def park(jobs: JobQueue, store: str, *keys: str) -> None:
    await notice(jobs, *keys)
    claimed = await claim(jobs, len(keys))
    await asyncio.gather(*(jobs.finish(job, {A: DONE, B: parked(store)}) for job in claimed))


async def test_what_is_parked_wakes_when_there_is_no_circuit(jobs: JobQueue) -> None:
    await park(jobs, B, "k")
    assert (await jobs.stats()).parked[B] == 1
    assert await claim(jobs) == []
    await jobs.promote_due()
    job = await claim_one(jobs)
    assert (what(job), dict(job.attempts)) == (("k", (B,)), {})
    assert (await jobs.stats()).parked[B] == 0


async def test_what_is_parked_waits_while_the_circuit_is_open_and_all_of_it_wakes_when_it_closes(
    jobs: JobQueue, no_probes: None
) -> None:
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


async def test_what_was_parked_once_and_runs_by_now_is_left_to_whoever_runs_it(jobs: JobQueue) -> None:
    await park(jobs, B, "k")
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert await jobs.finish(job, ALL_DONE)
    assert await claim(jobs) == []


async def test_a_claim_tells_which_stores_are_down(jobs: JobQueue) -> None:
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {}
    await jobs.trip_circuit(B, "down", "k")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: ""}
    await jobs.trip_circuit("source", "down", "k")
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: "", "source": ""}


async def test_one_key_at_a_time_shows_whether_a_store_is_back(jobs: JobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    await park(jobs, B, "k0", "k1", "k2")
    job = await woken(jobs)
    await jobs.promote_due()
    claims = await jobs.claim(10, 0, 10, 0)
    assert (list(claims.jobs), claims.circuits) == ([], {B: job.key})
    assert what(job) == (job.key, (B,))


async def test_only_the_probes_failure_makes_the_next_pause_longer(jobs: JobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k0")
    await park(jobs, B, "k0", "k1", "k2")
    probe = await woken(jobs)
    others = {"k0", "k1", "k2"} - {probe.key}
    for other in others:
        await jobs.trip_circuit(B, "down", other)
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: probe.key}
    began_s = time.monotonic()
    await jobs.trip_circuit(B, "still down", probe.key)
    await jobs.finish(probe, {B: parked(B)})
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: ""}
    await woken(jobs)
    assert time.monotonic() - began_s >= 0.095  # twice the first


async def test_the_pause_between_probes_has_an_end(
    jobs: JobQueue, quick_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROBE_INTERVAL_S", 0.1)
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, "k")
    for _ in range(4):
        probe = await woken(jobs)
        await jobs.trip_circuit(B, "down", probe.key)
        await jobs.finish(probe, {B: parked(B)})
    assert await jobs.promote_due() <= 0.1


async def test_a_circuit_with_nothing_left_to_try_goes_away(jobs: JobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit(B, "down", "k")
    await park(jobs, B, "k")
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)

    async def gone() -> bool:
        await jobs.promote_due()
        return not (await jobs.stats()).circuits

    await until(gone)
    assert (await jobs.stats()).parked[B] == 0


async def test_what_waits_for_the_source_is_tried_one_at_a_time_too(jobs: JobQueue, quick_probes: None) -> None:
    await jobs.trip_circuit("source", "down", "k0")
    await park(jobs, "source", "k0", "k1")
    probe = await woken(jobs)
    await jobs.promote_due()
    assert await claim(jobs) == []
    await jobs.close_circuit("source")
    await jobs.promote_due()
    assert {probe.key, (await claim_one(jobs)).key} == {"k0", "k1"}


# -- runs


def event(name: str) -> str:
    return json.dumps({"destination": name, "key": "k ü \U0001f30d\n"})


async def test_a_run_is_told_what_became_of_its_keys(jobs: JobQueue) -> None:
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


async def test_a_run_waits_for_its_first_outcome(jobs: JobQueue) -> None:
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
    job = await claim_one(jobs)
    waiting = asyncio.create_task(jobs.poll_outcomes("run1", 4.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await jobs.finish(job, {A: Disposition(DispositionKind.DONE, event=event(A))})
    assert await asyncio.wait_for(waiting, 3.0) == [event(A)]
    assert await jobs.poll_outcomes("run1", 0.05) == []


async def test_two_runs_that_want_the_same_key_share_one_job_and_both_are_told(jobs: JobQueue) -> None:
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
    await jobs.enqueue([JobRequest("k", (B,))], Lane.BULK, "run2")
    job = await claim_one(jobs)
    assert (what(job), job.trackers) == (("k", (A, B)), "run1 run2")
    await jobs.finish(job, {name: Disposition(DispositionKind.DONE, event=event(name)) for name in DESTINATIONS})
    assert await jobs.poll_outcomes("run1", 0) == await jobs.poll_outcomes("run2", 0) == [event(A), event(B)]


async def test_a_run_that_asks_while_the_key_runs_is_told_after_the_second_look(jobs: JobQueue) -> None:
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


async def test_a_run_goes_along_with_what_is_left_over(jobs: JobQueue) -> None:
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK, "run1")
    job = await claim_one(jobs)
    await notice(jobs, "k")
    await jobs.finish(job, {A: DONE, B: LATER})
    again = await claim_one(jobs)
    assert again.trackers == "run1"
    await jobs.finish(again, {A: BACK, B: LATER})
    job = await claim_one(jobs)
    assert job.trackers == "run1"
    await jobs.finish(job, {A: DONE, B: SOON})
    assert (await woken(jobs)).trackers == "run1"


async def test_a_run_that_asks_for_a_waiting_key_is_told(jobs: JobQueue) -> None:
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: LATER})
    await jobs.enqueue([JobRequest("k", (B,))], Lane.BULK, "run1")
    assert (await claim_one(jobs)).trackers == "run1"


# -- counts


async def test_counts_tell_each_thing_in_its_place(jobs: JobQueue, no_probes: None) -> None:
    await notice(jobs, "waits", "is parked", "is parked, too", "is dead")
    waits, is_parked, is_parked_too, is_dead = await claim(jobs)
    await jobs.trip_circuit(B, "down, B", "k")
    await jobs.trip_circuit("source", "down, source", "k")
    await jobs.finish(waits, {A: DONE, B: LATER}, recheck=True)
    await jobs.finish(is_parked, {A: DONE, B: parked(B)})
    await jobs.finish(is_parked_too, {A: parked("source"), B: parked("source")})
    await jobs.finish(is_dead, {A: buried("no"), B: DONE})
    await bulk(jobs, "1", "2", "3")
    await notice(jobs, "4", "5")
    await jobs.claim(1, 0, 0, 0)  # what runs counts as well
    counts = await jobs.stats()
    assert (counts.fresh, counts.bulk, counts.retrying, counts.rechecks, counts.paused) == (2, 3, 1, 1, False)
    assert counts.parked == {"source": 1, A: 0, B: 1}
    assert {name: counts.dead_letters[name] for name in DESTINATIONS} == {A: 1, B: 0}
    assert counts.circuits == {"source": "down, source", B: "down, B"}
    assert counts.pending == 2 + 3 + 1 + 2


async def test_counts_tell_the_age_of_the_oldest_job(jobs: JobQueue) -> None:
    assert (await jobs.stats()).oldest_s == 0
    await bulk(jobs, "k")
    await asyncio.sleep(0.1)
    await notice(jobs, "k2")
    assert 0.1 <= (await jobs.stats()).oldest_s < 5


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


async def test_any_key_goes_through_unharmed(jobs: JobQueue) -> None:
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in ODD_KEYS], Lane.FRESH, "run1")
    for _ in range(2):
        claimed = await claim(jobs, 100)
        assert sorted(job.key for job in claimed) == sorted(ODD_KEYS)
        assert {job.destinations for job in claimed} == {DESTINATIONS}
        assert await jobs.renew(claimed) == set()
        await notice(jobs, *ODD_KEYS)
        for job in claimed:
            assert await jobs.finish(job, {A: SOON, B: buried(job.key)}, recheck=True)
    assert sorted(letter.key for letter in await letters(jobs, B)) == sorted(ODD_KEYS)
    assert {letter.key: letter.reason for letter in await letters(jobs, B)} == {key: key for key in ODD_KEYS}
    for job in await claim(jobs, 100):
        assert dict(job.attempts) == {A: 2}
        await jobs.finish(job, {A: parked(A), B: Disposition(DispositionKind.DONE, event=event(job.key))})
    await jobs.promote_due()
    for job in await claim(jobs, 100):
        await jobs.finish(job, dict.fromkeys(job.destinations, DONE))
    counts = await jobs.stats()
    assert (counts.pending, counts.rechecks, counts.dead_letters[B]) == (0, len(ODD_KEYS), 0)
    assert sorted(await jobs.poll_outcomes("run1", 0)) == sorted(event(key) for key in ODD_KEYS)


async def test_of_what_is_parked_at_a_limit_so_much_is_woken_as_there_is_room_for(jobs: JobQueue) -> None:
    await jobs.enqueue([JobRequest(f"key {number}", (A,)) for number in range(5)], Lane.BULK)
    for job in (await jobs.claim(5, 5, 5, 0)).jobs:
        await jobs.finish(job, {A: Disposition(DispositionKind.PARK, circuit=A)})
    assert await jobs.promote_due({A: 0}) <= PARKED_INTERVAL_S, "more may be woken soon"
    assert not (await jobs.claim(5, 5, 5, 0)).jobs
    await jobs.promote_due({A: 2})
    assert len((await jobs.claim(5, 5, 5, 0)).jobs) == 2
    await jobs.promote_due()
    assert len((await jobs.claim(5, 5, 5, 0)).jobs) == 3
    assert await jobs.promote_due({A: 2}) > PARKED_INTERVAL_S, "nothing is left there"
