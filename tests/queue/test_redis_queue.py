"""What only a queue in Redis has: several processes, leases, entries that get lost, people who look after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable
from s3s3.model import Job, Lane
from s3s3.queue import redis_queue as jobs_redis
from s3s3.queue.base import INITIAL_PROBE_INTERVAL_S, DeadLetter, Disposition, DispositionKind, JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import (
    ALL_DONE,
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

P = "s3s3:{default}:"
LEASE_S = 0.3
"""Short enough to let it lapse, long enough for a busy machine not to let it lapse by itself."""

Fleet = Callable[..., RedisJobQueue]


async def lapse() -> None:
    await asyncio.sleep(LEASE_S * 1.2)


async def blocked(client: Redis) -> None:
    """Wait until somebody waits for an entry."""
    await until(lambda: is_blocked(client))


async def is_blocked(client: Redis) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])


async def entries(client: Redis, lane: str) -> list[str]:
    found: list[Any] = await client.xrange(P + lane) or []
    return [fields["key"] for _, fields in found]


async def pending(client: Redis, lane: str) -> int:
    return int((await client.xpending(P + lane, "s3s3"))["pending"])


# -- leases


async def test_a_lapsed_job_is_taken_over_with_what_was_noticed_meanwhile_and_a_look_is_left(
    fleet: Fleet, client: Redis
) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", (A,))], Lane.FRESH)
    job = await claim_one(first)
    await first.enqueue([JobRequest("k", (B,))], Lane.FRESH)
    assert await claim(second) == []
    await lapse()
    taken = await claim_one(second)
    assert (what(taken), taken.unconditional, taken.entry) == (("k", (A,)), False, job.entry)
    assert taken.token != job.token
    assert await client.zcard(P + "rechecks") == 1
    assert await second.finish(taken, {A: DONE})
    assert what(await claim_one(second)) == ("k", (B,))


async def test_a_lapsed_bulk_job_is_taken_over_too(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK)
    await claim_one(first)
    await lapse()
    assert [job.lane for job in await claim(second)] == [Lane.BULK]


async def test_a_job_that_is_renewed_in_time_is_not_taken_over(fleet: Fleet) -> None:
    first, second = fleet(lease_s=1.0), fleet(lease_s=1.0)
    await notice(first, "k")
    job = await claim_one(first)
    for _ in range(6):
        await asyncio.sleep(0.25)
        assert await first.renew([job]) == set()
        assert await claim(second) == []
    assert await first.finish(job, ALL_DONE)


async def test_a_stolen_job_cannot_be_renewed_nor_stolen_back(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notice(first, "k", "kept")
    stolen, kept = await claim(first)
    await lapse()
    await first.renew([kept])
    taken = await claim_one(second)
    assert taken.key == "k"
    assert await first.renew([stolen, kept]) == {stolen.token}
    assert await second.renew([taken]) == set()
    assert await second.finish(taken, ALL_DONE)


async def test_a_zombies_finish_has_everything_looked_at_again(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", (A,))], Lane.FRESH, "run1")
    zombie = await claim_one(first)
    await lapse()
    taken = await claim_one(second)
    told = Disposition(DispositionKind.DONE, event='{"who": "zombie"}')
    assert not await first.finish(zombie, {A: told})
    assert await second.poll_outcomes("run1", 0) == []
    assert await second.finish(taken, {A: Disposition(DispositionKind.DONE, event='{"who": "owner"}')})
    assert await second.poll_outcomes("run1", 0) == ['{"who": "owner"}']
    assert what(await claim_one(second)) == ("k", DESTINATIONS)


async def test_a_zombie_that_finishes_last_has_everything_looked_at_again(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notice(first, "k")
    zombie = await claim_one(first)
    await lapse()
    assert await second.finish(await claim_one(second), ALL_DONE)
    assert not await first.finish(zombie, ALL_DONE, recheck=True)
    job = await claim_one(second)
    assert (what(job), job.lane, job.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)


async def test_a_process_takes_its_own_lapsed_job_over_under_a_new_token(fleet: Fleet) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await lapse()
    again = await claim_one(jobs)
    assert again.token != job.token
    assert await jobs.renew([job, again]) == {job.token}


async def test_what_was_delivered_to_a_process_that_never_claimed_it_is_taken_over_without_a_look(
    fleet: Fleet, client: Redis
) -> None:
    jobs = fleet(lease_s=LEASE_S)
    assert await claim(jobs) == []  # makes the groups
    await notice(jobs, "k")
    await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK)
    assert await claim(jobs) == []
    await lapse()
    job = await claim_one(jobs)
    assert (what(job), job.unconditional) == (("k", DESTINATIONS), True)
    assert await client.zcard(P + "rechecks") == 0


async def test_a_takeover_goes_on_at_the_next_claim_where_there_were_not_slots_enough(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    keys = [f"k{number}" for number in range(30)]
    await notice(first, *keys)
    await first.enqueue([JobRequest("bulk", DESTINATIONS)], Lane.BULK)
    assert len(await claim(first, 31)) == 31
    await lapse()
    found = [job.key for _ in range(4) for job in await claim(second, 10)]
    assert sorted(found) == sorted([*keys, "bulk"])


async def test_lapsed_jobs_come_before_new_ones(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notice(first, "lapsed")
    await claim_one(first)
    await notice(first, "new")
    await lapse()
    assert [job.key for job in await claim(second, 1)] == ["lapsed"]


async def test_an_entry_that_a_blocking_read_brought_is_leased_from_its_claim_on(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is slow between the two must not hold a job for longer than its lease stands in Redis."""
    jobs, other = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    claiming = asyncio.create_task(jobs.claim(1, 1, 1, 4.0))
    await blocked(client)
    real_run = jobs._scripts.run

    async def slow_run(*args: Any) -> object:
        await asyncio.sleep(LEASE_S * 0.8)
        return await real_run(*args)

    monkeypatch.setattr(jobs._scripts, "run", slow_run)
    await notice(other, "k")
    (job,) = (await claiming).jobs
    await asyncio.sleep(LEASE_S * 0.5)
    assert await claim(other) == []
    assert await other.finish(job, ALL_DONE)


