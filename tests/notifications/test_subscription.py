"""A subscription that notices when it has gone deaf, on a real Redis."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from s3s3.notifications.subscription import Subscription
from s3s3.queue import connection
from s3s3.queue.lease import boottime_s
from s3s3.scripts.demo.redis_server import RedisServer
from tests.waiting import running, until

pytestmark = pytest.mark.real


class Heard:
    """What a subscription told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.subscribed = 0
        self.pings: list[float] = []
        self.marks: list[bytes] = []

    def subscription(self, hearing: Redis, speaking: Redis, deaf_after_s: float = 1.0) -> Subscription:
        def count() -> None:
            self.subscribed += 1

        return Subscription(
            hearing, speaking, "backup", subscribed=count, heard=self.messages.append, pinged=self.pings.append,
            mark_channel="mark", marked=self.marks.append,
            ping_every_s=0.05, deaf_after_s=deaf_after_s,
        )  # fmt: skip


@pytest.fixture
async def clients(redis_url: str) -> AsyncIterator[tuple[Redis, Redis]]:
    hearing, speaking = connection.connect(redis_url, decode=False), connection.connect(redis_url)
    yield hearing, speaking
    await hearing.aclose()
    await speaking.aclose()


async def test_messages_are_heard_as_they_are_and_pings_come_back_behind_them(clients: tuple[Redis, Redis]) -> None:
    heard, (hearing, speaking) = Heard(), clients
    async with running(heard.subscription(hearing, speaking).run()):
        await until(lambda: heard.pings)
        await speaking.publish("backup", b"\xff any bytes")
        sent_s = boottime_s()
        await until(lambda: heard.pings[-1] > sent_s)
        assert heard.messages == [b"\xff any bytes"]
        assert heard.subscribed == 1


async def test_a_connection_that_is_cut_is_replaced(clients: tuple[Redis, Redis]) -> None:
    heard, (hearing, speaking) = Heard(), clients
    subscription = heard.subscription(hearing, speaking)
    async with running(subscription.run()):
        await until(lambda: subscription.alive)
        await speaking.client_kill_filter(_type="pubsub")
        await until(lambda: heard.subscribed == 2)
        await until(lambda: subscription.alive)
        await speaking.publish("backup", b"after")
        await until(lambda: heard.messages == [b"after"])


async def test_a_redis_that_is_killed_and_comes_back_is_heard_again(
    clients: tuple[Redis, Redis], redis_server: RedisServer
) -> None:
    heard, (hearing, speaking) = Heard(), clients
    subscription = heard.subscription(hearing, speaking)
    async with running(subscription.run()):
        await until(lambda: subscription.alive)
        redis_server.kill()
        await until(lambda: not subscription.alive)
        redis_server.start()  # in this thread: it ends with the thread that started it
        await until(lambda: subscription.alive)
        assert heard.subscribed == 2


async def test_a_half_open_connection_is_noticed_and_replaced(redis_server: RedisServer, redis_url: str) -> None:
    with Valve(redis_server.port) as valve:
        hearing = connection.connect(f"redis://127.0.0.1:{valve.port}/0", decode=False)
        speaking = connection.connect(redis_url)
        heard = Heard()
        subscription = heard.subscription(hearing, speaking, deaf_after_s=0.5)
        async with running(subscription.run()):
            await until(lambda: subscription.alive)
            valve.stuck = True  # nothing comes through any more, and nobody is told
            await until(lambda: not subscription.alive)
            valve.stuck = False
            await until(lambda: heard.subscribed >= 2 and subscription.alive)
        await hearing.aclose()
        await speaking.aclose()


class Valve:
    """A TCP relay that can get stuck: connections stand, and what the server says is lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.stuck = False

    def __enter__(self) -> Valve:
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
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._relay, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, True), daemon=True).start()

    def _relay(self, here: socket.socket, there: socket.socket, from_server: bool) -> None:
        try:
            while chunk := here.recv(65536):
                if not (from_server and self.stuck):
                    there.sendall(chunk)
        except OSError:
            pass
        finally:
            for end in (here, there):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # closed alone it stands on while the other thread reads from it
                end.close()
