from __future__ import annotations

import asyncio
import time

import pytest

from s3s3.tasks import cancel, run_until_stopped, run_with_background, wait_with_timeout


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_cancel_waits_until_the_tasks_have_ended() -> None:
    ended = []

    async def slow_to_end() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.05)
            ended.append(True)

    tasks = [asyncio.create_task(slow_to_end()) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel(tasks)
    assert ended == [True] * 3


async def test_cancel_asks_a_task_again_that_did_not_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.tasks.ASK_AGAIN_S", 0.01)
    asked: list[bool] = []

    async def deaf() -> None:
        while len(asked) < 3:
            try:
                await for_ever()
            except asyncio.CancelledError:
                asked.append(True)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel([task]), 5)
    assert task.done()
    assert len(asked) == 3


async def test_cancelling_nothing_and_what_has_ended_is_nothing() -> None:
    await cancel([])
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel([task])


async def test_what_is_beside_the_main_task_ends_with_it() -> None:
    ended = asyncio.Event()

    async def keeper() -> None:
        try:
            await for_ever()
        finally:
            ended.set()

    async def main() -> int:
        await asyncio.sleep(0)
        return 7

    assert await run_with_background(main(), keeper(), keeper()) == 7
    assert ended.is_set()


async def test_what_the_main_task_raises_is_raised() -> None:
    async def main() -> None:
        raise KeyError("main")

    with pytest.raises(KeyError, match="main"):
        await run_with_background(main(), for_ever())


async def test_a_keeper_that_dies_takes_the_main_task_with_it() -> None:
    ended = asyncio.Event()

    async def main() -> None:
        try:
            await for_ever()
        finally:
            ended.set()

    async def dies() -> None:
        await asyncio.sleep(0)
        raise KeyError("keeper")

    with pytest.raises(KeyError, match="keeper"):
        await run_with_background(main(), for_ever(), dies())
    assert ended.is_set()


async def test_a_keeper_that_only_returns_takes_the_main_task_with_it_too() -> None:
    async def returns() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="returns"):
        await run_with_background(for_ever(), returns())


async def test_whoever_is_cancelled_cancels_what_he_runs() -> None:
    ended = []

    async def part(name: str) -> None:
        try:
            await for_ever()
        finally:
            ended.append(name)

    task = asyncio.create_task(run_with_background(part("main"), part("keeper")))
    await asyncio.sleep(0.01)
    await cancel([task])
    assert task.cancelled()
    assert sorted(ended) == ["keeper", "main"]


async def test_waiting_at_most_ends_with_the_event_or_with_the_time() -> None:
    event = asyncio.Event()
    began_s = time.monotonic()
    assert not await wait_with_timeout(event, 0.05)
    assert time.monotonic() - began_s >= 0.04
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_with_timeout(event, 30)
    assert time.monotonic() - began_s < 5


async def test_what_is_stopped_has_ended_by_then_and_has_no_answer() -> None:
    stop, ended = asyncio.Event(), []

    async def main(answer: str) -> str:
        try:
            if not answer:
                await for_ever()
            return answer
        finally:
            ended.append(answer)

    assert await run_until_stopped(main("answer"), stop) == "answer"
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await run_until_stopped(main(""), stop) is None
    assert ended == ["answer", ""]


async def test_a_cancellation_is_not_lost_when_it_comes_together_with_the_event() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(wait_with_timeout(event, 30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
