"""A route's figures by minute, of several processes, in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable, StoreUnavailable
from s3s3.model import Endpoint, Outcome, Result, Route
from s3s3.monitoring.history import (
    FAILURES_KEPT,
    KEPT_S,
    MINUTES,
    Failure,
    History,
    HourlySeries,
    MetricsDelta,
    quantile_s,
)
from s3s3.monitoring.metrics import NOTICE_SECONDS, Metrics
from s3s3.queue.connection import connect

pytestmark = pytest.mark.real

ROUTE = Route("images", Endpoint("source", "a"), (Endpoint("swift", "b"), Endpoint("ceph", "c")))
PREFIX = "s3s3:{images}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


def copied(metrics: Metrics, lag_s: float = 0.02) -> None:
    metrics.count_outcome("images", Outcome("swift", "key", Result.COPIED, source_size_bytes=1000), 0.01)
    metrics.notification_to_copy_seconds["images", "swift"].observe(lag_s)


def failure(key: str, reason: str = "") -> Outcome:
    reason = reason or f"swift: PUT of {key!r}: HTTP 503"
    return Outcome("swift", key, Result.FAILED, reason, error=StoreUnavailable("x", store="swift"))


def at_the_end(figures: list[int]) -> int:
    """Of this minute, or of the one before where the clock went on meanwhile."""
    return sum(figures[-2:])


async def test_what_two_processes_tell_is_added_up(client: Redis) -> None:
    history = History(client, PREFIX)
    for number in (1, 2):
        metrics = Metrics()
        growth = MetricsDelta(ROUTE, metrics)
        for _ in range(number):
            copied(metrics)
        await growth.tell(history)
        copied(metrics)
        await growth.tell(history)
        await growth.tell(history)
    hour = (await history.read()).hours["swift"]
    assert (at_the_end(hour.copied), at_the_end(hour.copied_bytes), sum(hour.lag)) == (5, 5000, 5)
    assert len(hour.copied) == MINUTES
    assert "ceph" not in (await history.read()).hours


async def test_what_redis_did_not_take_is_told_the_next_time(client: Redis) -> None:
    class Away(History):
        async def add(self, *_: object) -> None:
            raise RedisUnavailable("away")

    metrics = Metrics()
    growth = MetricsDelta(ROUTE, metrics)
    copied(metrics)
    growth.failed([failure("a")])
    with pytest.raises(RedisUnavailable):
        await growth.tell(Away(client, PREFIX))
    history = History(client, PREFIX)
    await growth.tell(history)
    told = await history.read()
    assert at_the_end(told.hours["swift"].copied) == 1
    assert [one.key for one in told.failures] == ["a"]


async def test_failures_are_counted_by_their_reason_whatever_their_keys(client: Redis) -> None:
    growth = MetricsDelta(ROUTE, Metrics())
    growth.failed([failure("a"), Outcome("ceph", "a", Result.COPIED)])
    growth.failed([failure("</script>\n'\"")])
    growth.failed([failure("c", "swift: another trouble")])
    history = History(client, PREFIX)
    await growth.tell(history)
    told = await history.read()
    assert {(one.reason, one.count, one.key) for one in told.failures} == {
        ("PUT of an object: HTTP 503", 2, "</script>\n'\""),
        ("another trouble", 1, "c"),
    }
    assert all(abs(one.at_ms - told.now_ms) < 60_000 for one in told.failures)


async def test_nothing_of_it_grows_or_stays_for_ever(client: Redis) -> None:
    history = History(client, PREFIX)
    for number in range(3):
        failures = [Failure("swift", f"reason {number}.{n}", "key") for n in range(FAILURES_KEPT)]
        await history.add({"swift copied": 1}, failures)
    assert len((await history.read()).failures) == FAILURES_KEPT
    async for name in client.scan_iter(PREFIX + "*"):
        assert 0 < await client.ttl(name) <= 86_400, name
        assert ":minute:" not in name or await client.ttl(name) <= KEPT_S


async def test_a_figure_of_a_newer_version_is_passed_over(client: Redis) -> None:
    history = History(client, PREFIX)
    await history.add({"swift copied": 2, "swift novelty": 3, "swift lag 99": 1}, [])
    assert at_the_end((await history.read()).hours["swift"].copied) == 2


def test_the_rate_is_of_the_last_sixty_seconds() -> None:
    hour = HourlySeries()
    hour.copied[-2:] = [600, 150]
    assert hour.rate(hour.copied, now_ms=15_000) == pytest.approx((600 * 0.75 + 150) / 60)


def test_a_quantile_is_what_prometheus_would_say() -> None:
    counts = [0] * (len(NOTICE_SECONDS) + 1)
    assert quantile_s(counts, 0.5) is None
    counts[3] = 10  # from 10 to 25 ms
    assert quantile_s(counts, 0.5) == pytest.approx(0.0175)
    counts[-1] = 1000
    assert quantile_s(counts, 0.99) == NOTICE_SECONDS[-1]
