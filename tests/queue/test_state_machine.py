"""Any sequence of queue operations, crashes and lost data: no enqueued key is lost, none has two owners."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from s3s3.model import Job, Lane
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from tests.queue.conftest import SERVERS
from tests.queue.factories import DESTINATIONS

Result = TypeVar("Result")

P = "s3s3:{default}:"
KEYS = ("a", "b b=2", "c\n*")
STORES = ("source", *DESTINATIONS)
HOUR_MS = 3600 * 1000

kinds = st.sampled_from(
    [
        DispositionKind.DONE,
        DispositionKind.DONE,
        DispositionKind.RETRY,
        DispositionKind.RETRY_UNCOUNTED,
        DispositionKind.PARK,
        DispositionKind.DEAD_LETTER,
        DispositionKind.RELEASE,
        DispositionKind.DEFER,
    ]
)
pick = st.integers(min_value=0, max_value=1000)


@dataclass(eq=False)
class ClaimedJob:
    """A job that a process claimed and has not finished; `at` is the step of the claim."""

    job: Job
    queue: RedisJobQueue
    at: int


class QueueMachine(RuleBasedStateMachine):
    """Three processes that may crash, an operator, and a Redis that may lose its consumer groups.

    Attributes:
        unfinished: the step at which a key was last enqueued for a destination.
        unreported: the same for each tracker.
        unconditional: keys enqueued for an unconditional copy and not claimed since.
        letters: keys and destinations of the dead letters.
        paused: whether the whole route is paused.
    """

    url: str
    paused = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.step = itertools.count(1)
        self.unfinished: dict[tuple[str, str], int] = {}
        self.unreported: dict[tuple[str, str, str], int] = {}
        self.unconditional: set[str] = set()
        self.letters: set[tuple[str, str]] = set()
        self.claimed: list[ClaimedJob] = []
        self.trackers: list[str] = []
        self.client: Redis = connect(self.url)
        self.run(self.client.flushall())
        self.queues = [RedisJobQueue(self.client, "default", DESTINATIONS) for _ in range(3)]

    def run(self, awaitable: Awaitable[Result]) -> Result:
        return self.loop.run_until_complete(awaitable)

    def queue(self, process: int) -> RedisJobQueue:
        return self.queues[process % len(self.queues)]

    # -- workers

    @initialize(lane=st.sampled_from(Lane), claimed=st.integers(0, len(KEYS)))
    def start_with_jobs(self, lane: Lane, claimed: int) -> None:
        """Hypothesis leaves out some rules in each example; these two may be among them."""
        for key in KEYS:
            self.enqueue(key, list(DESTINATIONS), lane, 0, with_tracker=True)
        self.claim(1, claimed, claimed, claimed)

    @rule(
        key=st.sampled_from(KEYS),
        destinations=st.lists(st.sampled_from(DESTINATIONS), min_size=1, unique=True),
        lane=st.sampled_from(Lane),
        process=pick,
        with_tracker=st.booleans(),
    )
    def enqueue(self, key: str, destinations: list[str], lane: Lane, process: int, with_tracker: bool) -> None:
        tracker = f"tracker{len(self.trackers)}" if with_tracker else ""
        self.run(self.queue(process).enqueue([JobRequest(key, tuple(destinations))], lane, tracker))
        if lane is Lane.FRESH:
            self.unconditional.add(key)
        at = next(self.step)
        for destination in destinations:
            self.unfinished[key, destination] = at
            if tracker:
                self.unreported[tracker, key, destination] = at
        if tracker:
            self.trackers.append(tracker)

    @rule(process=pick, free=st.integers(1, 3), min_bulk=st.integers(0, 3), max_bulk=st.integers(0, 3))
    def claim(self, process: int, free: int, min_bulk: int, max_bulk: int) -> None:
        queue = self.queue(process)
        delivered = {entry for _, entry, _ in queue._delivered}
        claims = self.run(queue.claim(free, min_bulk, max_bulk, 0))
        assert len(claims.jobs) <= free
        assert claims.paused == self.paused
        assert not self.paused or {job.entry for job in claims.jobs} <= delivered
        at = next(self.step)
        self.claimed += [ClaimedJob(job, queue, at) for job in claims.jobs]
        for job in claims.jobs:
            assert job.key in self.unconditional or not job.unconditional
            self.unconditional.discard(job.key)

    @rule(process=pick, lanes=st.sampled_from([tuple(Lane), (Lane.FRESH,)]))
    def deliver(self, process: int, lanes: tuple[Lane, ...]) -> None:
        """A blocking read delivers entries to a process; its next claim starts their jobs."""
        self.run(self.queue(process)._wait_for_entries(lanes, 0.001))

    @rule(process=pick)
    def crash_before_claiming(self, process: int) -> None:
        self.queue(process)._delivered.clear()

    @precondition(lambda self: self.claimed)
    @rule(which=pick)
    def crash(self, which: int) -> None:
        self.claimed.pop(which % len(self.claimed))

    @precondition(lambda self: self.claimed)
    @rule(which=pick)
    def renew(self, which: int) -> None:
        claimed = self.claimed[which % len(self.claimed)]
        owned = self.run(self.is_owner(claimed))
        assert owned or self.run(claimed.queue.renew([claimed.job])) == {claimed.job.token}

    @precondition(lambda self: self.claimed)
    @rule(which=pick, chosen=st.fixed_dictionaries(dict.fromkeys(DESTINATIONS, kinds)), recheck=st.booleans())
    def finish(self, which: int, chosen: dict[str, str], recheck: bool) -> None:
        self.settle(self.claimed.pop(which % len(self.claimed)), chosen, recheck)

    def settle(self, claimed: ClaimedJob, chosen: dict[str, str], recheck: bool = False) -> None:
        job = claimed.job
        dispositions = {name: self.disposition(claimed, name, chosen[name]) for name in job.destinations}
        owned = self.run(self.is_owner(claimed))
        succeeded = [f"{name}:write" for name in job.destinations if chosen[name] == DispositionKind.DONE]
        assert self.run(claimed.queue.finish(job, dispositions, recheck, succeeded)) == owned
        if not owned:
            return
        for name in job.destinations:
            if (
                chosen[name] in (DispositionKind.DONE, DispositionKind.DEAD_LETTER)
                and self.unfinished.get((job.key, name), 0) < claimed.at
            ):
                self.unfinished.pop((job.key, name), None)
            if chosen[name] == DispositionKind.DONE:
                self.letters.discard((job.key, name))
            elif chosen[name] == DispositionKind.DEAD_LETTER:
                self.letters.add((job.key, name))

    def disposition(self, claimed: ClaimedJob, destination: str, kind: str) -> Disposition:
        has_outcome = kind not in (DispositionKind.RELEASE, DispositionKind.DEFER)
        event = json.dumps([claimed.job.key, destination, claimed.at]) if has_outcome else ""
        store, has_failed = STORES[claimed.at % len(STORES)], bool(claimed.at % 2)
        return Disposition(kind, 1800.0, event, "no", store, has_failed)

    @rule(store=st.sampled_from(STORES), key=st.sampled_from(KEYS), process=pick, is_only_key=st.booleans())
    def trip_circuit(self, store: str, key: str, process: int, is_only_key: bool) -> None:
        self.run(self.queue(process).trip_circuit(store, "down", key, is_only_key=is_only_key))

    @rule(store=st.sampled_from(STORES), key=st.sampled_from(KEYS), process=pick)
    def release_probe(self, store: str, key: str, process: int) -> None:
        self.run(self.queue(process).release_probe(store, key))

    @rule(store=st.sampled_from(STORES), process=pick)
    def close_circuit(self, store: str, process: int) -> None:
        self.run(self.queue(process).close_circuit(store))

    @rule(process=pick, max_parked=st.dictionaries(st.sampled_from(STORES), st.integers(0, 2)))
    def promote_due(self, process: int, max_parked: dict[str, int]) -> None:
        assert 0 <= self.run(self.queue(process).promote_due(max_parked)) <= 5

    @rule(process=pick)
    def remove_consumer(self, process: int) -> None:
        self.run(self.queue(process).remove_consumer())

    # -- the operator

    @rule(store=st.sampled_from([None, *STORES]), process=pick)
    def pause(self, store: str | None, process: int) -> None:
        self.run(self.queue(process).pause(store))
        self.paused = self.paused or store is None

    @rule(store=st.sampled_from([None, *STORES]), process=pick)
    def resume(self, store: str | None, process: int) -> None:
        self.run(self.queue(process).resume(store))
        self.paused = self.paused and store is not None

    @precondition(lambda self: self.letters)
    @rule(destination=st.sampled_from(DESTINATIONS), process=pick)
    def redrive(self, destination: str, process: int) -> None:
        found = [key for key in KEYS if (key, destination) in self.letters]
        assert self.run(self.queue(process).redrive(destination, KEYS)) == len(found)
        at = next(self.step)
        for key in found:
            self.letters.discard((key, destination))
            self.unfinished[key, destination] = at

    # -- time and Redis

    @rule()
    def pass_time(self) -> None:
        self.run(self.make_everything_due())

    async def make_everything_due(self) -> None:
        """Change the times in Redis instead of waiting."""
        for name in ("retries", "rechecks"):
            keys: list[Any] = await self.client.zrange(P + name, 0, -1)
            for key in keys:
                await self.client.zadd(P + name, {key: 1})
        for store in STORES:
            if await self.client.exists(P + "circuit:" + store):
                await self.client.hset(P + "circuit:" + store, "probe_at", "1")
        for lane in Lane:
            await self.expire_leases(lane.value)
        for queue in self.queues:
            queue._all_taken_over_at_s = -HOUR_MS

    async def expire_leases(self, lane: str) -> None:
        if not await self.client.exists(P + lane) or not await self.client.xinfo_groups(P + lane):
            return
        pending: list[dict[str, Any]] = await self.client.xpending_range(P + lane, "s3s3", "-", "+", 1000)
        for entry in pending:
            await self.client.xclaim(
                P + lane, "s3s3", entry["consumer"], 0, [entry["message_id"]], idle=HOUR_MS, justid=True
            )

    @rule(lane=st.sampled_from(Lane))
    def lose_group(self, lane: Lane) -> None:
        if self.run(self.client.exists(P + lane.value)):
            self.run(self.client.xgroup_destroy(P + lane.value, "s3s3"))

    # -- what must hold

    async def is_owner(self, claimed: ClaimedJob) -> bool:
        return bool(await self.client.hget(P + "job:" + claimed.job.key, "token") == claimed.job.token)

    async def dead_letters(self) -> set[tuple[str, str]]:
        return {(letter.key, name) for name in DESTINATIONS async for letter in self.queue(0).dead_letters(name)}

    @invariant()
    def a_key_has_at_most_one_owner(self) -> None:
        owned = [claimed.job.key for claimed in self.claimed if self.run(self.is_owner(claimed))]
        assert len(owned) == len(set(owned))

    def teardown(self) -> None:
        try:
            self.finish_everything()
        finally:
            self.run(self.client.aclose())
            self.loop.close()

    def finish_everything(self) -> None:
        """Crash all processes with a job; let one process work until nothing is left."""
        for store in (None, *STORES):
            self.resume(store, 0)
        assert self.run(self.dead_letters()) == self.letters
        self.claimed.clear()
        for store in STORES:
            self.run(self.queue(0).close_circuit(store))
        for _ in range(8):
            self.run(self.make_everything_due())
            self.run(self.queue(0).promote_due())
            self.claim(0, 100, 100, 100)
            while self.claimed:
                self.settle(self.claimed.pop(), dict.fromkeys(DESTINATIONS, DispositionKind.DONE))
        stats = self.run(self.queue(0).stats())
        assert (stats.pending, stats.rechecks) == (0, 0)
        assert self.unfinished == {}
        for tracker in self.trackers:
            for event in self.run(self.queue(0).poll_outcomes(tracker, 0)):
                key, destination, at = json.loads(event)
                if self.unreported.get((tracker, key, destination), at) < at:
                    del self.unreported[tracker, key, destination]
        assert self.unreported == {}


class LossyQueueMachine(QueueMachine):
    """Redis may also lose data. Keys enqueued before may be lost with it, keys enqueued afterwards not."""

    @rule(key=st.sampled_from(KEYS), lane=st.sampled_from(Lane))
    def lose_entry(self, key: str, lane: Lane) -> None:
        """A stream is trimmed, and its key is enqueued again."""
        found: list[Any] = self.run(self.client.hmget(P + "job:" + key, ["lane", "entry"]))
        stream, entry = found
        if entry:
            self.run(self.client.xdel(P + stream, entry))
            self.forget(key)
            self.enqueue(key, list(DESTINATIONS), lane, 0, with_tracker=True)

    @rule()
    def lose_everything(self) -> None:
        self.run(self.client.flushall())
        self.letters.clear()
        self.paused = False
        for key in KEYS:
            self.forget(key)

    def forget(self, lost: str) -> None:
        self.unfinished = {(key, name): at for (key, name), at in self.unfinished.items() if key != lost}
        self.unreported = {
            (tracker, key, name): at for (tracker, key, name), at in self.unreported.items() if key != lost
        }


SETTINGS = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [QueueMachine, LossyQueueMachine])
@pytest.mark.parametrize("server_fixture", SERVERS)
def test_no_sequence_of_operations_loses_a_key(
    server_fixture: str, machine: type[QueueMachine], request: pytest.FixtureRequest
) -> None:
    server: RedisServer = request.getfixturevalue(server_fixture)

    class Machine(machine):  # type: ignore[misc, valid-type]
        url = server.url

    run_state_machine_as_test(Machine, settings=SETTINGS)
