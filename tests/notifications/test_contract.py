"""What every source of notices keeps to, whatever brings them; pub/sub as far as it can, for it holds nothing back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable
from s3s3.model import Notification
from s3s3.notifications.routing import RouteQueue, Routing
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from tests.notifications.senders import ROUTE, Sender, listening_to, nothing_is_held
from tests.queue.factories import claim
from tests.waiting import running, until

pytestmark = pytest.mark.real

# A message on a channel is the key alone, and nobody holds it: what is heard by nobody, the heal finds.
but_for_pubsub = pytest.mark.parametrize("sender", ["stream", "sqs", "webhook"], indirect=True)

ODD_KEYS = ("a+b%20c", "a b c", "100%", 'c\'est "ça"/ü/日本/\U0001f600', "//x//", "new\nline", "k" * 1024)


class Queue:
    """The queue that notices are to reach, and a way to hold them up on their way to it."""

    def __init__(self, url: str) -> None:
        self.client: Redis = connection.connect(url)
        self.jobs = RedisJobQueue(self.client, ROUTE.name, ROUTE.destination_names)
        self.counted: list[str] = []
        self.asked: list[Notification] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.refusals = 0
        self._routing = Routing([RouteQueue(ROUTE, self.jobs, self.counted.append, self.jobs.dead_letter_message)])

    async def deliver(self, notices: Sequence[Notification], kind: str) -> int:
        self.asked += notices
        if self.refusals:
            self.refusals -= 1
            raise RedisUnavailable("Redis cannot be reached: refused")
        await self.opened.wait()
        return await self._routing.deliver(notices, kind)

    async def bury(self, message: str, reason: str, bucket: str | None = None) -> None:
        await self._routing.bury(message, reason, bucket)

    async def keys(self) -> list[str]:
        return [job.key for job in await claim(self.jobs, 100)]

    async def has(self, number: int) -> bool:
        return (await self.jobs.stats()).fresh >= number


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    made = Queue(redis_url)
    yield made
    await made.client.aclose()


async def test_a_notice_gets_on_the_queue_and_its_sender_may_forget_it(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue):
        for key in ("one", "two"):
            await sender.send(key)
        await until(lambda: queue.has(2))
        await until(lambda: nothing_is_held(sender))
    assert sorted(await queue.keys()) == ["one", "two"]
    assert sum(kind in ("pubsub", "stream", "sqs", "webhook") for kind in queue.counted) == 2


async def test_a_key_is_the_same_at_the_end_whatever_it_is_made_of(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue):
        for key in ODD_KEYS:
            await sender.send(key)
        await until(lambda: queue.has(len(ODD_KEYS)))
    assert sorted(await queue.keys()) == sorted(ODD_KEYS)


@but_for_pubsub
async def test_the_bucket_chooses_and_what_no_route_is_about_is_let_go_and_counted(
    sender: Sender, queue: Queue
) -> None:
    async with listening_to(sender, queue):
        await sender.send("other", bucket="logs")
        await sender.send("ours")
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_held(sender))
    assert await queue.keys() == ["ours"]
    assert queue.counted.count("no route") == 1


@but_for_pubsub
async def test_a_notice_is_held_until_it_is_on_the_queue(sender: Sender, queue: Queue) -> None:
    queue.opened.clear()
    async with listening_to(sender, queue):
        await sender.send("key")
        await until(lambda: queue.asked)
        await asyncio.sleep(0.5)
        assert await sender.held() == 1
        queue.opened.set()
        await until(lambda: nothing_is_held(sender))
    assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_a_redis_that_is_away_for_a_while_loses_no_notice(sender: Sender, queue: Queue) -> None:
    queue.refusals = 3
    async with listening_to(sender, queue) as (source, _):
        await sender.send("key")
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_held(sender))
        assert source.health_problem() == ""
    assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_what_a_listener_took_and_did_not_deliver_before_it_died_another_delivers(
    sender: Sender, queue: Queue
) -> None:
    queue.opened.clear()
    async with running(sender.source(queue, queue.counted.append).run(asyncio.Event())):
        await sender.send("key")
        await until(lambda: queue.asked)
    assert await sender.held() == 1
    queue.opened.set()
    async with listening_to(sender, queue):
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_held(sender))
    assert await queue.keys() == ["key"]


async def test_a_message_that_names_no_object_is_counted_and_disturbs_no_other(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue) as (source, _):
        await sender.send_bad()
        await sender.send("good")
        await until(lambda: queue.has(1))
        await until(lambda: {"no key", "no JSON", "no UTF-8"} & set(queue.counted))
        assert source.health_problem() == ""
    assert await queue.keys() == ["good"]


async def test_one_that_is_told_to_stop_stops_soon_and_finishes_what_it_took(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue) as (_, stop):
        if sender.keeps:
            queue.opened.clear()
            await sender.send("key")
            await until(lambda: queue.asked)
        began_s = time.monotonic()
        stop.set()
        asyncio.get_running_loop().call_later(0.3, queue.opened.set)
    assert time.monotonic() - began_s < 3
    if sender.keeps:
        await until(lambda: nothing_is_held(sender))
        assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_one_that_is_told_to_stop_while_redis_is_away_stops_and_the_notice_stays(
    sender: Sender, queue: Queue
) -> None:
    async with listening_to(sender, queue) as (_, stop):
        queue.refusals = 1000
        await sender.send("key")
        await until(lambda: queue.asked)
        stop.set()
    assert await sender.held() == 1
    queue.refusals = 0
    async with listening_to(sender, queue):
        await until(lambda: queue.has(1))
