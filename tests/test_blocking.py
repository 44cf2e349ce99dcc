from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from s3s3.client import StopSignal
from s3s3.tasks import run_sync


async def _answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_a_coroutine_is_run_to_its_end() -> None:
    assert run_sync(_answer()) == 42


async def test_a_loop_that_runs_in_the_calling_thread_does_not_matter() -> None:
    assert run_sync(_answer()) == 42


def test_what_it_raises_comes_out() -> None:
    async def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError, match="k"):
        run_sync(fail())


def test_an_interrupt_ends_the_coroutine_before_it_is_raised() -> None:
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


async def _heed(stop: StopSignal) -> None:
    with stop.attached() as event:
        await asyncio.wait_for(event.wait(), 10)


def test_a_stop_is_heeded_in_another_thread() -> None:
    stop = StopSignal()
    thread = threading.Thread(target=lambda: run_sync(_heed(stop)))
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_stop_that_was_said_before_is_heeded_once() -> None:
    stop = StopSignal()
    stop.set()
    run_sync(_heed(stop))

    async def is_set() -> bool:
        with stop.attached() as event:
            return event.is_set()

    assert run_sync(is_set()) is False


def test_signals_say_it_in_the_main_thread_and_are_given_back() -> None:
    stop, before = StopSignal(), signal.getsignal(signal.SIGTERM)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with stop.on_signals():
        run_sync(_heed(stop))
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        with StopSignal().on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
