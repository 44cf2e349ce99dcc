from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from tests.worker.copies import BOTH, NewQueue


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.worker.worker.MAX_CLAIM_WAIT_S", 0.1)
    monkeypatch.setattr("s3s3.queue.redis_queue.MAX_PROMOTE_INTERVAL_S", 0.1)


@pytest.fixture
async def redis_queue(redis_url: str) -> AsyncIterator[NewQueue]:
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> RedisJobQueue:
            client = connect(redis_url)
            stack.push_async_callback(client.aclose)
            return RedisJobQueue(client, "default", BOTH, **options)

        yield make


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.real)])
def new_queue(request: pytest.FixtureRequest) -> NewQueue:
    made: NewQueue = request.getfixturevalue("redis_queue")
    return made


@pytest.fixture
def jobs(new_queue: NewQueue) -> RedisJobQueue:
    return new_queue()
