"""A fleet of listeners as processes between real stores, with a proxy before each of them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from prometheus_client.parser import text_string_to_metric_families

from s3s3.model import Lane
from s3s3.queue.base import DeadLetter, JobRequest, QueueStats
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer, free_ports
from tests.faults.proxy import Proxy
from tests.integration.commands import Listener, eventually, write_config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Self  # typing's own since 3.11

LEASE_S = 1
CHANNEL = "backup"
WATERMARK = "s3s3:{default}:watermark"
GAP = "s3s3:{default}:gap"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server, with a boto3 client to inspect it without s3s3."""

    server: StoreServer
    name: str
    client: S3Client

    @classmethod
    def new(cls, server: StoreServer) -> Bucket:
        name, client = f"faults-{secrets.token_hex(6)}", server.boto3_client()
        client.create_bucket(Bucket=name)
        return cls(server, name, client)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def etags(self, prefix: str) -> dict[str, str]:
        """Return the ETags of its objects by key, without quotes."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: entry["ETag"].strip('"') for entry in listed}

    def content(self, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None


class FleetListener:
    """One listener: started, killed, paused, and started again."""

    def __init__(self, config: Path, port: int) -> None:
        self._config, self._port = config, port
        self._stack = ExitStack()
        self.paused = False
        self.is_to_run = False
        self.listener: Listener

    def start(self) -> None:
        """Start it, unless it runs; it is not waited for."""
        self.is_to_run = True
        if not self.running:
            self.listener = Listener(self._config)
            self._stack.enter_context(self.listener.started())

    def wait_subscribed(self) -> None:
        eventually(lambda: ": subscribed" in self.log, f"the listener subscribes:\n{self.log}", every_s=0.1)

    @property
    def running(self) -> bool:
        return hasattr(self, "listener") and self.listener.process.poll() is None

    @property
    def log(self) -> str:
        return self.listener.log.read_text()

    def kill(self) -> None:
        self.paused = self.is_to_run = False
        self.listener.kill()

    def pause(self) -> None:
        self.paused = True
        self.listener.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.paused:
            self.listener.process.send_signal(signal.SIGCONT)
        self.paused = False

    def close(self) -> None:
        self._stack.close()

    def metrics(self) -> dict[tuple[str, str], float]:
        """Return its figures, each under its name and the values of its labels but the route's."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=20) as answer:
            page = answer.read().decode()
        return {
            (sample.name, " ".join(value for label, value in sample.labels.items() if label != "route")): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    @property
    def rss_bytes(self) -> int:
        """What it holds in memory (proc(5), "statm")."""
        resident = Path(f"/proc/{self.listener.process.pid}/statm").read_text().split()[1]
        return int(resident) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.listener.process.pid}/fd").iterdir()))


