"""Cap the worker slots that rate-limited destinations may occupy.

Jobs that wait for a rate limit would otherwise fill all slots, and delay the other destinations as well. A job beyond
the cap is parked for the destination, and queued again when `promote_due` finds a free slot.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from ..model import Job
from ..s3 import RateLimiter


class Bulkhead:
    """Counts the slots of rate-limited destinations.

    Args:
        limits: rate limiters by destination.
        share: a destination's share of the slots, while its rate limit is exhausted.
    """

    def __init__(self, limits: Mapping[str, RateLimiter], share: int) -> None:
        self._limits = limits
        self._share = max(share, 1)
        self._used: Counter[str] = Counter()

    def full(self, job: Job, parked: Collection[str]) -> list[str]:
        """Return the job's destinations without a free slot, except those that are parked anyway."""
        return [
            name for name in job.destinations if name in self._limits and name not in parked and self._free(name) == 0
        ]

    def stop_admitting(self) -> None:
        """Fail requests that would have to wait for a rate limit, because this process is shutting down."""
        for rate_limiter in self._limits.values():
            rate_limiter.stop_admitting()

    def acquire(self, task: asyncio.Task[Any], destinations: Sequence[str]) -> None:
        """Occupy a slot of each destination until the task has ended."""
        names = [name for name in destinations if name in self._limits]
        self._used.update(names)
        task.add_done_callback(partial(self._release, names))

    def _release(self, names: Sequence[str], _: asyncio.Task[Any]) -> None:
        self._used.subtract(names)

    def free(self) -> dict[str, int]:
        """Return the free slots of each destination whose slots are limited now."""
        free = {name: self._free(name) for name in self._limits}
        return {name: count for name, count in free.items() if count is not None}

    def _free(self, name: str) -> int | None:
        slots = self._limits[name].slots(self._share)
        return None if slots is None else max(slots - self._used[name], 0)
