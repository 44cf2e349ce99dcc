"""Coroutines for callers that are not asynchronous: scripts, threads, notebooks."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")


def complete(coroutine: Coroutine[Any, Any, Result]) -> Result:
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


class Stop:
    """A wish to stop, said in any thread, before or while a coroutine in another one heeds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a second signal may come while the first one's handler holds it
        self._said = False
        self._heeding: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def say(self) -> None:
        """Stop."""
        with self._lock:
            self._said = True
            if self._heeding is not None:
                loop, event = self._heeding
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def heeded(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that is set when it is said, or has been. Afterwards it is forgotten."""
        event = asyncio.Event()
        with self._lock:
            self._heeding = asyncio.get_running_loop(), event
            if self._said:
                event.set()
        try:
            yield event
        finally:
            with self._lock:
                self._heeding, self._said = None, False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT say it, where this is the main thread; no other can hear signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.say()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, heeding in before.items():
                signal.signal(number, signal.SIG_DFL if heeding is None else heeding)
