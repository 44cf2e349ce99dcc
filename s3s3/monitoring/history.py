"""What became of a route's jobs in the last hour, of all processes together, minute by minute.

Keys, under the route's prefix:

    minute:N        hash: the figures of minute N (Unix time / 60), kept for some two hours. Fields, each a number:
        DEST copied, DEST failed, DEST bytes
        DEST lag I      copies whose notice had come so long before as bucket I of `NOTICE_SECONDS` says
    failures        list: the latest failures, the newest first, a day and a bounded number of them, each
                    {at_ms, destination, reason, key, count}, where count of them for the same reason came together

Each process adds what its own figures grew by, every few seconds and in one call, whatever the number of objects.
All times are Redis's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ..model import Outcome, Result, Route
from ..queue.lua_scripts import LuaScripts
from .metrics import NOTICE_SECONDS, Metrics

MINUTES = 60
KEPT_S = 2 * 3600
FAILURES_KEPT = 50
FAILURES_KEPT_S = 86_400
LAG_MINUTES = 10
"""Over how much of the hour the lag is told: what was half an hour ago says nothing of now."""


@dataclass
class HourlySeries:
    """The figures of a destination: one for each minute, the oldest first, and the last is the one that runs."""

    copied: list[int] = field(default_factory=lambda: [0] * MINUTES)
    failed: list[int] = field(default_factory=lambda: [0] * MINUTES)
    copied_bytes: list[int] = field(default_factory=lambda: [0] * MINUTES)
    lag: list[int] = field(default_factory=lambda: [0] * (len(NOTICE_SECONDS) + 1))

    def rate(self, figures: Sequence[int], now_ms: int) -> float:
        """Return how many there are of these a second, over the last minute: the running one says too little alone."""
        elapsed = now_ms % 60_000 / 60_000
        return (figures[-2] * (1 - elapsed) + figures[-1]) / 60


@dataclass(frozen=True)
class Failure:
    """Some failures at a destination for one reason; `key` is one of those that failed."""

    destination: str
    reason: str
    key: str
    count: int = 1
    at_ms: int = 0


@dataclass(frozen=True)
class HistorySnapshot:
    """What all processes told: by destination, and the latest failures, the newest first."""

    now_ms: int
    hours: Mapping[str, HourlySeries]
    failures: Sequence[Failure]


def quantile_s(counts: Sequence[int], part: float) -> float | None:
    """Return the seconds below which this part of the lags lies, as Prometheus's histogram_quantile reckons it."""
    wanted = sum(counts) * part
    if not wanted:
        return None
    below = 0
    for number, count in enumerate(counts):
        if below + count >= wanted:
            if number == len(NOTICE_SECONDS):
                return float(NOTICE_SECONDS[-1])
            low = NOTICE_SECONDS[number - 1] if number else 0.0
            return low + (NOTICE_SECONDS[number] - low) * (wanted - below) / count
        below += count
    return None


class MetricsDelta:
    """What a process's own figures of a route grew by since they were told last."""

    def __init__(self, route: Route, metrics: Metrics) -> None:
        self._route = route
        self._metrics = metrics
        self._before = dict(self._now())
        self._failures: dict[tuple[str, str], Failure] = {}

    def failed(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of failures and their reasons."""
        for outcome in outcomes:
            if outcome.result is not Result.FAILED:
                continue
            reason = outcome.plain_reason
            at = outcome.destination, reason
            before = self._failures.get(at)
            if before is not None or len(self._failures) < FAILURES_KEPT:
                count = before.count + 1 if before else 1
                self._failures[at] = Failure(outcome.destination, reason, outcome.key, count)

    async def tell(self, history: History) -> None:
        """Tell it, where there is something to tell. What Redis did not take is told the next time."""
        now = dict(self._now())
        growth = {name: grown for name, number in now.items() if (grown := number - self._before.get(name, 0))}
        failures = self._failures
        if not growth and not failures:
            return
        self._failures = {}
        try:
            await history.add(growth, list(failures.values()))
        except Exception:
            self._failures = {**failures, **self._failures}
            raise
        self._before = now

    def _now(self) -> Iterator[tuple[str, int]]:
        metrics, route = self._metrics, self._route.name
        for name in self._route.destination_names:
            yield f"{name} copied", int(metrics.copies[route, name, Result.COPIED.value])
            yield f"{name} failed", int(metrics.copies[route, name, Result.FAILED.value])
            yield f"{name} bytes", int(metrics.copy_bytes[route, name])
            lags = metrics.notification_to_copy_seconds.get((route, name))
            for number, count in enumerate(lags.counts if lags is not None else ()):
                yield f"{name} lag {number}", count


class History:
    """A route's figures in Redis.

    Args:
        prefix: what every key of the route begins with.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        self._scripts = LuaScripts(client, __package__, prefix)

    async def add(self, figures: Mapping[str, int], failures: Sequence[Failure]) -> None:
        """Add to the figures of this minute. Raises RedisUnavailable."""
        listed = [
            json.dumps({"destination": one.destination, "reason": one.reason, "key": one.key, "count": one.count})
            for one in failures
        ]
        pairs = [part for name, number in figures.items() for part in (name, number)]
        await self._scripts.run("history", "add", KEPT_S, FAILURES_KEPT, FAILURES_KEPT_S, len(listed), *listed, *pairs)

    async def read(self) -> HistorySnapshot:
        """Return what all processes told in the last hour. Raises RedisUnavailable."""
        now_ms, minutes, failures = await self._scripts.run("history", "read", MINUTES)
        hours: dict[str, HourlySeries] = {}
        for number, fields in enumerate(minutes):
            for name, figure in zip(fields[::2], fields[1::2], strict=True):
                destination, kind, *bucket = name.split(" ")
                _put(hours.setdefault(destination, HourlySeries()), number, kind, bucket, int(figure))
        return HistorySnapshot(int(now_ms), hours, [Failure(**json.loads(text)) for text in failures])


def _put(hour: HourlySeries, number: int, kind: str, bucket: Sequence[str], figure: int) -> None:
    if kind == "lag":
        if number >= MINUTES - LAG_MINUTES and int(bucket[0]) < len(hour.lag):
            hour.lag[int(bucket[0])] += figure
    else:
        series = {"copied": hour.copied, "failed": hour.failed, "bytes": hour.copied_bytes}.get(kind)
        if series is not None:  # a kind of a newer version is nothing to this one
            series[number] = figure
