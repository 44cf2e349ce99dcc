"""Coalescing of concurrent misses, with a fake queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import cast

import pytest

from s3s3.errors import RedisUnavailable
from s3s3.mirror import miss_coalescer
from s3s3.mirror.miss_coalescer import MissCoalescer
from s3s3.model import Lane
from s3s3.queue.base import JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from tests.waiting import running, until


class Queue:
    """Records the keys of jobs; returns the given events."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.opened.set()
        self.failures = 0

    async def enqueue(self, requests: Sequence[JobRequest], lane: Lane, *_: object) -> None:
        await self.opened.wait()
        if self.failures:
            self.failures -= 1
            raise RedisUnavailable("Redis cannot be reached")
        assert lane is Lane.FRESH
        self.keys += [request.key for request in requests]

    async def poll_outcomes(self, _tracker_id: str, wait_s: float) -> list[str]:
        try:
            return [await asyncio.wait_for(self.events.get(), min(wait_s, 0.02))]
        except asyncio.TimeoutError:
            return []

    def event(self, key: str, outcome: str, destination: str = "dest") -> None:
        fields = {"key": key, "destination": destination, "outcome": outcome, "reason": "why", "final": True}
        self.events.put_nowait(json.dumps(fields))


def new_coalescer(queue: Queue) -> MissCoalescer:
    return MissCoalescer(cast("RedisJobQueue", queue), "front", "dest")


async def test_concurrent_misses_for_a_key_share_one_job_and_its_outcome() -> None:
    queue = Queue()
    misses = new_coalescer(queue)
    async with running(misses.run()):
        requests = [asyncio.create_task(misses.copy("k", 5)) for _ in range(3)]
        await until(lambda: queue.keys)
        assert misses.waiting == 3
        queue.event("k", "failed", "another destination")
        queue.event("k", "copied")
        assert await asyncio.gather(*requests) == [True] * 3
    assert (queue.keys, misses.waiting) == (["k"], 0)


@pytest.mark.parametrize(("outcome", "is_available"), [("same", True), ("source_missing", False), ("failed", False)])
async def test_only_a_copy_that_exists_is_available(outcome: str, is_available: bool) -> None:
    queue = Queue()
    misses = new_coalescer(queue)
    async with running(misses.run()):
        request = asyncio.create_task(misses.copy("k", 5))
        await until(lambda: queue.keys)
        queue.event("k", outcome)
        assert await request is is_available


async def test_a_request_stops_waiting_after_its_timeout_and_the_next_enqueues_again() -> None:
    queue = Queue()
    misses = new_coalescer(queue)
    assert await misses.copy("k", 0.02) is None
    assert await misses.copy("k", 0.02) is None
    assert (queue.keys, misses.waiting) == (["k", "k"], 0)


async def test_a_cancelled_request_does_not_affect_the_others() -> None:
    queue = Queue()
    queue.opened.clear()
    misses = new_coalescer(queue)
    async with running(misses.run()):
        first, second = [asyncio.create_task(misses.copy("k", 5)) for _ in range(2)]
        await until(lambda: misses.waiting == 2)
        first.cancel()
        queue.opened.set()
        await until(lambda: queue.keys)
        queue.event("k", "copied")
        assert await second is not None
    assert first.cancelled()


async def test_a_job_that_cannot_be_enqueued_is_an_error_and_the_next_request_tries_again() -> None:
    queue = Queue()
    queue.failures = 1
    misses = new_coalescer(queue)
    results = await asyncio.gather(misses.copy("k", 5), misses.copy("k", 5), return_exceptions=True)
    assert [type(result) for result in results] == [RedisUnavailable, RedisUnavailable]
    assert await misses.copy("k", 0.02) is None
    assert queue.keys == ["k"]


async def test_a_job_without_an_outcome_is_enqueued_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miss_coalescer, "ENQUEUE_INTERVAL_S", 0.1)
    queue = Queue()
    misses = new_coalescer(queue)
    async with running(misses.run()):
        request = asyncio.create_task(misses.copy("k", 5))
        await until(lambda: queue.keys)
        queue.failures = 1
        await until(lambda: len(queue.keys) == 2)
        queue.event("k", "copied")
        assert await request is not None
    assert "cannot enqueue 'k' again" in caplog.text


async def test_a_stop_ends_all_waiting() -> None:
    queue = Queue()
    misses = new_coalescer(queue)
    request = asyncio.create_task(misses.copy("k", 60))
    await until(lambda: misses.waiting)
    misses.stop()
    assert await request is None
    assert await misses.copy("l", 60) is None
