"""Waiting for a condition, with patience and no longer than needed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from s3s3.tasks import cancel


async def until(condition: Callable[[], Any | Awaitable[Any]], patience_s: float = 10.0) -> Any:
    """Return the condition's first true answer."""
    deadline_s = time.monotonic() + patience_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline_s, f"not within {patience_s:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the block; what it died of, if it did, is raised at the end."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
        if task.done():
            task.result()
    finally:
        await cancel([task])
