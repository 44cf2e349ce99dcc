"""Combine concurrent calls into one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items of one call: Redis runs nothing else during a script.
MAX_BATCH = 100

#: The first of fewer items waits `BATCH_DELAY_S` for more: a round trip costs more CPU time than its items.
MIN_BATCH = 8
BATCH_DELAY_S = 0.01


class Batcher(Generic[Item, Result]):
    """Sends items that arrive close together, or during the last call, in one call.

    Every item gets the result of its call, or its exception.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        self._call = call
        self._items: list[tuple[Item, asyncio.Future[Result]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._is_full = asyncio.Event()

    async def add(self, item: Item) -> Result:
        """Send the item together with others; return the result of the call."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._items.append((item, result))
        if len(self._items) == MIN_BATCH:
            self._is_full.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await result

    async def _send_all(self) -> None:
        try:
            while self._items:
                if len(self._items) < MIN_BATCH:
                    self._is_full.clear()
                    timer = asyncio.get_running_loop().call_later(BATCH_DELAY_S, self._is_full.set)
                    await self._is_full.wait()
                    timer.cancel()
                batch = self._items[:MAX_BATCH]
                del self._items[:MAX_BATCH]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            result = await self._call([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - passed on to each caller of `add`
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for _, future in batch:
                if not future.done():
                    future.set_result(result)
