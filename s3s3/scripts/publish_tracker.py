"""What became of the keys that one command put on the queue of a route."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from ..model import Lane, Result, Route
from ..monitoring.formatting import count_noun
from ..queue.base import PAUSED, JobQueue, JobRequest
from ..queue.lease import boottime_s
from ..queue.redis_retry import RedisRetry
from ..tasks import wait_first

log = logging.getLogger(__name__)

WAIT_S = 1.0
QUIET_S = 5.0
"""After so long without an outcome, the reason is looked for."""
LOOK_AGAIN_AFTER_S = 30.0
MAX_OUTSTANDING = 100_000
"""Keys that are waited for at once: a hundred bytes or so of memory each."""


class PublishTracker:
    """Keys put on one route's queue, and their outcomes as they come in.

    Args:
        listeners: how many listeners there are.
        tell: takes a line for each key that failed for good.
        stop: nothing is waited for any more once it is set.

    Attributes:
        keys: how many were put.
        counts: the outcomes by destination and word.
    """

    def __init__(
        self,
        route: Route,
        jobs: JobQueue,
        listeners: Callable[[], Awaitable[int]],
        tell: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        self.route = route
        self.keys = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in route.destination_names}
        self._jobs = jobs
        self._listeners = listeners
        self._tell = tell
        self._stop = stop
        self._run = secrets.token_hex(8)
        self._outstanding: dict[str, set[str]] = {}
        self._settled = asyncio.Event()
        self._tried_again: dict[str, str] = {}
        self._said = ""

    @property
    def outstanding(self) -> int:
        """How many keys have no final outcome at some destination."""
        return len(self._outstanding)

    @property
    def failed(self) -> int:
        """How many copies failed for good."""
        return sum(counts[Result.FAILED.value] for counts in self.counts.values())

    async def put(self, keys: Iterable[str]) -> None:
        """Put keys on the queue; wait first where too many are waited for."""
        await self.fewer_than(MAX_OUTSTANDING)
        keys = list(keys)
        for key in keys:
            self._outstanding[key] = set(self.route.destination_names)
        await self._put(keys, Lane.FRESH)
        self.keys += len(keys)

    async def _put(self, keys: Iterable[str], lane: Lane) -> None:
        await self._jobs.enqueue([JobRequest(key, self.route.destination_names) for key in keys], lane, self._run)

    async def fewer_than(self, limit: int) -> None:
        """Wait until fewer keys than that have no final outcome, or for the stop."""
        while len(self._outstanding) >= limit and not self._stop.is_set():
            self._settled.clear()
            await wait_first(self._settled, self._stop)

    async def keep_hearing(self) -> None:
        """Take outcomes for ever, and say why when none come."""
        heard_s, looked_after_s = boottime_s(), QUIET_S
        while True:
            if await self._hear(WAIT_S) or not self._outstanding:
                heard_s, looked_after_s = boottime_s(), QUIET_S
            elif boottime_s() - heard_s > looked_after_s:
                looked_after_s += LOOK_AGAIN_AFTER_S
                await self._look_into_it()

    async def _hear(self, wait_s: float) -> int:
        events = await RedisRetry().run(partial(self._jobs.poll_outcomes, self._run, wait_s))
        for event in events:
            self._take(json.loads(event))
        return len(events)

    def _take(self, fields: dict[str, Any]) -> None:
        key, destination, outcome = fields["key"], fields["destination"], fields["outcome"]
        waited = self._outstanding.get(key, set())
        if destination not in waited:
            return  # told twice, or of a destination that somebody else asked for
        if not fields["final"]:
            self._tried_again[destination] = f"{destination}: {key!r} is to be tried again: {fields['reason']}"
            return
        self.counts[destination][outcome] += 1
        if outcome == Result.FAILED.value:
            self._tell(f"failed: {destination}: {key!r}: {fields['reason']}")
        waited.remove(destination)
        if not waited:
            del self._outstanding[key]
            self._settled.set()

    async def _look_into_it(self) -> None:
        counts = await RedisRetry().run(self._jobs.stats)
        if not counts.pending:
            await self._put_what_was_lost()
            return
        if counts.paused:
            said = f"route {self.route.name} is paused; `s3s3 jobs resume` lets it go on"
        elif counts.circuits:
            said = "; ".join(_held_text(store, reason) for store, reason in counts.circuits.items())
        elif not await RedisRetry().run(self._listeners):
            said = (
                f"route {self.route.name}: no listener seems to be working; start `s3s3 listen`, this goes on waiting"
            )
        else:
            said = "; ".join(self._tried_again.values())
        if said and said != self._said:
            log.warning("%s", said)
        self._said = said

    async def _put_what_was_lost(self) -> None:
        """The queue is empty. Unless an outcome came at the last moment, it lost what is waited for: put it again."""
        if await self._hear(0):
            return
        log.warning("route %s: %s not on the queue any more: Redis has lost data; put again",
                    self.route.name, count_noun(len(self._outstanding), "key"))  # fmt: skip
        await RedisRetry().run(partial(self._put, list(self._outstanding), Lane.BULK))

    def summary(self) -> list[str]:
        """Return what became of it, a line for each destination."""
        lines = [f"route {self.route.name}: {count_noun(self.keys, 'key')}"]
        for destination, counts in self.counts.items():
            words = [f"{count:,} {word}" for word, count in sorted(counts.items())]
            if left := sum(destination in names for names in self._outstanding.values()):
                words.append(f"{left:,} not done yet, and still on the queue")
            lines.append(f"  {destination}: {', '.join(words) or 'nothing'}")
        return lines


def _held_text(store: str, reason: str) -> str:
    if reason == PAUSED:
        return f"{store} is paused; `s3s3 jobs resume --destination {store}` lets it go on"
    return f"{store} is down: {reason}"
