"""What the people who look after a route's queue ask of it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from redis.asyncio import Redis

from .base import DeadLetter, QueueStats
from .lua_scripts import Scripts
from .redis_errors import translate_errors

KEYS_IN_ONE_CALL = 500
"""Redis runs a script alone, so a long one would make everybody else wait."""

SAMPLE = 100
"""Of so many records of each lane a look at a queue reads which destinations they are for."""

LETTERS_OF_NOTICES_KEPT = 10_000


class PendingStats(NamedTuple):
    """What is pending for a destination: queued or running, waiting for another try, parked; and the age of the oldest.

    `exact`: counted; else reckoned from the first `SAMPLE` of each lane.
    """

    queued: int
    waiting: int
    parked: int
    oldest_s: float | None
    exact: bool

    @property
    def total(self) -> int:
        return self.queued + self.waiting + self.parked


def utc_text(at_ms: int) -> str:
    """Return a Unix time in ms as text: 2026-01-31 12:00:00 UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


class QueueAdmin:
    """How full the queue is, dead letters, pausing.

    Args:
        prefix: what every key of the route begins with.
        stores: the names under which circuits go: the source's first, then the destinations'.
    """

    def __init__(self, client: Redis, prefix: str, stores: Sequence[str], scripts: Scripts) -> None:
        self.client = client
        self.destinations = tuple(stores[1:])
        self._prefix = self.prefix = prefix
        self._stores = tuple(stores)
        self._scripts = scripts

    async def check(self) -> None:
        """Answer, or raise RedisUnavailable."""
        with translate_errors():
            await self.client.ping()

    async def stats(self) -> QueueStats:
        """Count."""
        names = (*self._stores, DeadLetter.MESSAGES)
        fresh, bulk, waiting, looks, paused, oldest_ms, found = await self._scripts.run("stats", *names)
        by_name = dict(zip(names, found, strict=True))
        return QueueStats(
            fresh,
            bulk,
            waiting,
            looks,
            parked={name: by_name[name][0] for name in self._stores},
            dead_letters={name: by_name[name][1] for name in (DeadLetter.MESSAGES, *self.destinations)},
            circuits={name: by_name[name][2] for name in self._stores if by_name[name][2] is not None},
            oldest_s=oldest_ms / 1000,
            paused=bool(paused),
        )

    async def pending_by_destination(self) -> dict[str, PendingStats]:
        """Return what is pending for each destination."""
        found = await self._scripts.run("pending_by_destination", SAMPLE, *self.destinations)
        return {
            name: PendingStats(queued, waiting, parked, None if oldest_ms < 0 else oldest_ms / 1000, bool(exact))
            for name, (queued, waiting, parked, oldest_ms, exact) in zip(self.destinations, found, strict=True)
        }

    async def save_reconcile_summary(self, summary: str) -> None:
        """Keep the summary (JSON) of a run that compared everything."""
        with translate_errors():
            await self.client.set(self._prefix + "reconcile", summary)

    async def load_reconcile_summary(self) -> str | None:
        """Return the summary that was kept last."""
        with translate_errors():
            summary: Any = await self.client.get(self._prefix + "reconcile")
        return None if summary is None else str(summary)

    async def current_reconcile(self) -> str:
        """Return the host, process and start time of the reconcile in progress, in words, or ""."""
        with translate_errors():
            found: Any = await self.client.hmget(self._prefix + "comparing", "host", "pid", "since_ms")
        return "" if found[0] is None else f"by process {found[1]} on {found[0]} since {utc_text(int(found[2]))}"

    # -- dead letters

    async def dead_letter_message(self, message: str, reason: str) -> None:
        """Keep a message that names no possible key as a dead letter, up to a bounded number of them."""
        at = self._prefix + "dead:" + DeadLetter.MESSAGES
        with translate_errors():
            if await self.client.hlen(at) < LETTERS_OF_NOTICES_KEPT:
                await self.client.hset(at, message, letter_text(reason, 0))

    async def dead_letters(self, destination: str) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a destination, in no order; one may come twice while others are buried."""
        with translate_errors():
            async for key, text in self.client.hscan_iter(self._prefix + "dead:" + destination, count=500):
                yield DeadLetter(destination, key, **json.loads(text))

    async def redrive(self, destination: str, keys: Sequence[str]) -> int:
        """Put dead letters back to work, in the bulk lane. Return how many there were.

        Those of `DeadLetter.NOTICES` name nothing to work on: they can be read and dropped only.
        """
        if destination == DeadLetter.MESSAGES:
            return 0
        return sum([int(await self._scripts.run("redrive", destination, *part)) for part in _parts(keys)])

    async def drop(self, destination: str, keys: Sequence[str]) -> int:
        """Throw dead letters away. Return how many there were."""
        with translate_errors():
            return sum([await self.client.hdel(self._prefix + "dead:" + destination, *part) for part in _parts(keys)])

    # -- pausing

    async def pause(self, destination: str | None = None) -> None:
        """Hold a destination, whose jobs are parked, or, with None, the whole route. Pausing twice is pausing once."""
        if destination is not None:
            await self._scripts.run("circuit", destination, "hold", "paused", 0, 0, "")
            return
        with translate_errors():
            await self.client.set(self._prefix + "paused", "1")

    async def resume(self, destination: str | None = None) -> None:
        """Undo `pause`."""
        if destination is not None:
            await self._scripts.run("circuit", destination, "release", "", 0, 0, "")
            return
        with translate_errors():
            await self.client.delete(self._prefix + "paused")


def letter_text(reason: str, attempts: int) -> str:
    """Return a dead letter as Redis keeps it."""
    return json.dumps({"reason": reason, "attempts": attempts, "dead_lettered_ms": int(time.time() * 1000)})


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_IN_ONE_CALL] for start in range(0, len(keys), KEYS_IN_ONE_CALL))
