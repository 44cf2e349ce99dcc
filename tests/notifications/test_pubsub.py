"""The pub/sub source: one of several listeners enqueues, and lost time is a gap. On a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from s3s3.model import Endpoint, Route
from s3s3.notifications import leader_election, pubsub, subscription
from s3s3.notifications.pubsub import PubSubSource
from s3s3.notifications.subscription import MAX_REORDERING_S
from s3s3.queue import connection
from s3s3.queue.base import Gap
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest-a", "a"), Endpoint("dest-b", "b")))


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(leader_election, "LEASE_S", 0.8)
    monkeypatch.setattr(pubsub, "KEPT_S", 2.4)


class Listener:
    """A source with clients of its own, as each listener process has."""

    def __init__(self, url: str, route: Route = ROUTE) -> None:
        self.client, self.subscriber_client = connection.connect(url), connection.connect(url, decode=False)
        self.jobs = RedisJobQueue(self.client, "default", ROUTE.destination_names)
        self.counted: list[str] = []
        self.source = PubSubSource(route, "backup", self.jobs, self.subscriber_client, count=self.counted.append)

    @property
    def is_leader(self) -> bool:
        return self.source.is_leader

    async def gap(self) -> Gap | None:
        return await self.jobs.gap()

    async def gap_start_ms(self) -> float:
        """When the gap began (Unix time), waiting for it."""
        gap: Gap = await until(self.gap)
        assert gap.age_ms is not None
        return time.time() * 1000 - gap.age_ms

    async def close(self) -> None:
        await self.client.aclose()
        await self.subscriber_client.aclose()


@asynccontextmanager
async def listening(url: str, route: Route = ROUTE) -> AsyncIterator[Listener]:
    listener = Listener(url, route)
    try:
        async with running(listener.source.run()):
            await until(lambda: listener.source.subscription.alive)
            yield listener
    finally:
        await listener.close()


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Redis]:
    client = connection.connect(redis_url)
    yield client
    await client.aclose()


async def queued(listener: Listener) -> int:
    return (await listener.jobs.stats()).fresh


async def watermark(producer: Redis) -> int:
    return int(await producer.get("s3s3:{default}:watermark") or 0)


async def test_a_published_key_is_enqueued_for_all_destinations(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url) as listener:
        await producer.publish("backup", "a key\nwith +%")
        await until(lambda: queued(listener))
        (job,) = (await listener.jobs.claim(1, 1, 1, 1)).jobs
        assert (job.key, job.destinations, job.unconditional) == ("a key\nwith +%", ("dest-a", "dest-b"), True)


async def test_the_lag_grows_while_messages_cannot_be_enqueued(
    redis_url: str, producer: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(redis_url) as listener:
        await until(lambda: listener.is_leader)
        assert listener.source.lag_s < 5

        async def indeterminate(*_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(listener.jobs, "enqueue", indeterminate)
        await producer.publish(
            "backup",
            "first",
        )
        await asyncio.sleep(0.3)
        await producer.publish("backup", "second")
        await until(lambda: listener.source.lag_s > 0.5)


async def test_of_three_listeners_only_the_leader_enqueues(
    redis_url: str, producer: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_election, "LEASE_S", 20.0)  # a slow machine must not cause a second election
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(redis_url)) for _ in range(3)]
        await until(lambda: sum(listener.is_leader for listener in listeners) == 1)
        for number in range(300):
            await producer.publish("backup", f"key {number}")
        await until(lambda: sum(len(listener.counted) for listener in listeners) >= 300)
        await asyncio.sleep(0.3)
        assert sorted(len(listener.counted) for listener in listeners) == [0, 0, 300]


async def test_the_successor_of_a_leader_that_resigned_enqueues_nothing_again(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as others, AsyncExitStack() as leaving:
        leader = await leaving.enter_async_context(listening(redis_url))
        await until(lambda: leader.is_leader)
        successor = await others.enter_async_context(listening(redis_url))
        for number in range(50):
            await producer.publish("backup", f"key {number}")
        await until(lambda: len(leader.counted) == 50)
        await asyncio.sleep(MAX_REORDERING_S)
        await leader.source.resign()
        await leaving.aclose()
        await producer.publish("backup", "a key for the successor")
        await until(lambda: successor.is_leader and successor.counted)
        assert len(successor.counted) == 1


async def test_the_successor_of_a_killed_leader_enqueues_again_from_the_last_checkpoint(
    redis_url: str, producer: Redis
) -> None:
    async with AsyncExitStack() as others, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: leader.is_leader)
        successor = await others.enter_async_context(listening(redis_url))
        await producer.publish("backup", "before the checkpoint")
        await until(lambda: leader.counted)
        await asyncio.sleep(MAX_REORDERING_S)
        seen: set[object] = set()
        await until(lambda: changed_twice(producer, seen))
        leader.source._enqueue = never  # type: ignore[method-assign,assignment]  # it receives and enqueues nothing
        await producer.publish("backup", "after it")
        await until(lambda: any(message.text == b"after it" for message in successor.source._buffer.messages))
        await dying.aclose()
        await until(lambda: successor.is_leader and successor.counted)
        assert [job.key for job in (await successor.jobs.claim(10, 0, 0, 0.2)).jobs][-1:] == ["after it"]
        assert len(successor.counted) == 1


async def test_a_newcomer_defers_to_a_listener_that_has_all_messages(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        both_subscribed_ms = int(time.time() * 1000)
        successor = await stack.enter_async_context(listening(redis_url))
        await until(lambda: is_later(producer, both_subscribed_ms + 500))
        await dying.aclose()
        assert leader.is_leader
        await producer.delete("s3s3:{default}:leader")
        newcomers = [await stack.enter_async_context(listening(redis_url)) for _ in range(3)]
        await until(lambda: any(listener.is_leader for listener in (successor, *newcomers)))
        assert successor.is_leader
        moved_from_ms = await watermark(producer)
        await until(lambda: is_later(producer, moved_from_ms))
        assert await successor.gap() is None


async def changed_twice(producer: Redis, seen: set[object]) -> bool:
    seen.add(await producer.get("s3s3:{default}:checkpoint"))
    return len(seen) >= 3


async def test_what_a_leader_did_not_receive_is_a_gap_though_its_checkpoints_advance(
    redis_url: str, producer: Redis
) -> None:
    async with AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: leader.is_leader)
        async with listening(redis_url) as successor:
            await until(lambda: watermark(producer))
            first = min(await producer.client_list(_type="pubsub"), key=lambda client: int(client["id"]))
            await producer.client_kill_filter(_id=first["id"])
            await producer.publish("backup", "received by the successor alone")
            await until(lambda: successor.source._buffer.messages)
            await until(lambda: leader.source.subscription.alive)
            seen: set[object] = set()
            await until(lambda: changed_twice(producer, seen))
            await dying.aclose()
            await until(lambda: successor.is_leader)
            assert await successor.gap() is not None


async def test_what_a_dead_leader_did_not_enqueue_its_successor_does_without_a_gap(
    redis_url: str, producer: Redis
) -> None:
    async with AsyncExitStack() as others, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        successor = await others.enter_async_context(listening(redis_url))
        both_subscribed_ms = int(time.time() * 1000)
        await until(lambda: is_later(producer, both_subscribed_ms))
        leader.source._enqueue = never  # type: ignore[method-assign,assignment]  # it dies with what it received
        for number in range(50):
            await producer.publish("backup", f"key {number}")
        await dying.aclose()
        await until(lambda: successor.is_leader)
        await until(lambda: len(successor.counted) == 50)
        moved_from_ms = await watermark(producer)
        await until(lambda: is_later(producer, moved_from_ms))
        assert await successor.gap() is None


async def never(*_: object) -> None:
    await asyncio.Event().wait()


async def test_unusable_messages_are_dead_lettered_and_do_not_affect_others(
    redis_url: str, producer: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(redis_url) as listener:
        for message in (b"\xff\xfe", b"", b"k" * 1025, b"\xff again", b"good"):
            await producer.publish("backup", message)
        await until(lambda: queued(listener))
        dead_letters = {letter.key: letter.reason async for letter in listener.jobs.dead_letters("(message)")}
        assert set(dead_letters) == {"\\xff\\xfe", "", "k" * 1024 + "... (1,025 bytes)", "\\xff again"}
        assert sorted(listener.counted) == ["empty", "not_utf8", "not_utf8", "pubsub", "too_long"]
    warnings = [record for record in caplog.records if "unusable message" in record.getMessage()]
    assert len(warnings) == 3, "one for each kind"


async def test_keys_that_do_not_match_the_route_are_ignored(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url, replace(ROUTE, include=("raw/*",))) as listener:
        await producer.publish("backup", "other/1")
        await producer.publish("backup", "raw/1")
        await until(lambda: queued(listener))
        assert await queued(listener) == 1


async def test_the_first_start_leaves_no_gap_and_asks_for_a_comparison(
    redis_url: str, producer: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with listening(redis_url) as listener:
        await until(lambda: watermark(producer))
        assert await listener.gap() is None
    assert "Run `s3s3 bucket` once" in caplog.text


async def test_a_leader_that_dies_right_after_another_subscribed_leaves_a_gap(redis_url: str, producer: Redis) -> None:
    """The leader alone received what was published between its last watermark and the other's subscription."""
    async with AsyncExitStack() as others, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        stopped_ms = await until(lambda: watermark(producer))
        leader.source._enqueue = never  # type: ignore[method-assign,assignment]  # it receives and enqueues nothing
        await producer.publish("backup", "received by the leader alone")
        successor = await others.enter_async_context(listening(redis_url))
        await dying.aclose()
        assert abs(await successor.gap_start_ms() - stopped_ms) < 1000


