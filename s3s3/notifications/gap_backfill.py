"""Backfill objects that changed while no listener was subscribed, and jobs that Redis has lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from ..errors import RedisUnavailable, S3S3Error
from ..events import BACKFILL_FAILED, BACKFILL_FINISHED, BACKFILL_STARTED, log_event
from ..model import Lane, Route, matcher
from ..monitoring.formatting import iso_time, time_text
from ..queue.base import Gap, JobRequest
from ..queue.redis_queue import RedisJobQueue
from ..s3 import Store
from ..tasks import backoff_s

log = logging.getLogger(__name__)

#: Time between two checks for a gap, in s.
CHECK_INTERVAL_S = 2.0

#: Longest backoff after the first failed backfill, and after further ones, in s. Each may compare whole buckets.
INITIAL_BACKOFF_S = 4.0
MAX_BACKOFF_S = 300.0

#: How often stores are probed during a backoff, in s.
PROBE_INTERVAL_S = 10.0

#: The backfill waits while the bulk lane has more jobs, so that a huge bucket does not fill Redis's memory.
MAX_QUEUED = 1000


class GapBackfill:
    """Heals the recorded gap of a route, destination by destination, while this listener is the leader.

    Objects modified since the gap began are enqueued from a listing of the source. Everything is compared instead if
    the beginning is unknown, and also if a destination propagates deletions, which a listing does not show. The gap
    stays open until every destination was compared without an error, or has its keys on the queue.

    Args:
        reconcile: compares everything at these destinations, heals the gap at those without an error, and returns the
            others, with the reason.
        unavailable: returns the names of the stores that do not answer now.
        is_leader: whether this listener is the route's leader.
        margin_s: how much older than the gap an object may be: its upload began earlier, or clocks differ.
    """

    def __init__(
        self,
        route: Route,
        source: Store,
        jobs: RedisJobQueue,
        reconcile: Callable[[Collection[str]], Awaitable[Mapping[str, str]]],
        unavailable: Callable[[], Awaitable[Collection[str]]],
        *,
        is_leader: Callable[[], bool],
        margin_s: float,
    ) -> None:
        self._route = route
        self._source = source
        self._jobs = jobs
        self._reconcile = reconcile
        self._unavailable = unavailable
        self._is_leader = is_leader
        self._margin_ms = int(margin_s * 1000)
        self._matches = matcher(route)
        self._deleting = {destination.name for destination in route.destinations if destination.delete}

    async def run(self) -> None:
        """Check for a gap at an interval, and backfill it; never returns. The gap remains until that succeeds."""
        failures = 0
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if not self._is_leader():
                continue
            try:
                # After Redis has lost its data another listener may lead before this one knows.
                gap = await self._jobs.gap(self._jobs.consumer)
                errors = {} if gap is None else await self._backfill(gap)
            except RedisUnavailable as error:
                log.warning("route %s: cannot check for a gap yet: %s", self._route.name, error)
                continue
            except S3S3Error as error:
                errors = {self._route.source.name: str(error)}
            if not errors:
                failures = 0
                continue
            failures += 1
            pause_s = backoff_s(failures, INITIAL_BACKOFF_S, MAX_BACKOFF_S)
            reasons = "; ".join(f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in errors.items())
            log_event(
                log, BACKFILL_FAILED, f"the gap stays open: {reasons}", route=self._route.name,
                destination=",".join(errors), next_attempt=iso_time(time.time() + pause_s),
            )  # fmt: skip
            await self._wait(pause_s, errors.keys())

    async def _wait(self, pause_s: float, names: Collection[str]) -> None:
        """Wait; end early when one of these stores that did not answer answers again."""
        until_s = time.monotonic() + pause_s
        down: set[str] = set()
        while (rest_s := until_s - time.monotonic()) > 0:
            still_down = set(names) & set(await self._unavailable())
            if down - still_down:
                return
            down = still_down
            await asyncio.sleep(min(rest_s, PROBE_INTERVAL_S))

    async def _backfill(self, gap: Gap) -> Mapping[str, str]:
        """Heal the gap where it is open; return the destinations where that failed, with the reason."""
        left = [name for name in self._route.destination_names if name not in gap.healed]
        started_s = time.monotonic()
        compared, enqueued, since_ms = left, [], 0
        text = "Redis has lost its data; comparing everything"
        if gap.age_ms is not None:
            compared = [name for name in left if name in self._deleting]
            enqueued = [name for name in left if name not in self._deleting]
            since_ms = self._source.source_time_ms() - gap.age_ms - self._margin_ms
            text = f"objects modified since {time_text(since_ms)}"
        log_event(log, BACKFILL_STARTED, text, route=self._route.name, destination=",".join(left))
        count, errors = None, {}
        if enqueued:
            count = await self._enqueue_modified_since(since_ms, enqueued)
            await self._jobs.heal_gap(gap.generation, enqueued)
        if compared:
            errors = dict(await self._reconcile(compared))
        if healed := [name for name in left if name not in errors]:
            log_event(
                log, BACKFILL_FINISHED, route=self._route.name, destination=",".join(healed), enqueued=count,
                duration_s=round(time.monotonic() - started_s, 3),
            )  # fmt: skip
        return errors

    async def _enqueue_modified_since(self, since_ms: int, destinations: Collection[str]) -> int:
        """Enqueue what the source lists as modified since then; return the number of keys."""
        count = 0
        async for page in self._source.pages():
            modified = [entry.key for entry in page if entry.is_modified_since(since_ms) and self._matches(entry.key)]
            count += len(modified)
            await self._jobs.enqueue([JobRequest(key, tuple(destinations)) for key in modified], Lane.BULK)
            while (await self._jobs.stats()).bulk > MAX_QUEUED:
                await asyncio.sleep(0.2)
        return count
