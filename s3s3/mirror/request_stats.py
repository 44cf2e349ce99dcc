"""What a front counts: for Prometheus, and for InfluxDB where one is to be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from ..errors import TooLarge
from ..model import Outcome, Result
from ..monitoring.metrics import Metrics


class Event(str, Enum):
    """What became of a request, or of a copy. The value is the predecessor's name for it, which InfluxDB gets."""

    HIT = "CacheHit"
    WAITED = "CacheWaitedForUpload"
    WAITED_IN_VAIN = "CacheWaitedForUploadMiss"
    TIMEOUT = "CacheTimeout"
    ERROR = "CacheErrorRedirect"
    COPIED = "CacheUpload"
    NOT_COPIED = "CacheUploadError"
    MISS = "CacheMiss"
    STREAMED = "CacheStreamed"
    REFUSED = "CacheRefused"


_OF_REQUESTS = {
    Event.HIT: "hit",
    Event.WAITED: "waited",
    Event.WAITED_IN_VAIN: "not copied",
    Event.TIMEOUT: "timeout",
    Event.ERROR: "error",
    Event.MISS: "miss",
    Event.STREAMED: "streamed",
    Event.REFUSED: "refused",
}
OF_COPIES = (Event.HIT, Event.WAITED, Event.WAITED_IN_VAIN, Event.TIMEOUT, Event.ERROR)
OF_CACHE = (Event.HIT, Event.MISS, Event.STREAMED, Event.REFUSED, Event.ERROR)
"""How the one kind of mirror answers, and the other."""

Line = Callable[[str, str, float], None]


class RequestStats:
    """Counts the requests and copies of one mirror.

    Args:
        line: takes an event's name, the mirror's and the seconds that it took.
        events: how it may answer requests.
    """

    def __init__(
        self, mirror: str, metrics: Metrics, line: Line | None = None, events: Sequence[Event] = OF_COPIES
    ) -> None:
        self._mirror = mirror
        self._metrics = metrics
        self._line = line
        for event in events:
            metrics.mirror_requests[mirror, _OF_REQUESTS[event]] += 0
        if events is OF_COPIES:
            metrics.mirror_too_large[mirror] += 0

    def answered(self, event: Event, took_s: float) -> str:
        """Count a request that was answered; return the outcome's word."""
        outcome = _OF_REQUESTS[event]
        self._metrics.mirror_requests[self._mirror, outcome] += 1
        self._metrics.mirror_answer_seconds[self._mirror, outcome].observe(took_s)
        self._tell(event, took_s)
        return outcome

    def copied(self, outcomes: Sequence[Outcome], took_s: float) -> None:
        """Count what became of a copy."""
        for outcome in outcomes:
            if outcome.result is Result.COPIED:
                self._tell(Event.COPIED, took_s)
            elif outcome.result is not Result.SAME:
                self._tell(Event.NOT_COPIED, took_s)
            self._metrics.mirror_too_large[self._mirror] += isinstance(outcome.error, TooLarge)

    def _tell(self, event: Event, took_s: float) -> None:
        if self._line is not None:
            self._line(event.value, self._mirror, took_s)
