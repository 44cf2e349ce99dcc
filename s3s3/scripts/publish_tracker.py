"""Wait for the outcomes of published keys."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ..model import Lane, Result, Route
from ..monitoring.formatting import count_noun
from ..queue.base import PAUSED, JobRequest
from ..queue.redis_calls import RedisRetry
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker
from ..tasks import wait_first

log = logging.getLogger(__name__)

#: The reason is looked for when no outcome has arrived for this long, in s, and again at each interval.
QUIET_S = 5.0
QUIET_INTERVAL_S = 30.0

#: Keys tracked at a time; each takes about 100 bytes of memory.
MAX_OUTSTANDING = 100_000


class PublishTracker:
    """Keys put on one route's queue, and their outcomes as they arrive.

    Args:
        count_listeners: returns how many listeners the route has.
        print_line: called with a line for each permanent failure.
        stop: ends all waiting.

    Attributes:
        count: how many keys were enqueued.
        counts: the number of each outcome by destination.
    """

    def __init__(
        self,
        route: Route,
        jobs: RedisJobQueue,
        count_listeners: Callable[[], Awaitable[int]],
        print_line: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        self.route = route
        self.count = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in route.destination_names}
        self._jobs = jobs
        self._count_listeners = count_listeners
        self._print_line = print_line
        self._stop = stop
        self._tracker = OutcomeTracker(jobs, self._on_outcome, on_retry=self._on_retry, lane=Lane.FRESH, resubmit=False)
        self._retry = RedisRetry()
        self._progressed = asyncio.Event()
        self._retries: dict[str, str] = {}
        self._last_warning = ""

    @property
    def outstanding(self) -> int:
        """How many keys have no final outcome at some destination."""
        return len(self._tracker)

    @property
    def failed(self) -> int:
        """How many copies failed permanently."""
        return sum(counts[Result.FAILED.value] for counts in self.counts.values())

    async def enqueue(self, keys: Iterable[str]) -> None:
        """Enqueue keys; first wait while too many are outstanding. Raises RedisUnavailable."""
        await self.wait_for_fewer_than(MAX_OUTSTANDING)
        requests = [JobRequest(key, self.route.destination_names) for key in keys]
        await self._tracker.enqueue(requests)
        self.count += len(requests)

    async def wait_for_fewer_than(self, limit: int) -> None:
        """Wait until fewer keys than that are outstanding, or for the stop."""
        while self.outstanding >= limit and not self._stop.is_set():
            self._progressed.clear()
            await wait_first(self._progressed, self._stop)

    async def run(self) -> None:
        """Receive outcomes, and log why when none arrive; never returns."""
        warn_after_s = QUIET_S
        while True:
            await self._retry.run(self._tracker.poll)
            if self._tracker.quiet_s > warn_after_s:
                warn_after_s += QUIET_INTERVAL_S
                await self._retry.run(self._on_quiet)
            elif self._tracker.quiet_s < QUIET_S:
                warn_after_s = QUIET_S

    def _on_outcome(self, fields: dict[str, Any]) -> None:
        self.counts[fields["destination"]][fields["outcome"]] += 1
        if fields["outcome"] == Result.FAILED.value:
            self._print_line(f"failed: {fields['destination']}: {fields['key']!r}: {fields['reason']}")
        self._progressed.set()

    def _on_retry(self, fields: dict[str, Any]) -> None:
        destination = fields["destination"]
        self._retries[destination] = f"{destination}: {fields['key']!r} will be retried: {fields['reason']}"

    async def _on_quiet(self) -> None:
        stats = await self._jobs.stats()
        if not stats.pending:
            await self._tracker.poll(0)
            if self._tracker.quiet_s > QUIET_S:  # else an outcome has just arrived
                await self._tracker.enqueue_again(Lane.BULK)
                log.warning("route %s: Redis has lost jobs; enqueued again: %s",
                            self.route.name, count_noun(self.outstanding, "key"))  # fmt: skip
            return
        resume = f"resume it with s3s3 jobs resume --route {self.route.name}"
        if stats.paused:
            warning = f"route {self.route.name} is paused; {resume}"
        elif stats.circuits:
            warning = "; ".join(
                f"{store} is paused; {resume} --destination {store}" if reason == PAUSED else f"{store}: down: {reason}"
                for store, reason in stats.circuits.items()
            )
        elif not await self._count_listeners():
            warning = f"route {self.route.name}: waiting, but no listener seems to be running; start `s3s3 listen`"
        else:
            warning = "; ".join(self._retries.values())
        if warning and warning != self._last_warning:
            log.warning("%s", warning)
        self._last_warning = warning

    def summary(self) -> list[str]:
        """Return the number of outcomes, a line for each destination."""
        lines = [f"route {self.route.name}: {count_noun(self.count, 'key')}"]
        for destination, counts in self.counts.items():
            parts = [f"{count:,} {outcome}" for outcome, count in sorted(counts.items())]
            if left := sum(destination in names for names in self._tracker.pending.values()):
                parts.append(f"{left:,} not done yet, still on the queue")
            lines.append(f"  {destination}: {', '.join(parts) or 'nothing'}")
        return lines
