"""The queue with several processes: leases, lost data, circuits, administration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable
from s3s3.model import Job, Lane
from s3s3.queue import redis_queue
from s3s3.queue.base import (
    INITIAL_PROBE_INTERVAL_S,
    DeadLetter,
    Disposition,
    DispositionKind,
    JobRequest,
    OpenCircuit,
)
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import (
    ALL_DONE,
    DESTINATIONS,
    DONE,
    RELEASE,
    RETRY_LATER,
    RETRY_NOW,
    A,
    B,
    claim,
    claim_one,
    dead_letter,
    finish_all,
    notify,
    parked,
    scope,
)
from tests.waiting import until

P = "s3s3:{default}:"

#: Short enough to wait for its end, long enough not to expire early on a busy machine.
LEASE_S = 0.3

Fleet = Callable[..., RedisJobQueue]


async def wait_for_expiry() -> None:
    await asyncio.sleep(LEASE_S * 1.2)


async def wait_until_blocked(client: Redis) -> None:
    """Wait until a client is blocked in a read."""
    await until(lambda: is_blocked(client))


async def is_blocked(client: Redis) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])


async def entries(client: Redis, lane: str) -> list[str]:
    found: list[Any] = await client.xrange(P + lane) or []
    return [fields["key"] for _, fields in found]


async def pending(client: Redis, lane: str) -> int:
    return int((await client.xpending(P + lane, "s3s3"))["pending"])


# -- leases


async def test_an_expired_job_is_taken_over_with_its_rerun_and_a_recheck(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", (A,))], Lane.FRESH)
    job = await claim_one(first)
    await first.enqueue([JobRequest("k", (B,))], Lane.FRESH)
    assert await claim(second) == []
    await wait_for_expiry()
    taken = await claim_one(second)
    assert (scope(taken), taken.unconditional, taken.entry) == (("k", (A,)), False, job.entry)
    assert taken.token != job.token
    assert await client.zcard(P + "rechecks") == 1
    assert await second.finish(taken, {A: DONE})
    assert scope(await claim_one(second)) == ("k", (B,))


async def test_an_expired_bulk_job_is_taken_over(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK)
    await claim_one(first)
    await wait_for_expiry()
    assert [job.lane for job in await claim(second)] == [Lane.BULK]


async def test_a_renewed_job_is_not_taken_over(fleet: Fleet) -> None:
    first, second = fleet(lease_s=1.0), fleet(lease_s=1.0)
    await notify(first, "k")
    job = await claim_one(first)
    for _ in range(6):
        await asyncio.sleep(0.25)
        assert await first.renew([job]) == set()
        assert await claim(second) == []
    assert await first.finish(job, ALL_DONE)


async def test_the_former_owner_cannot_renew_a_job_that_was_taken_over(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notify(first, "k", "kept")
    stolen, kept = await claim(first)
    await wait_for_expiry()
    await first.renew([kept])
    taken = await claim_one(second)
    assert taken.key == "k"
    assert await first.renew([stolen, kept]) == {stolen.token}
    assert await second.renew([taken]) == set()
    assert await second.finish(taken, ALL_DONE)


async def test_finish_by_the_former_owner_enqueues_all_destinations(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await first.enqueue([JobRequest("k", (A,))], Lane.FRESH, "run1")
    former = await claim_one(first)
    await wait_for_expiry()
    taken = await claim_one(second)
    late = Disposition(DispositionKind.DONE, event='{"by": "former"}')
    assert not await first.finish(former, {A: late})
    assert await second.poll_outcomes("run1", 0) == []
    assert await second.finish(taken, {A: Disposition(DispositionKind.DONE, event='{"by": "owner"}')})
    assert await second.poll_outcomes("run1", 0) == ['{"by": "owner"}']
    assert scope(await claim_one(second)) == ("k", DESTINATIONS)


async def test_a_late_finish_by_the_former_owner_enqueues_all_destinations(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notify(first, "k")
    former = await claim_one(first)
    await wait_for_expiry()
    assert await second.finish(await claim_one(second), ALL_DONE)
    assert not await first.finish(former, ALL_DONE, recheck=True)
    job = await claim_one(second)
    assert (scope(job), job.lane, job.unconditional) == (("k", DESTINATIONS), Lane.BULK, False)


async def test_a_process_takes_over_its_own_expired_job_with_a_new_token(fleet: Fleet) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await wait_for_expiry()
    again = await claim_one(jobs)
    assert again.token != job.token
    assert await jobs.renew([job, again]) == {job.token}


async def test_an_entry_delivered_but_never_claimed_is_taken_over_without_a_recheck(
    fleet: Fleet, client: Redis
) -> None:
    jobs = fleet(lease_s=LEASE_S)
    assert await claim(jobs) == []  # creates the groups
    await notify(jobs, "k")
    await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    await jobs.enqueue([JobRequest("k", DESTINATIONS)], Lane.BULK)
    assert await claim(jobs) == []
    await wait_for_expiry()
    job = await claim_one(jobs)
    assert (scope(job), job.unconditional) == (("k", DESTINATIONS), True)
    assert await client.zcard(P + "rechecks") == 0


async def test_a_takeover_that_fills_the_slots_continues_at_the_next_claim(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    keys = [f"k{number}" for number in range(30)]
    await notify(first, *keys)
    await first.enqueue([JobRequest("bulk", DESTINATIONS)], Lane.BULK)
    assert len(await claim(first, 31)) == 31
    await wait_for_expiry()
    found = [job.key for _ in range(4) for job in await claim(second, 10)]
    assert sorted(found) == sorted([*keys, "bulk"])


async def test_expired_jobs_are_claimed_before_new_ones(fleet: Fleet) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notify(first, "expired")
    await claim_one(first)
    await notify(first, "new")
    await wait_for_expiry()
    assert [job.key for job in await claim(second, 1)] == ["expired"]


async def test_the_lease_of_a_delivered_entry_starts_with_its_claim(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is slow between the two must not work longer than its lease in Redis lasts."""
    jobs, other = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    claiming = asyncio.create_task(jobs.claim(1, 1, 1, 4.0))
    await wait_until_blocked(client)
    real_run = jobs._scripts.run

    async def slow_run(*args: Any) -> object:
        await asyncio.sleep(LEASE_S * 0.8)
        return await real_run(*args)

    monkeypatch.setattr(jobs._scripts, "run", slow_run)
    await notify(other, "k")
    (job,) = (await claiming).jobs
    await asyncio.sleep(LEASE_S * 0.5)
    assert await claim(other) == []
    assert await other.finish(job, ALL_DONE)


