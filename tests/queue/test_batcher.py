from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from s3s3.queue import redis_queue
from s3s3.queue.redis_queue import Batcher
from s3s3.tasks import cancel
from tests.waiting import until


class Call:
    """Records its items; returns when `released` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.released = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> int:
        self.calls.append(list(items))
        await self.released.wait()
        if self.error is not None:
            raise self.error
        return sum(items)


async def test_a_single_item_is_sent_alone() -> None:
    call = Call()
    call.released.set()
    assert await Batcher(call).add(5) == 5
    assert call.calls == [[5]]


async def test_items_added_during_a_call_are_sent_together() -> None:
    call = Call()
    items = Batcher(call)
    adding = []
    for item in range(5):
        adding.append(asyncio.create_task(items.add(item)))
        await until(lambda: call.calls)
    call.released.set()
    assert await asyncio.gather(*adding) == [0, 10, 10, 10, 10]
    assert call.calls == [[0], [1, 2, 3, 4]]


async def test_items_added_together_are_sent_together() -> None:
    call = Call()
    call.released.set()
    items = Batcher(call)
    await asyncio.gather(*(items.add(item) for item in range(5)))
    assert call.calls == [[0, 1, 2, 3, 4]]


async def test_a_full_batch_is_sent_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queue, "BATCH_DELAY_S", 60.0)
    call = Call()
    call.released.set()
    items = Batcher(call)
    for _ in range(2):
        adding = [asyncio.create_task(items.add(1)) for _ in range(redis_queue.MIN_BATCH)]
        assert await asyncio.wait_for(asyncio.gather(*adding), 10) == [redis_queue.MIN_BATCH] * redis_queue.MIN_BATCH


async def test_the_size_of_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queue, "MAX_BATCH", 2)
    call = Call()
    call.released.set()
    items = Batcher(call)
    assert await asyncio.gather(*(items.add(item) for item in range(5))) == [1, 1, 5, 5, 4]


async def test_every_item_of_a_failed_call_gets_its_exception() -> None:
    call = Call()
    call.released.set()
    items = Batcher(call)
    call.error = KeyError("no")
    assert [type(error) for error in await asyncio.gather(items.add(1), items.add(2), return_exceptions=True)] == [
        KeyError,
        KeyError,
    ]
    call.error = None
    assert await items.add(3) == 3


async def test_cancelling_one_item_does_not_affect_the_others() -> None:
    call = Call()
    items = Batcher(call)
    first, second = asyncio.create_task(items.add(1)), asyncio.create_task(items.add(2))
    await until(lambda: call.calls)
    third = asyncio.create_task(items.add(3))
    await asyncio.sleep(0.001)
    await cancel([first, third])
    call.released.set()
    assert await second == 3
    assert await items.add(4) in (4, 7)
    assert sorted(item for items in call.calls for item in items) == [1, 2, 3, 4]


async def test_the_call_is_made_although_every_item_was_cancelled() -> None:
    call = Call()
    items = Batcher(call)
    adding = [asyncio.create_task(items.add(item)) for item in (1, 2)]
    await until(lambda: call.calls)
    await cancel(adding)
    call.released.set()
    assert await items.add(3) == 3
    assert call.calls == [[1, 2], [3]]


async def test_items_do_not_wait_for_a_cancelled_call() -> None:
    call = Call()
    items = Batcher(call)
    adding = asyncio.create_task(items.add(1))
    await until(lambda: call.calls)
    await cancel([*items._senders])
    with pytest.raises(asyncio.CancelledError):
        await adding
