"""asyncio helpers: timeouts, pauses, background tasks, restarts, cancellation, running a coroutine from sync code.

`timeout` limits time, never `asyncio.wait_for`: in Python 3.10 and 3.11 that loses a cancellation that arrives together
with the result, and the task runs on. asyncio.TaskGroup needs Python 3.11.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from aiohappyeyeballs import start_connection

if sys.version_info >= (3, 11):
    timeout = asyncio.timeout
else:
    import async_timeout

    timeout = async_timeout.timeout

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Pause before a task is restarted after an internal error, in seconds; each failure doubles it.
INITIAL_RESTART_S = 1.0
MAX_RESTART_S = 30.0

#: A task that has run for this long after an internal error counts as working again, in seconds.
RECOVERED_AFTER_S = 30.0

#: Interval between two cancellations of a task that has not ended.
CANCEL_INTERVAL_S = 0.5

#: Time after which the next address of a host is tried as well, in seconds (RFC 8305, "Connection Attempt Delay").
NEXT_ADDRESS_AFTER_S = 0.25

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


class Restarts:
    """Restarts the tasks of one route or source after internal errors, so that these do not end the process.

    Args:
        name: of the route or source, in messages: "route images".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures: dict[str, tuple[str, float]] = {}

    @property
    def problem(self) -> str:
        """Return which tasks failed and have not run for `RECOVERED_AFTER_S` since, or ""."""
        now_s = time.monotonic()
        return "; ".join(text for text, recovered_at_s in self._failures.values() if now_s < recovered_at_s)

    def record(self, activity: str, error: Exception, delay_s: float = 0.0) -> None:
        """Log an internal error; it is a problem until `RECOVERED_AFTER_S` after it is tried again in `delay_s`."""
        text = f"{self._name}: internal error while {activity}: {error!r}"[:300]
        log.error("%s; trying again until it works", text, exc_info=error)
        self._failures[activity] = text, time.monotonic() + delay_s + RECOVERED_AFTER_S

    async def run(
        self, activity: str, main: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event | None = None
    ) -> None:
        """Run a task to its end; after any exception, log it and run the task again.

        Args:
            activity: what the task does, in messages: "claiming keys".
            stop: once it is set, a task that fails is not run again.
        """
        failures = 0
        while True:
            started_s = time.monotonic()
            try:
                return await main()
            except Exception as error:  # noqa: BLE001  recorded
                failures = 1 if time.monotonic() - started_s > RECOVERED_AFTER_S else failures + 1
                delay_s = backoff_s(failures, INITIAL_RESTART_S, MAX_RESTART_S)
                self.record(activity, error, delay_s)
            if stop is not None and stop.is_set():
                return None
            if stop is None:
                await asyncio.sleep(delay_s)
            else:
                await wait_with_timeout(stop, delay_s)


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


async def connect_socket(*hosts: str, port: int) -> socket.socket:
    """Return a socket connected to the first address of one of these hosts that accepts it (RFC 8305).

    asyncio tries the addresses one after the other by default, and uvloop always does: one that does not answer takes
    the whole time. Raises OSError, and UnicodeError for a name that DNS does not allow.
    """
    found = await asyncio.gather(*(_resolve(host, port) for host in hosts))
    addresses = [address for found_addresses in found for address in found_addresses]
    return await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S)


async def _resolve(host: str, port: int) -> list[Any]:
    """Return the addresses of a host, in the form of socket.getaddrinfo."""
    try:  # an IP address needs no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


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
