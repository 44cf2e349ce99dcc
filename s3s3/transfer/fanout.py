"""Stream one body to several consumers with bounded lag."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from ..tasks import cancel, wait_with_timeout

#: How far a consumer may lag behind the source.
LAG_BYTES = 4 * 1024 * 1024

#: How long a consumer may stall the others before it is detached. See `StallBudget`.
STALL_BUDGET_S = 3.0

#: How much later than twice the time of the fastest destination the others may finish.
STRAGGLER_GRACE_S = 1.0

T = TypeVar("T")

#: Consumes a stream, which it opens with its argument.
Consume: TypeAlias = Callable[[Callable[[], AsyncIterator[bytes]]], Coroutine[Any, Any, None]]


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; cancel and await the rest when one fails or the caller is cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel([task for task in tasks if not task.done()])


async def gather_without_stragglers(
    coroutines: Iterable[Coroutine[Any, Any, None]], any_finished: Callable[[], bool]
) -> None:
    """Run all; cancel those that take over twice as long as the fastest one, plus STRAGGLER_GRACE_S.

    `any_finished` returns whether one has succeeded: failures do not count as fast. All have ended on return.
    """
    started_s = asyncio.get_running_loop().time()
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await _wait_for_fast(set(tasks), started_s, any_finished)
    finally:
        await cancel([task for task in tasks if not task.done()])
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _wait_for_fast(
    pending: set[asyncio.Future[None]], started_s: float, any_finished: Callable[[], bool]
) -> None:
    while pending and not any_finished():
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        fastest_s = asyncio.get_running_loop().time() - started_s
        await asyncio.wait(pending, timeout=fastest_s + STRAGGLER_GRACE_S)


class StallBudget:
    """How long one consumer may still stall the others.

    Stalling is charged, time without stalling refills. With 3 s, a consumer that stalls the others for 2 s has 1 s
    left; 1.5 s later it has 2.5 s. So a consumer that makes the others more than twice as slow exhausts the budget,
    and one that is a little slower never does.
    """

    def __init__(self, size_s: float) -> None:
        self._size_s = size_s
        self.remaining_s = size_s

    def charge(self, seconds: float) -> None:
        """Subtract time for which the consumer stalled the others."""
        self.remaining_s -= seconds

    def refill(self, seconds: float) -> None:
        """Add time for which the consumer stalled no other, up to the size of the budget."""
        self.remaining_s = min(self.remaining_s + seconds, self._size_s)


async def fan_out(
    chunks: AsyncGenerator[bytes, None], consumers: Sequence[Consume],
    *, lag_bytes: int = LAG_BYTES, stall_budget_s: float = STALL_BUDGET_S,
    any_finished: Callable[[], bool] | None = None,
) -> None:  # fmt: skip
    """Read `chunks` once, stream them to all consumers, and wait until these have ended.

    A consumer's stream ends only when `chunks` has ended without an error. A consumer that returns early is skipped
    from then on. One that lags by more than `lag_bytes` while another one is starved spends its stall budget and is
    detached (cancelled) when that is used up; with `any_finished`, as in `gather_without_stragglers`, also when it is
    late at the end.

    Raises:
        S3S3Error: from `chunks`; all consumers were cancelled, and none has reached the end of its stream.
    """
    broadcaster = _Broadcaster(consumers, lag_bytes, stall_budget_s)
    try:
        try:
            await broadcaster.pump(chunks)
        finally:
            await chunks.aclose()
        if any_finished is not None:
            await broadcaster.detach_stragglers(any_finished)
        await asyncio.gather(*(consumer.wait() for consumer in broadcaster.consumers))
    finally:
        await cancel([consumer.task for consumer in broadcaster.consumers])


class _Broadcaster:
    """Feeds all consumers, and detaches those that stall the others."""

    def __init__(self, consumers: Sequence[Consume], lag_bytes: int, stall_budget_s: float) -> None:
        self._changed = asyncio.Event()
        self.consumers = [_Consumer(consume, self._changed, StallBudget(stall_budget_s)) for consume in consumers]
        self._lag_bytes = lag_bytes
        self._now_s = asyncio.get_running_loop().time
        self._started_s = self._last_stall_s = self._now_s()

    async def pump(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            consumers = [consumer for consumer in self.consumers if consumer.active]
            if not consumers:
                return
            for consumer in consumers:
                consumer.add(chunk)
            if any(consumer.lag_bytes > self._lag_bytes for consumer in consumers):
                await self._catch_up()
        for consumer in self.consumers:
            consumer.end()

    async def detach_stragglers(self, any_finished: Callable[[], bool]) -> None:
        """Wait for the consumers' ends, and detach those that are late."""
        pending = {consumer.task for consumer in self.consumers if consumer.active}
        await _wait_for_fast(pending, self._started_s, any_finished)
        for consumer in self.consumers:
            if consumer.active:
                consumer.detach()

    async def _catch_up(self) -> None:
        """Wait until no active consumer lags too far behind, at the expense of its stall budget if others starve."""
        while lagging := [
            consumer for consumer in self.consumers if consumer.active and consumer.lag_bytes > self._lag_bytes
        ]:
            self._changed.clear()
            if not any(consumer.active and consumer.starved for consumer in self.consumers):
                await self._changed.wait()
                continue
            started_s = self._now_s()
            for consumer in self.consumers:
                consumer.stall_budget.refill(started_s - self._last_stall_s)
            least_s = min(consumer.stall_budget.remaining_s for consumer in lagging)
            if not await wait_with_timeout(self._changed, least_s):
                for consumer in lagging:
                    if consumer.stall_budget.remaining_s == least_s:
                        consumer.detach()
            self._last_stall_s = self._now_s()
            for consumer in lagging:
                consumer.stall_budget.charge(self._last_stall_s - started_s)


class _Consumer:
    """One consumer with the chunks that it has not read yet."""

    def __init__(self, consume: Consume, changed: asyncio.Event, stall_budget: StallBudget) -> None:
        self._changed = changed
        self._chunks: deque[bytes] = deque()
        self._has_input = asyncio.Event()
        self._ended = False
        self.stall_budget = stall_budget
        self.lag_bytes = 0
        self.detached = False
        self.starved = False
        self.task: asyncio.Future[None] = asyncio.ensure_future(consume(self._stream))
        self.task.add_done_callback(lambda _: changed.set())

    @property
    def active(self) -> bool:
        return not self.detached and not self.task.done()

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.lag_bytes += len(chunk)
        self._has_input.set()

    def end(self) -> None:
        self._ended = True
        self._has_input.set()

    def detach(self) -> None:
        self.detached = True
        self._chunks.clear()
        self.task.cancel()

    async def wait(self) -> None:
        if self.detached:
            await cancel([self.task])
        else:
            await self.task

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self.lag_bytes -= len(chunk)
                self._changed.set()
                yield chunk
            if self._ended:
                return
            self._has_input.clear()
            self.starved = True
            self._changed.set()
            await self._has_input.wait()
            self.starved = False
