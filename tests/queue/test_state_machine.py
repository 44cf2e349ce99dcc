"""Whatever happens in whatever order: no put is lost, and a key never has two owners."""

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
from s3s3.queue.base import Disposition, DispositionKind, JobQueue, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from tests.queue.conftest import SERVERS
from tests.queue.factories import DESTINATIONS

Answer = TypeVar("Answer")

P = "s3s3:{default}:"
KEYS = ("a", "b b=2", "c\n*")
STORES = ("source", *DESTINATIONS)
LONG_AGO_MS = 3600 * 1000

steps = st.sampled_from(
    [
        DispositionKind.DONE,
        DispositionKind.DONE,
        DispositionKind.RETRY,
        DispositionKind.PARK,
        DispositionKind.DEAD_LETTER,
        DispositionKind.RELEASE,
        DispositionKind.DEFER,
    ]
)
pick = st.integers(min_value=0, max_value=1000)


@dataclass(eq=False)
class Held:
    """A job that somebody claimed and has not finished, and when, counted in things that happened."""

    job: Job
    jobs: JobQueue
    at: int


class Anything(RuleBasedStateMachine):
    """What may happen to a queue, whichever it is.

    Attributes:
        owed: when a key was last put for a destination.
        unseen: keys that were put to be copied without a look, and not claimed since.
        letters: the dead letters that there are, by key and destination.
        paused: whether somebody holds the whole route.
    """

    paused = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.happened = itertools.count(1)
        self.owed: dict[tuple[str, str], int] = {}
        self.owed_to_runs: dict[tuple[str, str, str], int] = {}
        self.unconditional: set[str] = set()
        self.letters: set[tuple[str, str]] = set()
        self.held: list[Held] = []
        self.runs: list[str] = []
        self.processes = self.ask(self.join())

    def ask(self, question: Awaitable[Answer]) -> Answer:
        return self.loop.run_until_complete(question)

    async def join(self) -> list[JobQueue]:
        raise NotImplementedError

    async def let_time_pass(self) -> None:
        raise NotImplementedError

    async def dead_letters(self) -> set[tuple[str, str]]:
        raise NotImplementedError

    def delivered_to(self, jobs: JobQueue) -> set[str]:
        """The entries that a process was given while it waited, and has not claimed."""
        return set()

    async def close(self) -> None:
        """Say goodbye."""

    # -- what may happen

    @initialize(lane=st.sampled_from(Lane), claimed=st.integers(0, len(KEYS)))
    def there_is_work(self, lane: Lane, claimed: int) -> None:
        """Of the rules below hypothesis leaves some out of each example: these may be among them."""
        for key in KEYS:
            self.put(key, list(DESTINATIONS), lane, 0, with_run=True)
        self.claim(1, claimed, claimed, claimed)

    @rule(
        key=st.sampled_from(KEYS),
        destinations=st.lists(st.sampled_from(DESTINATIONS), min_size=1, unique=True),
        lane=st.sampled_from(Lane),
        process=pick,
        with_run=st.booleans(),
    )
    def put(self, key: str, destinations: list[str], lane: Lane, process: int, with_run: bool) -> None:
        run = f"run{len(self.runs)}" if with_run else ""
        self.ask(self.a(process).enqueue([JobRequest(key, tuple(destinations))], lane, run))
        if lane is Lane.FRESH:
            self.unconditional.add(key)
        at = next(self.happened)
        for destination in destinations:
            self.owed[key, destination] = at
            if run:
                self.owed_to_runs[run, key, destination] = at
        if run:
            self.runs.append(run)

    @rule(process=pick, free=st.integers(1, 3), min_bulk=st.integers(0, 3), max_bulk=st.integers(0, 3))
    def claim(self, process: int, free: int, min_bulk: int, max_bulk: int) -> None:
        jobs = self.a(process)
        delivered = self.delivered_to(jobs)
        claims = self.ask(jobs.claim(free, min_bulk, max_bulk, 0))
        assert len(claims.jobs) <= free
        assert claims.paused == self.paused
        assert not self.paused or {job.entry for job in claims.jobs} <= delivered
        at = next(self.happened)
        self.held += [Held(job, jobs, at) for job in claims.jobs]
        for job in claims.jobs:
            assert job.key in self.unconditional or not job.unconditional
            self.unconditional.discard(job.key)

    @precondition(lambda self: self.held)
    @rule(which=pick, dispositions=st.fixed_dictionaries(dict.fromkeys(DESTINATIONS, steps)), look=st.booleans())
    def finish(self, which: int, dispositions: dict[str, str], look: bool) -> None:
        held = self.held.pop(which % len(self.held))
        self.finish_one(held, dispositions, look)

    def finish_one(self, held: Held, steps: dict[str, str], look: bool = False) -> None:
        job = held.job
        dispositions = {name: self.disposition(held, name, steps[name]) for name in job.destinations}
        owned = self.ask(self.is_valid(held))
        assert self.ask(held.jobs.finish(job, dispositions, look)) == owned
        if not owned:
            return
        for name in job.destinations:
            if (
                steps[name] in (DispositionKind.DONE, DispositionKind.DEAD_LETTER)
                and self.owed.get((job.key, name), 0) < held.at
            ):
                self.owed.pop((job.key, name), None)
            if steps[name] == DispositionKind.DONE:
                self.letters.discard((job.key, name))
            elif steps[name] == DispositionKind.DEAD_LETTER:
                self.letters.add((job.key, name))

    def disposition(self, held: Held, destination: str, step: str) -> Disposition:
        event = (
            json.dumps([held.job.key, destination, held.at])
            if step not in (DispositionKind.RELEASE, DispositionKind.DEFER)
            else ""
        )
        return Disposition(step, 1800.0, event, "no", STORES[held.at % len(STORES)])

    @precondition(lambda self: self.held)
    @rule(which=pick)
    def crash(self, which: int) -> None:
        self.held.pop(which % len(self.held))

    @rule(store=st.sampled_from(STORES), key=st.sampled_from(KEYS), process=pick)
    def trip(self, store: str, key: str, process: int) -> None:
        self.ask(self.a(process).trip_circuit(store, "down", key))

    @rule(store=st.sampled_from(STORES), process=pick)
    def close_circuit(self, store: str, process: int) -> None:
        self.ask(self.a(process).close_circuit(store))

    @rule(process=pick, most=st.dictionaries(st.sampled_from(STORES), st.integers(0, 2)))
    def turn(self, process: int, most: dict[str, int]) -> None:
        assert 0 <= self.ask(self.a(process).promote_due(most)) <= 5

    @rule()
    def time_passes(self) -> None:
        self.ask(self.let_time_pass())

    # -- what always holds

    def a(self, process: int) -> JobQueue:
        return self.processes[process % len(self.processes)]

    async def is_valid(self, held: Held) -> bool:
        raise NotImplementedError

    @invariant()
    def a_key_has_one_owner_at_most(self) -> None:
        owned = [held.job.key for held in self.held if self.ask(self.is_valid(held))]
        assert len(owned) == len(set(owned))

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.ask(self.close())
            self.loop.close()

    def everything_ends(self) -> None:
        """Whoever holds something dies; the others work until nothing is left."""
        assert self.ask(self.dead_letters()) == self.letters
        self.held.clear()
        for store in STORES:
            self.ask(self.a(0).close_circuit(store))
        for _ in range(8):
            self.ask(self.let_time_pass())
            self.ask(self.a(0).promote_due())
            self.claim(0, 100, 100, 100)
            while self.held:
                self.finish_one(self.held.pop(), dict.fromkeys(DESTINATIONS, DispositionKind.DONE))
        counts = self.ask(self.a(0).stats())
        assert (counts.pending, counts.rechecks) == (0, 0)
        assert self.owed == {}
        for run in self.runs:
            for event in self.ask(self.a(0).poll_outcomes(run, 0)):
                key, destination, at = json.loads(event)
                if self.owed_to_runs.get((run, key, destination), at) < at:
                    del self.owed_to_runs[run, key, destination]
        assert self.owed_to_runs == {}


