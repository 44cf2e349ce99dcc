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
        due             when the first of its retries is, or was, due (ms): what fails before that is no try
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
    reconcile       the summary of the last run that compared everything, JSON
    paused          present: nothing of this route is claimed

A record is changed by the scripts beside this file and by nothing else. All times are Redis's own. A clock of it that
jumps ahead lets leases lapse too early: whoever is robbed learns it at the next renewal, and the look that a takeover
leaves makes good what was copied meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..model import Job, Lane, Route
from .admin import KEYS_IN_ONE_CALL, QueueAdmin, letter_text
from .base import (
    INITIAL_PROBE_INTERVAL_S,
    MAX_PROBE_INTERVAL_S,
    MAX_TURN_S,
    NO_BOUNDS,
    PAUSE_BETWEEN_WAKES_S,
    ClaimResult,
    Disposition,
    DispositionKind,
    JobRequest,
)
from .batching import Batcher
from .connection import ANSWER_TIMEOUT_S
from .lease import boottime_s
from .lua_scripts import GROUP, Scripts, is_no_group
from .redis_errors import translate_errors

WOKEN_IN_ONE_TURN = 200

_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_LANES = {lane.value: lane for lane in Lane}


class DeliveredEntry(NamedTuple):
    """An entry that a blocking read brought, and that is to be claimed."""

    lane: str
    entry: str
    key: str


