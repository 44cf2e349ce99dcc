"""Every Prometheus metric, declared once, and the observer that counts and logs jobs.

A key is never a label: there are millions of them.

    metrics.notifications["default", "pubsub"] += 1
    metrics.dead_letters["default", "swift"] = 3
    metrics.copy_duration_seconds["default", "swift"].observe(0.004)

Values are plain numbers in dicts, which prometheus_client reads only at a scrape. Its own counters take locks and cost
about 14 us for each copied object, a tenth of the CPU time of a small copy. Only the event loop changes values.
"""

from __future__ import annotations

import logging
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from .. import __version__
from ..errors import DestinationTooSlow, JobReleased
from ..events import COPY_DEFERRED, COPY_FAILED, COPY_FINISHED, DEAD_LETTERED, Event, log_event
from ..model import Job, Lane, Outcome, Result, Route
from ..queue.base import Disposition, DispositionKind, QueueStats
from .formatting import iso_time

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

log = logging.getLogger(__name__)

#: The format of `Metrics.page` (Prometheus documentation, "Exposition formats").
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Upper bounds of histogram buckets, in seconds.
DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
NOTIFICATION_TO_COPY_BOUNDS_S = (
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400,
)  # fmt: skip

LabelValues: TypeAlias = "str | tuple[str, ...]"
MetricFamily: TypeAlias = "CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily"


def _as_list(values: LabelValues) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


class _Numbers(dict[LabelValues, float]):
    """A number for each combination of label values; 0 by default, without adding a series."""

    name: str

    def __init__(self, documentation: str, *labels: str) -> None:
        super().__init__()
        self.documentation, self.labels = documentation, labels

    def __missing__(self, _: LabelValues) -> float:
        return 0.0

    def collect(self) -> MetricFamily:
        """Return the metric as prometheus_client writes it."""
        from prometheus_client import core  # noqa: PLC0415  slow, and only a scrape needs it

        family_type = core.CounterMetricFamily if isinstance(self, Counter) else core.GaugeMetricFamily
        family = family_type(self.name, self.documentation, labels=self.labels)
        for values, number in self.items():
            family.add_metric(_as_list(values), number)
        return family


class Counter(_Numbers):
    """A counter for each combination of label values."""


class Gauge(_Numbers):
    """A gauge for each combination of label values."""


