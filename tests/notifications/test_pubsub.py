"""The ear: one of many listeners puts the notices on the queue, and a gap is known for what it is. On a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from s3s3.model import Endpoint, Route
from s3s3.notifications import pubsub as ear_module
from s3s3.notifications import subscription
from s3s3.notifications.pubsub import PubSubSource
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest-a", "a"), Endpoint("dest-b", "b")))


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PING_EVERY_S", 0.2)
    monkeypatch.setattr(ear_module, "LEASE_S", 0.8)
    monkeypatch.setattr(ear_module, "KEPT_S", 2.4)


class Listening:
    """An ear with clients of its own, as each listener process has."""

    def __init__(self, url: str, matches: Callable[[str], bool] = lambda key: True) -> None:
        self.speaking, self.hearing = connection.connect(url), connection.connect(url, decode=False)
        self.jobs = RedisJobQueue(self.speaking, "default", ROUTE.destination_names)
        self.counted: list[str] = []
        self.ear = PubSubSource(
            ROUTE, "backup", self.jobs, self.hearing,
            source_time_ms=lambda: int(time.time() * 1000), matches=matches, count=self.counted.append,
        )  # fmt: skip

    async def close(self) -> None:
        await self.speaking.aclose()
        await self.hearing.aclose()


@asynccontextmanager
async def listening(url: str, **settings: Callable[[str], bool]) -> AsyncIterator[Listening]:
    one = Listening(url, **settings)
    try:
        async with running(one.ear.run()):
            await until(lambda: one.ear.subscription.alive)
            yield one
    finally:
        await one.close()


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Redis]:
    client = connection.connect(redis_url)
    yield client
    await client.aclose()


async def queued(one: Listening) -> int:
    return (await one.jobs.stats()).fresh


async def watermark(producer: Redis) -> int:
    return int(await producer.get("s3s3:{default}:watermark") or 0)


async def test_a_published_key_gets_on_the_queue_for_all_destinations(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url) as one:
        await producer.publish("backup", "a key\nwith +%")
        await until(lambda: queued(one))
        (job,) = (await one.jobs.claim(1, 1, 1, 1)).jobs
        assert (job.key, job.destinations, job.unconditional) == ("a key\nwith +%", ("dest-a", "dest-b"), True)


async def test_what_is_heard_and_cannot_be_put_makes_the_ear_late(
    redis_url: str, producer: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(redis_url) as one:
        await until(lambda: one.ear.leads)
        assert one.ear.late_s < 5

        async def indeterminate(*_: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(one.jobs, "enqueue", indeterminate)
        await producer.publish(
            "backup",
            "first",
        )
        await asyncio.sleep(0.3)
        await producer.publish("backup", "second")
        await until(lambda: one.ear.late_s > 0.5)


async def test_of_three_listeners_one_puts_each_notice_on_the_queue(
    redis_url: str, producer: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear_module, "LEASE_S", 20.0)  # so that none follows another only because the machine is slow
    async with AsyncExitStack() as stack:
        ears = [await stack.enter_async_context(listening(redis_url)) for _ in range(3)]
        await until(lambda: sum(one.ear.leads for one in ears) == 1)
        for number in range(300):
            await producer.publish("backup", f"key {number}")
        await until(lambda: sum(len(one.counted) for one in ears) >= 300)
        await asyncio.sleep(0.3)
        assert sorted(len(one.counted) for one in ears) == [0, 0, 300]


async def test_who_takes_over_from_one_that_stops_puts_nothing_again(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as heirs, AsyncExitStack() as leaving:
        leader = await leaving.enter_async_context(listening(redis_url))
        await until(lambda: leader.ear.leads)
        heir = await heirs.enter_async_context(listening(redis_url))
        for number in range(50):
            await producer.publish("backup", f"key {number}")
        await until(lambda: len(leader.counted) == 50)
        await asyncio.sleep(ear_module.AGREE_WITHIN_S)
        await leader.ear.resign()
        await leaving.aclose()
        await producer.publish("backup", "a key for the heir")
        await until(lambda: heir.ear.leads and heir.counted)
        assert len(heir.counted) == 1


async def test_who_takes_over_from_one_that_is_killed_puts_again_what_came_since_the_last_mark(
    redis_url: str, producer: Redis
) -> None:
    async with AsyncExitStack() as heirs, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: leader.ear.leads)
        heir = await heirs.enter_async_context(listening(redis_url))
        await producer.publish("backup", "before the mark")
        await until(lambda: leader.counted)
        await asyncio.sleep(ear_module.AGREE_WITHIN_S)
        seen: set[object] = set()
        await until(lambda: changed_twice(producer, seen))
        leader.ear._put = never  # type: ignore[method-assign,assignment]  # it hears, and puts nothing
        await producer.publish("backup", "after it")
        await until(lambda: any(heard.text == b"after it" for heard in heir.ear._heard))
        await dying.aclose()
        await until(lambda: heir.ear.leads and heir.counted)
        assert [job.key for job in (await heir.jobs.claim(10, 0, 0, 0.2)).jobs][-1:] == ["after it"]
        assert len(heir.counted) == 1


async def test_a_newcomer_lets_those_lead_who_have_heard_what_it_has_not(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        both_from_ms = int(time.time() * 1000)
        heir = await stack.enter_async_context(listening(redis_url))
        await until(lambda: is_later(producer, both_from_ms + 500))
        await dying.aclose()
        assert leader.ear.leads
        await producer.delete("s3s3:{default}:ear")
        newcomers = [await stack.enter_async_context(listening(redis_url)) for _ in range(3)]
        await until(lambda: any(one.ear.leads for one in (heir, *newcomers)))
        assert heir.ear.leads
        moved_from_ms = await watermark(producer)
        await until(lambda: is_later(producer, moved_from_ms))
        assert await heir.ear.gap() is None


async def changed_twice(producer: Redis, seen: set[object]) -> bool:
    seen.add(await producer.get("s3s3:{default}:marked"))
    return len(seen) >= 3


async def test_what_a_leader_missed_is_a_gap_though_its_marks_go_on(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: leader.ear.leads)
        async with listening(redis_url) as heir:
            await until(lambda: watermark(producer))
            first = min(await producer.client_list(_type="pubsub"), key=lambda client: int(client["id"]))
            await producer.client_kill_filter(_id=first["id"])
            await producer.publish("backup", "heard by the heir alone")
            await until(lambda: heir.ear._heard)
            await until(lambda: leader.ear.subscription.alive)
            seen: set[object] = set()
            await until(lambda: changed_twice(producer, seen))
            await dying.aclose()
            await until(lambda: heir.ear.leads)
            assert await heir.ear.gap() is not None


async def test_what_the_leader_took_with_it_another_puts_and_no_gap_is_seen(redis_url: str, producer: Redis) -> None:
    async with AsyncExitStack() as heirs, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        heir = await heirs.enter_async_context(listening(redis_url))
        both_from_ms = int(time.time() * 1000)
        await until(lambda: is_later(producer, both_from_ms))
        leader.ear._put = never  # type: ignore[method-assign,assignment]  # it takes what it hears with it
        for number in range(50):
            await producer.publish("backup", f"key {number}")
        await dying.aclose()
        await until(lambda: heir.ear.leads)
        await until(lambda: len(heir.counted) == 50)
        moved_from_ms = await watermark(producer)
        await until(lambda: is_later(producer, moved_from_ms))
        assert await heir.ear.gap() is None


async def never(*_: object) -> None:
    await asyncio.Event().wait()


async def test_messages_that_name_no_key_are_dead_letters_and_the_ear_goes_on(
    redis_url: str, producer: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(redis_url) as one:
        for message in (b"\xff\xfe", b"", b"k" * 1025, b"\xff again", b"good"):
            await producer.publish("backup", message)
        await until(lambda: queued(one))
        letters = {letter.key: letter.reason async for letter in one.jobs.dead_letters("(message)")}
        assert set(letters) == {"\\xff\\xfe", "", "k" * 1024 + "... (1,025 bytes)", "\\xff again"}
        assert sorted(one.counted) == ["empty", "no UTF-8", "no UTF-8", "pubsub", "too long"]
    warnings = [record for record in caplog.records if "names no object" in record.getMessage()]
    assert len(warnings) == 3, "one for each kind"


async def test_keys_that_are_none_of_the_route_s_are_left_alone(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url, matches=lambda key: key.startswith("raw/")) as one:
        await producer.publish("backup", "other/1")
        await producer.publish("backup", "raw/1")
        await until(lambda: queued(one))
        assert await queued(one) == 1


async def test_a_first_start_leaves_no_gap_and_says_to_run_bucket(
    redis_url: str, producer: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with listening(redis_url) as one:
        await until(lambda: watermark(producer))
        assert await one.ear.gap() is None
    assert "run `s3s3 bucket` once" in caplog.text


async def test_a_source_whose_clock_is_learnt_late_makes_no_gap(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url) as one:
        first_ms = await until(lambda: watermark(producer))
        one.ear._source_time_ms = lambda: int(time.time() * 1000) + 5000
        await until(lambda: is_later(producer, first_ms))
        assert await one.ear.gap() is None


async def test_a_leader_that_dies_right_after_another_subscribed_leaves_a_gap(redis_url: str, producer: Redis) -> None:
    """What was published between its last watermark and the other's subscription, it alone has heard."""
    async with AsyncExitStack() as heirs, AsyncExitStack() as dying:
        leader = await dying.enter_async_context(listening(redis_url))
        stopped_ms = await until(lambda: watermark(producer))
        leader.ear._put = never  # type: ignore[method-assign,assignment]  # it hears, and puts nothing
        await producer.publish("backup", "heard by the leader alone")
        heir = await heirs.enter_async_context(listening(redis_url))
        await dying.aclose()
        assert abs((await until(heir.ear.gap))[0] - stopped_ms) < 1000


