"""Processes registered in a real Redis, and their heartbeats."""

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
LEADER = ProcessInfo("a:1:ab", "a", 1, "0.1.0", "listen", 1_000, running=3, is_leader=True, health_problem="stuck")
FOLLOWER = dataclasses.replace(LEADER, id="b:1:cd", host="b", is_leader=False)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def test_processes_are_listed_by_host_until_they_deregister(client: Redis) -> None:
    registry = ProcessRegistry(client, PREFIX)
    await registry.register(FOLLOWER)
    await registry.register(LEADER)
    found = await registry.processes()
    assert [dataclasses.replace(process, silent_s=0.0) for process in found] == [LEADER, FOLLOWER]
    assert all(process.silent_s < 5 and not process.is_silent for process in found)
    await registry.deregister(LEADER.id)
    assert [process.id for process in await registry.processes()] == [FOLLOWER.id]


async def test_a_silent_process_is_listed_for_an_hour(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ProcessRegistry(client, PREFIX)
    await registry.register(LEADER)
    await client.zincrby(PREFIX + "processes", -(SILENT_AFTER_S + 1) * 1000, LEADER.id)
    await registry.register(FOLLOWER)
    assert {process.id: process.is_silent for process in await registry.processes()} == {
        LEADER.id: True,
        FOLLOWER.id: False,
    }
    monkeypatch.setattr(heartbeat, "RETENTION_S", 10)
    await registry.register(FOLLOWER)
    assert [process.id for process in await registry.processes()] == [FOLLOWER.id]
    assert await client.hkeys(PREFIX + "processes:info") == [FOLLOWER.id]
    assert 0 < await client.ttl(PREFIX + "processes") <= 10


async def test_fields_of_a_newer_version_are_ignored(client: Redis) -> None:
    registry = ProcessRegistry(client, PREFIX)
    await registry.register(LEADER)
    info = json.loads(await client.hget(PREFIX + "processes:info", LEADER.id) or "")
    await client.hset(PREFIX + "processes:info", LEADER.id, json.dumps({**info, "novelty": 1}))
    assert [process.host for process in await registry.processes()] == ["a"]