class Distribution:
    """Observed values, counted by bucket; `counts` has one more bucket than `bounds`."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value. A value equal to a bound is in the bucket below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(dict[LabelValues, Distribution]):
    """A distribution for each combination of label values."""

    name: str

    def __init__(self, documentation: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__()
        self.documentation, self.bounds, self.labels = documentation, bounds, labels

    def __missing__(self, values: LabelValues) -> Distribution:
        distribution = self[values] = Distribution(self.bounds)
        return distribution

    def collect(self) -> MetricFamily:
        """Return the metric as prometheus_client writes it."""
        from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415  slow, and only a scrape needs it

        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        names = [*map(str, map(float, self.bounds)), "+Inf"]
        for values, distribution in self.items():
            at_most = zip(names, accumulate(distribution.counts), strict=True)
            family.add_metric(_as_list(values), list(at_most), distribution.total)
        return family


class Metrics:
    """All metrics of a process, a collector of prometheus_client; an attribute's name, after "s3s3_", names the metric.

    Args:
        process: add CPU time, memory and descriptors of this process, and Python's version and garbage collections.
    """

    def __init__(self, *, process: bool = False) -> None:
        by_destination = ("route", "destination")
        self.build_info = Gauge("Versions of s3s3 and Python; always 1.", "version", "python")
        self.notifications = Counter(
            "Notifications, by source (pubsub, stream, sqs, webhook) or reason of rejection.", "route", "kind"
        )
        self.pending_jobs = Gauge(
            "Jobs that are not done, by state: fresh, bulk, retrying or parked.", "route", "state"
        )
        self.oldest_pending_seconds = Gauge("Age of the oldest pending job.", "route")
        self.running_jobs = Gauge("Jobs that this process is running.", "route")
        self.consuming = Gauge("1 while this process works on the route's queue, else 0.", "route")
        self.retries = Counter("Failed copies that will be retried.", *by_destination)
        self.dead_letters = Gauge("Keys that failed permanently.", *by_destination)
        self.circuit_open = Gauge("1 while the store's circuit is open, else 0.", *by_destination)
        self.copies = Counter("Jobs by destination and outcome.", *by_destination, "outcome")
        self.copy_bytes = Counter("Bytes of copied and verified objects.", *by_destination)
        self.copy_duration_seconds = Histogram(
            "Time from the GET to the verified copy.", DURATION_BOUNDS_S, *by_destination
        )
        self.notification_to_copy_seconds = Histogram(
            "Time from the notification to the verified copy.", NOTIFICATION_TO_COPY_BOUNDS_S, *by_destination
        )
        self.limit_wait_seconds = Counter("Time spent waiting for a destination's rate limit.", *by_destination)
        self.verify_mismatch = Counter(
            "Bodies, lengths or MD5s that differ from what the store declared.", "route", "store"
        )
        self.reconcile_entries = Counter("Compared entries, by the reason of the decision.", *by_destination, "reason")
        self.last_reconcile_timestamp_seconds = Gauge(
            "Unix time when the destination was last compared completely; 0 if never.", *by_destination
        )
        self.gap_open = Gauge(
            "1 while keys that were missed, or lost by Redis, are not backfilled yet, else 0.", *by_destination
        )
        self.mirror_requests = Counter("Requests to a mirror, by outcome.", "mirror", "outcome")
        self.mirror_answer_seconds = Histogram(
            "Time from a request to its response.", DURATION_BOUNDS_S, "mirror", "outcome"
        )
        self.mirror_too_large = Counter("Copies not made because the object is too large for a single PUT.", "mirror")
        self.mirror_waiting = Gauge("Requests that are waiting for a copy.", "mirror")
        self.mirror_cache_fills = Counter("Downloads into a cache, by outcome.", "mirror", "outcome")
        self.mirror_cache_filling = Gauge("Running downloads into a cache.", "mirror")
        self.mirror_cache_evicted = Counter("Objects evicted from a cache.", "mirror")
        self.mirror_cache_evicted_bytes = Counter("Bytes of objects evicted from a cache.", "mirror")
        self.mirror_cache_fill_ratio = Gauge("Used part of a cache's file system, from 0 to 1.", "mirror")
        self.mirror_connections = Gauge("Open client connections.", "mirror")
        for name, metric in vars(self).items():
            metric.name = f"s3s3_{name}"
        self.build_info[__version__, platform.python_version()] = 1

        self._process = process
        if process:  # a daemon, which is scraped: import it now, and not while copies are running
            import prometheus_client  # noqa: F401, PLC0415

    def initialize_series(self, route: Route) -> None:
        """Create a route's counters at 0, because Prometheus's rate() misses a series that starts at 1."""
        self.verify_mismatch[route.name, route.source.name] += 0
        for destination in route.destinations:
            for result in (Result.COPIED, Result.SAME, Result.FAILED, Result.SOURCE_MISSING):
                self.copies[route.name, destination.name, result.value] += 0
            if destination.delete:
                self.copies[route.name, destination.name, Result.DELETED.value] += 0
            for counter in (self.copy_bytes, self.retries, self.verify_mismatch):
                counter[route.name, destination.name] += 0

    def count_outcome(self, route: str, outcome: Outcome, duration_s: float) -> None:
        """Count the outcome at one destination of a job that took `duration_s`."""
        destination = outcome.destination
        self.copies[route, destination, outcome.result.value] += 1
        if outcome.result is Result.COPIED:
            self.copy_bytes[route, destination] += outcome.source_size_bytes or 0
            self.copy_duration_seconds[route, destination].observe(duration_s)

    def collect(self) -> Iterator[MetricFamily]:
        """Yield every metric; called by prometheus_client at a scrape."""
        for metric in vars(self).values():
            if isinstance(metric, (Counter, Gauge, Histogram)):
                yield metric.collect()

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        import prometheus_client as prometheus  # noqa: PLC0415  slow, and only a scrape needs it

        registry = prometheus.CollectorRegistry()
        registry.register(self)
        if self._process:
            prometheus.ProcessCollector(registry=registry)
            prometheus.PlatformCollector(registry=registry)
            prometheus.GCCollector(registry=registry)
        return prometheus.generate_latest(registry)


class JobObserver:
    """Logs and counts the jobs and notifications of one route.

    Args:
        on_failures: called with the failed outcomes of a job that has any.
    """

    def __init__(
        self, route: str, metrics: Metrics, on_failures: Callable[[Sequence[Outcome]], None] | None = None
    ) -> None:
        self._route = route
        self._metrics = metrics
        self._on_failures = on_failures

    def on_job_end(
        self, job: Job, outcomes: Sequence[Outcome], duration_s: float,
        dispositions: Mapping[str, Disposition] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Log and count a job after its outcomes are recorded in the queue.

        Destinations with the same failure share a line; failures that many objects share repeat once a minute.
        """
        route, metrics = self._route, self._metrics
        failed = []
        for outcome in outcomes:
            name, result = outcome.destination, outcome.result
            if isinstance(outcome.error, JobReleased):
                continue  # the copy was not attempted
            if isinstance(outcome.error, DestinationTooSlow):  # a job of its own will have the outcome
                log_event(log, COPY_DEFERRED, outcome.plain_reason, route=route, destination=name, key=job.key)
                continue
            metrics.count_outcome(route, outcome, duration_s)
            if result is Result.COPIED and job.lane is Lane.FRESH:
                lag_s = max(time.time() - job.notified_ms / 1000, 0.0)
                metrics.notification_to_copy_seconds[route, name].observe(lag_s)
            if result is Result.FAILED:
                failed.append(outcome)
                metrics.retries[route, name] += getattr(outcome.error, "retriable", False)
            elif log.isEnabledFor(logging.DEBUG):
                log_event(
                    log, COPY_FINISHED, outcome.reason, route=route, destination=name, key=job.key,
                    outcome=result.value, duration_s=round(duration_s, 3), bytes=outcome.source_size_bytes,
                )  # fmt: skip
        if failed:
            self._log_failures(job, failed, duration_s, dispositions)
            if self._on_failures is not None:
                self._on_failures(failed)

    def _log_failures(
        self, job: Job, failed: Sequence[Outcome], duration_s: float, dispositions: Mapping[str, Disposition]
    ) -> None:
        by_line: dict[tuple[Event, str], list[Outcome]] = {}
        for outcome in failed:
            disposition = dispositions.get(outcome.destination)
            is_final = disposition is not None and disposition.kind == DispositionKind.DEAD_LETTER
            event = DEAD_LETTERED if is_final else COPY_FAILED
            by_line.setdefault((event, outcome.plain_reason), []).append(outcome)
        for (event, reason), outcomes in by_line.items():
            names = [outcome.destination for outcome in outcomes]
            delays_s = [dispositions[name].delay_s for name in names if name in dispositions]
            next_s = min((delay_s for delay_s in delays_s if delay_s), default=None)
            error = outcomes[0].error
            log_event(
                log, event, reason, route=self._route, destination=",".join(names), key=job.key,
                attempt=max(job.attempts.get(name, 0) for name in names) + 1,
                next_attempt=None if next_s is None else iso_time(time.time() + next_s),
                request_id=getattr(error, "request_id", ""), duration_s=round(duration_s, 3),
                bytes=outcomes[0].source_size_bytes,
            )  # fmt: skip

    def on_notification(self, kind: str) -> None:
        """Count a notification by its source, or by why it was rejected."""
        self._metrics.notifications[self._route, kind] += 1

    def measure(self, stats: QueueStats, running: int) -> None:
        """Update the gauges of the queue."""
        metrics, route = self._metrics, self._route
        states = {"fresh": stats.fresh, "bulk": stats.bulk, "retrying": stats.retrying,
                  "parked": sum(stats.parked.values())}  # fmt: skip
        for state, number in states.items():
            metrics.pending_jobs[route, state] = number
        metrics.running_jobs[route] = running
        metrics.oldest_pending_seconds[route] = stats.oldest_s
        for destination, number in stats.dead_letters.items():
            metrics.dead_letters[route, destination] = number
        for store in stats.parked:
            metrics.circuit_open[route, store] = store in stats.circuits