class AnythingInRedis(Anything):
    """Three processes, of which some die, people who hold and revive, and a Redis that loses its consumer groups."""

    url: str
    processes: list[RedisJobQueue]  # type: ignore[assignment]

    async def join(self) -> list[JobQueue]:
        self.client: Redis = connect(self.url)
        await self.client.flushall()
        return [RedisJobQueue(self.client, "default", DESTINATIONS) for _ in range(3)]

    async def let_time_pass(self) -> None:
        """Without waiting: make what Redis knows of the past an hour older."""
        for name in ("retries", "rechecks"):
            keys: list[Any] = await self.client.zrange(P + name, 0, -1)
            for key in keys:
                await self.client.zadd(P + name, {key: 1})
        for store in STORES:
            if await self.client.exists(P + "circuit:" + store):
                await self.client.hset(P + "circuit:" + store, "probe_at", "1")
        for lane in Lane:
            await self.let_lapse(lane.value)
        for jobs in self.processes:
            jobs._all_taken_over_at_s = 0.0

    async def let_lapse(self, lane: str) -> None:
        if not await self.client.exists(P + lane) or not await self.client.xinfo_groups(P + lane):
            return
        owed: list[dict[str, Any]] = await self.client.xpending_range(P + lane, "s3s3", "-", "+", 1000)
        for pending in owed:
            await self.client.xclaim(
                P + lane, "s3s3", pending["consumer"], 0, [pending["message_id"]], idle=LONG_AGO_MS, justid=True
            )

    async def is_valid(self, held: Held) -> bool:
        return bool(await self.client.hget(P + "job:" + held.job.key, "token") == held.job.token)

    @rule(lane=st.sampled_from(Lane))
    def group_is_lost(self, lane: Lane) -> None:
        if self.ask(self.client.exists(P + lane.value)):
            self.ask(self.client.xgroup_destroy(P + lane.value, "s3s3"))

    @rule(process=pick, lanes=st.sampled_from([tuple(Lane), (Lane.FRESH,)]))
    def deliver(self, process: int, lanes: tuple[Lane, ...]) -> None:
        """A process that waits for work is given an entry; it claims it the next time it claims, or dies first."""
        self.ask(self.one(process)._wait_for_entries(lanes, 0.001))

    @rule(process=pick)
    def die_before_claiming(self, process: int) -> None:
        self.one(process)._delivered.clear()

    @precondition(lambda self: self.held)
    @rule(which=pick)
    def renew(self, which: int) -> None:
        held = self.held[which % len(self.held)]
        owned = self.ask(self.is_valid(held))
        assert owned or self.ask(held.jobs.renew([held.job])) == {held.job.token}

    @rule(what=st.sampled_from([None, *STORES]), process=pick)
    def pause(self, what: str | None, process: int) -> None:
        self.ask(self.one(process).pause(what))
        self.paused = self.paused or what is None

    @rule(what=st.sampled_from([None, *STORES]), process=pick)
    def resume(self, what: str | None, process: int) -> None:
        self.ask(self.one(process).resume(what))
        self.paused = self.paused and what is not None

    @precondition(lambda self: self.letters)
    @rule(destination=st.sampled_from(DESTINATIONS), process=pick)
    def revive(self, destination: str, process: int) -> None:
        found = [key for key in KEYS if (key, destination) in self.letters]
        assert self.ask(self.one(process).redrive(destination, KEYS)) == len(found)
        at = next(self.happened)
        for key in found:
            self.letters.discard((key, destination))
            self.owed[key, destination] = at

    @rule(process=pick)
    def leave(self, process: int) -> None:
        self.ask(self.one(process).remove_consumer())

    def delivered_to(self, jobs: JobQueue) -> set[str]:
        assert isinstance(jobs, RedisJobQueue)
        return {delivered.entry for delivered in jobs._delivered}

    def one(self, process: int) -> RedisJobQueue:
        return self.processes[process % len(self.processes)]

    async def dead_letters(self) -> set[tuple[str, str]]:
        return {(letter.key, name) for name in DESTINATIONS async for letter in self.one(0).dead_letters(name)}

    def everything_ends(self) -> None:
        for what in (None, *STORES):
            self.resume(what, 0)
        super().everything_ends()

    async def close(self) -> None:
        await self.client.aclose()


