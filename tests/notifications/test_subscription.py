"""The subscription and its loopback ping, on a real Redis."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from s3s3.notifications import subscription as subscription_module
from s3s3.notifications.subscription import MessageBuffer, Subscription
from s3s3.queue import connection
from s3s3.queue.base import boottime_s
from s3s3.scripts.demo.redis_server import RedisServer
from tests.waiting import running, until

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(subscription_module, "STALE_AFTER_S", 1.0)


class Received(MessageBuffer):
    """A buffer that also counts subscriptions."""

    def __init__(self) -> None:
        super().__init__("backup")
        self.subscribed = 0

    def on_subscribed(self) -> None:
        super().on_subscribed()
        self.subscribed += 1

    @property
    def texts(self) -> list[bytes]:
        return [message.text for message in self.messages if message.text is not None]

    @property
    def checkpoints(self) -> list[bytes]:
        return [message.checkpoint for message in self.messages if message.checkpoint is not None]

    @property
    def pings(self) -> list[float]:
        return [message.at_s for message in self.messages if message.text is message.checkpoint is None]

    def subscription(self, subscriber_client: Redis, client: Redis) -> Subscription:
        return Subscription(subscriber_client, client, "backup", "s3s3:{default}:", self)


@pytest.fixture
async def clients(redis_url: str) -> AsyncIterator[tuple[Redis, Redis]]:
    subscriber_client, client = connection.connect(redis_url, decode=False), connection.connect(redis_url)
    yield subscriber_client, client
    await subscriber_client.aclose()
    await client.aclose()


async def test_a_ping_returns_after_the_messages_published_before_it(clients: tuple[Redis, Redis]) -> None:
    received, (subscriber_client, client) = Received(), clients
    async with running(received.subscription(subscriber_client, client).run()):
        await until(lambda: received.pings)
        await client.publish("backup", b"\xff any bytes")
        sent_s = boottime_s()
        await until(lambda: received.pings[-1] > sent_s)
        assert received.texts == [b"\xff any bytes"]
        assert received.subscribed == 1


async def test_messages_of_the_checkpoint_channel_are_checkpoints(clients: tuple[Redis, Redis]) -> None:
    received, (subscriber_client, client) = Received(), clients
    async with running(received.subscription(subscriber_client, client).run()):
        await until(lambda: received.pings)
        await client.publish("s3s3:{default}:checkpoint", b"1")
        await until(lambda: received.checkpoints == [b"1"])
        assert received.texts == []


async def test_a_closed_connection_is_replaced(clients: tuple[Redis, Redis]) -> None:
    received, (subscriber_client, client) = Received(), clients
    subscription = received.subscription(subscriber_client, client)
    async with running(subscription.run()):
        await until(lambda: subscription.alive)
        await client.client_kill_filter(_type="pubsub")
        await until(lambda: received.subscribed == 2)
        await until(lambda: subscription.alive)
        await client.publish("backup", b"after")
        await until(lambda: received.texts == [b"after"])


async def test_a_killed_redis_is_subscribed_again_after_its_restart(
    clients: tuple[Redis, Redis], redis_server: RedisServer
) -> None:
    received, (subscriber_client, client) = Received(), clients
    subscription = received.subscription(subscriber_client, client)
    async with running(subscription.run()):
        await until(lambda: subscription.alive)
        redis_server.kill()
        await until(lambda: not subscription.alive)
        redis_server.start()  # in this thread: it ends with the thread that started it
        await until(lambda: subscription.alive)
        assert received.subscribed == 2


async def test_each_outage_is_logged_once_and_its_pauses_begin_anew(
    clients: tuple[Redis, Redis], redis_server: RedisServer, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    failures: list[int] = []

    def backoff_s(number: int, initial_s: float, max_s: float) -> float:
        failures.append(number)
        return 0.02

    monkeypatch.setattr(subscription_module, "backoff_s", backoff_s)
    received, (subscriber_client, client) = Received(), clients
    subscription = received.subscription(subscriber_client, client)
    async with running(subscription.run()):
        for outages in (1, 2):
            await until(lambda: subscription.alive)
            failures.clear()
            redis_server.kill()
            await until(lambda: len(failures) > 2)
            assert failures[:3] == [1, 2, 3]
            assert len([text for text in caplog.messages if "subscribing again" in text]) == outages
            redis_server.start()


async def test_a_half_open_connection_is_detected_and_replaced(redis_server: RedisServer, redis_url: str) -> None:
    with Relay(redis_server.port) as relay:
        subscriber_client = connection.connect(f"redis://127.0.0.1:{relay.port}/0", decode=False)
        client = connection.connect(redis_url)
        received = Received()
        subscription = received.subscription(subscriber_client, client)
        async with running(subscription.run()):
            await until(lambda: subscription.alive)
            relay.drops_replies = True
            await until(lambda: not subscription.alive)
            relay.drops_replies = False
            await until(lambda: received.subscribed >= 2 and subscription.alive)
        await subscriber_client.aclose()
        await client.aclose()


class Relay:
    """A TCP relay that can drop what the server sends, and keep the connections open."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.drops_replies = False

    def __enter__(self) -> Relay:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            threading.Thread(target=self._relay, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, True), daemon=True).start()

    def _relay(self, source: socket.socket, destination: socket.socket, is_from_server: bool) -> None:
        try:
            while chunk := source.recv(65536):
                if not (is_from_server and self.drops_replies):
                    destination.sendall(chunk)
        except OSError:
            pass
        finally:
            for end in (source, destination):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # close alone would wait for the other thread's recv
                end.close()