async def test_a_delivered_entry_is_claimed_after_a_redis_outage(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fleet()
    claiming = asyncio.create_task(jobs.claim(5, 1, 5, 4.0))
    await wait_until_blocked(client)
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


async def test_two_delivered_entries_fill_only_the_free_slot(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = fleet()
    real_wait = jobs._wait_for_entries

    async def late_wait(*args: object) -> None:
        await notify(jobs, "fresh")
        await jobs.enqueue([JobRequest("bulk", DESTINATIONS)], Lane.BULK)
        await real_wait(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "_wait_for_entries", late_wait)
    first = (await jobs.claim(1, 1, 1, 4.0)).jobs
    second = (await jobs.claim(1, 1, 1, 0)).jobs
    assert (len(first), len(second)) == (1, 1)
    assert {first[0].key, second[0].key} == {"fresh", "bulk"}


# -- obsolete and missing entries


async def test_an_obsolete_entry_is_dropped(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notify(jobs, "k")
    await client.xadd(P + "fresh", {"key": "k"})
    await client.xadd(P + "bulk", {"key": "k"})
    await client.xadd(P + "bulk", {"key": "unknown"})
    await client.xadd(P + "bulk", {"something": "else", "entirely": "x"})
    job = await claim_one(jobs)
    assert await entries(client, "fresh") == ["k"]
    assert await client.xlen(P + "bulk") == 0
    assert await jobs.finish(job, ALL_DONE)
    assert (await client.xlen(P + "fresh"), await pending(client, "fresh"), await pending(client, "bulk")) == (0, 0, 0)


async def test_a_lane_full_of_obsolete_entries_is_cleared_in_steps(fleet: Fleet, client: Redis) -> None:
    """Clearing it in one step would block Redis."""
    jobs = fleet()
    keys = [f"k{number}" for number in range(300)]
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in keys], Lane.BULK)
    await notify(jobs, *keys)
    await client.delete(P + "fresh")
    await jobs.enqueue([JobRequest("last", DESTINATIONS)], Lane.BULK)
    assert (await jobs.claim(1, 1, 1, 0)).jobs == []
    assert 0 < await client.xlen(P + "bulk") < 301
    found = list((await jobs.claim(1, 1, 1, 0)).jobs)
    while not found:
        found += (await jobs.claim(1, 1, 1, 0)).jobs
    assert [job.key for job in found] == ["last"]


async def test_an_obsolete_entry_pending_for_a_dead_consumer_is_dropped(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), ALL_DONE)
    await client.xadd(P + "fresh", {"key": "k"})
    await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    await wait_for_expiry()
    assert await claim(jobs) == []
    assert (await client.xlen(P + "fresh"), await pending(client, "fresh")) == (0, 0)