async def test_the_watermark_moves_while_nothing_is_published(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url):
        first_ms = await until(lambda: watermark(producer))
        await until(lambda: is_later(producer, first_ms))


async def is_later(producer: Redis, than_ms: int) -> bool:
    return await watermark(producer) > than_ms


async def test_time_without_a_listener_is_a_gap_from_the_watermark_on(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url):
        await until(lambda: watermark(producer))
    stopped_ms = await watermark(producer)
    await producer.publish("backup", "not received")
    async with listening(redis_url) as listener:
        assert abs(await listener.gap_start_ms() - stopped_ms) < 500


async def test_a_gap_remains_until_it_is_healed_and_a_later_one_is_not_healed_with_it(
    redis_url: str, producer: Redis
) -> None:
    async with listening(redis_url):
        await until(lambda: watermark(producer))
    async with listening(redis_url) as listener:
        from_ms = await listener.gap_start_ms()
        first = await listener.gap()
        assert first is not None
        await listener.client.client_kill_filter(_type="pubsub")  # another gap, while the first is backfilled
        await until(lambda: is_another(listener, first.generation))
        await listener.jobs.heal_gap(first.generation, listener.jobs.destinations)
        both = await listener.gap()
        assert both is not None
        assert abs(await listener.gap_start_ms() - from_ms) < 100, "both begin where the first began"
        await listener.jobs.heal_gap(both.generation, listener.jobs.destinations)
        assert await listener.gap() is None
        await listener.client.client_kill_filter(_type="pubsub")
        third = await until(listener.gap)
        assert third.generation not in (first.generation, both.generation)


