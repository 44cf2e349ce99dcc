"""The job queue in Redis: one for each route, shared by all processes of the fleet.

Each key begins with `s3s3:{ROUTE}:`. The braces are a hash tag: a cluster keeps all keys of a route in one slot.
Times are Unix times in ms by Redis's clock. Several names in one field have a space between them.

    KEY                  TYPE, MEANING
        field                EXAMPLE                  MEANING

    job:KEY              hash: the record of a key; deleted when nothing is left to do
        phase                queued                   queued, running or waiting (for a retry or a circuit)
        destinations         dest-ceph dest-swift     still to be made equal to the source
        lane                 fresh                    fresh (notifications) or bulk (everything else)
        entry                1767225600000-0          ID of its entry in the stream of that lane
        token                host:4711:9f3c21d0.17.1  identifies the claim that runs it
        unconditional        1                        copy without comparing first; empty: compare
        notified_ms          1767225600000            when the key was enqueued, or its notification was sent
        attempts             dest-swift=2             failed attempts by destination
        retry_at_ms          1767225660000            when its retry is due; a failure before that is not counted
        trackers             5d41402abc4b2a76         IDs of the lists for the outcomes
        rerun                dest-ceph                destinations enqueued while the job was running
        rerun_lane           fresh                    the lane of those
        rerun_notified_ms    1767225601000            notified_ms of those
        rerun_trackers       7d793037a0760186         trackers of those
    fresh, bulk          streams, the two lanes: entries {key: KEY}, read by the consumer group `s3s3`
    retries              sorted set: keys with a retry, by the time when it is due
    rechecks             sorted set: keys to compare again, by the time when that is due
    parked:STORE         set: keys that wait until the circuit of a destination, or of the source, closes
    circuit:STORE        hash: an open circuit; deleted when it closes
        since                1767225600000            when it opened
        reason               503 SlowDown             why, as the status page shows it
        backoff_ms           4000                     delay before the next probe; doubles up to 30 s
        probe_at             1767225604000            when the next probe starts, or the current one times out
        probe                images/a.fits            the key that probes the store now
        paused               1                        an operator paused this destination: no probes
    dead-letters:DEST    hash: KEY to {"reason": "403 AccessDenied", "attempts": 8, "dead_lettered_ms": 1767225600000}
    outcomes:ID          list: outcomes (JSON) for the tracker of this ID; expires after an hour
    reconcile            string: summary (JSON) of the last complete reconcile
    paused               string: 1 while the whole route is paused by an operator

Only the scripts in `lua/` change a record, each in one atomic step. If Redis's clock jumps forward, leases expire
early: the former owner learns this at its next renewal, and the recheck that a takeover schedules repairs its writes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..model import Job, Lane, Route
from .admin import KEYS_PER_CALL, QueueAdmin, dead_letter_json
from .base import (
    INITIAL_PROBE_INTERVAL_S,
    MAX_PROBE_INTERVAL_S,
    MAX_PROMOTE_INTERVAL_S,
    NO_LIMITS,
    PARKED_INTERVAL_S,
    ClaimResult,
    Disposition,
    DispositionKind,
    JobRequest,
)
from .batching import Batcher
from .connection import RESPONSE_TIMEOUT_S
from .lease import boottime_s
from .redis_calls import LuaScripts, is_no_group, keyspace, raise_translated, translate_errors

#: Keys of each kind that one call of `promote_due.lua` handles.
PROMOTED_PER_CALL = 200

_GROUP = "s3s3"
_OUTCOMES_PER_CALL = 1000
_LANES = {lane.value: lane for lane in Lane}
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class DeliveredEntry(NamedTuple):
    """A stream entry that a blocking read delivered; the next claim starts its job."""

    lane: str
    entry: str
    key: str


class RedisJobQueue(QueueAdmin):
    """The job queue of one route on Redis Streams, shared by all processes of the fleet.

    Implements `s3s3.queue.base.JobQueue`; `QueueAdmin` adds the operators' methods.

    Args:
        source: name of the source, which names its circuit.
        lease_s: how long a claim is valid without a renewal; the same in the whole fleet.
        recheck_delay_s: when to recheck a key after a PUT that may still be in flight. At least as long as that PUT
            can take: by default twice the lease, as it starts within the lease and lasts at most another one.
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
        prefix = keyspace(route)
        recheck_s = 2 * lease_s if recheck_delay_s is None else recheck_delay_s
        scripts = LuaScripts(
            client,
            __package__,
            prefix,
            folder="lua",
            prelude="record",
            args=(int(recheck_s * 1000),),
            on_no_group=self._create_groups,
        )
        super().__init__(client, prefix, (source, *destinations), scripts)
        self.lease_s = lease_s
        self.consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._destination_names = " ".join(destinations)
        self._store_names = " ".join(self._stores)
        self._claims = 0
        self._all_taken_over_at_s = -lease_s
        self._delivered: list[DeliveredEntry] = []
        self._finishes = Batcher(self._finish_many)

    @classmethod
    def of(cls, client: Redis, route: Route, lease_s: float) -> RedisJobQueue:
        """Return the queue of a configured route."""
        return cls(client, route.name, route.destination_names, source=route.source.name, lease_s=lease_s)

    async def enqueue(
        self, requests: Iterable[JobRequest], lane: Lane, tracker_id: str = "", unconditional: bool | None = None
    ) -> None:
        options = (lane.value, tracker_id, int(lane is Lane.FRESH if unconditional is None else unconditional))
        parts: list[str] = []
        for key, destinations, notified_ms in requests:
            parts += (key, " ".join(destinations), "" if notified_ms is None else str(notified_ms))
            if len(parts) == 3 * KEYS_PER_CALL:
                await self._scripts.run("enqueue", *options, _to_json(parts))
                parts = []
        if parts:
            await self._scripts.run("enqueue", *options, _to_json(parts))

    async def claim(self, free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        claims = await self._claim(free, min_bulk, max_bulk)
        if claims.jobs or wait_s <= 0:
            return claims
        if claims.paused:
            await asyncio.sleep(wait_s)
            return claims
        lanes = tuple(Lane) if max_bulk > 0 else (Lane.FRESH,)
        await self._wait_for_entries(lanes, min(wait_s, RESPONSE_TIMEOUT_S / 2))
        return await self._claim(free, min_bulk, max_bulk) if self._delivered else claims

    async def _claim(self, free: int, min_bulk: int, max_bulk: int) -> ClaimResult:
        lease_from_s, now_s = boottime_s(), time.monotonic()
        with_expired = now_s - self._all_taken_over_at_s >= self.lease_s / 4
        delivered = self._delivered[:free]
        self._claims += 1
        jobs, circuits, paused, more_expired = await self._scripts.run(
            "claim",
            self.consumer,
            f"{self.consumer}.{self._claims}",
            free,
            min_bulk,
            max_bulk,
            int(self.lease_s * 1000),
            int(with_expired),
            self._store_names,
            *chain.from_iterable(delivered),
        )
        del self._delivered[: len(delivered)]
        if with_expired and not more_expired:
            self._all_taken_over_at_s = now_s
        return ClaimResult([_job(*fields) for fields in jobs], dict(circuits), lease_from_s, bool(paused))

    async def _wait_for_entries(self, lanes: Sequence[Lane], wait_s: float) -> None:
        """Wait for a new entry in one of the lanes; each lane may deliver one."""
        streams: Any = {self.prefix + lane.value: ">" for lane in lanes}
        try:
            response: Any = await self.client.xreadgroup(
                _GROUP, self.consumer, streams, count=1, block=max(int(wait_s * 1000), 1)
            )
        except Exception as error:  # noqa: BLE001  translated, or raised again
            if not is_no_group(error):
                raise_translated(error)
            return  # the next claim creates the group
        for stream, entries in response or ():
            for entry, fields in entries:
                self._delivered.append(
                    DeliveredEntry(stream[len(self.prefix) :], entry, next(iter(fields.values()), ""))
                )

    async def _create_groups(self) -> None:
        """Create the consumer groups, from the start of their streams: earlier entries are delivered, too."""
        for lane in Lane:
            try:
                await self.client.xgroup_create(self.prefix + lane.value, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        args = [part for job in jobs for part in (job.lane.value, job.entry, job.key, job.token)]
        return set(await self._scripts.run("renew", self.consumer, *args)) if args else set()

    async def finish(self, job: Job, dispositions: Mapping[str, Disposition], recheck: bool = False) -> bool:
        done, others = [], []
        for name, disposition in dispositions.items():
            if disposition.kind == DispositionKind.DONE and not disposition.event:
                done.append(name)
            else:
                detail = disposition.circuit
                if disposition.kind == DispositionKind.DEAD_LETTER:
                    detail = dead_letter_json(disposition.reason, job.attempts.get(name, 0) + 1)
                others.append((name, disposition.kind, int(disposition.delay_s * 1000), disposition.event, detail))
        lost = await self._finishes.add((job.key, job.token, int(recheck), " ".join(done), others))
        return job.token not in lost

    async def _finish_many(self, finished: Sequence[tuple[Any, ...]]) -> set[str]:
        return set(await self._scripts.run("finish", self._destination_names, _to_json(finished)))

    async def promote_due(self, max_parked: Mapping[str, int] = NO_LIMITS) -> float:
        limits = dict(max_parked)
        while True:
            handled, next_ms = await self._scripts.run(
                "promote_due", self._destination_names, self._store_names, PROMOTED_PER_CALL, int(self.lease_s * 1000),
                " ".join(f"{name}={count}" for name, count in limits.items()), int(PARKED_INTERVAL_S * 1000),
            )  # fmt: skip
            if handled < PROMOTED_PER_CALL:
                break
            limits = dict.fromkeys(limits, 0)
        return MAX_PROMOTE_INTERVAL_S if next_ms < 0 else min(next_ms / 1000, MAX_PROMOTE_INTERVAL_S)

    async def trip_circuit(self, store: str, reason: str, key: str) -> None:
        initial_ms, max_ms = int(INITIAL_PROBE_INTERVAL_S * 1000), int(MAX_PROBE_INTERVAL_S * 1000)
        await self._scripts.run("circuit", store, "trip", reason, initial_ms, max_ms, key)

    async def close_circuit(self, store: str) -> None:
        await self._scripts.run("circuit", store, "close", "", 0, 0, "")

    async def poll_outcomes(self, tracker_id: str, wait_s: float) -> list[str]:
        name = f"{self.prefix}outcomes:{tracker_id}"
        with translate_errors():
            events: Any = await self.client.lpop(name, _OUTCOMES_PER_CALL)
            if events or wait_s <= 0:
                return events or []
            first: Any = await self.client.blpop([name], timeout=min(wait_s, RESPONSE_TIMEOUT_S / 2))
            if first is None:
                return []
            more: Any = await self.client.lpop(name, _OUTCOMES_PER_CALL)
            return [first[1], *(more or [])]

    async def remove_consumer(self) -> None:
        """Delete this process's consumer from the groups, unless it still has claims."""
        await self._scripts.run("remove_consumer", self.consumer)


def _job(
    key: str,
    destinations: str,
    lane: str,
    entry: str,
    token: str,
    unconditional: str,
    notified_ms: str,
    attempts: str,
    trackers: str,
) -> Job:
    return Job(
        key,
        tuple(destinations.split(" ")),
        _LANES[lane],
        entry,
        token,
        unconditional == "1",
        _parse_attempts(attempts),
        int(notified_ms),
        trackers,
    )


def _parse_attempts(text: str) -> dict[str, int]:
    if not text:
        return {}
    counts = (part.rpartition("=") for part in text.split(" "))
    return {name: int(count) for name, _, count in counts}
