"""Many calls, one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_IN_ONE_CALL = 100
"""Redis runs a script alone, so a long one would make everybody else wait."""

MIN_BATCH = 8
GATHER_S = 0.01
"""Until there are enough, the first of them waits so long for more: a call costs more CPU time than all that is in it.
"""


class Batcher(Generic[Item, Answer]):
    """Gathers what arrives within a moment, or while the last call is under way, and sends it as one.

    What a call raises, each of its items gets.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Answer]]) -> None:
        self._call = call
        self._gathered: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()

    async def add(self, item: Item) -> Answer:
        """Send the item with others; return what the call answered."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._gathered.append((item, answer))
        if len(self._gathered) == MIN_BATCH:
            self._enough.set()
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while self._gathered:
                await self._gather()
                items = self._gathered[:MAX_IN_ONE_CALL]
                del self._gathered[:MAX_IN_ONE_CALL]
                await self._send_one(items)
        finally:
            self._sending = None

    async def _gather(self) -> None:
        if len(self._gathered) >= MIN_BATCH:
            return
        self._enough.clear()
        in_time = asyncio.get_running_loop().call_later(GATHER_S, self._enough.set)
        await self._enough.wait()
        in_time.cancel()

    async def _send_one(self, items: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            result = await self._call([item for item, _ in items])
        except Exception as error:  # noqa: BLE001 - handed on to everyone who waits for it
            for _, answer in items:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for _, answer in items:
                if not answer.done():
                    answer.set_result(result)
