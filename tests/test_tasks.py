from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from s3s3.tasks import (
    Restarts,
    backoff_s,
    cancel,
    run_sync,
    run_until_stopped,
    run_with_background,
    wait_first,
    wait_with_timeout,
)
from tests.waiting import running, until


async def wait_forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (50, 900), (100_000, 900)]
)
def test_backoff_doubles_up_to_a_limit_with_jitter(failures: int, longest_s: float) -> None:
    pauses_s = [backoff_s(failures, 5, 900) for _ in range(200)]
    assert longest_s / 2 <= min(pauses_s) < 0.6 * longest_s
    assert 0.9 * longest_s < max(pauses_s) <= longest_s


async def test_cancel_waits_until_the_tasks_have_ended() -> None:
    ended = []

    async def slow_to_end() -> None:
        try:
            await wait_forever()
        finally:
            await asyncio.sleep(0.05)
            ended.append(True)

    tasks = [asyncio.create_task(slow_to_end()) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel(tasks)
    assert ended == [True] * 3


async def test_cancel_repeats_a_cancellation_that_was_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.tasks.CANCEL_INTERVAL_S", 0.01)
    cancellations: list[bool] = []

    async def swallows() -> None:
        while len(cancellations) < 3:
            try:
                await wait_forever()
            except asyncio.CancelledError:
                cancellations.append(True)

    task = asyncio.create_task(swallows())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel([task]), 5)
    assert task.done()
    assert len(cancellations) == 3


async def test_cancel_accepts_no_tasks_and_ended_tasks() -> None:
    await cancel([])
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel([task])


async def test_background_tasks_are_cancelled_when_the_main_one_ends() -> None:
    ended = asyncio.Event()

    async def background() -> None:
        try:
            await wait_forever()
        finally:
            ended.set()

    async def main() -> int:
        await asyncio.sleep(0)
        return 7

    assert await run_with_background(main(), background(), background()) == 7
    assert ended.is_set()


async def test_an_exception_of_the_main_task_is_raised() -> None:
    async def main() -> None:
        raise KeyError("main")

    with pytest.raises(KeyError, match="main"):
        await run_with_background(main(), wait_forever())


async def test_a_failed_background_task_cancels_the_main_one_and_is_raised() -> None:
    ended = asyncio.Event()

    async def main() -> None:
        try:
            await wait_forever()
        finally:
            ended.set()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("background")

    with pytest.raises(KeyError, match="background"):
        await run_with_background(main(), wait_forever(), fails())
    assert ended.is_set()


async def test_a_background_task_that_returns_is_an_error() -> None:
    async def returns() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="returns"):
        await run_with_background(wait_forever(), returns())


async def test_cancelling_run_with_background_cancels_all_of_its_tasks() -> None:
    ended = []

    async def part(name: str) -> None:
        try:
            await wait_forever()
        finally:
            ended.append(name)

    task = asyncio.create_task(run_with_background(part("main"), part("background")))
    await asyncio.sleep(0.01)
    await cancel([task])
    assert task.cancelled()
    assert sorted(ended) == ["background", "main"]


async def test_wait_with_timeout_ends_with_the_event_or_the_timeout() -> None:
    event = asyncio.Event()
    started_s = time.monotonic()
    assert not await wait_with_timeout(event, 0.05)
    assert time.monotonic() - started_s >= 0.04
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_with_timeout(event, 30)
    assert time.monotonic() - started_s < 5


async def test_wait_with_timeout_does_not_lose_a_cancellation_that_comes_with_the_event() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(wait_with_timeout(event, 30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("number", [0, 1])
async def test_wait_first_ends_with_either_event(number: int) -> None:
    events = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, events[number].set)
    await asyncio.wait_for(wait_first(*events), 5)


async def test_run_until_stopped_returns_the_result_or_none_after_a_stop() -> None:
    stop, ended = asyncio.Event(), []

    async def main(result: str) -> str:
        try:
            if not result:
                await wait_forever()
            return result
        finally:
            ended.append(result)

    assert await run_until_stopped(main("result"), stop) == "result"
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await run_until_stopped(main(""), stop) is None
    assert ended == ["result", ""]


async def _result() -> int:
    await asyncio.sleep(0)
    return 42


def test_run_sync_returns_the_result() -> None:
    assert run_sync(_result()) == 42


async def test_run_sync_works_in_a_thread_with_a_running_loop() -> None:
    assert run_sync(_result()) == 42


def test_run_sync_raises_the_coroutine_s_exception() -> None:
    async def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError, match="k"):
        run_sync(fail())


def test_run_sync_ends_the_coroutine_before_it_raises_an_interrupt() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.1)
            ended.append("yes")

    with pytest.raises(KeyboardInterrupt):
        run_sync(wait())
    assert ended == ["yes"]


@pytest.mark.internal_errors
async def test_a_task_that_fails_is_logged_and_run_again_and_a_problem_until_it_has_worked_for_some_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s3s3.tasks.INITIAL_RESTART_S", 0.01)
    monkeypatch.setattr("s3s3.tasks.RECOVERED_AFTER_S", 0.2)
    restarts, works, calls = Restarts("route images"), asyncio.Event(), 0

    async def claim() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ZeroDivisionError("odd")
        works.set()
        await wait_forever()

    async with running(restarts.run("claiming keys", claim)):
        await asyncio.wait_for(works.wait(), 10)
        assert restarts.problem == "route images: internal error while claiming keys: ZeroDivisionError('odd')"
        await until(lambda: not restarts.problem)
    assert calls == 3
    assert "trying again until it works" in caplog.text


@pytest.mark.internal_errors
async def test_a_task_that_fails_after_the_stop_is_not_run_again(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()

    async def fails() -> None:
        stop.set()
        raise ZeroDivisionError

    await asyncio.wait_for(Restarts("route images").run("working", fails, stop), 10)
    assert len(caplog.records) == 1
