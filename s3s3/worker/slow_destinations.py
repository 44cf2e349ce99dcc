"""Which destinations hold up the others, as one process sees it: they get jobs of their own, in the bulk lane.

So a destination that is slow, or hangs, costs those beside it a second, and then nothing but half of the slots.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DestinationTooSlow
from ..model import Outcome, Result
from ..queue.lease import boottime_s

ASIDE_FOR_S = 60.0
"""How long a destination that was left behind is kept apart; then one job tries whether it keeps up."""


class SlowDestinations:
    """The destinations of a route that are kept apart for now."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def apart(self, destinations: Sequence[str]) -> list[str]:
        """Return those of a job's destinations that are to be kept apart from its others, if it has any others."""
        if not self._until_s or all(name in self._until_s for name in destinations):
            return []
        now_s = boottime_s()
        apart = []
        for name in destinations:
            until_s = self._until_s.get(name)
            if until_s is None:
                continue
            if now_s < until_s:
                apart.append(name)
            else:
                self._until_s[name] = now_s + ASIDE_FOR_S  # this job tries it; the next ones do not wait for that
        return apart

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """See by what became of a job who was left behind, and who keeps up again."""
        for outcome in outcomes:
            if isinstance(outcome.error, DestinationTooSlow):
                self._until_s[outcome.destination] = boottime_s() + ASIDE_FOR_S
            elif self._until_s and len(outcomes) > 1 and outcome.result is not Result.FAILED:
                self._until_s.pop(outcome.destination, None)
