"""Statistics of the last hour by minute and of the last day by quarter of an hour, in Redis, summed over all processes.

Keys, under the route's prefix:

    minute:N        hash: the statistics of minute N (Unix time / 60), kept for two hours. Fields, each a number:
        DEST copied, DEST failed, DEST bytes
        DEST lag I      copies, by time since their notification: bucket I of `NOTIFICATION_TO_COPY_BOUNDS_S`
        (queue) depth   the most keys that were on the queue at a heartbeat
    quarter:N       hash: the same of quarter N (Unix time / 900), kept for 25 hours
    failures        list: the latest failures, newest first, at most 50 and for a day, each
                    {at_ms, destination, reason, key, count}: `count` failures had the same reason

Each process adds the deltas of its own metrics every few seconds, in one call. All times are by Redis's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ..model import Outcome, Result, Route
from ..queue.redis_calls import LuaScripts
from .metrics import NOTIFICATION_TO_COPY_BOUNDS_S, Metrics

MINUTES = 60
RETENTION_S = 2 * 3600

#: Quarters of an hour in a day.
QUARTERS = 96
QUARTERS_RETENTION_S = 25 * 3600
MAX_FAILURES = 50
FAILURES_RETENTION_S = 86_400

#: The last minutes over which lags are summed.
LAG_MINUTES = 10


@dataclass
class Series:
    """The statistics of one destination: a number per period, oldest first; the last period is still running.

    Attributes:
        lags: for each period, the number of copies by bucket of their lag.
    """

    periods: int = MINUTES
    copied: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    copied_bytes: list[int] = field(default_factory=list)
    lags: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for numbers in (self.copied, self.failed, self.copied_bytes):
            numbers.extend([0] * self.periods)
        self.lags += [[0] * (len(NOTIFICATION_TO_COPY_BOUNDS_S) + 1) for _ in range(self.periods)]

    @property
    def lag(self) -> list[int]:
        """The copies of the last `LAG_MINUTES` periods by bucket of their lag."""
        return [sum(counts) for counts in zip(*self.lags[-LAG_MINUTES:], strict=True)]


def rate_per_s(minutes: Sequence[int], now_ms: int) -> float:
    """Return the rate per second over the last 60 s, from the running minute and a part of the one before."""
    elapsed = now_ms % 60_000 / 60_000
    return (minutes[-2] * (1 - elapsed) + minutes[-1]) / 60


@dataclass(frozen=True)
class Failure:
    """`count` failures at a destination for the same reason; `key` is an example."""

    destination: str
    reason: str
    key: str
    count: int = 1
    at_ms: int = 0


@dataclass(frozen=True)
class HistorySnapshot:
    """The statistics of a route by destination, and the latest failures, newest first.

    Attributes:
        hours: the last hour by minute.
        days: the last day by quarter of an hour, if it was read.
        depth: keys on the queue in the last hour, by minute; `day_depth` likewise.
    """

    now_ms: int
    hours: Mapping[str, Series]
    failures: Sequence[Failure]
    depth: Sequence[int] = ()
    days: Mapping[str, Series] = field(default_factory=dict)
    day_depth: Sequence[int] = ()


def quantile_s(counts: Sequence[int], quantile: float) -> float | None:
    """Return a quantile of the lag in seconds, as Prometheus's histogram_quantile interpolates it; None for no data."""
    rank = sum(counts) * quantile
    if not rank:
        return None
    bounds = NOTIFICATION_TO_COPY_BOUNDS_S
    below = 0
    for number, count in enumerate(counts):
        if below + count >= rank:
            if number == len(bounds):
                return float(bounds[-1])
            low = bounds[number - 1] if number else 0.0
            return low + (bounds[number] - low) * (rank - below) / count
        below += count
    return None


