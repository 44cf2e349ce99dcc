"""Rate limits of destinations, shared through a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.errors import JobReleased
from s3s3.model import MINUTES_OF_A_DAY, Endpoint, Route, Window
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.connection import connect, connected
from s3s3.s3 import Priority
from s3s3.scripts.demo.servers import free_ports
from s3s3.tasks import cancel
from s3s3.worker import rate_limiter
from s3s3.worker.rate_limiter import DestinationRateLimiter, rate_limiters

pytestmark = pytest.mark.real

ALL_DAY = 0, MINUTES_OF_A_DAY


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connected(redis_url) as client:
        yield client


def limit(
    client: Redis | None, *, requests: float = 0, size_bytes: float = 0, metrics: Metrics | None = None
) -> DestinationRateLimiter:
    destination = Endpoint(
        "ceph",
        "bucket",
        max_requests_per_s=(Window(*ALL_DAY, requests),) if requests else (),
        max_bytes_per_s=(Window(*ALL_DAY, size_bytes),) if size_bytes else (),
    )
    route = Route("images", Endpoint("source", "bucket"), (destination, Endpoint("swift", "bucket")))
    return rate_limiters(route, client, metrics or Metrics())["ceph"]


async def count_for(
    seconds: float, *limiters: DestinationRateLimiter, at_once: int = 4, size_bytes: int = 0
) -> list[int]:
    """Return how many requests each limiter admits, with several concurrent callers."""
    passed = [0] * len(limiters)

    async def admit(number: int) -> None:
        while True:
            await limiters[number].admit(size_bytes, streamed=False)
            passed[number] += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(admit(number)) for number in range(len(limiters)) for _ in range(at_once)]
    await asyncio.sleep(seconds)
    await cancel(tasks)
    return passed


def test_destination_without_limits_has_no_rate_limiter() -> None:
    route = Route("images", Endpoint("source", "bucket"), (Endpoint("ceph", "bucket"),))
    assert rate_limiters(route, None, Metrics()) == {}


async def test_two_processes_share_the_rate_equally(client: Redis) -> None:
    first, second = await count_for(2, limit(client, requests=100), limit(client, requests=100))
    # The burst is a second's worth; each may have reserved another tenth.
    assert 250 <= first + second <= 320
    assert abs(first - second) <= 0.2 * (first + second)


async def test_reservations_need_few_round_trips(client: Redis) -> None:
    before = (await client.info("stats"))["total_commands_processed"]
    (passed,) = await count_for(1, limit(client, requests=5000), at_once=16)
    calls = (await client.info("stats"))["total_commands_processed"] - before
    assert passed > 500
    assert calls < 5 + 6 * (1 + passed / 500), "each reserves a tenth of a second; the script's own commands count"


async def test_bytes_are_limited_in_streams_and_in_whole_objects(client: Redis) -> None:
    rate_limiter = limit(client, size_bytes=400_000)
    started_s = time.monotonic()
    await rate_limiter.admit(400_000, streamed=False)
    assert time.monotonic() - started_s < 0.5, "one second's worth is admitted without a wait"
    for _ in range(4):
        await rate_limiter.admit_chunk(rate_limiter.chunk_bytes)
    await rate_limiter.admit(300_000, streamed=True)  # its bytes are admitted by chunk
    assert 0.2 < time.monotonic() - started_s < 0.8


async def test_object_larger_than_a_burst_is_admitted(client: Redis) -> None:
    rate_limiter = limit(client, size_bytes=1_000_000)
    started_s = time.monotonic()
    await rate_limiter.admit(2_000_000, streamed=False)
    assert 0.8 < time.monotonic() - started_s < 1.5


async def test_urgent_request_does_not_queue_behind_others(client: Redis) -> None:
    rate_limiter = limit(client, requests=5)
    waiting = asyncio.create_task(count_for(20, rate_limiter, at_once=50))
    await asyncio.sleep(0.3)
    started_s = time.monotonic()
    await rate_limiter.admit(0, streamed=False, priority=Priority.URGENT)
    assert time.monotonic() - started_s < 1
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_outside_its_hours_a_limit_is_inactive_and_redis_is_not_called() -> None:
    now = time.localtime()
    later = (now.tm_hour * 60 + now.tm_min + 120) % MINUTES_OF_A_DAY
    window = Window(later, (later + 60) % MINUTES_OF_A_DAY, 1)
    unreachable = connect(f"redis://127.0.0.1:{free_ports(1)[0]}/0")
    destination = Endpoint("ceph", "bucket", max_requests_per_s=(window,), max_bytes_per_s=(window,))
    rate_limiter = rate_limiters(Route("images", Endpoint("source", "b"), (destination,)), unreachable, Metrics())[
        "ceph"
    ]
    for _ in range(100):
        await rate_limiter.admit(10**9, streamed=False)
    assert rate_limiter.slots(1) is None
    await unreachable.aclose()


def test_hours_may_span_midnight() -> None:
    night = Window(22 * 60, 6 * 60, 1)
    assert [hour for hour in range(24) if night.covers(hour * 60)] == [0, 1, 2, 3, 4, 5, 22, 23]


async def test_without_redis_response_each_process_uses_its_last_share(
    client: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rate_limiter, "BURST_S", 0.0)
    first, second = limit(client, requests=100), limit(client, requests=100)
    await count_for(0.3, first, second)
    await client.aclose()
    client.connection_pool.connection_kwargs["port"] = free_ports(1)[0]
    client.connection_pool.reset()  # type: ignore[no-untyped-call]  # of redis-py
    passed = await count_for(1, first, second)
    assert all(35 <= count <= 75 for count in passed)
    assert "using this process's last share" in caplog.text


async def test_without_redis_a_process_has_the_whole_rate() -> None:
    assert 90 <= (await count_for(1, limit(None, requests=50)))[0] <= 110


async def test_redis_clock_set_back_does_not_block(client: Redis) -> None:
    await client.hset("s3s3:{images}:limit:ceph:requests", "due", int(time.time() * 1e6) + 3600 * 10**6)
    await asyncio.wait_for(limit(client, requests=10).admit(0, streamed=False), 1)


async def test_wait_is_counted(client: Redis) -> None:
    metrics = Metrics()
    await count_for(1.5, limit(client, requests=10, metrics=metrics), at_once=1)
    assert metrics.limit_wait_seconds["images", "ceph"] > 0.3


async def test_slots_shrink_while_the_limit_is_exhausted(client: Redis) -> None:
    rate_limiter = limit(client, requests=50)
    assert rate_limiter.slots(4) == 4
    await rate_limiter.admit(0, streamed=False)
    assert (rate_limiter.slots(4) or 0) > 40, "a burst is available"
    await count_for(1.5, rate_limiter)
    few = rate_limiter.slots(4)
    assert few is not None
    assert few < 20
    slow = limit(client, size_bytes=65_536)
    assert slow.slots(16) == 2, "a few streams instead of many slow ones"


async def test_after_stop_admitting_only_started_work_waits(client: Redis) -> None:
    rate_limiter = limit(client, requests=4, size_bytes=1_000_000)
    passed = asyncio.gather(*(rate_limiter.admit(0, streamed=False) for _ in range(12)), return_exceptions=True)
    await asyncio.sleep(0.1)
    rate_limiter.stop_admitting()
    started_s = time.monotonic()
    outcomes = await passed
    assert time.monotonic() - started_s < 1, "none of them waits any more"
    refused = [outcome for outcome in outcomes if isinstance(outcome, JobReleased)]
    assert outcomes.count(None) + len(refused) == 12
    assert len(refused) >= 6
    with pytest.raises(JobReleased):
        await rate_limiter.admit(0, streamed=False)
    await rate_limiter.admit(0, streamed=False, priority=Priority.STARTED)
    await rate_limiter.admit_chunk(1000)
