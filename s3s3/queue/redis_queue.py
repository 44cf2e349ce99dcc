"""The job queue in Redis: one for each route, shared by all processes of the fleet.

Each key begins with `NAMESPACE:{ROUTE}:` (`[pubsub] namespace`, by default s3s3). The braces are a hash tag: a cluster
keeps all keys of a route in one slot.
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
        attempts             dest-swift=2             failed attempts by destination; 0: none of its failures counted
        failed_ms            1767225600000            the last failure at any of these; absent: none
        failures             dest-swift {"at_ms": 1767225600000, "reason": "500 InternalError"}
                             a line for each failed attempt, at most the last 10; parking is none; absent: none
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
        only_key             images/a.fits            the key of all failures, until another key fails; else absent
        paused               1                        an operator paused this destination: no probes
    successes            hash: STORE to the time of the last success there; STORE:write to that of the last write
    dead-letters:DEST    hash: KEY to {"reason": "403 AccessDenied", "attempts": 8, "dead_lettered_ms": 1767225600000};
                         "failures" has the failed attempts before the last one, if there are any
    outcomes:ID          list: outcomes (JSON) for the tracker of this ID; expires after an hour
    reconcile            string: summary (JSON) of the last reconcile, and when each destination was last compared
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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..errors import LeaseLost
from ..model import DEFAULT_NAMESPACE, Job, Lane, Route
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
    OpenCircuit,
    boottime_s,
)
from .connection import RESPONSE_TIMEOUT_S
from .redis_calls import LuaScripts, is_no_group, keyspace, raise_translated, translate_errors

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Keys of each kind that one call of `promote_due.lua` handles.
PROMOTED_PER_CALL = 200

#: Maximum number of items in one call: Redis runs nothing else during a script.
MAX_BATCH = 100

#: Fewer items than this wait up to `BATCH_DELAY_S` for more: a round trip costs more CPU time than its items.
MIN_BATCH = 8
BATCH_DELAY_S = 0.01

_GROUP = "s3s3"
_OUTCOMES_PER_CALL = 1000
_LANES = {lane.value: lane for lane in Lane}
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of a claimed job, checked before each write by calling it.

    `until_s` is when it expires, by `boottime_s`; a renewal changes it.
    """

    until_s: float

    def __call__(self) -> None:
        """Return if a write is permitted now. Raises LeaseLost if the lease expired or another worker owns the job."""
        if boottime_s() >= self.until_s:
            raise LeaseLost("lease expired: another worker may own this job now")

    def lose(self) -> None:
        """Permit no more writes: another worker owns the job."""
        self.until_s = 0.0