class AnythingInRedisThatForgets(AnythingInRedis):
    """What was put before may be lost with it; what is put from then on may not."""

    @rule(key=st.sampled_from(KEYS), lane=st.sampled_from(Lane))
    def entry_is_lost(self, key: str, lane: Lane) -> None:
        """Somebody trims a stream, and its key is put again."""
        found: list[Any] = self.ask(self.client.hmget(P + "job:" + key, ["lane", "entry"]))
        stream, entry = found
        if entry:
            self.ask(self.client.xdel(P + stream, entry))
            self.nothing_is_owed(key)
            self.put(key, list(DESTINATIONS), lane, 0, with_run=True)

    @rule()
    def everything_is_lost(self) -> None:
        self.ask(self.client.flushall())
        self.letters.clear()
        self.paused = False
        for key in KEYS:
            self.nothing_is_owed(key)

    def nothing_is_owed(self, lost: str) -> None:
        self.owed = {(key, name): at for (key, name), at in self.owed.items() if key != lost}
        self.owed_to_runs = {(run, key, name): at for (run, key, name), at in self.owed_to_runs.items() if key != lost}


QUICK = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [AnythingInRedis, AnythingInRedisThatForgets])
@pytest.mark.parametrize("server_fixture", SERVERS)
def test_in_redis(server_fixture: str, machine: type[AnythingInRedis], request: pytest.FixtureRequest) -> None:
    server: RedisServer = request.getfixturevalue(server_fixture)

    class Machine(machine):  # type: ignore[misc, valid-type]
        url = server.url

    run_state_machine_as_test(Machine, settings=QUICK)
