"""The queue on each Redis server that this machine has."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer, find_redis_server
from s3s3.scripts.demo.servers import ServerMissing
from tests.queue.factories import DESTINATIONS

REAL = pytest.mark.real


def other_program() -> Path | None:
    """Return the system's redis-server, if it is not the default one."""
    found = shutil.which("redis-server")
    try:
        return Path(found) if found is not None and Path(found) != find_redis_server() else None
    except ServerMissing:
        return None


SERVERS = [pytest.param("redis_server", id="redis", marks=REAL)]
if other_program() is not None:
    SERVERS.append(pytest.param("other_redis_server", id="system-redis", marks=REAL))


@pytest.fixture(scope="session")
def other_redis_server() -> Iterator[RedisServer]:
    with RedisServer(program=other_program()) as server:
        yield server


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> RedisServer:
    """An empty Redis, for each server program."""
    found: RedisServer = request.getfixturevalue(request.param)
    with redis.Redis.from_url(found.url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return found


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Callable[..., RedisJobQueue]]:
    """`fleet(**options)` returns the queue of another process, with its own connection."""
    async with AsyncExitStack() as stack:

        def join(**options: Any) -> RedisJobQueue:
            client = connect(server.url)
            stack.push_async_callback(client.aclose)
            return RedisJobQueue(client, "default", DESTINATIONS, **options)

        yield join


@pytest.fixture(params=SERVERS)
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., RedisJobQueue]]:
    """`queue(recheck_delay_s=...)` returns an empty queue."""
    server: RedisServer = request.getfixturevalue(request.param)
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> RedisJobQueue:
            client = connect(server.url)
            stack.push_async_callback(client.aclose)
            return RedisJobQueue(client, "default", DESTINATIONS, **options)

        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        yield make


@pytest.fixture
def jobs(queue: Callable[..., RedisJobQueue]) -> RedisJobQueue:
    return queue()
