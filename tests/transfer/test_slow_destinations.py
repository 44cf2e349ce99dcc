"""Destinations that hold up the others."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

import pytest

from s3s3.errors import AccessDenied, DestinationTooSlow, StoreUnavailable
from s3s3.model import Result
from s3s3.s3 import PutResult
from s3s3.transfer import fanout, object_copy
from s3s3.transfer.budget import BudgetRequest, CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.transfer.fanout import fan_out
from s3s3.transfer.size_policy import STREAM_BYTES
from tests.scripted_store import Object, ScriptedStore, unavailable
from tests.transfer.scene import BIG, KEY, TINY, Scene


class Late(ScriptedStore):
    """Stores what it gets, after a while: later than anybody waits who need not."""

    late_s = 60.0

    async def put(self, *arguments: Any, **named: Any) -> PutResult:
        await asyncio.sleep(self.late_s)
        return await super().put(*arguments, **named)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(fanout, "STRAGGLER_GRACE_S", 0.05)
    scene = Scene(destinations=3)
    scene.destinations[1] = Late("swift-1")
    return scene


@pytest.mark.parametrize("compare", [False, True])
async def test_a_destination_that_holds_up_the_others_is_left_behind_and_its_put_may_be_under_way(
    late: Scene, compare: bool
) -> None:
    first, second, third = await late.copy(compare=compare, isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    assert second.indeterminate
    assert "swift-1" in second.reason
    assert late.destinations[1].requests.count("PUT") == 0


class LateAnswer(Late):
    """Takes all that it is sent, and answers after a while."""

    async def put(self, *arguments: Any, **named: Any) -> PutResult:
        written = await ScriptedStore.put(self, *arguments, **named)
        await asyncio.sleep(self.late_s)
        return written


async def test_whose_answer_to_a_stream_is_late_is_left_behind_too(late: Scene) -> None:
    late.source.objects[KEY] = Object(BIG)
    late.destinations[1] = LateAnswer("swift-1")
    first, second, third = await late.copy(isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    assert second.indeterminate


async def test_who_gets_all_of_a_stream_in_time_is_waited_for(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    late.source.objects[KEY] = Object(BIG)
    late.destinations[1] = LateAnswer("swift-1")
    monkeypatch.setattr(LateAnswer, "late_s", 0.01)
    assert [outcome.result for outcome in await late.copy(isolate_slow=True)] == [Result.COPIED] * 3


async def test_who_is_copied_to_within_the_store_does_not_wait_for_the_others(
    late: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.transfer = Copier(
        late.source, late.budget, metrics=late.metrics, route="default", server_side=["swift-0", "swift-2"]  # type: ignore[arg-type]
    )  # fmt: skip
    for number in (0, 2):
        late.destinations[number].copies = lambda: late.source.objects[KEY]
    first, second, third = await late.copy(isolate_slow=True)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, DestinationTooSlow)
    monkeypatch.setattr(Late, "late_s", 0.4)
    assert [outcome.result for outcome in await late.copy()] == [Result.COPIED] * 3


async def test_who_is_found_equal_does_not_wait_for_the_others(late: Scene) -> None:
    for number in (0, 2):
        late.destinations[number].objects[KEY] = Object(TINY)
    first, second, third = await late.copy(compare=True, isolate_slow=True)
    assert (first.result, third.result) == (Result.SAME, Result.SAME)
    assert isinstance(second.error, DestinationTooSlow)


async def test_who_has_no_queue_waits_for_all(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "late_s", 0.4)
    assert [outcome.result for outcome in await late.copy()] == [Result.COPIED] * 3


async def test_a_destination_that_fails_at_once_hurries_nobody(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "late_s", 0.4)
    for number in (0, 2):
        late.destinations[number].answers = refuses
    results = [outcome.result for outcome in await late.copy(isolate_slow=True)]
    assert results == [Result.FAILED, Result.COPIED, Result.FAILED]


def refuses(_: Object) -> PutResult:
    raise AccessDenied("no", store="swift", operation="PUT")


# slow destinations


async def test_a_slow_destination_of_a_streamed_object_is_cut_loose_and_gets_an_attempt_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_copy, "fan_out", partial(fan_out, stall_budget_s=0.05))
    scene = Scene(os.urandom(8 * 1024 * 1024), destinations=3)
    scene.destinations[1].pause_s = 0.05

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    assert scene.source.requests == ["GET", "GET"]
    assert [store.requests for store in scene.destinations] == [["PUT"], ["PUT", "PUT"], ["PUT"]]
    assert scene.destinations[1].cut_off == 1
    assert len({scene.held(number).content for number in range(3)}) == 1


async def test_a_slow_destination_whose_own_attempt_meets_a_failing_source_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_copy, "fan_out", partial(fan_out, stall_budget_s=0.05))
    content = os.urandom(8 * 1024 * 1024)
    scene = Scene(destinations=2)
    scene.source.serves[KEY] = [Object(content), unavailable("ceph")]
    scene.destinations[1].pause_s = 0.05

    quick, slow = await scene.copy()

    assert quick.result is Result.COPIED
    assert isinstance(slow.error, StoreUnavailable) and slow.error.store == "ceph"


async def test_a_cancelled_copy_leaves_nothing_open() -> None:
    budget = CopyBudget(memory_bytes=STREAM_BYTES)
    scene = Scene(BIG, destinations=2, budget=budget)
    for store in scene.destinations:
        store.pause_s = 10
    copying = asyncio.create_task(scene.copy())
    await asyncio.sleep(0.05)
    copying.cancel()

    with pytest.raises(asyncio.CancelledError):
        await copying
    assert scene.source.open_readings == 0
    assert [store.cut_off for store in scene.destinations] == [1, 1]
    assert budget.try_acquire(BudgetRequest(STREAM_BYTES))
