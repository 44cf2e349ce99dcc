"""How much of a worker goes to destinations with a limit: what would only wait there is put aside for a while.

Without this the jobs that wait for one destination's limit would take every slot, and the others would be as slow.
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
    """The slots that jobs of limited destinations take.

    Args:
        share: a destination's part of the slots, where its limit is felt.
    """

    def __init__(self, limits: Mapping[str, RateLimiter], share: int) -> None:
        self._limits = limits
        self._share = max(share, 1)
        self._taken: Counter[str] = Counter()

    def full(self, job: Job, parked: Collection[str]) -> list[str]:
        """Return the job's destinations that are to wait for their turn elsewhere than in a slot."""
        return [
            name for name in job.destinations if name in self._limits and name not in parked and self._left(name) == 0
        ]

    def give_up(self) -> None:
        """Let what waits for its turn wait elsewhere: this process is about to end."""
        for rate_limiter in self._limits.values():
            rate_limiter.give_up()

    def take(self, task: asyncio.Task[Any], destinations: Sequence[str]) -> None:
        """Count a job under way, until its task ends."""
        names = [name for name in destinations if name in self._limits]
        self._taken.update(names)
        task.add_done_callback(partial(self._give, names))

    def _give(self, names: Sequence[str], _: asyncio.Task[Any]) -> None:
        self._taken.subtract(names)

    def free(self) -> dict[str, int]:
        """Return how many put-aside jobs of each destination to wake; of those that are not in it, all."""
        left = {name: self._left(name) for name in self._limits}
        return {name: count for name, count in left.items() if count is not None}

    def _left(self, name: str) -> int | None:
        slots = self._limits[name].slots(self._share)
        return None if slots is None else max(slots - self._taken[name], 0)
