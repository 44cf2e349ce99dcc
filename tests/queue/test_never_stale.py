"""Sequences that would leave a destination stale if a rule of the queue were missing, run on the real queue.

`model.py` finds the shortest of them for each rule. With all rules, every destination must end with the last version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from s3s3.errors import LeaseLost
from s3s3.model import Job, Lane
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.redis_queue import Lease, RedisJobQueue
from tests.queue.factories import DESTINATIONS, DONE, RELEASE, A, B, notify, parked
from tests.waiting import until

LEASE_S = 0.3
RECHECK_DELAY_S = 0.4


@dataclass
class World:
    """A key's version at the source and at the destinations."""

    version: int = 0
    copies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DESTINATIONS, 0))


class Copier:
    """A worker, one step per method."""

    def __init__(self, jobs: RedisJobQueue, world: World) -> None:
        self.jobs = jobs
        self.world = world
        self.job: Job | None = None
        self.lease = Lease(0.0)
        self.seen = 0

    async def claim(self) -> Job:
        claims = await self.jobs.claim(1, 1, 1, 0)
        (self.job,) = claims.jobs
        self.lease = Lease(claims.lease_from_s + LEASE_S)
        return self.job

    def read(self) -> None:
        self.seen = self.world.version

    def put(self, *, fails_at: Collection[str] = ()) -> None:
        assert self.job is not None
        self.world.copies.update({name: self.seen for name in self.job.destinations if name not in fails_at})

    async def finish(self, *, recheck: bool = False, **dispositions: Disposition) -> bool:
        assert self.job is not None
        named = {name.replace("_", "-"): disposition for name, disposition in dispositions.items()}
        return await self.jobs.finish(
            self.job, {name: named.get(name, DONE) for name in self.job.destinations}, recheck
        )

    async def whole_job(self) -> Job:
        job = await self.claim()
        self.read()
        self.lease()
        self.put()
        assert await self.finish()
        return job


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def copiers(fleet: Callable[..., RedisJobQueue], world: World) -> tuple[Copier, Copier]:
    one, other = (Copier(fleet(lease_s=LEASE_S, recheck_delay_s=RECHECK_DELAY_S), world) for _ in range(2))
    return one, other


async def write(world: World, jobs: RedisJobQueue) -> None:
    """Change the source and enqueue its notification."""
    world.version += 1
    await notify(jobs, "k")


async def finish_and_check(copier: Copier) -> None:
    """Finish all jobs and rechecks; then all copies must be the last version."""

    async def nothing_left() -> bool:
        await copier.jobs.promote_due()
        counts = await copier.jobs.stats()
        if counts.fresh + counts.bulk:
            await copier.whole_job()
        return counts.pending == counts.rechecks == 0

    await until(nothing_left)
    assert copier.world.copies == dict.fromkeys(DESTINATIONS, copier.world.version)


async def test_a_worker_resumed_after_its_lease_does_not_write(copiers: tuple[Copier, Copier], world: World) -> None:
    former, other = copiers
    await write(world, former.jobs)
    await former.claim()
    former.read()
    await write(world, former.jobs)
    await asyncio.sleep(LEASE_S)
    await other.claim()
    with pytest.raises(LeaseLost):
        former.lease()
    other.read()
    other.put()
    await other.finish()
    assert not await former.finish(dest_a=RELEASE, dest_b=RELEASE)
    await finish_and_check(other)


async def test_a_write_started_within_an_expired_lease_is_repaired_by_the_recheck(
    copiers: tuple[Copier, Copier], world: World, client: Redis
) -> None:
    former, other = copiers
    await write(world, former.jobs)
    await former.claim()
    former.read()
    await write(world, former.jobs)
    former.lease()  # the write is permitted, and is slow
    await asyncio.sleep(LEASE_S)
    await other.claim()
    other.read()
    other.put()
    await other.finish()
    await other.whole_job()
    former.put()
    # and the former owner is killed before it finishes the job
    assert world.copies == {A: 1, B: 1}
    assert (await other.jobs.stats()).pending == 0
    await finish_and_check(other)


async def test_an_indeterminate_put_that_arrives_late_is_repaired_by_the_recheck(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    """Enqueueing and finishing the next job must not remove the recheck."""
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    await write(world, copier.jobs)
    copier.lease()
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=0.0), recheck=True)
    await copier.claim()
    copier.read()
    copier.put()
    world.copies[B] = 1  # the first PUT lands
    await copier.finish()
    await notify(copier.jobs, "k")
    assert (await copier.jobs.stats()).rechecks == 1
    await finish_and_check(copier)