@pytest.mark.parametrize("lost", ["XDEL", "XTRIM"])
async def test_a_queued_record_without_its_entry_counts_as_absent(fleet: Fleet, client: Redis, lost: str) -> None:
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


async def test_a_running_record_without_its_entry_counts_as_absent(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await client.xtrim(P + "fresh", maxlen=0, approximate=False)
    await notify(jobs, "k")
    again = await claim_one(jobs)
    assert await jobs.renew([job, again]) == {job.token}
    assert await client.zcard(P + "rechecks") == 1  # a PUT of the first may still be in flight
    assert not await jobs.finish(job, ALL_DONE)
    assert await jobs.finish(again, ALL_DONE)
    assert scope(await claim_one(jobs)) == ("k", DESTINATIONS)


async def test_a_job_without_its_entry_can_be_finished(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await client.xtrim(P + "fresh", maxlen=0, approximate=False)
    assert await jobs.finish(job, {A: DONE, B: RETRY_NOW})
    await jobs.promote_due()
    assert scope(await claim_one(jobs)) == ("k", (B,))


async def test_a_deleted_pending_entry_is_acknowledged(fleet: Fleet, client: Redis) -> None:
    jobs = fleet(lease_s=LEASE_S)
    assert await claim(jobs) == []
    await notify(jobs, "k", "k2")
    read: Any = await client.xreadgroup("s3s3", "killed", {P + "fresh": ">"})
    ((_, delivered),) = read
    await client.xdel(P + "fresh", delivered[0][0])
    await wait_for_expiry()
    assert [job.key for job in await claim(jobs)] == ["k2"]
    assert await pending(client, "fresh") == 1


async def test_deleted_records_do_not_delay_due_retries(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    for number in range(redis_queue.PROMOTED_PER_CALL + 1):
        await client.zadd(P + "retries", {f"gone{number}": 1})
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: RETRY_NOW})
    await asyncio.sleep(0.01)
    await jobs.promote_due()
    assert [job.key for job in await claim(jobs)] == ["k"]
    assert await client.zcard(P + "retries") == 0


async def test_parked_keys_without_a_record_do_not_delay_the_others(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fleet()
    await client.sadd(P + "parked:" + B, *(f"gone{number}" for number in range(1000)))
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert [job.key for job in await finish_all(jobs)] == ["k"]
    monkeypatch.setattr(redis_queue, "INITIAL_PROBE_INTERVAL_S", 0.0)
    await jobs.trip_circuit(B, "down", "k")
    await client.sadd(P + "parked:" + B, *(f"gone{number}" for number in range(1000)))
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert [job.key for job in await claim(jobs)] == ["k"]


# -- a Redis that lost data


@pytest.mark.parametrize("lost", [P + "fresh", P + "bulk"])
async def test_a_lost_stream_is_created_again(fleet: Fleet, client: Redis, lost: str) -> None:
    jobs = fleet()
    await notify(jobs, "k1")
    await finish_all(jobs)
    await client.delete(lost)
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await wait_until_blocked(client)
    await jobs.enqueue([JobRequest("k2", DESTINATIONS)], Lane(lost.removeprefix(P)))
    assert [job.key for job in (await claiming).jobs] == ["k2"]


async def test_a_lost_stream_does_not_block_entries_delivered_from_the_other_one(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If delivered entries fill the slots, the claim runs no command that needs the group."""
    jobs = fleet()
    real_wait = jobs._wait_for_entries

    async def late_wait(*args: object) -> None:
        await notify(jobs, "k")
        await real_wait(*args)  # type: ignore[arg-type]
        await client.delete(P + "bulk")
        jobs._all_taken_over_at_s = 0.0

    monkeypatch.setattr(jobs, "_wait_for_entries", late_wait)
    assert [job.key for job in (await jobs.claim(1, 0, 1, 4.0)).jobs] == ["k"]


async def test_a_stream_lost_during_a_blocking_read_is_created_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await claim(jobs)
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await wait_until_blocked(client)
    await client.delete(P + "fresh", P + "bulk")
    await notify(jobs, "k")
    found = list((await claiming).jobs) or await claim(jobs)
    assert [job.key for job in found] == ["k"]


async def test_a_lost_group_is_created_again_without_starting_running_jobs_twice(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=1.0), fleet(lease_s=1.0)
    await notify(first, "runs", "waits")
    (job,) = await claim(first, 1)
    await client.xgroup_destroy(P + "fresh", "s3s3")
    assert [found.key for found in await claim(second)] == ["waits"]
    assert await first.finish(job, ALL_DONE)
    assert await entries(client, "fresh") == ["waits"]


async def test_a_job_running_when_its_group_was_lost_is_taken_over_after_its_lease(fleet: Fleet, client: Redis) -> None:
    first, second = fleet(lease_s=LEASE_S), fleet(lease_s=LEASE_S)
    await notify(first, "k")
    await claim_one(first)
    await client.xgroup_destroy(P + "fresh", "s3s3")
    assert await claim(second) == []
    await wait_for_expiry()
    assert [job.key for job in await claim(second)] == ["k"]


async def test_a_job_running_when_redis_lost_its_data_is_enqueued_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await jobs.enqueue([JobRequest("k", (A,))], Lane.BULK)
    job = await claim_one(jobs)
    await client.flushall()
    assert await jobs.renew([job]) == {job.token}
    assert not await jobs.finish(job, {A: RELEASE})
    assert scope(await claim_one(jobs)) == ("k", DESTINATIONS)


async def test_scripts_that_redis_lost_are_loaded_again(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notify(jobs, "k")
    await client.script_flush()
    assert await jobs.finish(await claim_one(jobs), ALL_DONE)


# -- consumers


async def consumers(client: Redis, lane: str) -> list[str]:
    return [consumer["name"] for consumer in await client.xinfo_consumers(P + lane, "s3s3")]


async def test_remove_consumer_keeps_a_consumer_with_claims(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await notify(jobs, "k")
    await jobs.enqueue([JobRequest("k2", DESTINATIONS)], Lane.BULK)
    job, bulk_job = await claim(jobs)
    await jobs.finish(bulk_job, ALL_DONE)
    await jobs.remove_consumer()
    assert (await consumers(client, "fresh"), await consumers(client, "bulk")) == ([jobs.consumer], [])
    await jobs.finish(job, ALL_DONE)
    await jobs.remove_consumer()
    assert await consumers(client, "fresh") == []


async def test_remove_consumer_accepts_an_unused_queue(fleet: Fleet) -> None:
    await fleet().remove_consumer()


async def test_idle_consumers_without_claims_are_deleted(fleet: Fleet, client: Redis) -> None:
    dead, dead_with_claim, living = fleet(), fleet(), fleet(lease_s=0.01)
    await notify(dead, "k")
    await dead.enqueue([JobRequest("k2", DESTINATIONS)], Lane.BULK)
    assert len(await finish_all(dead)) == 2
    await notify(dead, "k")
    await claim_one(dead_with_claim)
    await living.claim(0, 0, 0, 0)
    assert len(await consumers(client, "fresh")) == 2
    await asyncio.sleep(60 * 0.01)
    await living.claim(0, 0, 0, 0)
    assert (await consumers(client, "fresh"), await consumers(client, "bulk")) == ([dead_with_claim.consumer], [])


# -- circuits


async def test_a_queued_probe_is_replaced_by_a_claimed_job(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a long lane, the recovery of the store would be found late."""
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await notify(jobs, "parked")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.enqueue([JobRequest("only a", (A,))], Lane.FRESH)
    await notify(jobs, "before", "before too")
    await asyncio.sleep(INITIAL_PROBE_INTERVAL_S)
    await jobs.promote_due()
    claims = await jobs.claim(1, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["only a"], {B: OpenCircuit("down", "parked")})
    claims = await jobs.claim(2, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (
        ["before", "before too"],
        {B: OpenCircuit("down", "before")},
    )
    claims = await jobs.claim(1, 0, 1, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["parked"], {B: OpenCircuit("down", "before")})


async def test_a_finished_probe_without_a_result_is_replaced(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = fleet()
    monkeypatch.setattr(redis_queue, "INITIAL_PROBE_INTERVAL_S", 0.0)
    await jobs.trip_circuit("source", "down", "k")
    await notify(jobs, "probe")
    await jobs.finish(await claim_one(jobs), dict.fromkeys(DESTINATIONS, parked("source")))
    await jobs.promote_due()
    await jobs.finish(await claim_one(jobs), ALL_DONE)  # without closing the circuit
    await jobs.enqueue([JobRequest("next", (A,))], Lane.FRESH)
    claims = await jobs.claim(1, 0, 0, 0)
    assert ([job.key for job in claims.jobs], claims.circuits) == (["next"], {"source": OpenCircuit("down", "next")})


async def test_a_paused_destination_is_not_tried_until_it_is_resumed(
    fleet: Fleet, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_queue, "INITIAL_PROBE_INTERVAL_S", 0.0)
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    probe = await claim_one(jobs)
    await jobs.pause(B)
    await jobs.pause(B)
    assert (await jobs.claim(1, 0, 1, 0)).circuits == {B: OpenCircuit("paused")}
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


async def test_a_paused_store_is_not_probed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queue, "INITIAL_PROBE_INTERVAL_S", 0.0)
    jobs = fleet()
    await jobs.trip_circuit(B, "down", "k")
    await jobs.pause(B)
    await notify(jobs, "k")
    await jobs.finish(await claim_one(jobs), {A: DONE, B: parked(B)})
    await jobs.promote_due()
    assert await claim(jobs) == []


async def test_a_claimed_job_does_not_probe_a_paused_store(fleet: Fleet) -> None:
    jobs = fleet()
    await jobs.pause(B)
    await notify(jobs, "k")
    claims = await jobs.claim(1, 0, 0, 0)
    assert (len(claims.jobs), claims.circuits) == (1, {B: OpenCircuit("paused")})


# -- administration


async def test_nothing_of_a_paused_route_is_claimed_until_it_is_resumed(fleet: Fleet) -> None:
    jobs = fleet(lease_s=LEASE_S)
    await notify(jobs, "runs")
    running = await claim_one(jobs)
    await notify(jobs, "waits")
    await jobs.pause()
    await jobs.pause()
    claims = await jobs.claim(10, 0, 10, 0.05)
    assert (list(claims.jobs), claims.paused, (await jobs.stats()).paused) == ([], True, True)
    assert await jobs.finish(running, ALL_DONE)
    await wait_for_expiry()
    assert await claim(jobs) == []
    await jobs.resume()
    assert [job.key for job in await claim(jobs)] == ["waits"]


async def test_a_delivered_entry_is_claimed_on_a_paused_route(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    claiming = asyncio.create_task(jobs.claim(5, 2, 5, 4.0))
    await wait_until_blocked(client)
    await jobs.pause()
    await notify(jobs, "k")
    claims = await claiming
    assert ([job.key for job in claims.jobs], claims.paused) == (["k"], True)


async def dead_letter_jobs(jobs: RedisJobQueue, *keys: str) -> None:
    await notify(jobs, *keys)
    for job in await claim(jobs, len(keys)):
        await jobs.finish(job, {A: DONE, B: dead_letter("no")})


async def dead_letter_keys(jobs: RedisJobQueue, destination: str) -> list[str]:
    return sorted([letter.key async for letter in jobs.dead_letters(destination)])


async def test_redriven_dead_letters_are_bulk_jobs_for_their_destination(fleet: Fleet) -> None:
    jobs = fleet()
    await dead_letter_jobs(jobs, "k1", "k2")
    assert await jobs.redrive(B, ["k1", "no dead letter"]) == 1
    job = await claim_one(jobs)
    assert (scope(job), job.lane, job.unconditional, dict(job.attempts)) == (
        ("k1", (B,)),
        Lane.BULK,
        False,
        {},
    )
    assert await dead_letter_keys(jobs, B) == ["k2"]
    assert await jobs.redrive(A, ["k2"]) == 0


async def test_any_number_of_dead_letters_can_be_redriven_or_dropped(fleet: Fleet) -> None:
    jobs = fleet()
    keys = [f"k{number}" for number in range(1100)]
    await notify(jobs, *keys)
    await asyncio.gather(
        *(jobs.finish(job, {A: dead_letter("a"), B: dead_letter("b")}) for job in await claim(jobs, 1100))
    )
    chunks = [chunk async for chunk in jobs.dead_letter_keys(A)]
    assert [len(chunk) for chunk in chunks] == [500, 500, 100]
    assert {key for chunk in chunks for key in chunk} == set(keys)
    assert await jobs.redrive(A, keys) == 1100
    assert await jobs.drop(B, keys) == 1100
    assert await jobs.redrive(A, []) == await jobs.drop(B, []) == 0
    counts = await jobs.stats()
    assert (counts.bulk, counts.dead_letters[A], counts.dead_letters[B]) == (1100, 0, 0)


async def test_a_dead_letter_redriven_while_its_key_runs_causes_a_rerun(fleet: Fleet) -> None:
    jobs = fleet()
    await dead_letter_jobs(jobs, "k")
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await jobs.redrive(B, ["k"])
    await jobs.finish(job, ALL_DONE)
    assert scope(await claim_one(jobs)) == ("k", (B,))


async def test_dropped_dead_letters_are_deleted(fleet: Fleet) -> None:
    jobs = fleet()
    await dead_letter_jobs(jobs, "k1", "k2")
    assert await jobs.drop(B, ["k1", "no dead letter"]) == 1
    assert await dead_letter_keys(jobs, B) == ["k2"]
    assert await claim(jobs) == []


async def test_a_message_without_a_key_can_be_dropped_but_not_redriven(fleet: Fleet) -> None:
    jobs = fleet()
    message = "\\xff= " + "x" * 2000
    await jobs.dead_letter_message(message, "no UTF-8")
    (letter,) = [letter async for letter in jobs.dead_letters(DeadLetter.MESSAGES)]
    assert (letter.key, letter.reason, letter.attempts) == (message, "no UTF-8", 0)
    assert (await jobs.stats()).dead_letters[DeadLetter.MESSAGES] == 1
    assert await jobs.redrive(DeadLetter.MESSAGES, [message]) == 0
    assert await claim(jobs) == []
    assert await jobs.drop(DeadLetter.MESSAGES, [message]) == 1


async def test_the_number_of_messages_without_a_key_is_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.admin.MAX_MESSAGES", 3)
    jobs = fleet()
    for number in range(5):
        await jobs.dead_letter_message(f"{number}", "no")
    assert await dead_letter_keys(jobs, DeadLetter.MESSAGES) == ["0", "1", "2"]


async def test_check_returns_while_redis_responds(fleet: Fleet) -> None:
    await fleet().check()


async def test_routes_have_separate_queues(client: Redis) -> None:
    one, other = RedisJobQueue(client, "one", DESTINATIONS), RedisJobQueue(client, "other", DESTINATIONS)
    await notify(one, "k")
    assert await claim(other) == []
    assert [job.key for job in await claim(one)] == ["k"]


# -- names


@pytest.mark.parametrize("names", [("dest=1", "dest=1=2", "dest"), ("dest.x", "dest-x", "dest_x")])
async def test_attempts_of_destinations_with_similar_names_are_separate(client: Redis, names: tuple[str, ...]) -> None:
    jobs = RedisJobQueue(client, "default", names)
    await jobs.enqueue([JobRequest("k", names)], Lane.FRESH)
    dispositions = [
        {names[0]: RETRY_NOW, names[1]: RETRY_NOW, names[2]: DONE},
        {names[0]: RETRY_NOW, names[1]: RETRY_LATER},
    ]
    for disposition in dispositions:
        job = await claim_one(jobs)
        await jobs.finish(job, disposition)
        await jobs.promote_due()
    job = await claim_one(jobs)
    assert (job.destinations, dict(job.attempts)) == (names[:2], {names[0]: 2, names[1]: 2})
    await jobs.finish(job, {names[0]: DONE, names[1]: RETRY_NOW})
    await jobs.promote_due()
    assert dict((await claim_one(jobs)).attempts) == {names[1]: 3}


async def test_a_destination_name_that_is_a_prefix_of_another_is_distinct(client: Redis) -> None:
    jobs = RedisJobQueue(client, "default", ("dest", "dest-a", "dest-a-b"))
    await jobs.enqueue([JobRequest("k", ("dest-a",))], Lane.BULK)
    await jobs.enqueue([JobRequest("k", ("dest",))], Lane.BULK)
    await jobs.enqueue([JobRequest("k", ("dest-a-b",))], Lane.BULK)
    assert (await claim_one(jobs)).destinations == ("dest-a", "dest", "dest-a-b")


async def test_every_redis_key_has_the_route_s_prefix(fleet: Fleet, client: Redis) -> None:
    jobs = fleet()
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in ("a", "b", "c")], Lane.FRESH, "run1")
    one, two, three = await claim(jobs)
    await jobs.trip_circuit(B, "down", "k")
    await jobs.finish(one, {A: RETRY_LATER, B: parked(B)}, recheck=True)
    await jobs.finish(two, {A: dead_letter("x"), B: Disposition(DispositionKind.DONE, event=json.dumps({"k": "v"}))})
    await jobs.pause()
    found = sorted([key.removeprefix(P) async for key in client.scan_iter()])
    assert found == sorted(
        ["bulk", "circuit:dest-b", "dead-letters:dest-a", "fresh", "job:a", "job:c", "outcomes:run1",
         "parked:dest-b", "paused", "rechecks", "retries"]
    )  # fmt: skip
    assert 0 < await client.ttl(P + "outcomes:run1") <= 3600
    assert three.key == "c"


async def test_repeating_finish_costs_one_more_job_at_most(fleet: Fleet) -> None:
    """As after a lost response."""
    jobs = fleet()
    await notify(jobs, "k")
    job = await claim_one(jobs)
    await jobs.finish(job, ALL_DONE)
    await jobs.finish(job, ALL_DONE)
    await jobs.finish(job, ALL_DONE)
    assert [scope(job) for job in await finish_all(jobs)] == [("k", DESTINATIONS)]


async def test_concurrent_finishes_get_their_own_results(fleet: Fleet) -> None:
    jobs = fleet()
    await notify(jobs, *(f"k{number}" for number in range(250)))
    claimed = await claim(jobs, 250)
    stale: list[Job] = claimed[::7]
    await asyncio.gather(*(jobs.finish(job, ALL_DONE) for job in stale))
    results = await asyncio.gather(*(jobs.finish(job, ALL_DONE) for job in claimed))
    assert [job for job, is_owner in zip(claimed, results, strict=True) if not is_owner] == stale
    await until(lambda: finish_all(jobs))