async def test_the_watermark_moves_while_nothing_is_published(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url):
        first_ms = await until(lambda: watermark(producer))
        await until(lambda: is_later(producer, first_ms))


async def is_later(producer: Redis, than_ms: int) -> bool:
    return await watermark(producer) > than_ms


async def test_a_time_when_nobody_listened_is_a_gap_from_the_watermark_on(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url):
        await until(lambda: watermark(producer))
    stopped_ms = await watermark(producer)
    await producer.publish("backup", "nobody hears this")
    async with listening(redis_url) as one:
        from_ms, _ = await until(one.ear.gap)
        assert abs(from_ms - stopped_ms) < 500


async def test_a_gap_stays_until_it_is_healed_and_a_new_one_is_not_healed_with_it(
    redis_url: str, producer: Redis
) -> None:
    async with listening(redis_url):
        await until(lambda: watermark(producer))
    async with listening(redis_url) as one:
        from_ms, generation = await until(one.ear.gap)
        await one.speaking.client_kill_filter(_type="pubsub")  # another gap, while the first is being healed
        await until(lambda: is_another(one, generation))
        await one.ear.healed(generation)
        both = await one.ear.gap()
        assert both is not None
        assert abs(both[0] - from_ms) < 100, "the older beginning counts for both"
        await one.ear.healed(both[1])
        assert await one.ear.gap() is None
        await one.speaking.client_kill_filter(_type="pubsub")
        _, third = await until(one.ear.gap)
        assert third not in (generation, both[1]), "no generation comes twice"


