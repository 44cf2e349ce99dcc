"""Destinations that are slower than the others."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from s3s3.errors import AccessDenied, DestinationTooSlow, StoreUnavailable
from s3s3.model import Result
from s3s3.s3 import PutResult
from s3s3.transfer import fanout, object_write
from s3s3.transfer.budget import STREAM_BYTES, BudgetRequest, CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.transfer.fanout import fan_out
from tests.contents import random_bytes
from tests.scripted_store import Object, ScriptedStore, unavailable
from tests.transfer.scene import BIG, KEY, TINY, Scene


class SlowStore(ScriptedStore):
    """Stores an object later than any other destination waits."""

    delay_s = 60.0

    async def put(self, *arguments: Any, **named: Any) -> PutResult:
        await asyncio.sleep(self.delay_s)
        return await super().put(*arguments, **named)


@pytest.fixture
def slow_scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(fanout, "STRAGGLER_GRACE_S", 0.05)
    scene = Scene(destinations=3)
    scene.destinations[1] = SlowStore("swift-1")
    return scene


@pytest.mark.parametrize("compare", [False, True])
async def test_slow_destination_fails_as_too_slow_and_indeterminate(slow_scene: Scene, compare: bool) -> None:
    first, second, third = await slow_scene.copy(compare=compare, isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    assert second.indeterminate
    assert "swift-1" in second.reason
    assert slow_scene.destinations[1].requests.count("PUT") == 0


class SlowResponseStore(SlowStore):
    """Receives the whole body, and responds late."""

    async def put(self, *arguments: Any, **named: Any) -> PutResult:
        written = await ScriptedStore.put(self, *arguments, **named)
        await asyncio.sleep(self.delay_s)
        return written


async def test_late_response_to_a_streamed_put_is_too_slow(slow_scene: Scene) -> None:
    slow_scene.source.objects[KEY] = Object(BIG)
    slow_scene.destinations[1] = SlowResponseStore("swift-1")
    first, second, third = await slow_scene.copy(isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    assert second.indeterminate


async def test_response_within_the_grace_period_is_awaited(slow_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_scene.source.objects[KEY] = Object(BIG)
    slow_scene.destinations[1] = SlowResponseStore("swift-1")
    monkeypatch.setattr(SlowResponseStore, "delay_s", 0.01)
    assert [outcome.result for outcome in await slow_scene.copy(isolate_slow=True)] == [Result.COPIED] * 3


async def test_server_side_copy_does_not_wait_for_slow_destinations(
    slow_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_scene.transfer = Copier(
        slow_scene.source,  # type: ignore[arg-type]
        slow_scene.budget,
        metrics=slow_scene.metrics,
        route="default",
        server_side=["swift-0", "swift-2"],
    )
    for number in (0, 2):
        slow_scene.destinations[number].copies = lambda: slow_scene.source.objects[KEY]
    first, second, third = await slow_scene.copy(isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    monkeypatch.setattr(SlowStore, "delay_s", 0.4)
    assert [outcome.result for outcome in await slow_scene.copy()] == [Result.COPIED] * 3


async def test_equal_destination_does_not_wait_for_slow_destinations(slow_scene: Scene) -> None:
    for number in (0, 2):
        slow_scene.destinations[number].objects[KEY] = Object(TINY)
    first, second, third = await slow_scene.copy(compare=True, isolate_slow=True)
    assert (first.result, third.result) == (Result.SAME, Result.SAME)
    assert isinstance(second.error, DestinationTooSlow)


async def test_without_isolation_slow_destinations_are_awaited(
    slow_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlowStore, "delay_s", 0.4)
    assert [outcome.result for outcome in await slow_scene.copy()] == [Result.COPIED] * 3


async def test_failing_destination_does_not_count_as_fast(slow_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowStore, "delay_s", 0.4)
    for number in (0, 2):
        slow_scene.destinations[number].answers = refuses
    results = [outcome.result for outcome in await slow_scene.copy(isolate_slow=True)]
    assert results == [Result.FAILED, Result.COPIED, Result.FAILED]


def refuses(_: Object) -> PutResult:
    raise AccessDenied("no", store="swift", operation="PUT")


# slow destinations of a stream


async def test_slow_destination_of_a_stream_is_detached_and_copied_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_write, "fan_out", partial(fan_out, stall_budget_s=0.05))
    scene = Scene(random_bytes(8 * 1024 * 1024), destinations=3)
    scene.destinations[1].pause_s = 0.05

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    assert scene.source.requests == ["GET", "GET"]
    assert [store.requests for store in scene.destinations] == [["PUT"], ["PUT", "PUT"], ["PUT"]]
    assert scene.destinations[1].cut_off == 1
    assert len({scene.stored(number).content for number in range(3)}) == 1


async def test_detached_destination_fails_alone_if_the_source_fails_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_write, "fan_out", partial(fan_out, stall_budget_s=0.05))
    content = random_bytes(8 * 1024 * 1024)
    scene = Scene(destinations=2)
    scene.source.serves[KEY] = [Object(content), unavailable("ceph")]
    scene.destinations[1].pause_s = 0.05

    quick, slow = await scene.copy()

    assert quick.result is Result.COPIED
    assert isinstance(slow.error, StoreUnavailable) and slow.error.store == "ceph"


async def test_cancelled_copy_leaves_nothing_open() -> None:
    budget = CopyBudget(memory_bytes=STREAM_BYTES)
    scene = Scene(BIG, destinations=2, budget=budget)
    for store in scene.destinations:
        store.pause_s = 10
    copying = asyncio.create_task(scene.copy())
    await asyncio.sleep(0.05)
    copying.cancel()

    with pytest.raises(asyncio.CancelledError):
        await copying
    assert scene.source.open_streams == 0
    assert [store.cut_off for store in scene.destinations] == [1, 1]
    assert budget.try_acquire(BudgetRequest(STREAM_BYTES))
