"""Who works on a route, as each says itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.monitoring import heartbeat
from s3s3.monitoring.heartbeat import SILENT_AFTER_S, ProcessInfo, ProcessRegistry
from s3s3.queue.connection import connect

pytestmark = pytest.mark.real

PREFIX = "s3s3:{images}:"
ONE = ProcessInfo("one:1:ab", "one", 1, "0.1.0", "listen", 1_000, running=3, leads=True, health_problem="deaf")


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def test_each_is_seen_as_it_said_until_it_signs_off(client: Redis) -> None:
    mine = ProcessRegistry(client, PREFIX)
    other = dataclasses.replace(ONE, id="another:1:cd", host="another", leads=False)
    await mine.register(ONE)
    await mine.register(other)
    found = await mine.processes()
    assert [dataclasses.replace(member, silent_s=0.0) for member in found] == [other, ONE]
    assert all(member.silent_s < 5 and not member.is_silent for member in found)
    await mine.deregister(ONE.id)
    assert [member.id for member in await mine.processes()] == [other.id]


async def test_one_that_fell_silent_is_seen_for_an_hour(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ProcessRegistry(client, PREFIX)
    await mine.register(ONE)
    await client.zincrby(PREFIX + "fleet", -(SILENT_AFTER_S + 1) * 1000, ONE.id)
    await mine.register(dataclasses.replace(ONE, id="new"))
    assert {member.id: member.is_silent for member in await mine.processes()} == {ONE.id: True, "new": False}
    monkeypatch.setattr(heartbeat, "KEPT_S", 10)
    await mine.register(dataclasses.replace(ONE, id="new"))
    assert [member.id for member in await mine.processes()] == ["new"]
    assert await client.hkeys(PREFIX + "fleet:about") == ["new"]
    assert 0 < await client.ttl(PREFIX + "fleet") <= 10


async def test_what_a_newer_version_says_of_itself_is_passed_over(client: Redis) -> None:
    mine = ProcessRegistry(client, PREFIX)
    await mine.register(ONE)
    about = json.loads(await client.hget(PREFIX + "fleet:about", ONE.id) or "")
    await client.hset(PREFIX + "fleet:about", ONE.id, json.dumps({**about, "novelty": 1}))
    assert [member.host for member in await mine.processes()] == ["one"]
