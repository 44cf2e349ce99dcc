"""Backfill objects that changed while no listener was subscribed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone

from ..errors import RedisUnavailable, S3S3Error, StoreUnavailable
from ..model import Lane, Route, matcher
from ..queue.base import JobRequest
from ..queue.redis_queue import RedisJobQueue
from ..s3 import Store
from .watermark import Gap, Watermark

log = logging.getLogger(__name__)

#: Time between two checks for a gap, and the first backoff after a failed backfill, in s.
CHECK_INTERVAL_S = 2.0

#: Longest backoff after failed backfills, in s. Each may compare whole buckets.
MAX_BACKOFF_S = 300.0

#: The backfill waits while the bulk lane has more jobs, so that a huge bucket does not fill Redis's memory.
MAX_QUEUED = 1000


class GapBackfill:
    """Closes the recorded gap of a channel while this listener is the leader.

    Objects modified since the gap began are enqueued from a listing of the source. Everything is compared instead if
    the beginning is unknown, and also if a destination propagates deletions, which a listing does not show.

    Args:
        is_leader: whether this listener is the channel's leader.
        reconcile: compares everything; returns the destinations that could not be listed, with the reason.
        margin_s: how much older than the gap an object may be: its upload began earlier, or clocks differ.
    """

    def __init__(
        self,
        route: Route,
        watermark: Watermark,
        source: Store,
        jobs: RedisJobQueue,
        reconcile: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        is_leader: Callable[[], bool],
        margin_s: float,
    ) -> None:
        self._route = route
        self._watermark = watermark
        self._source = source
        self._jobs = jobs
        self._reconcile = reconcile
        self._is_leader = is_leader
        self._margin_ms = int(margin_s * 1000)
        self._matches = matcher(route)
        self._deleting = [destination.name for destination in route.destinations if destination.delete]
        self._enqueued_generation = ""

    async def run(self) -> None:
        """Check for a gap at an interval, and backfill it; never returns. The gap remains until that succeeds."""
        pause_s = CHECK_INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            if not self._is_leader():
                continue
            try:
                gap = await self._watermark.gap()
                if gap is not None:
                    await self._backfill(gap)
                pause_s = CHECK_INTERVAL_S
            except S3S3Error as error:
                log.warning("route %s: cannot backfill the subscription gap yet: %s", self._route.name, error)
                # While Redis is unavailable, a check sends no request to a store.
                is_redis = isinstance(error, RedisUnavailable)
                pause_s = CHECK_INTERVAL_S if is_redis else min(2 * pause_s, MAX_BACKOFF_S)

    async def _backfill(self, gap: Gap) -> None:
        if gap.age_ms is None:
            log.warning("route %s: Redis has lost the watermark; comparing everything", self._route.name)
            await self._reconcile()
        else:
            if gap.generation != self._enqueued_generation:  # else only the comparison below failed
                await self._enqueue_modified_since(self._source.source_time_ms() - gap.age_ms - self._margin_ms)
                self._enqueued_generation = gap.generation
            if self._deleting:
                errors = await self._reconcile()
                for name in self._deleting:
                    if name in errors:
                        raise StoreUnavailable(f"deletions are not propagated yet: {errors[name]}")
        await self._watermark.close_gap(gap.generation)
        self._enqueued_generation = ""  # after a loss of data in Redis, generations start again

    async def _enqueue_modified_since(self, since_ms: int) -> None:
        destinations = self._route.destination_names
        count = 0
        async for page in self._source.pages():
            modified = [entry.key for entry in page if entry.modified_ms >= since_ms and self._matches(entry.key)]
            count += len(modified)
            await self._jobs.enqueue([JobRequest(key, destinations) for key in modified], Lane.BULK)
            while (await self._jobs.stats()).bulk > MAX_QUEUED:
                await asyncio.sleep(0.2)
        since = datetime.fromtimestamp(since_ms / 1000, timezone.utc)
        log.info("route %s: subscription gap: enqueued %d objects modified since %s",
                 self._route.name, count, f"{since:%Y-%m-%d %H:%M:%S} UTC")  # fmt: skip
