"""A route's statistics by minute, from several processes, in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable, StoreUnavailable
from s3s3.model import Endpoint, Lane, Outcome, Result, Route
from s3s3.monitoring.history import (
    MAX_FAILURES,
    MINUTES,
    QUARTERS,
    QUARTERS_RETENTION_S,
    RETENTION_S,
    Failure,
    History,
    MetricsDelta,
    quantile_s,
    rate_per_s,
)
from s3s3.monitoring.metrics import NOTIFICATION_TO_COPY_BOUNDS_S, Metrics
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue

pytestmark = pytest.mark.real

ROUTE = Route("images", Endpoint("source", "a"), (Endpoint("swift", "b"), Endpoint("ceph", "c")))
PREFIX = "s3s3:{images}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


def count_copy(metrics: Metrics, lag_s: float = 0.02) -> None:
    metrics.count_outcome("images", Outcome("swift", "key", Result.COPIED, source_size_bytes=1000), 0.01)
    metrics.notification_to_copy_seconds["images", "swift"].observe(lag_s)


def failure(key: str, reason: str = "") -> Outcome:
    reason = reason or f"swift: PUT of {key!r}: HTTP 503"
    return Outcome("swift", key, Result.FAILED, reason, error=StoreUnavailable("x", store="swift"))


def latest(minutes: list[int]) -> int:
    """The last two minutes: the clock may have reached the next one during the test."""
    return sum(minutes[-2:])


async def test_deltas_of_two_processes_are_summed(client: Redis) -> None:
    history = History(client, PREFIX)
    for copies in (1, 2):
        metrics = Metrics()
        delta = MetricsDelta(ROUTE, metrics)
        for _ in range(copies):
            count_copy(metrics)
        await delta.publish(history)
        count_copy(metrics)
        await delta.publish(history)
        await delta.publish(history)
    hour = (await history.read()).hours["swift"]
    assert (latest(hour.copied), latest(hour.copied_bytes), sum(hour.lag)) == (5, 5000, 5)
    assert len(hour.copied) == MINUTES
    assert "ceph" not in (await history.read()).hours


async def test_a_delta_that_redis_did_not_accept_is_published_the_next_time(client: Redis) -> None:
    class Unavailable(History):
        async def add(self, *_: object) -> None:
            raise RedisUnavailable("connection refused")

    metrics = Metrics()
    delta = MetricsDelta(ROUTE, metrics)
    count_copy(metrics)
    delta.record_failures([failure("a")])
    with pytest.raises(RedisUnavailable):
        await delta.publish(Unavailable(client, PREFIX))
    history = History(client, PREFIX)
    await delta.publish(history)
    snapshot = await history.read()
    assert latest(snapshot.hours["swift"].copied) == 1
    assert [failure.key for failure in snapshot.failures] == ["a"]


async def test_failures_are_counted_by_reason_whatever_their_keys(client: Redis) -> None:
    delta = MetricsDelta(ROUTE, Metrics())
    delta.record_failures([failure("a"), Outcome("ceph", "a", Result.COPIED)])
    delta.record_failures([failure("</script>\n'\"")])
    delta.record_failures([failure("c", "swift: another problem")])
    history = History(client, PREFIX)
    await delta.publish(history)
    snapshot = await history.read()
    assert {(failure.reason, failure.count, failure.key) for failure in snapshot.failures} == {
        ("PUT of an object: HTTP 503", 2, "</script>\n'\""),
        ("another problem", 1, "c"),
    }
    assert all(abs(failure.at_ms - snapshot.now_ms) < 60_000 for failure in snapshot.failures)


async def test_every_key_expires_and_the_list_of_failures_is_bounded(client: Redis) -> None:
    history = History(client, PREFIX)
    for number in range(3):
        failures = [Failure("swift", f"reason {number}.{n}", "key") for n in range(MAX_FAILURES)]
        await history.add({"swift copied": 1}, failures)
    assert len((await history.read()).failures) == MAX_FAILURES
    async for name in client.scan_iter(PREFIX + "*"):
        assert 0 < await client.ttl(name) <= QUARTERS_RETENTION_S, name
        assert ":minute:" not in name or await client.ttl(name) <= RETENTION_S


async def test_the_last_day_is_kept_by_quarters_of_an_hour(client: Redis) -> None:
    history = History(client, PREFIX)
    await history.add({"swift copied": 3, "swift lag 3": 2}, [])
    now_ms = (await history.read()).now_ms
    await client.hset(f"{PREFIX}quarter:{now_ms // 900_000 - 90}", mapping={"swift copied": 7, "(queue) depth": 5})
    snapshot = await history.read(day=True)
    day = snapshot.days["swift"]
    assert (len(day.copied), sum(day.copied), latest(day.copied)) == (QUARTERS, 10, 3)
    assert sum(map(sum, day.lags)) == 2
    assert snapshot.day_depth[QUARTERS // 2] == 5, "without a sample, the depth is that of the period before"
    assert (await history.read()).days == {}


async def test_the_depth_of_the_queue_is_recorded_although_nothing_is_copied(client: Redis) -> None:
    jobs = RedisJobQueue.of(client, ROUTE, 60.0)
    delta, history = MetricsDelta(ROUTE, Metrics()), History(client, PREFIX)
    await jobs.enqueue([JobRequest(key, ("swift",)) for key in "abc"], Lane.FRESH)
    (job,) = (await jobs.claim(1, 0, 0, 0)).jobs
    await jobs.finish(job, {"swift": Disposition(DispositionKind.PARK, circuit="swift")})
    await delta.publish(history)
    assert max((await history.read()).depth) == 3
    await client.delete(f"{PREFIX}fresh")
    await delta.publish(history)
    assert max((await history.read(day=True)).day_depth) == 3, "the most in a period counts"


async def test_statistics_of_a_newer_version_are_ignored(client: Redis) -> None:
    history = History(client, PREFIX)
    await history.add({"swift copied": 2, "swift novelty": 3, "swift lag 99": 1}, [])
    assert latest((await history.read()).hours["swift"].copied) == 2


def test_the_rate_covers_the_last_sixty_seconds() -> None:
    assert rate_per_s([0, 600, 150], now_ms=15_000) == pytest.approx((600 * 0.75 + 150) / 60)


def test_a_quantile_is_interpolated_as_prometheus_does() -> None:
    counts = [0] * (len(NOTIFICATION_TO_COPY_BOUNDS_S) + 1)
    assert quantile_s(counts, 0.5) is None
    counts[3] = 10  # from 10 to 25 ms
    assert quantile_s(counts, 0.5) == pytest.approx(0.0175)
    counts[-1] = 1000
    assert quantile_s(counts, 0.99) == NOTIFICATION_TO_COPY_BOUNDS_S[-1]