class RedisJobQueue(QueueAdmin):
    """The job queue of one route on Redis Streams, shared by all processes of the fleet.

    Every method can raise RedisUnavailable. `QueueAdmin` has the operators' methods.

    Attributes:
        route_token: of the route's fingerprint when this process registered; with another one in Redis, claims return
            nothing. "" is not checked.

    Args:
        namespace: first part of every Redis key.
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
        namespace: str = DEFAULT_NAMESPACE,
        source: str = "source",
        lease_s: float = 60.0,
        recheck_delay_s: float | None = None,
    ) -> None:
        prefix = keyspace(namespace, route)
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
        self._store_names = " ".join(self.stores)
        self.route_token = ""
        self._claims = 0
        self._all_taken_over_at_s = -lease_s
        self._delivered: list[tuple[str, str, str]] = []  # lane, ID and key of entries for the next claim
        self._finishes = Batcher(self._finish_many)
        self._succeeded: set[str] = set()

    @classmethod
    def of(cls, client: Redis, route: Route, lease_s: float) -> RedisJobQueue:
        """Return the queue of a configured route."""
        return cls(client, route.name, route.destination_names, namespace=route.namespace, source=route.source.name,
                   lease_s=lease_s)  # fmt: skip

    async def enqueue(
        self, requests: Iterable[JobRequest], lane: Lane, tracker_id: str = "", unconditional: bool | None = None
    ) -> None:
        """Enqueue keys. When this returns, all of them are stored.

        Args:
            tracker_id: receives the outcomes, for `poll_outcomes`; "" for none.
            unconditional: copy without comparing first; None: only in the fresh lane.
        """
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
        """Start up to `free` jobs, waiting up to `wait_s` for the first. Expired claims are taken over.

        Up to `min_bulk` come from the bulk lane before any fresh ones, and at most `max_bulk` in all. With `max_bulk`
        0 a new bulk job does not end the wait.
        """
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
        claimed, circuits, paused, more_expired = await self._scripts.run(
            "claim",
            self.consumer,
            f"{self.consumer}.{self._claims}",
            free,
            min_bulk,
            max_bulk,
            int(self.lease_s * 1000),
            int(with_expired),
            self._store_names,
            self.route_token,
            *chain.from_iterable(delivered),
        )
        del self._delivered[: len(delivered)]
        if with_expired and not more_expired:
            self._all_taken_over_at_s = now_s
        jobs = [
            Job(
                key,
                tuple(destinations.split(" ")),
                _LANES[lane],
                entry,
                token,
                unconditional == "1",
                _parse_attempts(attempts) if attempts else {},
                int(notified_ms),
                trackers,
                succeeded.split(" ") if succeeded else (),
            )
            for key, destinations, lane, entry, token, unconditional, notified_ms, attempts, trackers, succeeded
            in claimed
        ]  # fmt: skip
        opened = {store: OpenCircuit(reason, probe) for store, reason, probe in circuits}
        return ClaimResult(jobs, opened, lease_from_s, bool(paused))

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
        self._delivered += [
            (stream[len(self.prefix) :], entry, next(iter(fields.values()), ""))
            for stream, entries in response or ()
            for entry, fields in entries
        ]

    async def _create_groups(self) -> None:
        """Create the consumer groups, from the start of their streams: earlier entries are delivered, too."""
        for lane in Lane:
            try:
                await self.client.xgroup_create(self.prefix + lane.value, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        """Extend the leases of running jobs; return the tokens of lost ones."""
        args = [part for job in jobs for part in (job.lane.value, job.entry, job.key, job.token)]
        return set(await self._scripts.run("renew", self.consumer, *args)) if args else set()

    async def finish(
        self, job: Job, dispositions: Mapping[str, Disposition], recheck: bool = False, succeeded: Iterable[str] = ()
    ) -> bool:
        """Settle a claimed job, and schedule a recheck of its key if `recheck`.

        Each destination of the job needs a disposition; one without is forgotten. `succeeded` names the stores that
        the job has used, as in `Job.succeeded`, which it is for the next jobs.
        Returns False if another worker took the job over: then all its destinations are enqueued again.
        """
        done, others = [], []
        for name, disposition in dispositions.items():
            if disposition.kind == DispositionKind.DONE and not disposition.event:
                done.append(name)
            else:
                detail = disposition.circuit
                if disposition.kind == DispositionKind.DEAD_LETTER:
                    detail = dead_letter_json(disposition.reason, job.attempts.get(name, 0) + 1)
                elif disposition.kind in (DispositionKind.RETRY, DispositionKind.RETRY_UNCOUNTED):
                    detail = json.dumps(disposition.reason)
                delay_ms, has_failed = int(disposition.delay_s * 1000), int(disposition.has_failed)
                others.append((name, disposition.kind, delay_ms, disposition.event, detail, has_failed))
        self._succeeded.update(succeeded)
        lost = await self._finishes.add((job.key, job.token, int(recheck), " ".join(done), others))
        return job.token not in lost

    async def _finish_many(self, finished: Sequence[tuple[Any, ...]]) -> set[str]:
        succeeded, self._succeeded = " ".join(self._succeeded), set()
        return set(await self._scripts.run("finish", self._destination_names, _to_json(finished), succeeded))

    async def promote_due(self, max_parked: Mapping[str, int] = NO_LIMITS) -> float:
        """Queue due retries, rechecks, probes and parked keys; return the seconds until the next call is needed.

        `max_parked`: how many keys parked for a store to queue once its circuit is closed. Other stores: all.
        """
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

    async def trip_circuit(self, store: str, reason: str, key: str, *, is_only_key: bool = False) -> None:
        """Open the circuit of a store after a failure of `key`. If it is open and `key` is its probe, extend it.

        `is_only_key`: only this key has failed, so that any other one is a better probe and does not wait.
        """
        initial_ms, max_ms = int(INITIAL_PROBE_INTERVAL_S * 1000), int(MAX_PROBE_INTERVAL_S * 1000)
        await self._scripts.run("circuit", store, "trip", reason, initial_ms, max_ms, key, int(is_only_key))

    async def release_probe(self, store: str, key: str) -> None:
        """Let another key probe a store, because the outcome of its probe `key` shows nothing about it."""
        await self._scripts.run("circuit", store, "release", "", 0, 0, key, 0)

    async def close_circuit(self, store: str, succeeded: Sequence[str] = ()) -> None:
        """Close the circuit of a store; later calls of `promote_due` queue the keys parked for it.

        `succeeded`: stores that were used successfully, as for `finish`.
        """
        await self._scripts.run("circuit", store, "close", " ".join(succeeded), 0, 0, "", 0)

    async def poll_outcomes(self, tracker_id: str, wait_s: float) -> list[str]:
        """Return the new events of a tracker, waiting up to `wait_s` for the first."""
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


def _parse_attempts(text: str) -> dict[str, int]:
    return {name: int(count) for name, _, count in (part.rpartition("=") for part in text.split(" "))}


class Batcher(Generic[Item, Result]):
    """Sends items that arrive close together, or during the last call, in one call.

    Every item gets the result of its call, or its exception.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        self._call = call
        self._is_calling = asyncio.Lock()
        self._is_full = asyncio.Event()
        self._batch: list[tuple[Item, asyncio.Future[Result]]] = []
        self._senders: set[asyncio.Task[None]] = set()

    async def add(self, item: Item) -> Result:
        """Send the item together with others; return the result of the call."""
        if not self._batch or len(self._batch) >= MAX_BATCH:
            self._batch = []
            sender = asyncio.create_task(self._send(self._batch))
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        # Each item has its own future: the cancellation of its task must reach neither the others nor the call.
        sent: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._batch.append((item, sent))
        if len(self._batch) == MIN_BATCH:
            self._is_full.set()
        return await sent

    async def _send(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            async with self._is_calling:
                if len(batch) < MIN_BATCH:
                    self._is_full.clear()
                    timer = asyncio.get_running_loop().call_later(BATCH_DELAY_S, self._is_full.set)
                    await self._is_full.wait()
                    timer.cancel()
                if batch is self._batch:
                    self._batch = []
                result = await self._call([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  raised by `add`
            for _, sent in batch:
                if not sent.done():
                    sent.set_exception(error)
        else:
            for _, sent in batch:
                if not sent.done():  # else cancelled
                    sent.set_result(result)
        finally:
            for _, sent in batch:
                sent.cancel()  # without effect, unless this task was cancelled
