"""The outcome tracker, with a fake queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from s3s3.model import Lane
from s3s3.queue.base import JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.queue.tracker import OutcomeTracker
from tests.clock import Clock


class Queue:
    """Records jobs; returns the given events."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, tuple[str, ...], Lane, bool | None]] = []
        self.tracker_ids: set[str] = set()
        self.events: list[str] = []

    async def enqueue(
        self, requests: Sequence[JobRequest], lane: Lane, tracker_id: str, unconditional: bool | None
    ) -> None:
        self.tracker_ids.add(tracker_id)
        self.enqueued += [(request.key, request.destinations, lane, unconditional) for request in requests]

    async def poll_outcomes(self, tracker_id: str, wait_s: float) -> list[str]:
        assert tracker_id in self.tracker_ids
        events, self.events = self.events, []
        return events

    def event(self, key: str, destination: str, outcome: str = "copied", is_final: bool = True, **more: Any) -> None:
        fields = {"key": key, "destination": destination, "outcome": outcome, "final": is_final, **more}
        self.events.append(json.dumps(fields))


def new_tracker(queue: Queue, outcomes: list[dict[str, Any]], **options: Any) -> OutcomeTracker:
    return OutcomeTracker(cast("RedisJobQueue", queue), outcomes.append, **options)


async def test_each_destination_is_reported_once_and_nothing_else() -> None:
    queue, outcomes = Queue(), list[dict[str, Any]]()
    tracker = new_tracker(queue, outcomes)
    await tracker.enqueue([JobRequest("k", ("a", "b")), JobRequest("l", ("a",))])
    assert (len(tracker), tracker.pending) == (2, {"k": {"a", "b"}, "l": {"a"}})
    for key, destination in (("k", "a"), ("k", "a"), ("k", "c"), ("other", "a")):
        queue.event(key, destination)
    await tracker.poll()
    assert outcomes == [{"key": "k", "destination": "a", "outcome": "copied"}]
    queue.event("k", "b")
    queue.event("l", "a")
    await tracker.poll()
    assert len(outcomes) == 3
    assert not tracker


async def test_the_lane_and_the_condition_are_those_of_the_tracker() -> None:
    queue = Queue()
    await new_tracker(queue, []).enqueue([JobRequest("k", ("a",))])
    await new_tracker(queue, [], lane=Lane.FRESH, unconditional=False).enqueue([JobRequest("k", ("a",))])
    assert [job[2:] for job in queue.enqueued] == [(Lane.BULK, None), (Lane.FRESH, False)]


async def test_a_failure_that_is_retried_is_an_outcome_without_on_retry() -> None:
    queue, outcomes, retries = Queue(), list[dict[str, Any]](), list[dict[str, Any]]()
    tracker = new_tracker(queue, outcomes)
    waiting_tracker = new_tracker(queue, outcomes, on_retry=retries.append)
    for each in (tracker, waiting_tracker):
        await each.enqueue([JobRequest("k", ("a",))])
        queue.event("k", "a", "failed", is_final=False)
        await each.poll()
    assert (len(tracker), len(waiting_tracker), len(outcomes), len(retries)) == (0, 1, 1, 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("s3s3.queue.tracker.time", SimpleNamespace(monotonic=clock))
    return clock


async def test_a_key_that_waits_for_a_store_has_no_outcome_until_the_outage_is_long(clock: Clock) -> None:
    queue, outcomes = Queue(), list[dict[str, Any]]()
    tracker = new_tracker(queue, outcomes, max_outage_s=120.0, resubmit=False)
    await tracker.enqueue([JobRequest(key, ("a", "b")) for key in ("k", "l")])
    for key in ("k", "l"):
        queue.event(key, "a")
        queue.event(key, "b", "failed", False, waiting=True)
    await tracker.poll()
    assert (len(tracker), len(outcomes)) == (2, 2)
    clock.now_s += 100
    queue.event("k", "b")
    await tracker.poll()
    clock.now_s += 100
    queue.event("l", "b", "failed", False, waiting=True, reason="the last one")
    await tracker.poll()
    assert (len(tracker), len(outcomes)) == (1, 3), "it has worked meanwhile"
    clock.now_s += 120
    await tracker.poll()
    assert not tracker
    assert outcomes[3] == {"key": "l", "destination": "b", "outcome": "failed", "reason": "the last one"}


async def test_after_a_long_outage_keys_fail_without_waiting_until_the_store_works(clock: Clock) -> None:
    queue, outcomes = Queue(), list[dict[str, Any]]()
    tracker = new_tracker(queue, outcomes, max_outage_s=120.0, resubmit=False)

    async def ends(key: str, outcome: str = "failed", **more: Any) -> bool:
        await tracker.enqueue([JobRequest(key, ("a",))])
        queue.event(key, "a", outcome, outcome == "copied", **more)
        await tracker.poll()
        return key not in tracker.pending

    assert not await ends("k", waiting=True)
    clock.now_s += 120
    await tracker.poll()
    assert await ends("l", waiting=True)
    assert await ends("m", "copied")
    assert not await ends("n", waiting=True)
    assert await ends("o"), "the object's own failure"


async def test_what_has_no_outcome_is_enqueued_again_after_a_quiet_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("s3s3.queue.tracker.time", SimpleNamespace(monotonic=lambda: now_s))
    queue = Queue()
    tracker = new_tracker(queue, [])
    now_s = 100.0
    await tracker.enqueue([JobRequest("k", ("a", "b")), JobRequest("l", ("a",))])
    queue.event("k", "b")
    await tracker.poll()
    queue.enqueued.clear()
    now_s += 29
    await tracker.poll()
    assert queue.enqueued == []
    now_s += 2
    await tracker.poll()
    assert queue.enqueued == [("k", ("a",), Lane.BULK, None), ("l", ("a",), Lane.BULK, None)]
    await tracker.poll()
    assert len(queue.enqueued) == 2, "once in each quiet time"


async def test_without_a_quiet_time_only_the_caller_enqueues_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("s3s3.queue.tracker.time", SimpleNamespace(monotonic=lambda: now_s))
    queue = Queue()
    tracker = new_tracker(queue, [], lane=Lane.FRESH, resubmit=False)
    await tracker.enqueue([JobRequest("k", ("a",))])
    now_s = 1000.0
    await tracker.poll()
    assert len(queue.enqueued) == 1
    await tracker.enqueue_again(Lane.BULK)
    assert queue.enqueued[1] == ("k", ("a",), Lane.BULK, None)


async def test_a_forgotten_key_is_not_reported() -> None:
    queue, outcomes = Queue(), list[dict[str, Any]]()
    tracker = new_tracker(queue, outcomes)
    await tracker.enqueue([JobRequest("k", ("a",))])
    tracker.forget("k")
    queue.event("k", "a")
    await tracker.poll()
    assert (len(tracker), outcomes) == (0, [])
