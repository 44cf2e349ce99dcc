"""Senders for each kind of notification source, and the source that receives from them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote_plus

import aiohttp
import boto3
from redis.asyncio import Redis

from s3s3.config import SqsSettings
from s3s3.model import Endpoint, Lane, Notification, Route
from s3s3.notifications.pubsub import PubSubSource
from s3s3.notifications.redis_stream import RedisStreamSource
from s3s3.notifications.routing import Routing
from s3s3.notifications.source import NotificationSource
from s3s3.notifications.sqs import SqsSource
from s3s3.notifications.webhook import WebhookSource
from s3s3.queue import connection
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.servers import free_ports
from s3s3.tasks import cancel, run_with_background
from tests.waiting import running, until

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest", "a"),), channel="backup")
LEASE_S = 1.0
TOKEN = "s3cret ü"


def event(*keys: str, bucket: str = "images", source: str = "aws:s3") -> str:
    return json.dumps(
        {"Records": [
            {"eventSource": source, "eventName": "ObjectCreated:Put",
             "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key)}}}
            for key in keys
        ]}
    )  # fmt: skip


class Receiver(Routing):
    """Records what a source delivers.

    Attributes:
        offered: notifications it was called with.
        notifications: those that it has accepted.
        wait: awaited in between.
    """

    def __init__(self) -> None:
        super().__init__([])
        self.offered: list[Notification] = []
        self.notifications: list[Notification] = []
        self.dead_letters: list[tuple[str, str, str | None]] = []
        self.counted: list[str] = []
        self.wait: Callable[[], Awaitable[object]] = partial(asyncio.sleep, 0)

    async def deliver(
        self, notifications: Sequence[Notification], kind: str, lane: Lane = Lane.FRESH
    ) -> Sequence[Notification]:
        self.offered += notifications
        await self.wait()
        self.notifications += notifications
        return []

    async def dead_letter(self, message: str, reason: str, bucket: str | None = None) -> None:
        self.dead_letters.append((message, reason, bucket))

    @property
    def keys(self) -> list[str]:
        return [notification.key for notification in self.notifications]


class Sender(Protocol):
    """A sender of notifications.

    Attributes:
        keeps_until_acknowledged: whether it keeps a notification until the source acknowledges it.
    """

    keeps_until_acknowledged: bool

    def source(self, routing: Routing, count: Callable[[str], None]) -> NotificationSource: ...
    async def send(self, key: str, bucket: str = "images") -> None: ...
    async def send_bad(self) -> None: ...
    async def pending(self) -> int: ...
    async def close(self) -> None: ...


@asynccontextmanager
async def listening_to(
    sender: Sender, routing: Routing, count: Callable[[str], None]
) -> AsyncIterator[tuple[NotificationSource, asyncio.Event]]:
    """Run a source; yield it and its stop event, which is set at the end of the block."""
    source, stop = sender.source(routing, count), asyncio.Event()
    async with running(source.run(stop)) as task:
        await until(lambda: not source.health_problem())
        yield source, stop
        stop.set()
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def listening(sender: Sender) -> AsyncIterator[tuple[Receiver, NotificationSource]]:
    receiver = Receiver()
    async with listening_to(sender, receiver, receiver.counted.append) as (source, _):
        yield receiver, source
    assert source.kind == "stream" or not receiver.dead_letters, (
        "only the stream source uses dead letters; other senders keep the message"
    )


async def nothing_is_pending(sender: Sender) -> bool:
    return await sender.pending() == 0


class StreamSender:
    keeps_until_acknowledged = True
    name, group = "s3s3:notifications", "s3s3"

    def __init__(self, url: str) -> None:
        self.client = connection.connect(url, decode=False)
        self._consumers = 0

    def source(self, routing: Routing, count: Callable[[str], None]) -> RedisStreamSource:
        self._consumers += 1
        return RedisStreamSource(self.client, self.name, self.group, f"listener {self._consumers}", routing,
                      lease_s=LEASE_S, count=count)  # fmt: skip

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.client.xadd(self.name, {"key": key, "bucket": bucket})

    async def send_bad(self) -> None:
        await self.client.xadd(self.name, {"kee": "misspelt"})

    async def pending(self) -> int:
        """Entries that the group has not read or not acknowledged."""
        if not await self.client.exists(self.name):
            return 0
        groups: list[dict[str, Any]] = await self.client.xinfo_groups(self.name)
        for group in groups:
            unread = await self.client.xrange(self.name, b"(" + group["last-delivered-id"], "+")
            return len(unread or []) + int(group["pending"])
        return int(await self.client.xlen(self.name))

    async def close(self) -> None:
        await self.client.aclose()


class SqsSender:
    keeps_until_acknowledged = True

    def __init__(self, endpoint_url: str, visibility_s: int = 1, **attributes: str) -> None:
        self.endpoint_url = endpoint_url
        self.client = boto3.client("sqs", region_name="us-west-2", endpoint_url=endpoint_url)
        self.url = self.queue("notifications", VisibilityTimeout=str(visibility_s), **attributes)

    def queue(self, name: str, **attributes: str) -> str:
        reply = self.client.create_queue(QueueName=f"{name}-{time.monotonic_ns()}", Attributes=attributes)
        url: str = reply["QueueUrl"]
        return url

    def source(self, routing: Routing, count: Callable[[str], None]) -> SqsSource:
        return SqsSource(SqsSettings(self.url, "us-west-2", self.endpoint_url), routing, count=count)

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.send_text(event(key, bucket=bucket))

    async def send_text(self, text: str) -> None:
        await asyncio.to_thread(self.client.send_message, QueueUrl=self.url, MessageBody=text)

    async def send_bad(self) -> None:
        await self.send_text("hello")

    async def pending(self, url: str = "") -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = await asyncio.to_thread(
            self.client.get_queue_attributes, QueueUrl=url or self.url, AttributeNames=names
        )
        return sum(int(found["Attributes"][name]) for name in names)

    async def close(self) -> None:
        self.client.close()


class WebhookSender:
    """Retries until it gets a 2xx or 4xx response, as MinIO does, and Ceph for a persistent topic."""

    keeps_until_acknowledged = True

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.session = aiohttp.ClientSession()
        self.statuses: list[int] = []
        self._sending: set[asyncio.Task[None]] = set()

    def source(self, routing: Routing, count: Callable[[str], None]) -> WebhookSource:
        return WebhookSource("127.0.0.1", self.port, TOKEN, routing, count=count)

    async def post(self, body: str | bytes | AsyncIterator[bytes], **options: Any) -> tuple[int, str]:
        options.setdefault("headers", {"Authorization": f"Bearer {TOKEN}"})
        async with self.session.post(f"http://127.0.0.1:{self.port}/notify", data=body, **options) as response:
            return response.status, await response.text()

    async def send(self, key: str, bucket: str = "images") -> None:
        self._keep_sending(event(key, bucket=bucket))

    async def send_bad(self) -> None:
        self._keep_sending("hello")

    def _keep_sending(self, body: str) -> None:
        async def keep() -> None:
            while True:
                with suppress(aiohttp.ClientError):
                    status, _ = await self.post(body)
                    self.statuses.append(status)
                    if status < 500:
                        return
                await asyncio.sleep(0.05)

        task = asyncio.create_task(keep())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def pending(self) -> int:
        return len(self._sending)

    async def close(self) -> None:
        await cancel(self._sending)
        await self.session.close()


class ChannelSource(NotificationSource):
    """`PubSubSource` with the interface of the other sources. It enqueues directly."""

    kind = "pubsub"

    def __init__(self, url: str, count: Callable[[str], None]) -> None:
        self._clients = connection.connect(url), connection.connect(url, decode=False)
        jobs = RedisJobQueue(self._clients[0], ROUTE.name, ROUTE.destination_names)
        self._pubsub = PubSubSource(ROUTE, ROUTE.channel, jobs, self._clients[1],
                        count=count)  # fmt: skip

    def __str__(self) -> str:
        return "channel backup"

    async def run(self, stop: asyncio.Event) -> None:
        async def until_stopped() -> None:
            await stop.wait()

        await run_with_background(until_stopped(), self._pubsub.run())
        for client in self._clients:
            await client.aclose()

    def health_problem(self) -> str:
        return "" if self._pubsub.subscription.alive else "not subscribed"

    async def readiness_problems(self) -> list[str]:
        return []


class ChannelSender:
    """A producer that publishes. It keeps nothing."""

    keeps_until_acknowledged = False

    def __init__(self, url: str) -> None:
        self._url = url
        self.client: Redis = connection.connect(url)

    def source(self, routing: Routing, count: Callable[[str], None]) -> ChannelSource:
        return ChannelSource(self._url, count)

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.client.publish("backup", key)

    async def send_bad(self) -> None:
        await self.client.publish("backup", b"\xff\xfe")

    async def pending(self) -> int:
        return 0

    async def close(self) -> None:
        await self.client.aclose()
