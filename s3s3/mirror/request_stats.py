"""Count requests and copies of a mirror for Prometheus and InfluxDB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from ..errors import TooLarge
from ..model import Outcome, Result
from ..monitoring.metrics import Metrics


class Event(Enum):
    """Result of a request or of a copy: label value in Prometheus, and name in InfluxDB (the predecessor's)."""

    HIT = ("hit", "CacheHit")
    WAITED = ("waited", "CacheWaitedForUpload")
    WAITED_NOT_COPIED = ("not_copied", "CacheWaitedForUploadMiss")
    TIMEOUT = ("timeout", "CacheTimeout")
    ERROR = ("error", "CacheErrorRedirect")
    MISS = ("miss", "CacheMiss")
    STREAMED = ("streamed", "CacheStreamed")
    REFUSED = ("refused", "CacheRefused")
    COPIED = ("", "CacheUpload")
    NOT_COPIED = ("", "CacheUploadError")

    def __init__(self, outcome: str, influxdb_name: str) -> None:
        self.outcome = outcome
        self.influxdb_name = influxdb_name


#: Results of requests to the redirect front end and the copy-proxy.
COPY_EVENTS = (Event.HIT, Event.WAITED, Event.WAITED_NOT_COPIED, Event.TIMEOUT, Event.ERROR)
#: Results of requests to the cache.
CACHE_EVENTS = (Event.HIT, Event.MISS, Event.STREAMED, Event.REFUSED, Event.ERROR)

#: Takes an event's name, the mirror's name and the duration in seconds.
EventRecorder = Callable[[str, str, float], None]


class RequestStats:
    """Counts the requests and copies of one mirror. The counters of `events`, its possible results, start at 0."""

    def __init__(
        self, mirror: str, metrics: Metrics, record_event: EventRecorder | None, events: Sequence[Event] = COPY_EVENTS
    ) -> None:
        self._mirror = mirror
        self._metrics = metrics
        self._record_event = record_event
        for event in events:
            metrics.mirror_requests[mirror, event.outcome] += 0
        if events is COPY_EVENTS:
            metrics.mirror_too_large[mirror] += 0

    def record_request(self, event: Event, took_s: float) -> str:
        """Count an answered request; return its outcome for the response header."""
        self._metrics.mirror_requests[self._mirror, event.outcome] += 1
        self._metrics.mirror_answer_seconds[self._mirror, event.outcome].observe(took_s)
        self._record(event, took_s)
        return event.outcome

    def record_copies(self, outcomes: Sequence[Outcome], took_s: float) -> None:
        """Count the outcomes of a copy job."""
        for outcome in outcomes:
            if outcome.result is Result.COPIED:
                self._record(Event.COPIED, took_s)
            elif outcome.result is not Result.SAME:
                self._record(Event.NOT_COPIED, took_s)
            self._metrics.mirror_too_large[self._mirror] += isinstance(outcome.error, TooLarge)

    def _record(self, event: Event, took_s: float) -> None:
        if self._record_event is not None:
            self._record_event(event.influxdb_name, self._mirror, took_s)
