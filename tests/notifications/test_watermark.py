"""The watermark and the gap before it, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.notifications.watermark import Watermark
from s3s3.queue import connection
from s3s3.queue.base import boottime_s
from s3s3.queue.redis_calls import LuaScripts
from s3s3.queue.redis_queue import RedisJobQueue

pytestmark = pytest.mark.real

PREFIX = "s3s3:{default}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connection.connect(redis_url)
    yield client
    await client.aclose()


class Listener:
    """A listener whose subscription began at a given time, in seconds from now."""

    def __init__(self, client: Redis, subscribed_s: float, name: str = "a") -> None:
        self.client = client
        self.subscribed_s = boottime_s() + subscribed_s
        self.watermark = Watermark(LuaScripts(client, "s3s3.notifications", PREFIX, folder="lua"), "backup", name)

    async def advance(self, complete_from_s: float | None = None, checkpoint: bytes = b"") -> None:
        complete_from_s = self.subscribed_s if complete_from_s is None else complete_from_s
        await self.watermark.advance(complete_from_s, boottime_s(), self.subscribed_s, checkpoint)


def queue(client: Redis) -> RedisJobQueue:
    return RedisJobQueue(client, "default", ["dest"])


async def watermark_age_s(client: Redis) -> float:
    return time.time() - int(await client.get(f"{PREFIX}watermark") or 0) / 1000


async def test_the_first_advance_leaves_no_gap_and_asks_for_a_comparison(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(client, -5)
    await listener.advance(checkpoint=b"c1")
    assert abs(await watermark_age_s(client)) < 1
    assert await client.get(f"{PREFIX}checkpoint") == "c1"
    assert await queue(client).gap() is None
    assert "Run `s3s3 bucket` once now" in caplog.text


async def test_time_since_the_watermark_without_a_listener_is_a_gap(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await client.set(f"{PREFIX}watermark", int((time.time() - 60) * 1000))
    listener = Listener(client, -20)
    await listener.advance()
    gap = await queue(client).gap()
    assert gap is not None and gap.age_ms is not None
    assert abs(gap.age_ms - 60_000) < 1000
    (line,) = (record for record in caplog.records if record.message.startswith("gap detected"))
    assert vars(line)["fields"]["duration_s"] == pytest.approx(40, abs=1)


async def test_what_a_listener_discarded_is_a_gap(client: Redis) -> None:
    listener = Listener(client, -60)
    await listener.advance()
    assert await queue(client).gap() is None
    await listener.advance(complete_from_s=boottime_s() + 5)
    assert await queue(client).gap() is not None


async def test_a_covered_time_is_no_gap(client: Redis) -> None:
    await Listener(client, -60).advance()
    listener = Listener(client, -30, "b")
    await listener.advance()
    assert await queue(client).gap() is None


async def test_a_watermark_that_redis_has_lost_is_a_gap_with_an_unknown_start(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(client, -5)
    await listener.advance()
    await client.flushall()
    await listener.advance()
    gap = await queue(client).gap()
    assert gap is not None and gap.age_ms is None
    assert "gap detected: Redis has lost data" in caplog.text


async def test_a_listener_that_has_only_seen_a_watermark_detects_its_loss(client: Redis) -> None:
    listener = Listener(client, -5)
    listener.watermark.seen.watermark_ms = 1
    await listener.advance()
    gap = await queue(client).gap()
    assert gap is not None and gap.age_ms is None


async def test_only_the_leader_advances_the_watermark(client: Redis) -> None:
    await client.set(f"{PREFIX}leader", "b")
    await Listener(client, -5, "a").advance()
    assert await client.get(f"{PREFIX}watermark") is None
    await Listener(client, -5, "b").advance()
    assert await client.get(f"{PREFIX}watermark") is not None


async def test_a_listener_whose_route_was_taken_over_does_not_advance_the_watermark(client: Redis) -> None:
    listener = Listener(client, -5)
    listener.watermark._route_token = lambda: "token"
    await client.hset(f"{PREFIX}fingerprint", "token", "of another process")
    await listener.advance()
    assert await client.get(f"{PREFIX}watermark") is None
    await client.hset(f"{PREFIX}fingerprint", "token", "token")
    await listener.advance()
    assert await client.get(f"{PREFIX}watermark") is not None


async def test_a_watermark_of_an_earlier_time_is_a_gap_with_an_unknown_start(client: Redis) -> None:
    listener = Listener(client, -5)
    await listener.advance()
    await client.set(f"{PREFIX}watermark", int((time.time() - 60) * 1000))
    await listener.advance()
    gap = await queue(client).gap()
    assert gap is not None and gap.age_ms is None


async def test_the_watermark_never_moves_back(client: Redis) -> None:
    ahead_ms = int((time.time() + 60) * 1000)
    await client.set(f"{PREFIX}watermark", ahead_ms)
    await Listener(client, -5).advance()
    assert int(await client.get(f"{PREFIX}watermark") or 0) == ahead_ms


async def test_healing_a_gap_leaves_a_later_one_open_from_the_earlier_start(client: Redis) -> None:
    generations = []
    for age_s in (100, 50):
        await client.set(f"{PREFIX}watermark", int((time.time() - age_s) * 1000))
        await Listener(client, -10).advance()
        gap = await queue(client).gap()
        assert gap is not None and gap.age_ms is not None
        assert abs(gap.age_ms - 100_000) < 1000
        generations.append(gap.generation)
    assert generations[0] != generations[1]
    await queue(client).heal_gap(generations[0], ["dest"])
    assert await queue(client).gap() is not None
    await queue(client).heal_gap(generations[1], ["dest"])
    assert await queue(client).gap() is None


async def test_a_correction_of_redis_s_clock_does_not_affect_a_subscription(client: Redis) -> None:
    listener = Listener(client, -5)
    first_ms = await listener.watermark.redis_time_ms(listener.subscribed_s, listener.subscribed_s)
    assert abs(first_ms - (time.time() - 5) * 1000) < 1000
    listener.watermark._scripts = None  # type: ignore[assignment]  # not read again
    assert await listener.watermark.redis_time_ms(listener.subscribed_s + 2, listener.subscribed_s) == first_ms + 2000


async def test_a_gap_is_open_until_it_is_healed_at_every_destination(client: Redis) -> None:
    jobs = RedisJobQueue(client, "default", ["ceph", "swift"])
    await client.set(f"{PREFIX}watermark", int((time.time() - 60) * 1000))
    await Listener(client, -10).advance()
    gap = await jobs.gap()
    assert gap is not None and gap.healed == frozenset()
    await jobs.heal_gap(gap.generation, ["ceph"])
    half_healed = await jobs.gap()
    assert half_healed is not None
    assert (half_healed.generation, half_healed.healed) == (gap.generation, frozenset({"ceph"}))
    await jobs.heal_gap(gap.generation, ["swift"])
    assert await jobs.gap() is None


async def test_a_new_gap_is_open_at_every_destination(client: Redis) -> None:
    jobs = RedisJobQueue(client, "default", ["ceph", "swift"])
    for _ in range(2):
        await client.set(f"{PREFIX}watermark", int((time.time() - 60) * 1000))
        await Listener(client, -10).advance()
        gap = await jobs.gap()
        assert gap is not None and gap.healed == frozenset()
        await jobs.heal_gap(gap.generation, ["ceph"])
