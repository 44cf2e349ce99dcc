"""The contract of every notification source; pub/sub as far as it can, since its producers keep nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable
from s3s3.model import Lane, Notification
from s3s3.notifications.routing import RouteQueue, Routing
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from tests.notifications.senders import ROUTE, Sender, listening_to, nothing_is_pending
from tests.queue.factories import claim
from tests.waiting import running, until

pytestmark = pytest.mark.real

# A message on a channel has no bucket, and its producer does not keep it: what is lost is backfilled.
but_for_pubsub = pytest.mark.parametrize("sender", ["stream", "sqs", "webhook"], indirect=True)

ODD_KEYS = ("a+b%20c", "a b c", "100%", 'c\'est "ça"/ü/日本/\U0001f600', "//x//", "new\nline", "k" * 1024)


class Queue(Routing):
    """A queue behind a receiver that can delay or refuse notifications."""

    def __init__(self, url: str) -> None:
        self.client: Redis = connection.connect(url)
        self.jobs = RedisJobQueue(self.client, ROUTE.name, ROUTE.destination_names)
        self.counted: list[str] = []
        self.offered: list[Notification] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.refusals = 0
        super().__init__([RouteQueue(ROUTE, self.jobs, self.counted.append)])

    async def deliver(
        self, notifications: Sequence[Notification], kind: str, lane: Lane = Lane.FRESH
    ) -> Sequence[Notification]:
        self.offered += notifications
        if self.refusals:
            self.refusals -= 1
            raise RedisUnavailable("Redis cannot be reached: refused")
        await self.opened.wait()
        return await super().deliver(notifications, kind, lane)

    async def keys(self) -> list[str]:
        return [job.key for job in await claim(self.jobs, 100)]

    async def has(self, number: int) -> bool:
        return (await self.jobs.stats()).fresh >= number


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    yield queue
    await queue.client.aclose()


async def test_a_notification_is_enqueued_and_acknowledged(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue, queue.counted.append):
        for key in ("one", "two"):
            await sender.send(key)
        await until(lambda: queue.has(2))
        await until(lambda: nothing_is_pending(sender))
    assert sorted(await queue.keys()) == ["one", "two"]
    assert sum(kind in ("pubsub", "stream", "sqs", "webhook") for kind in queue.counted) == 2


async def test_any_key_is_enqueued_unchanged(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue, queue.counted.append):
        for key in ODD_KEYS:
            await sender.send(key)
        await until(lambda: queue.has(len(ODD_KEYS)))
    assert sorted(await queue.keys()) == sorted(ODD_KEYS)


@but_for_pubsub
async def test_a_notification_for_another_bucket_is_acknowledged_and_counted(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue, queue.counted.append):
        await sender.send("other", bucket="logs")
        await sender.send("ours")
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_pending(sender))
    assert await queue.keys() == ["ours"]
    assert queue.counted.count("no_route") == 1


@but_for_pubsub
async def test_a_notification_is_kept_until_it_is_enqueued(sender: Sender, queue: Queue) -> None:
    queue.opened.clear()
    async with listening_to(sender, queue, queue.counted.append):
        await sender.send("key")
        await until(lambda: queue.offered)
        await asyncio.sleep(0.5)
        assert await sender.pending() == 1
        queue.opened.set()
        await until(lambda: nothing_is_pending(sender))
    assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_a_notification_is_enqueued_when_redis_is_available_again(sender: Sender, queue: Queue) -> None:
    queue.refusals = 3
    async with listening_to(sender, queue, queue.counted.append) as (source, _):
        await sender.send("key")
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_pending(sender))
        assert source.health_problem() == ""
    assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_a_notification_received_by_a_listener_that_died_is_delivered_by_another(
    sender: Sender, queue: Queue
) -> None:
    queue.opened.clear()
    async with running(sender.source(queue, queue.counted.append).run(asyncio.Event())):
        await sender.send("key")
        await until(lambda: queue.offered)
    assert await sender.pending() == 1
    queue.opened.set()
    async with listening_to(sender, queue, queue.counted.append):
        await until(lambda: queue.has(1))
        await until(lambda: nothing_is_pending(sender))
    assert await queue.keys() == ["key"]


async def test_an_unusable_message_is_counted_and_does_not_affect_others(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue, queue.counted.append) as (source, _):
        await sender.send_bad()
        await sender.send("good")
        await until(lambda: queue.has(1))
        await until(lambda: {"no_key", "not_json", "not_utf8"} & set(queue.counted))
        assert source.health_problem() == ""
    assert await queue.keys() == ["good"]


async def test_a_stop_takes_effect_soon_and_received_notifications_are_enqueued_first(
    sender: Sender, queue: Queue
) -> None:
    async with listening_to(sender, queue, queue.counted.append) as (_, stop):
        if sender.keeps_until_acknowledged:
            queue.opened.clear()
            await sender.send("key")
            await until(lambda: queue.offered)
        began_s = time.monotonic()
        stop.set()
        asyncio.get_running_loop().call_later(0.3, queue.opened.set)
    assert time.monotonic() - began_s < 3
    if sender.keeps_until_acknowledged:
        await until(lambda: nothing_is_pending(sender))
        assert await queue.keys() == ["key"]


@but_for_pubsub
async def test_a_stop_while_redis_is_unavailable_releases_the_notification(sender: Sender, queue: Queue) -> None:
    async with listening_to(sender, queue, queue.counted.append) as (_, stop):
        queue.refusals = 1000
        await sender.send("key")
        await until(lambda: queue.offered)
        stop.set()
    assert await sender.pending() == 1
    queue.refusals = 0
    async with listening_to(sender, queue, queue.counted.append):
        await until(lambda: queue.has(1))