async def is_another(one: Listening, generation: str) -> bool:
    gap = await one.ear.gap()
    return gap is not None and gap[1] != generation


async def test_a_redis_that_lost_what_it_knew_is_a_gap_from_the_beginning(redis_url: str, producer: Redis) -> None:
    async with listening(redis_url) as one:
        await until(lambda: watermark(producer))
        await producer.flushall()
        assert (await until(one.ear.gap))[0] == 0


async def test_who_takes_over_in_a_redis_that_lost_what_it_knew_knows_of_it_though_it_never_led(
    redis_url: str, producer: Redis
) -> None:
    async with AsyncExitStack() as heirs, AsyncExitStack() as dying:
        await dying.enter_async_context(listening(redis_url))
        await until(lambda: watermark(producer))
        heir = await heirs.enter_async_context(listening(redis_url))
        await asyncio.sleep(ear_module.LEASE_S)  # it asks who leads, which is not itself
        assert not heir.ear.leads
        await dying.aclose()
        await producer.flushall()
        assert (await until(heir.ear.gap))[0] == 0


async def test_notices_outlive_a_redis_that_is_killed_and_comes_back(
    redis_url: str, producer: Redis, redis_server: RedisServer
) -> None:
    async with listening(redis_url) as one:
        await until(lambda: one.ear.leads)
        one.ear._hear(b"heard while Redis is away")
        redis_server.kill()
        await asyncio.sleep(0.2)
        redis_server.start()
        await until(lambda: queued(one))