class MetricsDelta:
    """The growth of this process's metrics of a route since they were last published."""

    def __init__(self, route: Route, metrics: Metrics) -> None:
        self._route = route
        self._metrics = metrics
        self._published = dict(self._current())
        self._failures: dict[tuple[str, str], Failure] = {}

    def record_failures(self, outcomes: Sequence[Outcome]) -> None:
        """Add the failures among these outcomes to what is published next, at most `MAX_FAILURES` reasons."""
        for outcome in outcomes:
            if outcome.result is not Result.FAILED:
                continue
            reason = outcome.plain_reason
            known = self._failures.get((outcome.destination, reason))
            if known is not None or len(self._failures) < MAX_FAILURES:
                count = known.count + 1 if known else 1
                self._failures[outcome.destination, reason] = Failure(outcome.destination, reason, outcome.key, count)

    async def publish(self, history: History) -> None:
        """Add the growth, and the depth of the queue, to the history. Raises RedisUnavailable.

        If Redis fails, the next call publishes the growth.
        """
        current = dict(self._current())
        growth = {name: number - self._published.get(name, 0) for name, number in current.items()
                  if number != self._published.get(name, 0)}  # fmt: skip
        failures, self._failures = self._failures, {}
        stores = (self._route.source.name, *self._route.destination_names)
        try:
            await history.add(growth, list(failures.values()), stores)
        except Exception:
            self._failures = {**failures, **self._failures}
            raise
        self._published = current

    def _current(self) -> Iterator[tuple[str, int]]:
        metrics, route = self._metrics, self._route.name
        for name in self._route.destination_names:
            yield f"{name} copied", int(metrics.copies[route, name, Result.COPIED.value])
            yield f"{name} failed", int(metrics.copies[route, name, Result.FAILED.value])
            yield f"{name} bytes", int(metrics.copy_bytes[route, name])
            lags = metrics.notification_to_copy_seconds.get((route, name))
            for number, count in enumerate(lags.counts if lags is not None else ()):
                yield f"{name} lag {number}", count


class History:
    """The statistics of the route with this prefix of Redis keys."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._scripts = LuaScripts(client, __package__, prefix)

    async def add(self, growth: Mapping[str, int], failures: Sequence[Failure], stores: Sequence[str] = ()) -> None:
        """Add to the statistics of now, with the keys on the queue. Raises RedisUnavailable.

        `stores`: names of the source and the destinations, for which keys may be parked.
        """
        texts = [json.dumps({"destination": each.destination, "reason": each.reason, "key": each.key,
                             "count": each.count}) for each in failures]  # fmt: skip
        pairs = [part for name, number in growth.items() for part in (name, number)]
        await self._scripts.run(
            "history", "add", RETENTION_S, MAX_FAILURES, FAILURES_RETENTION_S, QUARTERS_RETENTION_S, " ".join(stores),
            len(texts), *texts, *pairs,
        )  # fmt: skip

    async def read(self, *, day: bool = False) -> HistorySnapshot:
        """Return the statistics of the last hour, and of the last `day`. Raises RedisUnavailable."""
        now_ms, minutes, failures, quarters = await self._scripts.run(
            "history", "read", MINUTES, QUARTERS if day else 0
        )
        hours, depth = _parse(minutes)
        days, day_depth = _parse(quarters)
        return HistorySnapshot(
            int(now_ms), hours, [Failure(**json.loads(text)) for text in failures], depth, days, day_depth
        )


def _parse(periods: Sequence[Sequence[str]]) -> tuple[dict[str, Series], list[int]]:
    """Return the series by destination, and the depth of the queue. Without a sample, that of the period before."""
    found: dict[str, Series] = {}
    depths: list[int] = []
    for period, fields in enumerate(periods):
        depths.append(depths[-1] if depths else 0)
        for name, number in zip(fields[::2], fields[1::2], strict=True):
            destination, kind, *bucket = name.split(" ")
            if (destination, kind) == ("(queue)", "depth"):
                depths[-1] = int(number)
                continue
            series = found.setdefault(destination, Series(len(periods)))
            counts = {"copied": series.copied, "failed": series.failed, "bytes": series.copied_bytes}.get(kind)
            if counts is not None:
                counts[period] = int(number)
            elif kind == "lag" and int(bucket[0]) < len(series.lags[period]):
                series.lags[period][int(bucket[0])] += int(number)  # a newer version may have more kinds and buckets
    return found, depths
