"""asyncio helpers: timeouts, pauses, background tasks, cancellation, running a coroutine from sync code.

`timeout` limits time, never `asyncio.wait_for`: in Python 3.10 and 3.11 that loses a cancellation that arrives together
with the result, and the task runs on. asyncio.TaskGroup needs Python 3.11.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    timeout = asyncio.timeout
else:
    import async_timeout

    timeout = async_timeout.timeout

Result = TypeVar("Result")

#: Interval between two cancellations of a task that has not ended.
CANCEL_INTERVAL_S = 0.5

#: Default time that running copies have to finish after a stop.
DRAIN_S = 60.0


def backoff_s(failures: int, initial_s: float, max_s: float) -> float:
    """Return the pause after this many failures in a row (from 1): exponential, its upper half random.

    The longest one is `initial_s` after the first failure, and doubles up to `max_s`. Without jitter, what failed
    together would be retried together.
    """
    longest_s = min(initial_s * 2.0 ** min(failures - 1, 60), max_s)
    return random.uniform(longest_s / 2, longest_s)


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended.

    A task that lost its cancellation, as in a library's `asyncio.wait_for`, is cancelled again.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)


async def run_with_background(main: Coroutine[Any, Any, Result], *background: Coroutine[Any, Any, None]) -> Result:
    """Run `main` to its end, together with background coroutines that are cancelled then.

    If a background coroutine ends first, `main` is cancelled and the exception of that coroutine raised, or
    RuntimeError: otherwise the process would look alive without doing its work.
    """
    main_task = asyncio.create_task(main)
    background_tasks = [asyncio.create_task(coroutine) for coroutine in background]
    try:
        await asyncio.wait([main_task, *background_tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in background_tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"background task ended unexpectedly: {task.get_coro()}")
        return main_task.result()
    finally:
        await cancel([main_task, *background_tasks])


async def run_until_stopped(main: Coroutine[Any, Any, Result], stop: asyncio.Event) -> Result | None:
    """Run `main` to its end and return its result; if `stop` is set first, cancel it and return None."""
    task, stopped = asyncio.create_task(main), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel([task, stopped])


async def wait_with_timeout(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event, for at most `timeout_s`; return whether it is set."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        waiting.cancel()
    return event.is_set()


async def wait_first(first: asyncio.Event, second: asyncio.Event) -> None:
    """Wait until one of two events is set."""
    await run_until_stopped(first.wait(), second)


def run_async(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a new event loop, of uvloop where it is installed; return its result."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows and PyPy
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def run_sync(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a thread with its own event loop; return its result.

    Works in a thread with a running event loop, as in a notebook; that loop is blocked meanwhile. When the caller is
    interrupted (KeyboardInterrupt), the coroutine is cancelled, and the interrupt is raised after it has ended.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def main() -> Result:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    with ThreadPoolExecutor(1, thread_name_prefix="s3s3") as thread:
        ended = thread.submit(lambda: run_async(main()))
        try:
            return ended.result()
        except BaseException:
            if not ended.done():  # raised in this thread, by Ctrl-C
                loop, task = started.result()
                with contextlib.suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
            raise


class LoopThread:
    """A thread with its own event loop, which runs coroutines for synchronous callers in any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        started: Future[asyncio.AbstractEventLoop] = Future()

        async def main() -> None:
            self._stop = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        self._thread = threading.Thread(target=lambda: run_async(main()), name="s3s3", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine; return its result. If the caller is interrupted (KeyboardInterrupt), it is cancelled.

        Raises RuntimeError before `start` and after `stop`.
        """
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("not open; use it in `with`")
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def stop(self) -> None:
        """End the thread; running coroutines are cancelled."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop = self._thread = None
