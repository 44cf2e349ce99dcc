"""What nobody heard is found again: the objects that the source changed during a gap are looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

from .errors import S3S3Error
from .jobs import Put
from .jobs.redis import RedisJobs
from .model import Lane, Route
from .notices.ear import Ear
from .store import Store

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
PAUSE_AFTER_FAILURE_S = 30.0
MOST_AHEAD = 1000
"""Bulk jobs on the queue at once: a heal of a huge bucket waits for the worker, not Redis's memory for it."""


class Healer:
    """Heals gaps, one at a time, in the listener whose ear leads.

    Args:
        reconcile: compares everything; for a Redis that has lost what it knew, when no gap can be told.
        margin_s: how much older than the gap an object may be: its upload began earlier, or clocks differ.
        matches: whether the route is about this key.
    """

    def __init__(
        self,
        route: Route,
        ear: Ear,
        source: Store,
        jobs: RedisJobs,
        reconcile: Callable[[], Awaitable[object]],
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

    async def run(self) -> None:
        """Heal for ever. A heal that fails is begun again: the gap stays on record until it is healed."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._ear.leads:
                continue
            try:
                gap = await self._ear.gap()
                if gap is not None:
                    await self._heal(*gap)
            except S3S3Error as error:
                log.warning("route %s: what nobody listened to cannot be looked at yet: %s", self._route.name, error)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def _heal(self, from_ms: int, generation: str) -> None:
        if from_ms:
            await self._put_changed_since(from_ms - self._margin_ms)
        else:
            log.warning("route %s: Redis has lost what it knew; comparing everything", self._route.name)
            await self._reconcile()
        await self._ear.healed(generation)

    async def _put_changed_since(self, since_ms: int) -> None:
        found = 0
        async for page in self._source.pages():
            changed = [entry.key for entry in page if entry.modified_ms >= since_ms and self._matches(entry.key)]
            found += len(changed)
            await self._jobs.put([Put(key, self._route.destination_names) for key in changed], Lane.BULK)
            while (await self._jobs.counts()).bulk > MOST_AHEAD:
                await asyncio.sleep(0.2)
        since = datetime.fromtimestamp(since_ms / 1000, timezone.utc)
        log.info("route %s: %d objects changed since %s are looked at, for nobody listened for a while",
                 self._route.name, found, f"{since:%Y-%m-%d %H:%M:%S} UTC")  # fmt: skip