class Fleet:
    """Listeners over one source and some destinations; a context manager.

    Attributes:
        proxies: by the destinations' names.
        to_source: the proxy before the source.

    Args:
        redis_url: for the tests' own words with Redis.
        listeners_redis_url: for the listeners, where that is another.
        direct: destinations, and "source", without a proxy, which costs a rate more than the network does.
        within: allow server-side copies if source and a direct destination are in one store.
        deleting: destinations with `delete = true`, for any number of objects.
    """

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        source: Bucket,
        destinations: Mapping[str, Bucket],
        *,
        size: int = 3,
        pubsub: Mapping[str, object] | None = None,
        worker: Mapping[str, object] | None = None,
        listeners_redis_url: str = "",
        direct: Collection[str] = (),
        within: bool = False,
        deleting: Collection[str] = (),
    ) -> None:
        self.source, self.destinations = source, destinations
        self.redis_url = redis_url
        self._folder, self._size = folder, size
        self._pubsub = {"backfill_margin_s": 2, **(pubsub or {})}
        self._worker = {"lease_s": LEASE_S, "max_attempts": 1000, **(worker or {})}
        self._listeners_redis_url = listeners_redis_url or redis_url
        self.to_source = Proxy(source.server.port)
        self._direct = direct
        self._deleting = deleting
        self._within = within
        self._stack = ExitStack()
        self.proxies: dict[str, Proxy] = {}
        self.members: list[FleetListener] = []

    def __enter__(self) -> Self:
        with self._stack as stack:
            source = self.source.server.endpoint(self.source.name)
            if "source" not in self._direct:
                source = stack.enter_context(self.to_source).through(source)
            endpoints = []
            for name, bucket in self.destinations.items():
                endpoint = bucket.server.endpoint(
                    bucket.name,
                    name,
                    server_side_copy=self._within,
                    delete=name in self._deleting,
                    max_delete=1.0,
                )
                if name not in self._direct:
                    self.proxies[name] = stack.enter_context(Proxy(bucket.server.port))
                    endpoint = self.proxies[name].through(endpoint)
                endpoints.append(endpoint)
            for number, port in enumerate(free_ports(self._size)):
                folder = self._folder / f"listener-{number}"
                folder.mkdir()
                self.config = write_config(
                    folder,
                    source,
                    endpoints,
                    self._listeners_redis_url,
                    pubsub=dict(self._pubsub),
                    worker=dict(self._worker),
                    bind=f"127.0.0.1:{port}",
                )
                self.members.append(FleetListener(self.config, port))
                stack.callback(self.members[-1].close)
            self.gather()
            eventually(lambda: self.ask_redis(lambda client: client.get(WATERMARK)), "the first watermark")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def gather(self) -> None:
        """Start all listeners and wait until they are subscribed."""
        for member in self.members:
            member.resume()
            member.start()
        for member in self.members:
            member.wait_subscribed()

    # -- Redis and the queue, past the proxies

    def ask_redis(self, ask: Callable[[redis.Redis], Answer]) -> Answer:
        with redis.Redis.from_url(self.redis_url, decode_responses=True, socket_timeout=5) as client:
            return ask(client)

    def publish(self, *keys: str) -> None:
        """Publish keys on the channel, as producers do."""

        def say(client: redis.Redis) -> None:
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.publish(CHANNEL, key)
                pipeline.execute()

        self.ask_redis(say)

    def queue(self, ask: Callable[[RedisJobQueue], Awaitable[Answer]]) -> Answer:
        return asyncio.run(self._queue(ask))

    async def _queue(self, ask: Callable[[RedisJobQueue], Awaitable[Answer]]) -> Answer:
        client = connect(self.redis_url)
        try:
            return await ask(RedisJobQueue(client, "default", tuple(self.destinations), lease_s=LEASE_S))
        finally:
            await client.aclose()

    def put(self, keys: Iterable[str]) -> None:
        """Put keys on the queue as notifications, as `s3s3 publish` does: once this returns they are accepted."""
        puts = [JobRequest(key, tuple(self.destinations)) for key in keys]
        self.queue(lambda jobs: jobs.enqueue(puts, Lane.FRESH))

    def counts(self) -> QueueStats:
        return self.queue(lambda jobs: jobs.stats())

    def dead_letters(self, destination: str) -> dict[str, DeadLetter]:
        async def ask(jobs: RedisJobQueue) -> dict[str, DeadLetter]:
            return {letter.key: letter async for letter in jobs.dead_letters(destination)}

        return self.queue(ask)

    # -- waiting

    def idle(self) -> bool:
        """Whether the queue has nothing left to do, or to look at later."""
        counts = self.counts()
        return not counts.pending and not counts.rechecks

    def settle(self, timeout_s: float = 90) -> None:
        """Wait until everything that was accepted is done with."""
        eventually(self.idle, "the queue is empty", timeout_s, every_s=0.2)

    def settle_published(self, timeout_s: float = 90) -> None:
        """Wait until everything published so far is enqueued, or backfilled, and finished."""
        seconds, microseconds = self.ask_redis(lambda client: client.time())
        now_ms = seconds * 1000 + microseconds // 1000

        def received(client: redis.Redis) -> bool:
            return int(client.get(WATERMARK) or 0) > now_ms and not client.hexists(GAP, "from_ms")

        eventually(lambda: self.ask_redis(received), "all messages are received", timeout_s, every_s=0.2)
        self.settle(timeout_s)

    # -- counting

    def total(self, name: str, labels: str = "") -> float:
        """Return the sum over the listeners that run of a figure."""
        return sum(member.metrics().get((name, labels), 0) for member in self.members if member.running)

    def arrives(self, key: str, content: bytes, timeout_s: float = 30) -> None:
        """Wait until every destination holds it."""

        def is_there() -> bool:
            return all(bucket.content(key) == content for bucket in self.destinations.values())

        eventually(is_there, f"{key!r} at every destination", timeout_s, every_s=0.05)

    def copies(self, destination: str, outcome: str = "copied") -> float:
        return self.total("s3s3_copies_total", f"{destination} {outcome}")


def new_redis() -> RedisServer:
    """A Redis of a test's own, to be killed: what it answered for is there again."""
    return RedisServer(append_only=True)


def differing(destinations: Mapping[str, Bucket], wanted: Mapping[str, bytes]) -> Sequence[str]:
    """Return what the destinations do not hold as they ought to."""
    return [
        f"{name}: {key!r} holds {(bucket.content(key) or b'nothing')[:40]!r}, not {content[:40]!r}"
        for name, bucket in destinations.items()
        for key, content in wanted.items()
        if bucket.content(key) != content
    ]


def one_listener(
    folder: Path, redis_url: str, server: StoreServer, destinations: Iterable[str], **options: Any
) -> Fleet:
    """One listener over new buckets, with the default lease: that is how long a write may be waited for."""
    there = {name: Bucket.new(server) for name in destinations}
    return Fleet(
        folder,
        redis_url,
        Bucket.new(server),
        there,
        size=1,
        worker={"lease_s": 60},
        pubsub={"backfill": False},
        **options,
    )