async def test_an_entry_that_was_delivered_is_claimed_though_redis_went_away_in_between(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fleet()
    claiming = asyncio.create_task(jobs.claim(5, 1, 5, 4.0))
    await blocked(client)
    real_run = jobs._scripts.run

    async def away(*args: str | int) -> object:
        raise RedisUnavailable("away")

    monkeypatch.setattr(jobs._scripts, "run", away)
    await fleet().enqueue([JobRequest("k", DESTINATIONS)], Lane.FRESH)
    with pytest.raises(RedisUnavailable):
        await claiming
    monkeypatch.setattr(jobs._scripts, "run", real_run)
    assert [job.key for job in (await jobs.claim(5, 1, 5, 0)).jobs] == ["k"]
    assert (await jobs.claim(5, 1, 5, 0)).jobs == []


async def test_a_blocking_read_that_brings_one_of_each_lane_fills_no_more_than_the_free_slot(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fleet()
    real_wait = jobs._wait_for_entries

    async def late_wait(*args: object) -> None:
        await notice(jobs, "fresh")
        await jobs.enqueue([JobRequest("bulk", DESTINATIONS)], Lane.BULK)
        await real_wait(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "_wait_for_entries", late_wait)
    first = (await jobs.claim(1, 1, 1, 4.0)).jobs
    second = (await jobs.claim(1, 1, 1, 0)).jobs
    assert (len(first), len(second)) == (1, 1)
    assert {first[0].key, second[0].key} == {"fresh", "bulk"}


# -- entries that are not the record's, or are gone


async def test_a_stray_entry_is_dropped(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notice(jobs, "k")
    await client.xadd(P + "fresh", {"key": "k"})
    await client.xadd(P + "bulk", {"key": "k"})
    await client.xadd(P + "bulk", {"key": "unheard of"})
    await client.xadd(P + "bulk", {"something": "else", "entirely": "x"})
    job = await claim_one(jobs)
    assert await entries(client, "fresh") == ["k"]
    assert await client.xlen(P + "bulk") == 0
    assert await jobs.finish(job, ALL_DONE)
    assert (await client.xlen(P + "fresh"), await pending(client, "fresh"), await pending(client, "bulk")) == (0, 0, 0)


async def test_a_lane_full_of_strays_is_cleared_by_and_by(fleet: Fleet, client: Redis) -> None:
    """All of it in one step would keep Redis from answering anybody else."""
    jobs = fleet()
    keys = [f"k{number}" for number in range(300)]
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in keys], Lane.BULK)
    await notice(jobs, *keys)
    await client.delete(P + "fresh")
    await jobs.enqueue([JobRequest("last", DESTINATIONS)], Lane.BULK)
    assert (await jobs.claim(1, 1, 1, 0)).jobs == []
    assert 0 < await client.xlen(P + "bulk") < 301
    found = list((await jobs.claim(1, 1, 1, 0)).jobs)
    while not found:
        found += (await jobs.claim(1, 1, 1, 0)).jobs
    assert [job.key for job in found] == ["last"]


async def test_a_stray_entry_that_somebody_took_and_left_is_dropped(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)
    await client.xadd(P + "fresh", {"key": "k"})
    await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    await lapse()
    assert await claim(jobs) == []
    assert (await client.xlen(P + "fresh"), await pending(client, "fresh")) == (0, 0)


@pytest.mark.parametrize("lost", ["XDEL", "XTRIM"])
async def test_a_queued_record_whose_entry_is_gone_counts_as_absent(fleet: Fleet, client: Redis, lost: str) -> None:
    jobs = fleet()
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK, "run1")
    if lost == "XDEL":
        found: list[Any] = await client.xrange(P + "bulk") or []
        await client.xdel(P + "bulk", *(entry for entry, _ in found))
    else:
        await client.xtrim(P + "bulk", maxlen=0, approximate=False)
    assert await claim(jobs) == []
    await jobs.enqueue([JobRequest("k", (B,))], Lane.BULK, "run2")
    job = await claim_one(jobs)
    assert (sorted(job.destinations), job.trackers) == ([A, B], "run1 run2")
    assert await client.zcard(P + "rechecks") == 0


