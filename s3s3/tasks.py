"""Tasks that live as long as another one, and end with it. (asyncio.TaskGroup came with Python 3.11 only.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines that never end by themselves beside the block, and cancel them after it.

    If one of them does end, the block is cancelled and what ended it is raised: a daemon whose part has died
    in silence would look alive.
    """
    block = asyncio.current_task()
    assert block is not None
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    ended: list[asyncio.Task[None]] = []

    def end(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            ended.append(task)
            block.cancel()

    for task in tasks:
        task.add_done_callback(end)
    try:
        yield
    except asyncio.CancelledError:
        if not ended:
            raise
        ended[0].result()
        raise
    finally:
        for task in tasks:
            task.remove_done_callback(end)
        await cancel(tasks)
