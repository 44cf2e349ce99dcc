"""The stream: what a Redis can do to it, and what a killed listener leaves behind. On a real Redis."""

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
from tests.notifications.senders import LEASE_S, StreamSender, listening, nothing_is_held
from tests.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture
async def sender(redis_url: str) -> AsyncIterator[StreamSender]:
    made = StreamSender(redis_url)
    yield made
    await made.close()


async def consumers(sender: StreamSender) -> list[str]:
    return sorted(found["name"].decode() for found in await sender.client.xinfo_consumers(sender.name, sender.group))


async def test_what_was_added_before_anybody_listened_is_taken_with_the_time_it_was_added(sender: StreamSender) -> None:
    before_ms = int(time.time() * 1000) - 50
    await sender.client.xadd(sender.name, {"key": "early"})
    await asyncio.sleep(0.2)
    async with listening(sender) as (taken, _):
        await until(lambda: taken.notices)
    (notice,) = taken.notices
    assert (notice.key, notice.bucket, notice.channel) == ("early", None, None)
    assert notice.notified_ms is not None and before_ms <= notice.notified_ms <= before_ms + 150


async def test_an_id_that_a_producer_has_made_up_is_no_time(sender: StreamSender) -> None:
    async with listening(sender) as (taken, _):
        await sender.client.xadd(sender.name, {"key": "k"}, id="7-1")
        await until(lambda: taken.notices)
    assert taken.notices[0].notified_ms is None


async def test_nothing_is_trimmed_and_nothing_is_taken_twice(sender: StreamSender) -> None:
    for number in range(600):
        await sender.send(f"key {number}")
    async with AsyncExitStack() as stack:
        fleet = [(await stack.enter_async_context(listening(sender)))[0] for _ in range(3)]
        await until(lambda: sum(len(taken.notices) for taken in fleet) == 600)
        await until(lambda: nothing_is_held(sender))
    assert sorted(key for taken in fleet for key in taken.keys) == sorted(f"key {number}" for number in range(600))
    assert await sender.client.xlen(sender.name) == 600
    async with listening(sender) as (taken, stream):
        await until(lambda: not stream.health_problem())
        await asyncio.sleep(0.2)
    assert taken.notices == []


KILLED = """
import asyncio, os, sys
from s3s3.queue import connection
from s3s3.notifications.redis_stream import RedisStreamSource

class Killer:
    async def deliver(self, notices, kind):
        print(len(notices), flush=True)
        os.kill(os.getpid(), 9)

url, name, group = sys.argv[1:]
stream = RedisStreamSource(connection.connect(url, decode=False), name, group, "killed", Killer())
asyncio.run(stream.run(asyncio.Event()))
"""


async def test_what_a_listener_had_read_when_it_was_killed_another_claims(sender: StreamSender, redis_url: str) -> None:
    for number in range(60):
        await sender.send(f"key {number}")
    command = [sys.executable, "-c", KILLED, redis_url, sender.name, sender.group]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
    assert (killed.returncode, killed.stdout) == (-9, b"60\n"), killed.stderr
    assert await sender.held() == 60
    async with listening(sender) as (taken, _):
        await asyncio.sleep(LEASE_S / 2)
        assert taken.notices == [], "its lease holds"
        await until(lambda: nothing_is_held(sender))
    assert sorted(taken.keys) == sorted(f"key {number}" for number in range(60))


async def test_an_entry_that_was_trimmed_while_it_was_pending_is_let_go(sender: StreamSender) -> None:
    for key in ("gone", "there"):
        await sender.send(key)
    await sender.client.xgroup_create(sender.name, sender.group, id="0")
    await sender.client.xreadgroup(sender.group, "dead", {sender.name: ">"})
    await sender.client.xtrim(sender.name, maxlen=1, approximate=False)
    async with listening(sender) as (taken, _):
        await until(lambda: nothing_is_held(sender))
    assert taken.keys == ["there"]
    assert taken.counted == []


@pytest.mark.parametrize("loss", ["flushall", "delete", "group"])
async def test_a_stream_or_group_that_is_lost_is_made_again_and_heard_from_its_start(
    sender: StreamSender, loss: str
) -> None:
    async with listening(sender) as (taken, stream):
        await sender.send("one")
        await until(lambda: taken.notices)
        if loss == "flushall":
            await sender.client.flushall()
        elif loss == "delete":
            await sender.client.delete(sender.name)
        else:
            await sender.client.xgroup_destroy(sender.name, sender.group)
        await sender.send("two")
        await until(lambda: "two" in taken.keys)
        assert stream.health_problem() == ""


async def test_entries_that_name_no_object_are_dead_letters_and_let_go(sender: StreamSender) -> None:
    async with listening(sender) as (taken, _):
        await sender.client.xadd(sender.name, {"kee": "x", "bucket": "images"})
        await sender.client.xadd(sender.name, {"key": b"\xff"})
        await sender.client.xadd(sender.name, {"key": ""})
        await sender.send("good")
        await until(lambda: taken.notices)
        await until(lambda: nothing_is_held(sender))
    assert [(message, bucket) for message, _, bucket in taken.buried] == [
        ("kee=x bucket=images", "images"), ("\\xff", None), ("", None),
    ]  # fmt: skip
    assert sorted(taken.counted) == ["empty", "no UTF-8", "no key"]


async def test_consumers_leave_the_group_unless_they_owe_something(sender: StreamSender) -> None:
    async with listening(sender) as (taken, _):
        await sender.send("one")
        await until(lambda: taken.notices)
        assert await consumers(sender) == ["listener 1"]
    assert await consumers(sender) == []
    await sender.send("two")
    await sender.client.xreadgroup(sender.group, "dead", {sender.name: ">"})
    async with listening(sender):
        assert "dead" in await consumers(sender)


async def test_a_key_that_is_no_stream_is_told_and_waited_for(
    sender: StreamSender, caplog: pytest.LogCaptureFixture
) -> None:
    await sender.client.set(sender.name, "text")
    async with listening(sender) as (taken, stream):
        await until(stream.readiness_problems)
        assert "[stream] name: 's3s3:notifications' is no stream" in caplog.text
        await sender.client.delete(sender.name)
        await sender.send("key")
        await until(lambda: taken.notices)
        await until(lambda: is_ready(stream))


async def test_notices_outlive_a_redis_that_is_killed_and_comes_back(
    sender: StreamSender, redis_server: RedisServer
) -> None:
    async with listening(sender) as (taken, stream):
        await sender.send("one")
        await until(lambda: taken.notices)
        redis_server.kill()
        await until(stream.readiness_problems)
        redis_server.start()
        await until(lambda: sender_is_back(sender))
        await sender.send("two")
        await until(lambda: "two" in taken.keys)
        await until(lambda: nothing_is_held(sender))


async def is_ready(stream: NotificationSource) -> bool:
    return not await stream.readiness_problems()


async def sender_is_back(sender: StreamSender) -> bool:
    try:
        return bool(await sender.client.ping())
    except Exception:  # noqa: BLE001
        return False