async def is_another(listener: Listener, generation: str) -> bool:
    gap = await listener.gap()
    return gap is not None and gap.generation != generation


async def test_a_redis_that_lost_its_data_is_a_gap_with_an_unknown_start(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url) as listener:
        await until(lambda: watermark(producer))
        await producer.flushall()
        assert (await until(listener.gap)).age_ms is None


async def test_a_new_leader_detects_lost_data_though_it_never_led_before(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as others, AsyncExitStack() as dying:
        await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        successor = await others.enter_async_context(listening(redis_url))
        await asyncio.sleep(leader_election.LEASE_S)  # it takes part in an election
        assert not successor.is_leader
        await dying.aclose()
        await producer.flushall()
        assert (await until(successor.gap)).age_ms is None


async def test_lost_data_are_a_gap_though_a_new_listener_leads_that_knows_nothing_of_them(
    redis_url: str, producer: Redis
) -> None:
    async with listening(redis_url) as old:
        await until(lambda: old.source.watermark.seen.watermark_ms)
        async with producer.pipeline() as at_once:
            at_once.flushall()
            at_once.set("s3s3:{default}:leader", "not the old one")
            await at_once.execute()
        async with listening(redis_url) as new:
            await producer.set("s3s3:{default}:leader", new.jobs.consumer)
            await until(lambda: watermark(producer))
            assert (await until(new.gap)).age_ms is None


async def test_received_messages_are_enqueued_after_redis_was_killed_and_restarted(
    redis_url: str, producer: Redis, redis_server: RedisServer
) -> None:
    async with listening(redis_url) as listener:
        await until(lambda: listener.is_leader)
        listener.source._buffer.on_message(b"received while Redis is unavailable")
        redis_server.kill()
        await asyncio.sleep(0.2)
        redis_server.start()
        await until(lambda: queued(listener))
