"""Every Prometheus series of s3s3, declared once. A key is never a label: there are millions of them.

    metrics.notices["default", "pubsub"] += 1
    metrics.dead_letters["default", "swift"] = 3
    metrics.copy_duration_seconds["default", "swift"].observe(0.004)

The figures are plain numbers in dicts, which prometheus_client sees at a scrape only: its own counters take locks and
cost some 14 us for each object copied, a tenth of all that copying a small one may cost. So only the thread of
the event loop may touch them.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from .. import __version__
from ..model import Outcome, Result, Route

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What `Metrics.page` is written in (Prometheus documentation, "Exposition formats")."""

COPY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
NOTICE_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)

LabelValues: TypeAlias = "str | tuple[str, ...]"
MetricFamily: TypeAlias = "CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily"


def _as_list(values: LabelValues) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


class _Numbers(dict[LabelValues, float]):
    """A number for each combination of label values, 0 where nothing was ever said."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        super().__init__()
        self.name, self.documentation, self.labels = f"s3s3_{name}", documentation, labels

    def __missing__(self, _: LabelValues) -> float:
        return 0.0


class Counter(_Numbers):
    """It only ever grows."""

    def collect(self) -> MetricFamily:
        """Return what a scrape is to see."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, number in self.items():
            family.add_metric(_as_list(values), number)
        return family


class Gauge(_Numbers):
    """It goes up and down."""

    def collect(self) -> MetricFamily:
        """Return what a scrape is to see."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, number in self.items():
            family.add_metric(_as_list(values), number)
        return family


class Distribution:
    """How many observed values were how large."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value. A bound belongs to the bucket below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(dict[LabelValues, Distribution]):
    """A distribution for each combination of label values."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__()
        self.name, self.documentation, self.labels = f"s3s3_{name}", documentation, labels
        self.bounds = bounds

    def __missing__(self, values: LabelValues) -> Distribution:
        distribution = self[values] = Distribution(self.bounds)
        return distribution

    def collect(self) -> MetricFamily:
        """Return what a scrape is to see."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        names = [*map(str, map(float, self.bounds)), "+Inf"]
        for values, distribution in self.items():
            at_most = zip(names, accumulate(distribution.counts), strict=True)
            family.add_metric(_as_list(values), list(at_most), distribution.total)
        return family


class Metrics(Collector):
    """All series, in a registry of their own.

    Args:
        process: show this process too: its CPU time, memory, descriptors, and Python's version and collections.
    """

    def __init__(self, *, process: bool = False) -> None:
        by_destination = ("route", "destination")
        self.build_info = Gauge("build_info", "What is running; always 1.", "version", "python")
        self.notifications = Counter(
            "notifications",
            "Notices, by what brought them (pubsub, stream, sqs, webhook) or what was wrong with them.",
            "route",
            "kind",
        )
        self.pending_jobs = Gauge("pending_jobs", "Jobs not done: fresh, bulk, waiting or parked.", "route", "state")
        self.oldest_pending_seconds = Gauge("oldest_pending_seconds", "Age of the oldest pending job.", "route")
        self.running_jobs = Gauge("running_jobs", "Jobs that this process works on.", "route")
        self.consuming = Gauge("consuming", "1 while this process works on the route's queue as it should.", "route")
        self.retries = Counter("retries", "Failures that are to be tried again.", *by_destination)
        self.dead_letters = Gauge("dead_letters", "Keys not tried again until revived.", *by_destination)
        self.circuit_open = Gauge("circuit_open", "1 while a destination counts as down.", *by_destination)
        self.copies = Counter("copies", "What became of jobs at their destinations.", *by_destination, "outcome")
        self.copy_bytes = Counter("copy_bytes", "Bytes of objects copied and verified.", *by_destination)
        self.copy_duration_seconds = Histogram(
            "copy_duration_seconds", "From the GET to the verified copy.", COPY_SECONDS, *by_destination
        )
        self.notification_to_copy_seconds = Histogram(
            "notification_to_copy_seconds", "From the notice to the verified copy.", NOTICE_SECONDS, *by_destination
        )
        self.limit_wait_seconds = Counter(
            "limit_wait_seconds", "Time that was waited for a destination's limits.", *by_destination
        )
        self.verify_mismatch = Counter(
            "verify_mismatch", "Bytes, lengths or MD5s that were not what a store had promised.", "route", "store"
        )
        self.reconcile_entries = Counter(
            "reconcile_entries", "Entries compared, by what the comparison said.", *by_destination, "reason"
        )
        self.last_reconcile_timestamp_seconds = Gauge(
            "last_reconcile_timestamp_seconds", "Unix time at which the last whole reconcile ended.", "route"
        )
        self.mirror_requests = Counter(
            "mirror_requests", "Requests to a mirror, by how they were answered.", "mirror", "outcome"
        )
        self.mirror_answer_seconds = Histogram(
            "mirror_answer_seconds", "From a request to its answer.", COPY_SECONDS, "mirror", "outcome"
        )
        self.mirror_too_large = Counter(
            "mirror_too_large", "Copies not made since a single PUT does not take the object.", "mirror"
        )
        self.mirror_waiting = Gauge("mirror_waiting", "Requests that wait for a copy.", "mirror")
        self.mirror_cache_fills = Counter(
            "mirror_cache_fills", "Downloads into a cache, by what became of them.", "mirror", "outcome"
        )
        self.mirror_cache_filling = Gauge("mirror_cache_filling", "Downloads into a cache under way.", "mirror")
        self.mirror_cache_evicted = Counter("mirror_cache_evicted", "Objects removed to make room.", "mirror")
        self.mirror_cache_evicted_bytes = Counter("mirror_cache_evicted_bytes", "Their bytes.", "mirror")
        self.mirror_cache_fill_ratio = Gauge(
            "mirror_cache_fill_ratio", "The part of a cache's file system that is in use.", "mirror"
        )
        self.mirror_connections = Gauge("mirror_connections", "Connections of clients.", "mirror")
        self.build_info[__version__, platform.python_version()] = 1

        self.registry = CollectorRegistry()
        self.registry.register(self)
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    def begin_at_zero(self, route: Route) -> None:
        """Show the counters of a route before anything happens: Prometheus overlooks a step from nothing to 1."""
        self.verify_mismatch[route.name, route.source.name] += 0
        for destination in route.destinations:
            for result in (Result.COPIED, Result.SAME, Result.FAILED, Result.SOURCE_MISSING):
                self.copies[route.name, destination.name, result.value] += 0
            if destination.delete:
                self.copies[route.name, destination.name, Result.DELETED.value] += 0
            for counter in (self.copy_bytes, self.retries, self.verify_mismatch):
                counter[route.name, destination.name] += 0

    def count_outcome(self, route: str, outcome: Outcome, duration_s: float) -> None:
        """Count what became of a job at one destination, `duration_s` after it was begun."""
        destination = outcome.destination
        self.copies[route, destination, outcome.result.value] += 1
        if outcome.result is Result.COPIED:
            self.copy_bytes[route, destination] += outcome.source_size_bytes or 0
            self.copy_duration_seconds[route, destination].observe(duration_s)

    def collect(self) -> Iterator[MetricFamily]:
        """Yield every series; prometheus_client calls it at a scrape."""
        for series in vars(self).values():
            if isinstance(series, (Counter, Gauge, Histogram)):
                yield series.collect()

    def page(self) -> bytes:
        """Return what a scrape gets."""
        return generate_latest(self.registry)