async def test_a_notification_adds_destinations_to_a_queued_retry(copiers: tuple[Copier, Copier], world: World) -> None:
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    world.version += 1
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=0.0))
    await asyncio.sleep(0.01)
    await copier.jobs.promote_due()
    await notify(copier.jobs, "k")
    assert sorted((await copier.whole_job()).destinations) == [A, B]
    await finish_and_check(copier)


async def test_a_notification_queues_a_waiting_retry_for_all_destinations(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    world.version += 1
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=60.0))
    await notify(copier.jobs, "k")
    assert sorted((await copier.whole_job()).destinations) == [A, B]
    await finish_and_check(copier)


async def test_a_notification_during_a_crashed_job_is_copied(copiers: tuple[Copier, Copier], world: World) -> None:
    crashed, other = copiers
    await write(world, crashed.jobs)
    await crashed.claim()
    await asyncio.sleep(LEASE_S)
    await other.claim()
    other.read()
    await write(world, other.jobs)
    await asyncio.sleep(LEASE_S)
    await crashed.claim()
    crashed.seen = other.seen  # the same version as the other one has read
    crashed.put()
    await crashed.finish()
    await finish_and_check(crashed)


async def test_a_destination_that_failed_while_another_was_enqueued_is_kept(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    world.version += 1
    await copier.jobs.enqueue([JobRequest("k", (A,))], Lane.BULK)
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=60.0))
    assert sorted((await copier.whole_job()).destinations) == [A, B]
    await finish_and_check(copier)


# -- circuits, lanes, unconditional copies


async def test_a_notification_of_a_parked_key_is_for_all_destinations(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    copier, _ = copiers
    await copier.jobs.trip_circuit(B, "down", "k")
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    copier.put(fails_at={B})
    await copier.finish(dest_b=parked(B))
    await write(world, copier.jobs)
    job = await copier.claim()
    assert sorted(job.destinations) == [A, B]
    copier.read()
    copier.put(fails_at={B})
    await copier.finish(dest_b=parked(B))
    assert world.copies == {A: 2, B: 0}
    await copier.jobs.close_circuit(B)
    await finish_and_check(copier)


async def test_a_circuit_that_closes_while_its_parked_key_runs_starts_no_second_job(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    one, other = copiers
    await one.jobs.trip_circuit(B, "down", "k")
    await write(world, one.jobs)
    await one.claim()
    one.read()
    one.put(fails_at={B})
    await one.finish(dest_b=parked(B))
    await write(world, one.jobs)
    await one.claim()
    one.read()
    await other.jobs.close_circuit(B)
    await other.jobs.promote_due()
    assert not (await other.jobs.claim(1, 1, 1, 0)).jobs
    one.put()
    await one.finish()
    await finish_and_check(one)


async def test_a_job_moved_to_the_fresh_lane_has_one_owner(copiers: tuple[Copier, Copier], world: World) -> None:
    one, other = copiers
    await one.jobs.enqueue([JobRequest("k", (B,))], Lane.BULK)
    await write(world, one.jobs)
    job = await one.claim()
    assert (job.lane, sorted(job.destinations)) == (Lane.FRESH, [A, B])
    one.read()
    await write(world, one.jobs)
    assert not (await other.jobs.claim(1, 1, 1, 0)).jobs
    one.put()
    await one.finish()
    assert (await one.whole_job()).lane is Lane.FRESH
    await finish_and_check(one)


async def test_a_takeover_of_an_unconditional_job_compares_first(copiers: tuple[Copier, Copier], world: World) -> None:
    crashed, other = copiers
    await write(world, crashed.jobs)
    assert (await crashed.claim()).unconditional
    await write(world, crashed.jobs)
    await asyncio.sleep(LEASE_S)
    assert not (await other.claim()).unconditional
    other.read()
    other.put()
    await other.finish()
    assert world.copies == {A: 2, B: 2}
    await finish_and_check(other)


async def test_two_owners_that_finish_in_one_call_leave_one_more_job(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    """A process suspended past its lease can take over its own job, and then finish both claims together."""
    copier, _ = copiers
    await write(world, copier.jobs)
    former = await copier.claim()
    await asyncio.sleep(LEASE_S)
    copier.jobs._all_taken_over_at_s = 0.0
    job = await copier.claim()
    copier.read()
    copier.put()
    await write(world, copier.jobs)
    finishing = [copier.jobs.finish(each, {A: DONE, B: DONE}) for each in (former, job)]
    assert await asyncio.gather(*finishing) == [False, True]
    assert (await copier.jobs.stats()).pending == 1
    await finish_and_check(copier)