class RedisJobQueue(QueueAdmin):
    """The queue of one route on Redis Streams, shared by all processes of the fleet.

    See `s3s3.queue.base.JobQueue` for the contract. `QueueAdmin` has the methods for operators.

    Args:
        source: the source's name, under which its circuit goes.
        lease_s: how long a claim holds without being renewed; the same throughout the fleet.
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
        recheck_delay_s: float | None = None,
    ) -> None:
        prefix = f"s3s3:{{{route}}}:"
        look_s = 2 * lease_s if recheck_delay_s is None else recheck_delay_s
        super().__init__(client, prefix, (source, *destinations), Scripts(client, prefix, int(look_s * 1000)))
        self.lease_s = lease_s
        self.consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._all = " ".join(destinations)
        self._all_stores = " ".join(self._stores)
        self._claims = 0
        self._took_over_at_s = 0.0
        self._delivered: list[DeliveredEntry] = []
        self._finishes = Batcher(self._finish_many)

    @classmethod
    def of(cls, client: Redis, route: Route, lease_s: float) -> RedisJobQueue:
        """Return the queue of a configured route."""
        return cls(client, route.name, route.destination_names, source=route.source.name, lease_s=lease_s)

    async def enqueue(
        self, puts: Iterable[JobRequest], lane: Lane, run: str = "", unconditional: bool | None = None
    ) -> None:
        how = (lane.value, run, int(lane is Lane.FRESH if unconditional is None else unconditional))
        parts: list[str] = []
        for key, destinations, notified_ms in puts:
            parts += (key, " ".join(destinations), "" if notified_ms is None else str(notified_ms))
            if len(parts) == 3 * KEYS_IN_ONE_CALL:
                await self._scripts.run("enqueue", *how, _as_json(parts))
                parts = []
        if parts:
            await self._scripts.run("enqueue", *how, _as_json(parts))

    async def claim(self, free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        claims = await self._claim(free, min_bulk, max_bulk)
        if claims.jobs or wait_s <= 0:
            return claims
        if claims.paused:
            await asyncio.sleep(wait_s)
            return claims
        await self._wait(tuple(Lane) if max_bulk > 0 else (Lane.FRESH,), min(wait_s, ANSWER_TIMEOUT_S / 2))
        return await self._claim(free, min_bulk, max_bulk) if self._delivered else claims

    async def _claim(self, free: int, min_bulk: int, max_bulk: int) -> ClaimResult:
        asked_s = boottime_s()
        lapsed_too = asked_s - self._took_over_at_s >= self.lease_s / 4
        delivered = self._delivered[:free]
        self._claims += 1
        found, circuits, paused, more_lapsed = await self._scripts.run(
            "claim",
            self.consumer,
            f"{self.consumer}.{self._claims}",
            free,
            min_bulk,
            max_bulk,
            int(self.lease_s * 1000),
            int(lapsed_too),
            self._all_stores,
            *chain.from_iterable(delivered),
        )
        del self._delivered[: len(delivered)]
        if lapsed_too and not more_lapsed:
            self._took_over_at_s = asked_s
        return ClaimResult([_job(*fields) for fields in found], dict(circuits), asked_s, bool(paused))

    async def _wait(self, lanes: Sequence[Lane], wait_s: float) -> None:
        """Wait for a new entry in one of the lanes; each may bring one."""
        streams: Any = {self._prefix + lane.value: ">" for lane in lanes}
        with translate_errors():
            try:
                answer: Any = await self.client.xreadgroup(
                    GROUP, self.consumer, streams, count=1, block=max(int(wait_s * 1000), 1)
                )
            except ResponseError as error:
                if not is_no_group(error):
                    raise
                return  # the next claim makes it again
        for stream, entries in answer or ():
            for entry, fields in entries:
                self._delivered.append(
                    DeliveredEntry(stream[len(self._prefix) :], entry, next(iter(fields.values()), ""))
                )

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        args = [part for job in jobs for part in (job.lane.value, job.entry, job.key, job.token)]
        return set(await self._scripts.run("renew", self.consumer, *args)) if args else set()

    async def finish(self, job: Job, dispositions: Mapping[str, Disposition], look: bool = False) -> bool:
        done, others = [], []
        for name, disposition in dispositions.items():
            if disposition.step == DispositionKind.DONE and not disposition.event:
                done.append(name)
            else:
                text = disposition.circuit
                if disposition.step == DispositionKind.DEAD_LETTER:
                    text = letter_text(disposition.reason, job.attempts.get(name, 0) + 1)
                others.append((name, disposition.step, int(disposition.delay_s * 1000), disposition.event, text))
        lost = await self._finishes.add((job.key, job.token, int(look), " ".join(done), others))
        return job.token not in lost

    async def _finish_many(self, finished: Sequence[tuple[Any, ...]]) -> set[str]:
        return set(await self._scripts.run("finish", self._all, _as_json(finished)))

    async def promote_due(self, most: Mapping[str, int] = NO_BOUNDS) -> float:
        left = dict(most)
        while True:
            bounds = " ".join(f"{name}={count}" for name, count in left.items())
            dealt_with, next_ms = await self._scripts.run(
                "promote_due", self._all, self._all_stores, WOKEN_IN_ONE_TURN, int(self.lease_s * 1000), bounds,
                int(PAUSE_BETWEEN_WAKES_S * 1000),
            )  # fmt: skip
            left = dict.fromkeys(left, 0)
            if dealt_with < WOKEN_IN_ONE_TURN:
                break
        return MAX_TURN_S if next_ms < 0 else min(next_ms / 1000, MAX_TURN_S)

    async def trip_circuit(self, destination: str, reason: str, key: str) -> None:
        first_ms, longest_ms = int(INITIAL_PROBE_INTERVAL_S * 1000), int(MAX_PROBE_INTERVAL_S * 1000)
        await self._scripts.run("circuit", destination, "trip", reason, first_ms, longest_ms, key)

    async def close_circuit(self, destination: str) -> None:
        await self._scripts.run("circuit", destination, "close", "", 0, 0, "")

    async def poll_outcomes(self, run: str, wait_s: float) -> list[str]:
        events = self._prefix + "run:" + run
        with translate_errors():
            found: Any = await self.client.lpop(events, 1000)
            if found or wait_s <= 0:
                return found or []
            first: Any = await self.client.blpop([events], timeout=min(wait_s, ANSWER_TIMEOUT_S / 2))
            if first is None:
                return []
            more: Any = await self.client.lpop(events, 1000)
            return [first[1], *(more or [])]

    async def remove_consumer(self) -> None:
        """Take this process's consumer out of the groups, unless it still has claims."""
        await self._scripts.run("remove_consumer", self.consumer)


def _job(
    key: str, want: str, lane: str, entry: str, token: str, unconditional: str, noticed: str, attempts: str, runs: str
) -> Job:
    return Job(
        key,
        tuple(want.split(" ")),
        _LANES[lane],
        entry,
        token,
        unconditional == "1",
        _attempts(attempts),
        int(noticed),
        runs,
    )


def _attempts(text: str) -> dict[str, int]:
    if not text:
        return {}
    counted = (part.rpartition("=") for part in text.split(" "))
    return {name: int(count) for name, _, count in counted}
