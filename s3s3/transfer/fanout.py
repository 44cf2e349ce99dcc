"""One stream of chunks to several takers at once, none of which may hold up the others for long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from ..tasks import cancel, wait_with_timeout

LAG_BYTES = 4 * 1024 * 1024
"""How far a taker may be behind the reading."""

STALL_BUDGET_S = 3.0
"""How long one taker may hold up others. It grows back while the taker keeps up, at the same rate: so one that makes
the others more than twice as slow is cut loose sooner or later, one that is a little slower never is."""

STRAGGLER_GRACE_S = 1.0
"""How long one destination may hold up the others at the end, beyond twice the time that the quickest took."""

T = TypeVar("T")
Take: TypeAlias = Callable[[Callable[[], AsyncIterator[bytes]]], Coroutine[Any, Any, None]]
"""Is called with what opens a stream, and takes it."""


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results; when one fails or we are cancelled, end all before that is known outside."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel([task for task in tasks if not task.done()])


async def gather_without_stragglers(
    coroutines: Iterable[Coroutine[Any, Any, None]], any_finished: Callable[[], bool]
) -> None:
    """Wait until all have ended; once somebody is through, the others get as long again and STRAGGLER_PATIENCE_S more.

    Who has not ended by then is cancelled, and its end waited for; so are all when we are cancelled.
    """
    began_s = asyncio.get_running_loop().time()
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await _wait_for_quick(set(tasks), began_s, any_finished)
    finally:
        await cancel([task for task in tasks if not task.done()])
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _wait_for_quick(pending: set[asyncio.Future[None]], began_s: float, any_finished: Callable[[], bool]) -> None:
    while pending and not any_finished():
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        took_s = asyncio.get_running_loop().time() - began_s
        await asyncio.wait(pending, timeout=took_s + STRAGGLER_GRACE_S)


async def fan_out(
    chunks: AsyncGenerator[bytes, None],
    takes: Sequence[Take],
    *,
    lag_bytes: int = LAG_BYTES,
    patience_s: float = STALL_BUDGET_S,
    any_finished: Callable[[], bool] | None = None,
) -> None:
    """Hand `chunks`, read once, to all takes, and wait for their ends.

    The stream that a take is given ends only when `chunks` has ended without an error. A take may return early: it
    gets no more. One that lags by more than `lag_bytes` while another has nothing left to do is cut loose, which is
    cancelled, when `patience_s` is used up; with `any_finished`, as in `gather_without_stragglers`, at the end too.

    Raises:
        S3S3Error: what `chunks` raised; all takes were cancelled then, none had seen the end of its stream.
    """
    fan = _Broadcaster(takes, lag_bytes, patience_s)
    try:
        try:
            await fan.pump(chunks)
        finally:
            await chunks.aclose()
        if any_finished is not None:
            await fan.leave_stragglers(any_finished)
        await asyncio.gather(*(feed.end_of_take() for feed in fan.feeds))
    finally:
        await cancel([feed.task for feed in fan.feeds])


class _Broadcaster:
    """The feeds of one stream, and who holds up whom."""

    def __init__(self, takes: Sequence[Take], lag_bytes: int, patience_s: float) -> None:
        self._changed = asyncio.Event()
        self.feeds = [_Consumer(take, self._changed) for take in takes]
        self._lag_bytes = lag_bytes
        self._patience_s = patience_s
        self._now_s = asyncio.get_running_loop().time
        self._began_s = self._last_wait_s = self._now_s()

    async def pump(self, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            takers = [feed for feed in self.feeds if feed.open]
            if not takers:
                return
            for feed in takers:
                feed.add(chunk)
            if any(feed.lag_bytes > self._lag_bytes for feed in takers):
                await self._catch_up()
        for feed in self.feeds:
            feed.end()

    async def leave_stragglers(self, any_finished: Callable[[], bool]) -> None:
        """Wait for the ends of the takes, and cut loose who is late."""
        pending = {feed.task for feed in self.feeds if feed.open}
        await _wait_for_quick(pending, self._began_s, any_finished)
        for feed in self.feeds:
            if feed.open:
                feed.cut()

    async def _catch_up(self) -> None:
        """Wait until nobody who is still open lags too far behind."""
        while behind := [feed for feed in self.feeds if feed.open and feed.lag_bytes > self._lag_bytes]:
            self._changed.clear()
            if any(feed.open and feed.hungry for feed in self.feeds):
                await self._wait_for(behind)
            else:
                await self._changed.wait()

    async def _wait_for(self, behind: Sequence[_Consumer]) -> None:
        """Let a hungry one wait for those behind, at the expense of their patience account."""
        began_s = self._now_s()
        for feed in self.feeds:
            feed.held_up_s = max(0.0, feed.held_up_s - (began_s - self._last_wait_s))
        longest_s = max(feed.held_up_s for feed in behind)
        if not await wait_with_timeout(self._changed, self._patience_s - longest_s):
            for feed in behind:
                if feed.held_up_s == longest_s:
                    feed.cut()
        self._last_wait_s = self._now_s()
        for feed in behind:
            feed.held_up_s += self._last_wait_s - began_s


class _Consumer:
    """What one take is yet to be given."""

    def __init__(self, take: Take, changed: asyncio.Event) -> None:
        self._changed = changed
        self._chunks: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self._ended = False
        self.lag_bytes = 0
        self.cut_loose = False
        self.hungry = False
        self.held_up_s = 0.0
        self.task: asyncio.Future[None] = asyncio.ensure_future(take(self._stream))
        self.task.add_done_callback(lambda _: changed.set())

    @property
    def open(self) -> bool:
        return not self.cut_loose and not self.task.done()

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.lag_bytes += len(chunk)
        self._filled.set()

    def end(self) -> None:
        self._ended = True
        self._filled.set()

    def cut(self) -> None:
        self.cut_loose = True
        self._chunks.clear()
        self.task.cancel()

    async def end_of_take(self) -> None:
        if self.cut_loose:
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
            self._filled.clear()
            self.hungry = True
            self._changed.set()
            await self._filled.wait()
            self.hungry = False
