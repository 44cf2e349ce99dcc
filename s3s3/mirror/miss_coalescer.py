"""Coalesce concurrent misses for a key into one job."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from ..errors import RedisUnavailable
from ..model import Lane, Result
from ..monitoring.log import log_fields
from ..queue.base import JobRequest
from ..queue.redis_calls import RedisRetry
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker

log = logging.getLogger(__name__)

#: Unfinished jobs are enqueued again after this time (s), in case Redis has lost them. A duplicate costs one HEAD.
ENQUEUE_INTERVAL_S = 15.0


@dataclass
class _Miss:
    """A key that requests wait for. `result`: whether its copy exists, None at shutdown."""

    result: asyncio.Future[bool | None]
    enqueued_s: float
    waiting: int = 0
    enqueueing: asyncio.Task[None] | None = None


class MissCoalescer:
    """The misses of one destination. `run` must run to receive the outcomes."""

    def __init__(self, jobs: RedisJobQueue, route: str, destination: str) -> None:
        self._route = route
        self._destination = destination
        self._tracker = OutcomeTracker(jobs, self._on_outcome, lane=Lane.FRESH, resubmit=False)
        self._misses: dict[str, _Miss] = {}
        self._is_stopped = False

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(miss.waiting for miss in self._misses.values())

    async def copy(self, key: str, wait_s: float) -> bool | None:
        """Have a key copied. The job continues if the wait ends first. Raises RedisUnavailable.

        Returns whether the copy exists; None if that is not known within `wait_s`, or at shutdown.
        """
        miss = self._misses.get(key)
        if miss is None:
            miss = self._misses[key] = _Miss(asyncio.get_running_loop().create_future(), time.monotonic())
            miss.enqueueing = asyncio.create_task(self._enqueue_first(key, miss))
        miss.waiting += 1
        try:
            if not self._is_stopped:
                await asyncio.wait([miss.result], timeout=wait_s)
            return miss.result.result() if miss.result.done() else None
        finally:
            miss.waiting -= 1
            if not miss.waiting:
                self._remove(key, miss)

    def stop(self) -> None:
        """End all waits, because the process shuts down."""
        self._is_stopped = True
        for miss in self._misses.values():
            if not miss.result.done():
                miss.result.set_result(None)

    async def run(self) -> None:
        """Receive outcomes until cancelled."""
        retry = RedisRetry()
        while True:
            await retry.run(self._tracker.poll)
            now_s = time.monotonic()
            for key, miss in list(self._misses.items()):
                if now_s - miss.enqueued_s > ENQUEUE_INTERVAL_S:
                    miss.enqueued_s = now_s
                    try:
                        await self._enqueue(key)
                    except RedisUnavailable as error:
                        log.warning("%s: cannot enqueue %r again: %s", self._route, key, error,
                                    extra=log_fields(self._route, key))  # fmt: skip
                        break

    async def _enqueue(self, key: str) -> None:
        await self._tracker.enqueue([JobRequest(key, (self._destination,))])

    async def _enqueue_first(self, key: str, miss: _Miss) -> None:
        try:
            await self._enqueue(key)
        except Exception as error:  # noqa: BLE001  raised in `copy`
            if not miss.result.done():
                miss.result.set_exception(error)
                miss.result.exception()  # marks it as retrieved, because no request may be waiting any more
                self._remove(key, miss)

    def _on_outcome(self, fields: dict[str, Any]) -> None:
        miss = self._misses.pop(fields["key"], None)
        if miss is not None and not miss.result.done():
            miss.result.set_result(fields["outcome"] in (Result.COPIED.value, Result.SAME.value))

    def _remove(self, key: str, miss: _Miss) -> None:
        """Make the next request for the key enqueue a new job."""
        if self._misses.get(key) is miss:
            del self._misses[key]
            self._tracker.forget(key)
