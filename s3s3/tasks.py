"""Tasks that live as long as another one, and end with it. (asyncio.TaskGroup came with Python 3.11 only.)

Time is limited by `timeout`, never by `asyncio.wait_for`, which loses a cancellation that comes together with the end
of what it waits for (Python 3.10 and 3.11): the task goes on then, and whoever waits for its end may wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = ["cancel", "run_until_stopped", "run_with_background", "timeout", "wait_with_timeout"]

Answer = TypeVar("Answer")

ASK_AGAIN_S = 0.5

DRAIN_S = 60.0
"""How long copies that are under way at the end may take before they are handed back, unless told otherwise."""


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended.

    A task that did not hear is asked again: libraries use `asyncio.wait_for`.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=ASK_AGAIN_S)


async def run_with_background(main: Coroutine[Any, Any, Answer], *keepers: Coroutine[Any, Any, None]) -> Answer:
    """Run `main` to its end, with keepers beside it that never end by themselves.

    A keeper that does end takes `main` with it, and what ended it is raised: a daemon of which a part has died
    in silence would look alive.
    """
    task = asyncio.create_task(main)
    kept = [asyncio.create_task(keeper) for keeper in keepers]
    try:
        await asyncio.wait([task, *kept], return_when=asyncio.FIRST_COMPLETED)
        for keeper in kept:
            if keeper.done():
                keeper.result()
                raise RuntimeError(f"{keeper.get_coro()} ended, and nothing is left to do its work")
        return task.result()
    finally:
        await cancel([task, *kept])


async def run_until_stopped(main: Coroutine[Any, Any, Answer], stop: asyncio.Event) -> Answer | None:
    """Run `main` to its end, or until `stop` is set: then cancel it, and return None once it has ended."""
    task, stopped = asyncio.create_task(main), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel([task, stopped])


async def wait_with_timeout(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event, at most so long; return whether it is set."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        waiting.cancel()
    return event.is_set()


async def wait_first(one: asyncio.Event, other: asyncio.Event) -> None:
    """Wait until one of two events is set."""
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(waits)


Result = TypeVar("Result")


def run_sync(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in a thread and an event loop of its own, and return what it returned.

    A loop that runs in the calling thread, as in a notebook, does not matter; it stands still meanwhile. When the
    caller is interrupted (KeyboardInterrupt), the coroutine is cancelled and has ended before that is raised.
    """
    began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def main() -> Result:
        task = asyncio.current_task()
        assert task is not None
        began.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    with ThreadPoolExecutor(1, thread_name_prefix="s3s3") as thread:
        ended = thread.submit(lambda: uvloop.run(main()))
        try:
            return ended.result()
        except BaseException:
            if not ended.done():  # so it comes from this thread: a Ctrl-C
                loop, task = began.result()
                with contextlib.suppress(RuntimeError):  # the loop has just closed
                    loop.call_soon_threadsafe(task.cancel)
            raise
