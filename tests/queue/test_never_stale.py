"""The ways in which a destination could go stale, played out against the real queue.

Each is a shortest story that ends with an old version at a destination when one rule of the queue is left out.
Here all rules are in force, and the story has to end well.
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
from s3s3.queue.lease import Lease
from s3s3.queue.redis_queue import RedisJobQueue
from tests.queue.factories import BACK, DESTINATIONS, DONE, A, B, notice, parked
from tests.waiting import until

LEASE_S = 0.3
LOOK_AFTER_S = 0.4


@dataclass
class World:
    """A key's version at the source and at the destinations."""

    version: int = 0
    copies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DESTINATIONS, 0))


class Copier:
    """A worker that goes one step at a time."""

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
    one, other = (Copier(fleet(lease_s=LEASE_S, recheck_delay_s=LOOK_AFTER_S), world) for _ in range(2))
    return one, other


async def write(world: World, jobs: RedisJobQueue) -> None:
    """The source changes, and a notice of it comes in."""
    world.version += 1
    await notice(jobs, "k")


async def ends_well(copier: Copier) -> None:
    """Let everything that is queued, due or left to be looked at be done; then all copies are the last version."""

    async def nothing_left() -> bool:
        await copier.jobs.promote_due()
        counts = await copier.jobs.stats()
        if counts.fresh + counts.bulk:
            await copier.whole_job()
        return counts.pending == counts.rechecks == 0

    await until(nothing_left)
    assert copier.world.copies == dict.fromkeys(DESTINATIONS, copier.world.version)


async def test_a_worker_that_wakes_after_its_lease_does_not_write(copiers: tuple[Copier, Copier], world: World) -> None:
    zombie, other = copiers
    await write(world, zombie.jobs)
    await zombie.claim()
    zombie.read()
    await write(world, zombie.jobs)
    await asyncio.sleep(LEASE_S)
    await other.claim()
    with pytest.raises(LeaseLost):
        zombie.lease()
    other.read()
    other.put()
    await other.finish()
    assert not await zombie.finish(dest_a=BACK, dest_b=BACK)
    await ends_well(other)


async def test_a_write_that_a_zombie_had_begun_before_its_lease_ended_is_found_by_a_look(
    copiers: tuple[Copier, Copier], world: World, client: Redis
) -> None:
    zombie, other = copiers
    await write(world, zombie.jobs)
    await zombie.claim()
    zombie.read()
    await write(world, zombie.jobs)
    zombie.lease()  # the write is permitted, and takes its time
    await asyncio.sleep(LEASE_S)
    await other.claim()
    other.read()
    other.put()
    await other.finish()
    await other.whole_job()
    zombie.put()
    # and the zombie dies, so that it cannot tell anybody
    assert world.copies == {A: 1, B: 1}
    assert (await other.jobs.stats()).pending == 0
    await ends_well(other)


async def test_a_put_without_an_answer_that_lands_late_is_found_by_a_look(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    """The look was there before the next notice's job was put and finished: neither may take it away."""
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
    await notice(copier.jobs, "k")
    assert (await copier.jobs.stats()).rechecks == 1
    await ends_well(copier)


async def test_a_retry_that_is_queued_already_takes_the_other_destinations_of_a_notice_along(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    world.version += 1
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=0.0))
    await asyncio.sleep(0.01)
    await copier.jobs.promote_due()
    await notice(copier.jobs, "k")
    assert sorted((await copier.whole_job()).destinations) == [A, B]
    await ends_well(copier)


async def test_a_notice_of_a_key_that_waits_for_a_retry_wakes_it_for_all_destinations(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    copier, _ = copiers
    await write(world, copier.jobs)
    await copier.claim()
    copier.read()
    world.version += 1
    copier.put(fails_at={B})
    await copier.finish(dest_b=Disposition(DispositionKind.RETRY, delay_s=60.0))
    await notice(copier.jobs, "k")
    assert sorted((await copier.whole_job()).destinations) == [A, B]
    await ends_well(copier)


async def test_what_was_noticed_while_a_crashed_worker_had_the_key_is_copied(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    crashed, other = copiers
    await write(world, crashed.jobs)
    await crashed.claim()
    await asyncio.sleep(LEASE_S)
    await other.claim()
    other.read()
    await write(world, other.jobs)
    await asyncio.sleep(LEASE_S)
    await crashed.claim()
    crashed.seen = other.seen  # whatever it is that the second one reads
    crashed.put()
    await crashed.finish()
    await ends_well(crashed)


async def test_a_destination_that_failed_while_another_was_noticed_is_not_forgotten(
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
    await ends_well(copier)


# -- states beyond the shortest stories: circuits, lanes, copies made unseen


async def test_a_notice_of_a_parked_key_is_not_kept_from_the_healthy_destination_nor_from_the_sick_one(
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
    await ends_well(copier)


async def test_a_circuit_that_closes_while_its_parked_key_is_worked_on_wakes_no_second_owner(
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
    await ends_well(one)


async def test_a_bulk_job_that_a_notice_moved_to_the_fresh_lane_has_one_owner_and_its_old_entry_none(
    copiers: tuple[Copier, Copier], world: World
) -> None:
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
    await ends_well(one)


async def test_what_is_taken_over_is_looked_at_whether_or_not_it_was_to_be_copied_unseen(
    copiers: tuple[Copier, Copier], world: World
) -> None:
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
    await ends_well(other)


async def test_two_owners_of_a_key_that_finish_in_one_call_leave_it_to_be_looked_at(
    copiers: tuple[Copier, Copier], world: World
) -> None:
    """A process that slept past its lease may take its own job over, and then finish both at once."""
    copier, _ = copiers
    await write(world, copier.jobs)
    zombie = await copier.claim()
    await asyncio.sleep(LEASE_S)
    copier.jobs._all_taken_over_at_s = 0.0
    job = await copier.claim()
    copier.read()
    copier.put()
    await write(world, copier.jobs)
    finishing = [copier.jobs.finish(each, {A: DONE, B: DONE}) for each in (zombie, job)]
    assert await asyncio.gather(*finishing) == [False, True]
    assert (await copier.jobs.stats()).pending == 1
    await ends_well(copier)
