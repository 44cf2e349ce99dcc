"""Wait for a condition, and run a coroutine in the background of a test."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from s3s3.tasks import cancel


async def until(condition: Callable[[], Any | Awaitable[Any]], timeout_s: float = 10.0) -> Any:
    """Return the first true result of the condition; fail after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {source_of(condition)}"
        await asyncio.sleep(0.01)


def source_of(condition: Callable[[], object]) -> str:
    return repr(condition) if isinstance(condition, partial) else inspect.getsource(condition).strip()


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine during the block; if it failed meanwhile, raise its exception at the end."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
        if task.done():
            task.result()
    finally:
        await cancel([task])


def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition in a test without an event loop; fail after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {source_of(condition)}"
        time.sleep(0.05)