async def test_a_running_record_whose_entry_is_gone_counts_as_absent_and_its_runner_as_a_zombie(
    fleet: Fleet, client: Redis
) -> None:
    jobs = fleet()
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await client.xtrim(P + "fresh", maxlen=0, approximate=False)
    await notice(jobs, "k")
    again = await claim_one(jobs)
    assert await jobs.renew([job, again]) == {job.token}
    assert await client.zcard(P + "rechecks") == 1  # a PUT of the first may still be in flight
    assert not await jobs.finish(job, ALL_DONE)
    assert await jobs.finish(again, ALL_DONE)
    assert what(await claim_one(jobs)) == ("k", DESTINATIONS)


async def test_a_job_whose_entry_is_gone_can_be_finished_all_the_same(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await client.xtrim(P + "fresh", maxlen=0, approximate=False)
    assert await jobs.finish(job, {A: DONE, B: SOON})
    await jobs.promote_due()
    assert what(await claim_one(jobs)) == ("k", (B,))


async def test_an_entry_that_was_deleted_while_it_was_pending_is_acked(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    assert await claim(jobs) == []
    await notice(jobs, "k", "k2")
    read: Any = await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    ((_, delivered),) = read
    await client.xdel(P + "fresh", delivered[0][0])
    await lapse()
    assert [job.key for job in await claim(jobs)] == ["k2"]
    assert await pending(client, "fresh") == 1


async def test_a_record_that_somebody_deleted_does_not_keep_the_due_ones_waiting(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    for number in range(jobs_redis.PROMOTED_PER_CALL + 1):
        await client.zadd(P + "retries", {f"gone{number}": 1})
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: SOON})
    await asyncio.sleep(0.01)
    await jobs.promote_due()
    assert [job.key for job in await claim(jobs)] == ["k"]
    assert await client.zcard(P + "retries") == 0


async def test_keys_that_are_parked_in_name_only_do_not_hold_up_those_that_are(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fleet()
    await client.sadd(P + "parked:" + B, *(f"gone{number}" for number in range(1000)))
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert [job.key for job in await drained(jobs)] == ["k"]
    monkeypatch.setattr(jobs_redis, "INITIAL_PROBE_INTERVAL_S", 0.0)
    await jobs.trip_circuit(B, "down", "k")
    await client.sadd(P + "parked:" + B, *(f"gone{number}" for number in range(1000)))
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert [job.key for job in await claim(jobs)] == ["k"]


# -- a Redis that loses something


@pytest.mark.parametrize("lost", [P + "fresh", P + "bulk"])
async def test_a_lost_stream_is_made_again_and_work_goes_on(fleet: Fleet, client: Redis, lost: str) -> None:
    jobs = fleet()
    await notice(jobs, "k1")
    await drained(jobs)
    await client.delete(lost)
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await blocked(client)
    await jobs.enqueue([JobRequest("k2", DESTINATIONS)], Lane(lost.removeprefix(P)))
    assert [job.key for job in (await claiming).jobs] == ["k2"]


async def test_a_stream_that_is_lost_does_not_keep_what_the_other_one_brought_from_being_claimed(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a claim whose slots are full with what was delivered, no command remains that would miss the group."""
    jobs = fleet()
    real_wait = jobs._wait_for_entries

    async def late_wait(*args: object) -> None:
        await notice(jobs, "k")
        await real_wait(*args)  # type: ignore[arg-type]
        await client.delete(P + "bulk")
        jobs._all_taken_over_at_s = 0.0

    monkeypatch.setattr(jobs, "_wait_for_entries", late_wait)
    assert [job.key for job in (await jobs.claim(1, 0, 1, 4.0)).jobs] == ["k"]


async def test_a_stream_that_is_lost_under_a_waiting_claim_is_made_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await claim(jobs)
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await blocked(client)
    await client.delete(P + "fresh", P + "bulk")
    await notice(jobs, "k")
    found = list((await claiming).jobs) or await claim(jobs)
    assert [job.key for job in found] == ["k"]


async def test_a_lost_group_is_made_again_and_nobody_runs_what_somebody_else_runs(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=1.0), fleet(lease_s=1.0)
    await notice(first, "runs", "waits")
    (job,) = await claim(first, 1)
    await client.xgroup_destroy(P + "fresh", "s3s3")
    assert [found.key for found in await claim(second)] == ["waits"]
    assert await first.finish(job, ALL_DONE)
    assert await entries(client, "fresh") == ["waits"]


async def test_a_job_that_was_running_when_its_group_was_lost_is_taken_over_when_its_process_dies(
    fleet: Fleet, client: Redis
) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notice(first, "k")
    await claim_one(first)
    await client.xgroup_destroy(P + "fresh", "s3s3")
    assert await claim(second) == []
    await lapse()
    assert [job.key for job in await claim(second)] == ["k"]


async def test_what_ran_when_redis_lost_everything_is_looked_at_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK)
    job = await claim_one(jobs)
    await client.flushall()
    assert await jobs.renew([job]) == {job.token}
    assert not await jobs.finish(job, {A: BACK})
    assert what(await claim_one(jobs)) == ("k", DESTINATIONS)


async def test_scripts_that_redis_forgot_are_loaded_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notice(jobs, "k")
    await client.script_flush()
    assert await jobs.finish(await claim_one(jobs), ALL_DONE)


# -- consumers


async def consumers(client: Redis, lane: str) -> list[str]:
    return [consumer["name"] for consumer in await client.xinfo_consumers(P + lane, "s3s3")]


async def test_whoever_leaves_takes_his_consumer_along_unless_it_has_claims(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notice(jobs, "k")
    await jobs.enqueue([JobRequest("k2", DESTINATIONS)], Lane.BULK)
    job, bulk_job = await claim(jobs)
    await jobs.finish(bulk_job, ALL_DONE)
    await jobs.remove_consumer()
    assert (await consumers(client, "fresh"), await consumers(client, "bulk")) == ([jobs.consumer], [])
    await jobs.finish(job, ALL_DONE)
    await jobs.remove_consumer()
    assert await consumers(client, "fresh") == []


async def test_leaving_a_queue_that_was_never_used_is_nothing(fleet: Fleet) -> None:
    await fleet().remove_consumer()


async def test_consumers_of_dead_processes_go_in_time_unless_they_have_claims(fleet: Fleet, client: Redis) -> None:
    dead, dead_with_claim, living = fleet(), fleet(), fleet(lease_s=0.01)
    await notice(dead, "k")
    await dead.enqueue([JobRequest("k2", DESTINATIONS)], Lane.BULK)
    assert len(await drained(dead)) == 2
    await notice(dead, "k")
    await claim_one(dead_with_claim)
    await living.claim(0, 0, 0, 0)
    assert len(await consumers(client, "fresh")) == 2
    await asyncio.sleep(60 * 0.01)
    await living.claim(0, 0, 0, 0)
    assert (await consumers(client, "fresh"), await consumers(client, "bulk")) == ([dead_with_claim.consumer], [])


# -- circuits


async def test_a_probe_that_stands_in_line_gives_way_to_a_job_that_is_here(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a long lane, nobody would learn for a long time that the store is back."""
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await notice(jobs, "parked")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.enqueue([JobRequest("only a", (A,))], Lane.FRESH)
    await notice(jobs, "before", "before too")
    await asyncio.sleep(INITIAL_PROBE_INTERVAL_S)
    await jobs.promote_due()
    claims = await jobs.claim(1, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["only a"], {B: "parked"})
    claims = await jobs.claim(2, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["before", "before too"], {B: "before"})
    claims = await jobs.claim(1, 0, 1, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["parked"], {B: "before"})


async def test_a_probe_that_came_to_nothing_gives_way_too(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = fleet()
    monkeypatch.setattr(jobs_redis, "INITIAL_PROBE_INTERVAL_S", 0.0)
    await jobs.trip_circuit("source", "down", "k")
    await notice(jobs, "probe")
    await jobs.finish(await claim_one(jobs), dict.fromkeys(DESTINATIONS, parked("source")))
    await jobs.promote_due()
    await jobs.finish(await claim_one(jobs), ALL_DONE)  # and nobody heard how it went
    await jobs.enqueue([JobRequest("next", (A,))], Lane.FRESH)
    claims = await jobs.claim(1, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["next"], {"source": "next"})


async def test_a_destination_that_a_person_holds_is_tried_by_nobody_until_it_is_released(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_redis, "INITIAL_PROBE_INTERVAL_S", 0.0)
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    probe = await claim_one(jobs)
    await jobs.pause(B)
    await jobs.pause(B)
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: ""}
    await jobs.trip_circuit(B, "down", probe.key)
    await jobs.close_circuit(B)
    await jobs.finish(probe, {B: parked(B)})
    await jobs.promote_due()
    assert await claim(jobs) == []
    assert (await jobs.stats()).circuits == {B: "paused"}
    await jobs.resume(B)
    await jobs.promote_due()
    assert [job.key for job in await claim(jobs)] == ["k"]
    assert (await jobs.stats()).circuits == {}
    await jobs.resume(B)


async def test_a_store_that_is_held_is_not_probed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_redis, "INITIAL_PROBE_INTERVAL_S", 0.0)
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await jobs.pause(B)
    await notice(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert await claim(jobs) == []


async def test_the_probe_of_a_store_that_is_held_does_not_pass_to_others(fleet: Fleet) -> None:
    jobs = fleet()
    await jobs.pause(B)
    await notice(jobs, "k")
    claims = await jobs.claim(1, 0, 0, 0)
    assert (len(claims.jobs), claims.circuits) == (1, {B: ""})


# -- for those who look after it


async def test_a_paused_route_is_not_worked_on_until_it_is_resumed(fleet: Fleet) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notice(jobs, "runs")
    running = await claim_one(jobs)
    await notice(jobs, "waits")
    await jobs.pause()
    await jobs.pause()
    claims = await jobs.claim(10, 0, 10, 0.05)
    assert (list(claims.jobs), claims.paused, (await jobs.stats()).paused) == ([], True, True)
    assert await jobs.finish(running, ALL_DONE)
    await lapse()
    assert await claim(jobs) == []
    await jobs.resume()
    assert [job.key for job in await claim(jobs)] == ["waits"]


async def test_what_was_delivered_is_claimed_though_the_route_is_paused_meanwhile(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await blocked(client)
    await jobs.pause()
    await notice(jobs, "k")
    claims = await claiming
    assert ([job.key for job in claims.jobs], claims.paused) == (["k"], True)


async def buried_jobs(jobs: RedisJobQueue, *keys: str) -> None:
    await notice(jobs, *keys)
    for job in await claim(jobs, len(keys)):
        await jobs.finish(job, {A: DONE, B: buried("no")})


async def letter_keys(jobs: RedisJobQueue, destination: str) -> list[str]:
    return sorted([letter.key async for letter in jobs.dead_letters(destination)])


async def test_revived_dead_letters_are_bulk_jobs_for_their_destination(fleet: Fleet) -> None:
    jobs = fleet()
    await buried_jobs(jobs, "k1", "k2")
    assert await jobs.redrive(B, ["k1", "never buried"]) == 1
    job = await claim_one(jobs)
    assert (what(job), job.lane, job.unconditional, dict(job.attempts)) == (("k1", (B,)), Lane.BULK, False, {})
    assert await letter_keys(jobs, B) == ["k2"]
    assert await jobs.redrive(A, ["k2"]) == 0


async def test_any_number_of_dead_letters_can_be_revived_or_dropped(fleet: Fleet) -> None:
    jobs = fleet()
    keys = [f"k{number}" for number in range(1100)]
    await notice(jobs, *keys)
    await asyncio.gather(*(jobs.finish(job, {A: buried("a"), B: buried("b")}) for job in await claim(jobs, 1100)))
    assert await jobs.redrive(A, keys) == 1100
    assert await jobs.drop(B, keys) == 1100
    assert await jobs.redrive(A, []) == await jobs.drop(B, []) == 0
    counts = await jobs.stats()
    assert (counts.bulk, counts.dead_letters[A], counts.dead_letters[B]) == (1100, 0, 0)


async def test_a_dead_letter_that_is_revived_while_its_key_runs_is_looked_at_after_it(fleet: Fleet) -> None:
    jobs = fleet()
    await buried_jobs(jobs, "k")
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await jobs.redrive(B, ["k"])
    await jobs.finish(job, ALL_DONE)
    assert what(await claim_one(jobs)) == ("k", (B,))


async def test_dropped_dead_letters_are_gone(fleet: Fleet) -> None:
    jobs = fleet()
    await buried_jobs(jobs, "k1", "k2")
    assert await jobs.drop(B, ["k1", "never buried"]) == 1
    assert await letter_keys(jobs, B) == ["k2"]
    assert await claim(jobs) == []


async def test_a_message_that_names_no_key_is_kept_and_can_be_dropped_but_not_revived(fleet: Fleet) -> None:
    jobs = fleet()
    message = "\\xff= " + "x" * 2000
    await jobs.dead_letter_message(message, "no UTF-8")
    (letter,) = [letter async for letter in jobs.dead_letters(DeadLetter.MESSAGES)]
    assert (letter.key, letter.reason, letter.attempts) == (message, "no UTF-8", 0)
    assert (await jobs.stats()).dead_letters[DeadLetter.MESSAGES] == 1
    assert await jobs.redrive(DeadLetter.MESSAGES, [message]) == 0
    assert await claim(jobs) == []
    assert await jobs.drop(DeadLetter.MESSAGES, [message]) == 1


async def test_messages_that_name_no_key_are_kept_up_to_a_number(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.admin.MAX_MESSAGES", 3)
    jobs = fleet()
    for number in range(5):
        await jobs.dead_letter_message(f"{number}", "no")
    assert await letter_keys(jobs, DeadLetter.MESSAGES) == ["0", "1", "2"]


async def test_a_queue_says_that_it_is_there(fleet: Fleet) -> None:
    await fleet().check()


async def test_routes_know_nothing_of_each_other(client: Redis) -> None:
    one, other = RedisJobQueue(client, "one", DESTINATIONS), RedisJobQueue(client, "other", DESTINATIONS)
    await notice(one, "k")
    assert await claim(other) == []
    assert [job.key for job in await claim(one)] == ["k"]


# -- names and texts that could be confused


@pytest.mark.parametrize("names", [("dest=1", "dest=1=2", "dest"), ("dest.x", "dest-x", "dest_x")])
async def test_tries_of_destinations_with_odd_names_are_kept_apart(client: Redis, names: tuple[str, ...]) -> None:
    jobs = RedisJobQueue(client, "default", names)
    await jobs.enqueue([JobRequest("k", names)], Lane.FRESH)
    dispositions = [{names[0]: SOON, names[1]: SOON, names[2]: DONE}, {names[0]: SOON, names[1]: LATER}]
    for disposition in dispositions:
        job = await claim_one(jobs)
        await jobs.finish(job, disposition)
        await jobs.promote_due()
    job = await claim_one(jobs)
    assert (job.destinations, dict(job.attempts)) == (names[:2], {names[0]: 2, names[1]: 2})
    await jobs.finish(job, {names[0]: DONE, names[1]: SOON})
    await jobs.promote_due()
    assert dict((await claim_one(jobs)).attempts) == {names[1]: 3}


async def test_a_destination_whose_name_begins_with_anothers_is_a_destination_of_its_own(client: Redis) -> None:
    jobs = RedisJobQueue(client, "default", ("dest", "dest-a", "dest-a-b"))
    await jobs.enqueue([JobRequest("k", ("dest-a",))], Lane.BULK)
    await jobs.enqueue([JobRequest("k", ("dest",))], Lane.BULK)
    await jobs.enqueue([JobRequest("k", ("dest-a-b",))], Lane.BULK)
    assert (await claim_one(jobs)).destinations == ("dest-a", "dest", "dest-a-b")


async def test_every_key_in_redis_stands_under_the_routes_prefix(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in ("a", "b", "c")], Lane.FRESH, "run1")
    one, two, three = await claim(jobs)
    await jobs.trip_circuit(B, "down", "k")
    await jobs.finish(one, {A: LATER, B: parked(B)}, recheck=True)
    await jobs.finish(two, {A: buried("x"), B: Disposition(DispositionKind.DONE, event=json.dumps({"k": "v"}))})
    await jobs.pause()
    found = sorted([key.removeprefix(P) async for key in client.scan_iter()])
    assert found == sorted(
        ["bulk", "circuit:dest-b", "dead-letters:dest-a", "fresh", "job:a", "job:c", "outcomes:run1",
         "parked:dest-b", "paused", "rechecks", "retries"]
    )  # fmt: skip
    assert 0 < await client.ttl(P + "outcomes:run1") <= 3600
    assert three.key == "c"


async def test_a_finish_that_redis_answered_in_vain_costs_one_more_look_at_most(fleet: Fleet) -> None:
    """Its answer was lost, so it is said again."""
    jobs = fleet()
    await notice(jobs, "k")
    job = await claim_one(jobs)
    await jobs.finish(job, ALL_DONE)
    await jobs.finish(job, ALL_DONE)
    await jobs.finish(job, ALL_DONE)
    assert [what(job) for job in await drained(jobs)] == [("k", DESTINATIONS)]


async def test_many_finishes_at_once_are_each_told_their_own_answer(fleet: Fleet) -> None:
    jobs = fleet()
    await notice(jobs, *(f"k{number}" for number in range(250)))
    claimed = await claim(jobs, 250)
    stale: list[Job] = claimed[::7]
    await asyncio.gather(*(jobs.finish(job, ALL_DONE) for job in stale))
    answers = await asyncio.gather(*(jobs.finish(job, ALL_DONE) for job in claimed))
    assert [job for job, answer in zip(claimed, answers, strict=True) if not answer] == stale
    await until(lambda: drained(jobs))
