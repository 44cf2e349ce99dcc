"""The watch over a route's data in Redis, without a channel, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from s3s3.notifications import data_watch
from s3s3.notifications.data_watch import DataWatch
from s3s3.queue.base import Gap
from s3s3.queue.connection import check_version, connect, warn_if_evicting
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from tests.waiting import running, until

pytestmark = pytest.mark.real

P = "s3s3:{default}:"


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_watch, "LEASE_S", 0.4)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


def watch(client: Redis) -> DataWatch:
    return DataWatch("default", RedisJobQueue(client, "default", ["dest"]))


async def gap(client: Redis) -> Gap | None:
    return await RedisJobQueue(client, "default", ["dest"]).gap()


async def test_a_first_start_is_logged_once_and_leaves_no_gap(client: Redis, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        async with running(watch(client).run()):
            await until(lambda: client.get(f"{P}watermark"))
        await client.delete(f"{P}leader")
    assert caplog.text.count("first start: what the source holds already is not copied") == 1
    assert await gap(client) is None


async def test_of_several_listeners_one_records_the_loss(client: Redis) -> None:
    watches = [watch(client) for _ in range(3)]
    async with running(watches[0].run()), running(watches[1].run()), running(watches[2].run()):
        await until(lambda: all(each._seen.watermark_ms for each in watches))
        await client.flushall()
        found = await until(lambda: gap(client))
        assert found.age_ms is None
        later_ms = int(time.time() * 1000) + 500
        await until(lambda: is_later(client, later_ms))
        assert await gap(client) == Gap(None, "1")
        assert sum(each.is_leader for each in watches) == 1


async def is_later(client: Redis, time_ms: int) -> bool:
    return int(await client.get(f"{P}watermark") or 0) > time_ms


async def test_a_follower_detects_the_loss_when_the_leader_is_gone(client: Redis) -> None:
    leader, follower = watch(client), watch(client)
    async with running(leader.run()):
        await until(lambda: leader.is_leader)
        async with running(follower.run()):
            await until(lambda: follower._seen.watermark_ms)
    await client.flushall()
    async with running(follower.run()):
        assert (await until(lambda: gap(client))).age_ms is None


async def test_a_loss_is_recorded_once_though_a_new_listener_leads_that_knows_nothing_of_it(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    old = [watch(client) for _ in range(2)]
    async with running(old[0].run()), running(old[1].run()):
        await until(lambda: all(each._seen.watermark_ms for each in old))
    await client.flushall()
    async with running(watch(client).run()):
        await until(lambda: client.get(f"{P}watermark"))
        async with running(old[0].run()), running(old[1].run()):
            assert (await until(lambda: gap(client))).age_ms is None
            later_ms = int(time.time() * 1000) + 1000
            await until(lambda: is_later(client, later_ms))
    assert await gap(client) == Gap(None, "1")
    assert caplog.text.count("gap detected: Redis has lost data") == 1


async def test_a_loss_is_recorded_after_the_route_is_registered_again(client: Redis) -> None:
    old = watch(client)
    old._jobs.route_token = "before"
    async with running(old.run()):
        await until(lambda: old._seen.watermark_ms)
    await client.flushall()
    await client.hset(f"{P}fingerprint", "token", "after")
    async with running(watch(client).run()):
        await until(lambda: client.get(f"{P}watermark"))
        async with running(old.run()):
            later_ms = int(time.time() * 1000) + 300
            await until(lambda: is_later(client, later_ms))
            assert await gap(client) is None, "the route may have been taken over"
            old._jobs.route_token = "after"
            assert (await until(lambda: gap(client))).age_ms is None


async def test_a_listener_that_resigned_is_followed_by_another_one_without_a_gap(client: Redis) -> None:
    first, second = watch(client), watch(client)
    async with running(first.run()):
        await until(lambda: first.is_leader)
    await first.resign()
    async with running(second.run()):
        await until(lambda: second.is_leader)
    assert await gap(client) is None


async def test_data_of_an_earlier_time_are_a_loss(client: Redis) -> None:
    async with running(watch(client).run()):
        before_ms = int(await until(lambda: client.get(f"{P}watermark")))
        await until(lambda: is_later(client, before_ms))
        await client.set(f"{P}watermark", before_ms - 1)
        assert (await until(lambda: gap(client))).age_ms is None


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer(append_only=True) as server:
        yield server


async def test_a_restart_with_the_data_is_a_gap_since_the_last_renewal(own_server: RedisServer) -> None:
    client = connect(own_server.url)
    async with running(watch(client).run()):
        await until(lambda: client.get(f"{P}server"))
        own_server.kill()
        killed_s = time.time()
        own_server.start()
        observer = connect(own_server.url)
        found = await until(lambda: gap(observer))
        assert found.age_ms is not None
        assert abs(time.time() - found.age_ms / 1000 - killed_s) < 5
    for each in (client, observer):
        await each.aclose()


async def test_a_restart_while_no_listener_ran_is_a_gap_too(own_server: RedisServer) -> None:
    client = connect(own_server.url)
    async with running(watch(client).run()):
        await until(lambda: client.get(f"{P}server"))
    own_server.kill()
    own_server.start()
    await client.aclose()
    client = connect(own_server.url)
    await client.delete(f"{P}leader")
    async with running(watch(client).run()):
        assert (await until(lambda: gap(client))).age_ms is not None
    await client.aclose()


async def test_without_permission_for_info_restarts_are_not_detected_but_losses_are(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    admin = connect(own_server.url)
    await admin.acl_setuser(
        "weak", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], categories=["+@all"],
        commands=["-info", "-config"],
    )  # fmt: skip
    client = connect(own_server.url.replace("redis://", "redis://weak:secret@"))
    assert await check_version(client) == "unknown"
    await warn_if_evicting(client)
    async with running(watch(client).run()):
        await until(lambda: client.get(f"{P}watermark"))
        assert not await client.exists(f"{P}server")
        await admin.flushall()
        assert (await until(lambda: gap(client))).age_ms is None
    for each in (admin, client):
        await each.aclose()
    assert "evicts" not in caplog.text


async def test_an_eviction_policy_is_a_warning(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    client = connect(own_server.url)
    await warn_if_evicting(client)
    assert not caplog.text
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await warn_if_evicting(client)
    assert "Redis evicts queued keys when memory is short (maxmemory-policy allkeys-lru)" in caplog.text
    await client.aclose()
