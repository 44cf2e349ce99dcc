"""Isolate destinations that slow down the others.

A slow destination gets jobs of its own in the bulk lane. So one that is slow, or hangs, delays the other destinations
by one second, and from then on costs at most half of the slots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..errors import DestinationTooSlow
from ..model import Outcome, Result

#: How long a slow destination is isolated before one job tries it together with the others again.
ISOLATE_FOR_S = 60.0


class SlowDestinations:
    """The destinations of a route that this process isolates.

    Attributes:
        isolated: until when, by destination (time.monotonic()).
    """

    def __init__(self) -> None:
        self.isolated: dict[str, float] = {}

    def isolate(self, destinations: Sequence[str]) -> list[str]:
        """Return those of a job's destinations to defer; none if all of them are slow."""
        if not self.isolated or all(name in self.isolated for name in destinations):
            return []
        now_s = time.monotonic()
        slow = [name for name in destinations if name in self.isolated]
        deferred = [name for name in slow if now_s < self.isolated[name]]
        for name in set(slow).difference(deferred):
            self.isolated[name] = now_s + ISOLATE_FOR_S  # this job tries it, further jobs do not
        return deferred

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Isolate destinations that were too slow in a job, and end the isolation of those that were not."""
        for outcome in outcomes:
            if isinstance(outcome.error, DestinationTooSlow):
                self.isolated[outcome.destination] = time.monotonic() + ISOLATE_FOR_S
            elif self.isolated and len(outcomes) > 1 and outcome.result is not Result.FAILED:
                self.isolated.pop(outcome.destination, None)
