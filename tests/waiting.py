"""Waiting for a condition, with patience and no longer than needed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


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
