"""Queue administration: statistics, dead letters, pause and resume."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from redis.asyncio import Redis

from .base import PAUSED, DeadLetter, FailedAttempt, Gap, QueueStats, ReconcileRecord, RunningReconcile
from .redis_calls import LuaScripts, translate_errors

#: Keys that one script call handles: Redis runs nothing else meanwhile.
KEYS_PER_CALL = 500

#: Records of each lane from which `pending_by_destination` extrapolates.
SAMPLE_SIZE = 100

#: Messages without a valid key that are kept as dead letters.
MAX_MESSAGES = 10_000

#: Key of the lock of the reconcile in progress, after the prefix; `s3s3.reconcile.lock` describes it.
RECONCILE_LOCK = "reconcile-lock"


class PendingStats(NamedTuple):
    """Unfinished keys of one destination. `queued` includes running ones; `oldest_s` is None if there are none.

    `exact` is False if the numbers are extrapolated from the first `SAMPLE_SIZE` keys of a lane.
    """

    queued: int
    retrying: int
    parked: int
    oldest_s: float | None
    exact: bool

    @property
    def total(self) -> int:
        return self.queued + self.retrying + self.parked


class QueueAdmin:
    """Statistics, dead letters and pausing of one route's queue.

    Args:
        prefix: the prefix of the route's Redis keys, from `keyspace`.
        stores: names of the source and the destinations, in this order; circuits have these names.

    Attributes:
        run_script: runs a script of the queue by name, as `LuaScripts.run`.
    """

    def __init__(self, client: Redis, prefix: str, stores: Sequence[str], scripts: LuaScripts) -> None:
        self.client = client
        self.destinations = tuple(stores[1:])
        self.prefix = prefix
        self.stores = tuple(stores)
        self.run_script = scripts.run
        self._scripts = scripts

    async def check(self) -> None:
        """Raise RedisUnavailable if Redis does not respond."""
        with translate_errors():
            await self.client.ping()

    async def stats(self) -> QueueStats:
        """Return the number of jobs by state."""
        names = (*self.stores, DeadLetter.MESSAGES)
        fresh, bulk, retrying, rechecks, paused, oldest_ms, found = await self._scripts.run("stats", *names)
        by_name = dict(zip(names, found, strict=True))
        return QueueStats(
            fresh,
            bulk,
            retrying,
            rechecks,
            parked={name: by_name[name][0] for name in self.stores},
            dead_letters={name: by_name[name][1] for name in (DeadLetter.MESSAGES, *self.destinations)},
            circuits={name: by_name[name][2] for name in self.stores if by_name[name][2] is not None},
            oldest_s=oldest_ms / 1000,
            paused=bool(paused),
        )

    async def pending_by_destination(self) -> dict[str, PendingStats]:
        """Return the number of unfinished keys of each destination."""
        found = await self._scripts.run("pending_by_destination", SAMPLE_SIZE, *self.destinations)
        return {
            name: PendingStats(queued, retrying, parked, None if oldest_ms < 0 else oldest_ms / 1000, bool(exact))
            for name, (queued, retrying, parked, oldest_ms, exact) in zip(self.destinations, found, strict=True)
        }

    async def save_reconcile_summary(self, record: ReconcileRecord) -> None:
        """Store the record of a reconcile."""
        with translate_errors():
            await self.client.set(self.prefix + "reconcile", json.dumps(asdict(record)))

    async def load_reconcile_summary(self) -> ReconcileRecord | None:
        """Return the record of the last reconcile that reached its end."""
        with translate_errors():
            text: Any = await self.client.get(self.prefix + "reconcile")
        stored = {} if text is None else json.loads(text)
        known = {each.name for each in fields(ReconcileRecord)}
        return ReconcileRecord(**{name: stored[name] for name in known & stored.keys()}) if stored else None

    async def current_reconcile(self) -> RunningReconcile | None:
        """Return the process that reconciles the route now."""
        with translate_errors():
            found: Any = await self.client.hmget(self.prefix + RECONCILE_LOCK, "host", "pid", "since_ms", "progress")
        host, pid, since_ms, progress = found
        if host is None:
            return None
        fields = json.loads(progress or "{}")
        return RunningReconcile(host, int(pid), int(since_ms), fields.get("compared", 0), fields.get("outcomes", {}))

    async def gap(self, listener: str = "") -> Gap | None:
        """Return the gap that is not healed yet at every destination, if any.

        `listener`: return None while another listener than this one leads.
        """
        found = await self._scripts.run("gap", "read", listener)
        if not found:
            return None
        is_start_known, age_ms, generation, healed = found
        return Gap(int(age_ms) if is_start_known else None, str(generation), frozenset(str(healed).split()))

    async def heal_gap(self, generation: str, destinations: Iterable[str]) -> None:
        """Record that a gap is healed at these destinations. A later gap, which has another generation, remains."""
        await self._scripts.run("gap", "heal", generation, " ".join(destinations), " ".join(self.destinations))

    # -- dead letters

    async def dead_letter_message(self, message: str, reason: str) -> None:
        """Record a message without a valid key as a dead letter. At most `MAX_MESSAGES` are kept."""
        name = self._dead_letters_key(DeadLetter.MESSAGES)
        with translate_errors():
            if await self.client.hlen(name) < MAX_MESSAGES:
                await self.client.hset(name, message, dead_letter_json(reason, 0))

    async def dead_letters(self, destination: str) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a destination, in no order. One may come twice while others are added."""
        with translate_errors():
            async for key, text in self.client.hscan_iter(self._dead_letters_key(destination), count=500):
                yield _dead_letter(destination, key, text)

    async def dead_letter_keys(
        self, destination: str, matches: Callable[[DeadLetter], bool] = lambda letter: True
    ) -> AsyncIterator[list[str]]:
        """Yield the keys of the `dead_letters` that match, as many at a time as one call to Redis takes."""
        keys: list[str] = []
        async for letter in self.dead_letters(destination):
            if matches(letter):
                keys.append(letter.key)
            if len(keys) == KEYS_PER_CALL:
                yield keys
                keys = []
        if keys:
            yield keys

    async def redrive(self, destination: str, keys: Sequence[str]) -> int:
        """Enqueue dead letters again, in the bulk lane; return how many were found.

        Those of `DeadLetter.MESSAGES` have no key to work on, so they can be dropped only.
        """
        if destination == DeadLetter.MESSAGES:
            return 0
        return sum([int(await self._scripts.run("redrive", destination, *batch)) for batch in _batches(keys)])

    async def drop(self, destination: str, keys: Sequence[str]) -> int:
        """Delete dead letters; return how many were found."""
        name = self._dead_letters_key(destination)
        with translate_errors():
            return sum([await self.client.hdel(name, *batch) for batch in _batches(keys)])

    async def dead_letter(self, destination: str, key: str) -> DeadLetter | None:
        """Return the dead letter of a key at a destination, if it is one."""
        with translate_errors():
            text: Any = await self.client.hget(self._dead_letters_key(destination), key)
        return None if text is None else _dead_letter(destination, key, text)

    async def dead_letter_page(self, destination: str, cursor: int, count: int) -> tuple[int, list[DeadLetter]]:
        """Return about `count` dead letters, and the cursor of the next call (HSCAN); 0 begins and ends."""
        with translate_errors():
            answer: Any = await self.client.hscan(self._dead_letters_key(destination), cursor, count=count)
        after, found = answer
        return int(after), [_dead_letter(destination, key, text) for key, text in found.items()]

    def _dead_letters_key(self, destination: str) -> str:
        return f"{self.prefix}dead-letters:{destination}"

    # -- pausing

    async def pause(self, destination: str | None = None) -> None:
        """Pause a destination, to park its jobs, or the whole route (None). Idempotent."""
        if destination is not None:
            await self._scripts.run("circuit", destination, "pause", PAUSED, 0, 0, "", 0)
            return
        with translate_errors():
            await self.client.set(self.prefix + "paused", "1")

    async def resume(self, destination: str | None = None) -> None:
        """Undo `pause`."""
        if destination is not None:
            await self._scripts.run("circuit", destination, "resume", "", 0, 0, "", 0)
            return
        with translate_errors():
            await self.client.delete(self.prefix + "paused")


def dead_letter_json(reason: str, attempts: int) -> str:
    """Return a dead letter as it is stored in Redis."""
    return json.dumps({"reason": reason, "attempts": attempts, "dead_lettered_ms": int(time.time() * 1000)})


def _dead_letter(destination: str, key: str, text: str) -> DeadLetter:
    fields = json.loads(text)
    failures = [FailedAttempt(**failure) for failure in fields.pop("failures", ())]
    return DeadLetter(destination, key, **fields, failures=failures)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_PER_CALL] for start in range(0, len(keys), KEYS_PER_CALL))
