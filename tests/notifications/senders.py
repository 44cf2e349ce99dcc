"""Each way by which notices come, as its senders use it, and the source of ours at its end."""

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

from s3s3.model import Endpoint, Notification, Route
from s3s3.notifications.pubsub import PubSubSource
from s3s3.notifications.redis_stream import RedisStreamSource
from s3s3.notifications.source import Deliver, NotificationSource
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


class Taken:
    """Takes what a source delivers, and remembers it.

    Attributes:
        asked: what it was to take.
        notices: what it has taken.
        wait: awaited in between.
    """

    def __init__(self) -> None:
        self.asked: list[Notification] = []
        self.notices: list[Notification] = []
        self.buried: list[tuple[str, str, str | None]] = []
        self.counted: list[str] = []
        self.wait: Callable[[], Awaitable[object]] = partial(asyncio.sleep, 0)

    async def deliver(self, notices: Sequence[Notification], kind: str) -> int:
        self.asked += notices
        await self.wait()
        self.notices += notices
        return 0

    async def bury(self, message: str, reason: str, bucket: str | None = None) -> None:
        self.buried.append((message, reason, bucket))

    @property
    def keys(self) -> list[str]:
        return [notice.key for notice in self.notices]


class Sender(Protocol):
    """A sender of notices, and what it holds of them.

    Attributes:
        keeps: it holds a notice until it is told that it was taken.
    """

    keeps: bool

    def source(self, routing: Deliver, count: Callable[[str], None]) -> NotificationSource: ...
    async def send(self, key: str, bucket: str = "images") -> None: ...
    async def send_bad(self) -> None: ...
    async def held(self) -> int: ...
    async def close(self) -> None: ...


class Takes(Deliver, Protocol):
    """Who takes what a source delivers, and hears what it counts."""

    counted: list[str]


@asynccontextmanager
async def listening_to(sender: Sender, takes: Takes) -> AsyncIterator[tuple[NotificationSource, asyncio.Event]]:
    """A source, and what tells it to stop; at the end of the block at the latest."""
    source, stop = sender.source(takes, takes.counted.append), asyncio.Event()
    async with running(source.run(stop)) as task:
        await until(lambda: not source.health_problem())
        yield source, stop
        stop.set()
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def listening(sender: Sender) -> AsyncIterator[tuple[Taken, NotificationSource]]:
    taken = Taken()
    async with listening_to(sender, taken) as (source, _):
        yield taken, source
    assert source.kind == "stream" or not taken.buried, "who keeps a notice has dead letters of its own"


async def nothing_is_held(sender: Sender) -> bool:
    return await sender.held() == 0


class StreamSender:
    keeps = True
    name, group = "s3s3:notifications", "s3s3"

    def __init__(self, url: str) -> None:
        self.client = connection.connect(url, decode=False)
        self._consumers = 0

    def source(self, routing: Deliver, count: Callable[[str], None]) -> RedisStreamSource:
        self._consumers += 1
        return RedisStreamSource(self.client, self.name, self.group, f"listener {self._consumers}", routing,
                      lease_s=LEASE_S, count=count)  # fmt: skip

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.client.xadd(self.name, {"key": key, "bucket": bucket})

    async def send_bad(self) -> None:
        await self.client.xadd(self.name, {"kee": "misspelt"})

    async def held(self) -> int:
        """Entries that the group has not read, or not acknowledged."""
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
    keeps = True

    def __init__(self, endpoint_url: str, visibility_s: int = 1, **attributes: str) -> None:
        self.endpoint_url = endpoint_url
        self.client = boto3.client("sqs", region_name="us-west-2", endpoint_url=endpoint_url)
        self.url = self.queue("notices", VisibilityTimeout=str(visibility_s), **attributes)

    def queue(self, name: str, **attributes: str) -> str:
        made = self.client.create_queue(QueueName=f"{name}-{time.monotonic_ns()}", Attributes=attributes)
        url: str = made["QueueUrl"]
        return url

    def source(self, routing: Deliver, count: Callable[[str], None]) -> SqsSource:
        return SqsSource(self.url, routing, region="us-west-2", endpoint_url=self.endpoint_url, count=count)

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.send_text(event(key, bucket=bucket))

    async def send_text(self, text: str) -> None:
        await asyncio.to_thread(self.client.send_message, QueueUrl=self.url, MessageBody=text)

    async def send_bad(self) -> None:
        await self.send_text("hello")

    async def held(self, url: str = "") -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = await asyncio.to_thread(
            self.client.get_queue_attributes, QueueUrl=url or self.url, AttributeNames=names
        )
        return sum(int(found["Attributes"][name]) for name in names)

    async def close(self) -> None:
        self.client.close()


class WebhookSender:
    """Sends again until it gets a 2xx or a refusal, as Ceph does where a topic is persistent, and MinIO."""

    keeps = True

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.session = aiohttp.ClientSession()
        self.statuses: list[int] = []
        self._sending: set[asyncio.Task[None]] = set()

    def source(self, routing: Deliver, count: Callable[[str], None]) -> WebhookSource:
        return WebhookSource("127.0.0.1", self.port, TOKEN, routing, count=count)

    async def post(self, body: str | bytes | AsyncIterator[bytes], **options: Any) -> tuple[int, str]:
        options.setdefault("headers", {"Authorization": f"Bearer {TOKEN}"})
        async with self.session.post(f"http://127.0.0.1:{self.port}/notify", data=body, **options) as answer:
            return answer.status, await answer.text()

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

    async def held(self) -> int:
        return len(self._sending)

    async def close(self) -> None:
        await cancel(self._sending)
        await self.session.close()


class EarSource:
    """The ear of the route, in the form of the other sources. It puts on the queue by itself."""

    kind = "pubsub"

    def __init__(self, url: str, count: Callable[[str], None]) -> None:
        self._clients = connection.connect(url), connection.connect(url, decode=False)
        jobs = RedisJobQueue(self._clients[0], ROUTE.name, ROUTE.destination_names)
        self._ear = PubSubSource(ROUTE, ROUTE.channel, jobs, self._clients[1],
                        source_time_ms=lambda: int(time.time() * 1000), count=count)  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        async def until_stopped() -> None:
            await stop.wait()

        await run_with_background(until_stopped(), self._ear.run())
        for client in self._clients:
            await client.aclose()

    def health_problem(self) -> str:
        return "" if self._ear.subscription.alive else "not subscribed"

    async def readiness_problems(self) -> list[str]:
        return []


class ChannelSender:
    """A producer that publishes. It keeps nothing: what nobody hears is found by a heal."""

    keeps = False

    def __init__(self, url: str) -> None:
        self._url = url
        self.client: Redis = connection.connect(url)

    def source(self, routing: Deliver, count: Callable[[str], None]) -> EarSource:
        return EarSource(self._url, count)

    async def send(self, key: str, bucket: str = "images") -> None:
        await self.client.publish("backup", key)

    async def send_bad(self) -> None:
        await self.client.publish("backup", b"\xff\xfe")

    async def held(self) -> int:
        return 0

    async def close(self) -> None:
        await self.client.aclose()
