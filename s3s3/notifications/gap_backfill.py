"""What nobody heard is found again: the objects that the source changed during a gap are looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone

from ..errors import RedisUnavailable, S3S3Error, StoreUnavailable
from ..model import Lane, Route
from ..queue.base import JobRequest
from ..queue.redis_queue import RedisJobQueue
from ..s3 import Store
from .pubsub import PubSubSource

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
MAX_BACKOFF_S = 300.0
"""Between two tries of a heal that goes on failing, as it may compare whole buckets. It grows up to that from a look's
pause: most of what fails has failed for a moment only."""

MAX_AHEAD = 1000
"""Bulk jobs on the queue at once: a heal of a huge bucket waits for the worker, not Redis's memory for it."""


class GapBackfill:
    """Heals gaps, one at a time, in the listener whose ear leads.

    Args:
        reconcile: compares everything; for a Redis that has lost what it knew, when no gap can be told.
        margin_s: how much older than the gap an object may be: its upload began earlier, or clocks differ.
        matches: whether the route is about this key.

    What was deleted during a gap no listing of the source tells: where deletions are carried over, everything is
    compared too.
    """

    def __init__(
        self,
        route: Route,
        ear: PubSubSource,
        source: Store,
        jobs: RedisJobQueue,
        reconcile: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        margin_s: float,
        matches: Callable[[str], bool],
    ) -> None:
        self._route = route
        self._ear = ear
        self._source = source
        self._jobs = jobs
        self._reconcile = reconcile
        self._margin_ms = int(margin_s * 1000)
        self._matches = matches
        self._deletes = any(destination.delete for destination in route.destinations)
        self._put_generation = ""

    async def run(self) -> None:
        """Heal for ever. A heal that fails is begun again: the gap stays on record until it is healed."""
        pause_s = LOOK_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            if not self._ear.leads:
                continue
            try:
                gap = await self._ear.gap()
                if gap is not None:
                    await self._heal(*gap)
                pause_s = LOOK_EVERY_S
            except RedisUnavailable as error:
                self._say_not_yet(error)
                pause_s = LOOK_EVERY_S  # while it is away, asking costs no store anything
            except S3S3Error as error:
                self._say_not_yet(error)
                pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    def _say_not_yet(self, error: S3S3Error) -> None:
        log.warning("route %s: what nobody listened to cannot be looked at yet: %s", self._route.name, error)

    async def _heal(self, from_ms: int, generation: str) -> None:
        if not from_ms:
            log.warning("route %s: Redis has lost what it knew; comparing everything", self._route.name)
            await self._reconcile()
        else:
            if generation != self._put_generation:  # else it is deletions that are to be found still
                await self._put_changed_since(from_ms - self._margin_ms)
                self._put_generation = generation
            if self._deletes:
                await self._compare_for_deletions()
        await self._ear.healed(generation)
        self._put_generation = ""  # of a Redis that has lost what it knew, another gap may have the same

    async def _compare_for_deletions(self) -> None:
        """Compare everything. Raises StoreUnavailable where a destination that is to lose objects was not listed."""
        errors = await self._reconcile()
        for destination in self._route.destinations:
            if destination.delete and destination.name in errors:
                raise StoreUnavailable(f"what was deleted is not carried over yet: {errors[destination.name]}")

    async def _put_changed_since(self, since_ms: int) -> None:
        found = 0
        async for page in self._source.pages():
            changed = [entry.key for entry in page if entry.modified_ms >= since_ms and self._matches(entry.key)]
            found += len(changed)
            await self._jobs.enqueue([JobRequest(key, self._route.destination_names) for key in changed], Lane.BULK)
            while (await self._jobs.stats()).bulk > MAX_AHEAD:
                await asyncio.sleep(0.2)
        since = datetime.fromtimestamp(since_ms / 1000, timezone.utc)
        log.info("route %s: %d objects changed since %s are looked at, for nobody listened for a while",
                 self._route.name, found, f"{since:%Y-%m-%d %H:%M:%S} UTC")  # fmt: skip
