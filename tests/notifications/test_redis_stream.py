"""The stream source against a real Redis: lost groups, restarts and killed listeners."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from s3s3.notifications.source import NotificationSource
from s3s3.scripts.demo.redis_server import RedisServer
from tests.notifications.senders import LEASE_S, StreamSender, listening, nothing_is_pending
from tests.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture
async def sender(redis_url: str) -> AsyncIterator[StreamSender]:
    sender = StreamSender(redis_url)
    yield sender
    await sender.close()


async def consumers(sender: StreamSender) -> list[str]:
    return sorted(found["name"].decode() for found in await sender.client.xinfo_consumers(sender.name, sender.group))


async def test_an_entry_added_before_the_first_listener_is_delivered_with_its_time(sender: StreamSender) -> None:
    before_ms = int(time.time() * 1000) - 50
    await sender.client.xadd(sender.name, {"key": "early"})
    await asyncio.sleep(0.2)
    async with listening(sender) as (receiver, _):
        await until(lambda: receiver.notifications)
    (notification,) = receiver.notifications
    assert (notification.key, notification.bucket) == ("early", None)
    assert notification.notified_ms is not None and before_ms <= notification.notified_ms <= before_ms + 150


async def test_an_id_chosen_by_the_producer_is_not_used_as_a_time(sender: StreamSender) -> None:
    async with listening(sender) as (receiver, _):
        await sender.client.xadd(sender.name, {"key": "k"}, id="7-1")
        await until(lambda: receiver.notifications)
    assert receiver.notifications[0].notified_ms is None


@pytest.mark.long
async def test_each_entry_is_delivered_once_and_none_is_trimmed(sender: StreamSender) -> None:
    for number in range(600):
        await sender.send(f"key {number}")
    async with AsyncExitStack() as stack:
        fleet = [(await stack.enter_async_context(listening(sender)))[0] for _ in range(3)]
        await until(lambda: sum(len(receiver.notifications) for receiver in fleet) == 600)
        await until(lambda: nothing_is_pending(sender))
    assert sorted(key for receiver in fleet for key in receiver.keys) == sorted(
        f"key {number}" for number in range(600)
    )
    assert await sender.client.xlen(sender.name) == 600
    async with listening(sender) as (receiver, stream):
        await until(lambda: not stream.health_problem())
        await asyncio.sleep(0.2)
    assert receiver.notifications == []


KILLED = """
import asyncio, os, sys
from s3s3.queue import connection
from s3s3.notifications.redis_stream import RedisStreamSource

class Killer:
    async def deliver(self, notifications, kind):
        print(len(notifications), flush=True)
        os.kill(os.getpid(), 9)

url, name, group = sys.argv[1:]
stream = RedisStreamSource(connection.connect(url, decode=False), name, group, "killed", Killer())
asyncio.run(stream.run(asyncio.Event()))
"""


async def test_entries_read_by_a_killed_listener_are_claimed_by_another(sender: StreamSender, redis_url: str) -> None:
    for number in range(60):
        await sender.send(f"key {number}")
    command = [sys.executable, "-c", KILLED, redis_url, sender.name, sender.group]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
    assert (killed.returncode, killed.stdout) == (-9, b"60\n"), killed.stderr
    assert await sender.pending() == 60
    async with listening(sender) as (receiver, _):
        await asyncio.sleep(LEASE_S / 2)
        assert receiver.notifications == [], "its lease has not expired"
        await until(lambda: nothing_is_pending(sender))
    assert sorted(receiver.keys) == sorted(f"key {number}" for number in range(60))


async def test_an_entry_trimmed_while_pending_is_acknowledged(sender: StreamSender) -> None:
    for key in ("gone", "there"):
        await sender.send(key)
    await sender.client.xgroup_create(sender.name, sender.group, id="0")
    await sender.client.xreadgroup(sender.group, "dead", {sender.name: ">"})
    await sender.client.xtrim(sender.name, maxlen=1, approximate=False)
    async with listening(sender) as (receiver, _):
        await until(lambda: nothing_is_pending(sender))
    assert receiver.keys == ["there"]
    assert receiver.counted == []


@pytest.mark.parametrize("loss", ["flushall", "delete", "group"])
async def test_a_lost_stream_or_group_is_created_again_and_read_from_its_start(sender: StreamSender, loss: str) -> None:
    async with listening(sender) as (receiver, stream):
        await sender.send("one")
        await until(lambda: receiver.notifications)
        if loss == "flushall":
            await sender.client.flushall()
        elif loss == "delete":
            await sender.client.delete(sender.name)
        else:
            await sender.client.xgroup_destroy(sender.name, sender.group)
        await sender.send("two")
        await until(lambda: "two" in receiver.keys)
        assert stream.health_problem() == ""


async def test_unusable_entries_are_dead_lettered_and_acknowledged(sender: StreamSender) -> None:
    async with listening(sender) as (receiver, _):
        await sender.client.xadd(sender.name, {"kee": "x", "bucket": "images"})
        await sender.client.xadd(sender.name, {"key": b"\xff"})
        await sender.client.xadd(sender.name, {"key": ""})
        await sender.send("good")
        await until(lambda: receiver.notifications)
        await until(lambda: nothing_is_pending(sender))
    assert [(message, bucket) for message, _, bucket in receiver.dead_letters] == [
        ("kee=x bucket=images", "images"), ("\\xff", None), ("", None),
    ]  # fmt: skip
    assert sorted(receiver.counted) == ["empty", "no_key", "not_utf8"]


async def test_consumers_without_pending_entries_leave_the_group(sender: StreamSender) -> None:
    async with listening(sender) as (receiver, _):
        await sender.send("one")
        await until(lambda: receiver.notifications)
        assert await consumers(sender) == ["listener 1"]
    assert await consumers(sender) == []
    await sender.send("two")
    await sender.client.xreadgroup(sender.group, "dead", {sender.name: ">"})
    async with listening(sender):
        assert "dead" in await consumers(sender)


async def test_a_key_of_another_type_is_reported_until_it_is_a_stream(
    sender: StreamSender, caplog: pytest.LogCaptureFixture
) -> None:
    await sender.client.set(sender.name, "text")
    async with listening(sender) as (receiver, stream):
        await until(stream.readiness_problems)
        assert "[stream] name: 's3s3:notifications' is not a stream in Redis" in caplog.text
        await sender.client.delete(sender.name)
        await sender.send("key")
        await until(lambda: receiver.notifications)
        await until(lambda: is_ready(stream))


async def test_notifications_are_delivered_after_redis_was_killed_and_restarted(
    sender: StreamSender, redis_server: RedisServer
) -> None:
    async with listening(sender) as (receiver, stream):
        await sender.send("one")
        await until(lambda: receiver.notifications)
        redis_server.kill()
        await until(stream.readiness_problems)
        redis_server.start()
        await until(lambda: sender_is_back(sender))
        await sender.send("two")
        await until(lambda: "two" in receiver.keys)
        await until(lambda: nothing_is_pending(sender))


async def is_ready(stream: NotificationSource) -> bool:
    return not await stream.readiness_problems()


async def sender_is_back(sender: StreamSender) -> bool:
    try:
        return bool(await sender.client.ping())
    except Exception:  # noqa: BLE001
        return False
