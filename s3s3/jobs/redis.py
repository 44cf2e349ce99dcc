"""The queue in Redis: one for each route, shared by every process of the fleet.

Keys, each beginning with `s3s3:{ROUTE}:` (the braces make a cluster keep them in one slot):

    job:KEY         hash: the record of a key; absent when there is nothing to do
        phase           queued | running | waiting
        want            destinations to look at, with a space between, as everywhere below
        lane, entry     which stream waits with it, and the id of its entry there
        token           who runs it
        unseen          "1": a fresh notice, to be copied without a look at the destinations
        noticed         when its first notice came, ms
        tries           failed attempts by destination: "NAME=2 ..."
        runs            the runs that wait for its outcome
        again, again_lane, again_noticed, again_runs
                        the same of what was put while it ran
    fresh, bulk     streams with the consumer group `s3s3`, entries {key: KEY}: the two lanes
    waiting         sorted set: keys with a retry, by when it is due (ms)
    looks           sorted set: keys that want another look, by when (ms); neither put nor finish touches it
    parked:STORE    set: keys that wait for the circuit of a destination, or of the source
    circuit:STORE   hash: since, reason, pause_ms, probe_at, probe, held (paused by a person); absent when all is well
    dead:DEST       hash: KEY to a dead letter's JSON
    run:ID          list: events for a run, kept an hour
    paused          present: nothing of this route is claimed

A record is changed by the scripts beside this file and by nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..broker import ANSWER_TIMEOUT_S, translated
from ..lease import lease_clock_s
from ..model import Job, Lane
from . import Claims, Counts, DeadLetter, Put, Step, Verdict
from .batch import Batch

GROUP = "s3s3"
PUTS_IN_ONE_CALL = 500
WOKEN_IN_ONE_TURN = 200
FIRST_PROBE_S = 1.0
LONGEST_PAUSE_BETWEEN_PROBES_S = 30.0
LONGEST_TURN_S = 5.0
LETTERS_OF_NOTICES_KEPT = 10_000


class RedisJobs:
    """The queue of one route. See `s3s3.jobs.Jobs` for the contract; the rest is for people who look after it.

    Args:
        source: the source's name, under which its circuit goes.
        lease_s: how long a claim holds without being renewed.
        look_after_s: when a look is due after a PUT that may still be in flight; at least as long as such a PUT
            can take: it starts within the lease and lasts at most another one.
    """

    def __init__(
        self,
        client: Redis,
        route: str,
        destinations: Sequence[str],
        *,
        source: str = "source",
        lease_s: float = 60.0,
        look_after_s: float | None = None,
    ) -> None:
        self.client = client
        self.destinations = tuple(destinations)
        self.lease_s = lease_s
        self.consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._prefix = f"s3s3:{{{route}}}:"
        self._all = " ".join(self.destinations)
        self._stores = (source, *self.destinations)
        self._circuits = " ".join(self._stores)
        self._look_ms = int(1000 * (2 * lease_s if look_after_s is None else look_after_s))
        self._claims = 0
        self._taken_over_s = 0.0
        scripts = resources.files(__package__)
        rule = scripts.joinpath("record.lua").read_text()
        self._scripts = {
            name: client.register_script(rule + scripts.joinpath(f"{name}.lua").read_text())
            for name in ("put", "claim", "renew", "finish", "turn", "circuit", "revive", "leave")
        }
        self._finishes = Batch(self._finish_many)

    async def _run(self, script: str, *args: str | int) -> Any:
        with translated():
            try:
                return await self._scripts[script](keys=[self._prefix], args=args)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
            await self._make_groups()
            return await self._scripts[script](keys=[self._prefix], args=args)

    async def _make_groups(self) -> None:
        """Make the consumer groups, from the start of their streams: what was put before is theirs, too."""
        for lane in Lane:
            try:
                await self.client.xgroup_create(self._prefix + lane.value, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    # -- the contract

    async def put(self, puts: Iterable[Put], lane: Lane, run: str = "", unseen: bool | None = None) -> None:
        how = (lane.value, run, int(lane is Lane.FRESH if unseen is None else unseen))
        args: list[str | int] = []
        for key, destinations, noticed_ms in puts:
            args += (key, " ".join(destinations), "" if noticed_ms is None else noticed_ms)
            if len(args) == 3 * PUTS_IN_ONE_CALL:
                await self._run("put", *how, *args)
                args = []
        if args:
            await self._run("put", *how, *args)

    async def claim(self, free: int, bulk_first: int, bulk_most: int, wait_s: float) -> Claims:
        claims = await self._claim(free, bulk_first, bulk_most)
        if claims.jobs or wait_s <= 0:
            return claims
        if claims.paused:
            await asyncio.sleep(wait_s)
            return claims
        delivered = await self._wait(min(wait_s, ANSWER_TIMEOUT_S / 2))
        return await self._claim(free, bulk_first, bulk_most, delivered) if delivered else claims

    async def _claim(self, free: int, bulk_first: int, bulk_most: int, delivered: Sequence[str] = ()) -> Claims:
        asked_s = lease_clock_s()
        lapsed_too = asked_s - self._taken_over_s >= self.lease_s / 4
        self._claims += 1
        found, circuits, paused = await self._run(
            "claim",
            self.consumer,
            f"{self.consumer}.{self._claims}",
            free,
            bulk_first,
            bulk_most,
            int(self.lease_s * 1000),
            self._look_ms,
            int(lapsed_too),
            self._circuits,
            *delivered,
        )
        if lapsed_too:
            self._taken_over_s = asked_s
        return Claims([_job(fields) for fields in found], dict(circuits), asked_s, bool(paused))

    async def _wait(self, wait_s: float) -> list[str]:
        """Wait for one new entry in either lane; return what a claim needs to know of it."""
        streams: Any = {self._prefix + lane.value: ">" for lane in Lane}
        with translated():
            try:
                answer: Any = await self.client.xreadgroup(
                    GROUP, self.consumer, streams, count=1, block=max(int(wait_s * 1000), 1)
                )
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                return []  # the next claim makes it again
        delivered = []
        for stream, entries in answer or ():
            for entry, fields in entries:
                delivered += [stream[len(self._prefix) :], entry, next(iter(fields.values()), "")]
        return delivered

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        args = [part for job in jobs for part in (job.lane.value, job.entry, job.key, job.token)]
        return set(await self._run("renew", self.consumer, *args)) if args else set()

    async def finish(self, job: Job, verdicts: Mapping[str, Verdict], look: bool = False) -> bool:
        lost = await self._finishes.add((job, verdicts, look))
        return job.token not in lost

    async def _finish_many(self, finished: Sequence[tuple[Job, Mapping[str, Verdict], bool]]) -> set[str]:
        args: list[str | int] = [self._all]
        for job, verdicts, look in finished:
            args += (job.key, job.token, self._look_ms if look else "", len(verdicts))
            for destination, verdict in verdicts.items():
                text = verdict.circuit
                if verdict.step == Step.BURY:
                    text = letter_text(verdict.reason, job.tries.get(destination, 0) + 1)
                args += (destination, verdict.step, int(verdict.delay_s * 1000), verdict.event, text)
        return set(await self._run("finish", *args))

    async def turn(self) -> float:
        while True:
            moved, next_ms = await self._run(
                "turn", self._all, self._circuits, WOKEN_IN_ONE_TURN, int(self.lease_s * 1000)
            )
            if moved < WOKEN_IN_ONE_TURN:
                break
        return LONGEST_TURN_S if next_ms < 0 else min(next_ms / 1000, LONGEST_TURN_S)

    async def trip(self, destination: str, reason: str, key: str) -> None:
        first_ms, longest_ms = int(FIRST_PROBE_S * 1000), int(LONGEST_PAUSE_BETWEEN_PROBES_S * 1000)
        await self._run("circuit", destination, "trip", reason, first_ms, longest_ms, key)

    async def close_circuit(self, destination: str) -> None:
        await self._run("circuit", destination, "close", "", 0, 0, "")

    async def outcomes(self, run: str, wait_s: float) -> list[str]:
        events = self._prefix + "run:" + run
        with translated():
            found: Any = await self.client.lpop(events, 1000)
            if found or wait_s <= 0:
                return found or []
            first: Any = await self.client.blpop([events], timeout=min(wait_s, ANSWER_TIMEOUT_S / 2))
            if first is None:
                return []
            more: Any = await self.client.lpop(events, 1000)
            return [first[1], *(more or [])]

    async def counts(self) -> Counts:
        with translated():
            pipe: Any = self.client.pipeline(transaction=False)
            pipe.xlen(self._prefix + "fresh").xlen(self._prefix + "bulk")
            pipe.zcard(self._prefix + "waiting").zcard(self._prefix + "looks").exists(self._prefix + "paused")
            for lane in Lane:
                pipe.xrange(self._prefix + lane.value, count=1)
            pipe.hlen(self._prefix + "dead:" + DeadLetter.NOTICES)
            for name in self._stores:
                pipe.scard(self._prefix + "parked:" + name).hlen(self._prefix + "dead:" + name)
                pipe.hget(self._prefix + "circuit:" + name, "reason")
            fresh, bulk, waiting, looks, paused, *firsts, notices = (answers := await pipe.execute())[:8]
        by_name = dict(zip(self._stores, zip(*[iter(answers[8:])] * 3, strict=True), strict=True))
        oldest_ms = min((int(first[0][0].split("-")[0]) for first in firsts if first), default=None)
        return Counts(
            fresh,
            bulk,
            waiting,
            looks,
            parked={name: parked for name, (parked, _, _) in by_name.items()},
            dead_letters={DeadLetter.NOTICES: notices, **{name: by_name[name][1] for name in self.destinations}},
            circuits={name: reason for name, (_, _, reason) in by_name.items() if reason is not None},
            oldest_s=0.0 if oldest_ms is None else max(time.time() - oldest_ms / 1000, 0.0),
            paused=bool(paused),
        )

    # -- for those who look after it

    async def check(self) -> None:
        """Answer, or raise RedisUnavailable."""
        with translated():
            await self.client.ping()

    async def leave(self) -> None:
        """Take this process's consumer out of the groups, unless it still has claims."""
        await self._run("leave", self.consumer)

    async def bury_notice(self, message: str, reason: str) -> None:
        """Keep a message that names no possible key as a dead letter, up to a bounded number of them."""
        at = self._prefix + "dead:" + DeadLetter.NOTICES
        with translated():
            if await self.client.hlen(at) < LETTERS_OF_NOTICES_KEPT:
                await self.client.hset(at, message, letter_text(reason, 0))

    async def dead_letters(self, destination: str) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a destination, in no order."""
        with translated():
            async for key, text in self.client.hscan_iter(self._prefix + "dead:" + destination, count=500):
                yield DeadLetter(destination, key, **json.loads(text))

    async def revive(self, destination: str, keys: Sequence[str]) -> int:
        """Put dead letters back to work, in the bulk lane. Return how many there were."""
        revived = 0
        for start in range(0, len(keys), PUTS_IN_ONE_CALL):
            revived += int(await self._run("revive", destination, *keys[start : start + PUTS_IN_ONE_CALL]))
        return revived

    async def drop(self, destination: str, keys: Sequence[str]) -> int:
        """Throw dead letters away. Return how many there were."""
        with translated():
            return int(await self.client.hdel(self._prefix + "dead:" + destination, *keys)) if keys else 0

    async def pause(self, destination: str | None = None) -> None:
        """Hold a destination, whose jobs are parked, or, with None, the whole route. Pausing twice is pausing once."""
        if destination is not None:
            await self._run("circuit", destination, "hold", "paused", 0, 0, "")
            return
        with translated():
            await self.client.set(self._prefix + "paused", "1")

    async def resume(self, destination: str | None = None) -> None:
        """Undo `pause`."""
        if destination is not None:
            await self._run("circuit", destination, "release", "", 0, 0, "")
            return
        with translated():
            await self.client.delete(self._prefix + "paused")


def letter_text(reason: str, tries: int) -> str:
    """Return a dead letter as Redis keeps it."""
    return json.dumps({"reason": reason, "tries": tries, "buried_ms": int(time.time() * 1000)})


def _job(fields: Sequence[str]) -> Job:
    key, want, lane, entry, token, unseen, noticed, tries, runs = fields
    counted = dict(part.rsplit("=", 1) for part in tries.split()) if tries else {}
    return Job(
        key,
        tuple(want.split()),
        Lane(lane),
        entry,
        token,
        unseen == "1",
        {name: int(count) for name, count in counted.items()},
        int(noticed),
        runs,
    )
