from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from s3s3.errors import IntegrityError
from s3s3.transfer.fanout import StallBudget, fan_out, gather_or_cancel

Stream = Callable[[], AsyncIterator[bytes]]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting, so that durations are exact."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector.select = self._skip  # type: ignore[attr-defined]  # asyncio keeps it to itself

    def time(self) -> float:
        return self._now_s

    def _skip(self, timeout: float | None) -> list[object]:
        assert timeout is not None, "all tasks wait for an event that never happens"
        self._now_s += timeout
        return []


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(test())
        finally:
            loop.close()

    return run


class Consumer:
    """Consumes a stream at its own speed; records the content and how it ended."""

    def __init__(self, pause_s: float = 0.0, stop_after: int | None = None) -> None:
        self.came = b""
        self.ended = ""
        self._pause_s = pause_s
        self._stop_after = stop_after

    async def consume(self, stream: Stream) -> None:
        try:
            async for chunk in stream():
                self.came += chunk
                if self._stop_after is not None and len(self.came) >= self._stop_after:
                    self.ended = "stopped"
                    return
                await asyncio.sleep(self._pause_s)
            self.ended = "whole"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


class Chunks:
    """A stream of one-byte chunks that counts how many were read."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.read = 0
        self.closed = False
        self.count = count
        self.error = error

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self.count):
                await asyncio.sleep(0)
                self.read += 1
                yield bytes([number % 256])
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    @property
    def content(self) -> bytes:
        return bytes(number % 256 for number in range(self.count))


def test_stall_budget_is_charged_and_refilled_up_to_its_size() -> None:
    budget = StallBudget(3.0)
    budget.charge(2.0)
    assert budget.remaining_s == 1.0
    budget.refill(1.5)
    assert budget.remaining_s == 2.5
    budget.refill(60.0)
    assert budget.remaining_s == 3.0


@in_virtual_time
async def test_every_consumer_gets_the_whole_stream_which_is_read_once() -> None:
    chunks, consumers = Chunks(300), [Consumer(), Consumer(0.001), Consumer()]

    await fan_out(chunks(), [consumer.consume for consumer in consumers])

    assert [consumer.came for consumer in consumers] == [chunks.content] * 3
    assert [consumer.ended for consumer in consumers] == ["whole"] * 3
    assert chunks.read == 300


@in_virtual_time
async def test_failed_stream_ends_for_no_consumer() -> None:
    chunks, consumers = Chunks(5, IntegrityError("short")), [Consumer(), Consumer(10)]

    with pytest.raises(IntegrityError, match="short"):
        await fan_out(chunks(), [consumer.consume for consumer in consumers])

    assert [consumer.ended for consumer in consumers] == ["cancelled"] * 2


@in_virtual_time
async def test_consumer_that_returns_early_does_not_affect_the_others() -> None:
    chunks, gone, steady = Chunks(100), Consumer(stop_after=3), Consumer()

    await fan_out(chunks(), [gone.consume, steady.consume])

    assert (gone.ended, steady.ended, steady.came) == ("stopped", "whole", chunks.content)


@in_virtual_time
async def test_reading_stops_after_all_consumers_have_returned() -> None:
    chunks = Chunks(10_000)

    await fan_out(chunks(), [Consumer(stop_after=3).consume, Consumer(stop_after=7).consume])

    assert chunks.read < 100
    assert chunks.closed


@in_virtual_time
async def test_lagging_consumer_that_returns_ends_the_stall() -> None:
    chunks, steady = Chunks(100), Consumer()

    async def return_early(stream: Stream) -> None:
        await stream().__anext__()
        await asyncio.sleep(0.05)

    await fan_out(chunks(), [return_early], lag_bytes=2)
    await asyncio.wait_for(fan_out(chunks(), [return_early, steady.consume], lag_bytes=2), 2)

    assert steady.ended == "whole"


@in_virtual_time
async def test_source_is_never_read_beyond_the_lag() -> None:
    chunks, slow = Chunks(60), Consumer(0.001)
    ahead: list[int] = []

    async def measure_lag(stream: Stream) -> None:
        async for chunk in stream():
            slow.came += chunk
            await asyncio.sleep(0.001)
            ahead.append(chunks.read - len(slow.came))

    await fan_out(chunks(), [measure_lag], lag_bytes=10)

    assert max(ahead) == 11  # the lag, and the chunk that exceeded it


@in_virtual_time
async def test_hanging_consumer_is_detached() -> None:
    chunks, hung, quick = Chunks(100), Consumer(60), Consumer()
    started_s = asyncio.get_running_loop().time()

    await fan_out(chunks(), [hung.consume, quick.consume], lag_bytes=10, stall_budget_s=3)

    assert asyncio.get_running_loop().time() - started_s == pytest.approx(3)
    assert (hung.ended, quick.ended, quick.came) == ("cancelled", "whole", chunks.content)


@in_virtual_time
async def test_consumer_more_than_twice_as_slow_is_detached() -> None:
    chunks, slow, quick = Chunks(10_000), Consumer(0.022), Consumer(0.01)

    await fan_out(chunks(), [slow.consume, quick.consume], lag_bytes=10, stall_budget_s=3)

    assert (slow.ended, quick.ended) == ("cancelled", "whole")
    assert 100 < len(slow.came) < 5_000


@in_virtual_time
async def test_consumer_less_than_twice_as_slow_is_not_detached() -> None:
    chunks, slow, quick = Chunks(10_000), Consumer(0.019), Consumer(0.01)

    await fan_out(chunks(), [slow.consume, quick.consume], lag_bytes=10, stall_budget_s=3)

    assert (slow.ended, quick.ended) == ("whole", "whole")


@in_virtual_time
async def test_equally_slow_consumers_are_not_detached() -> None:
    chunks, consumers = Chunks(40), [Consumer(0.01), Consumer(0.01)]

    await fan_out(chunks(), [consumer.consume for consumer in consumers], lag_bytes=2, stall_budget_s=0.05)

    assert [consumer.ended for consumer in consumers] == ["whole"] * 2


@in_virtual_time
async def test_single_consumer_is_never_detached() -> None:
    chunks, slow = Chunks(10), Consumer(0.05)

    await fan_out(chunks(), [slow.consume], lag_bytes=1, stall_budget_s=0.01)

    assert slow.ended == "whole"


@in_virtual_time
async def test_cancellation_cancels_all_consumers() -> None:
    chunks, consumers = Chunks(100), [Consumer(60), Consumer(60)]
    fan = asyncio.create_task(fan_out(chunks(), [consumer.consume for consumer in consumers], lag_bytes=5))
    await asyncio.sleep(0.05)
    fan.cancel()

    with pytest.raises(asyncio.CancelledError):
        await fan
    assert [consumer.ended for consumer in consumers] == ["cancelled"] * 2
    assert chunks.closed


@in_virtual_time
async def test_unexpected_error_of_a_consumer_is_raised() -> None:
    async def fail(_: Stream) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fan_out(Chunks(3)(), [fail, Consumer().consume])


@in_virtual_time
async def test_gather_or_cancel_returns_results_in_order() -> None:
    async def later(number: int) -> int:
        await asyncio.sleep(0.01 / (number + 1))
        return number

    assert await gather_or_cancel(later(number) for number in range(3)) == [0, 1, 2]


@in_virtual_time
async def test_gather_or_cancel_cancels_the_rest_when_one_fails() -> None:
    ended: list[str] = []

    async def run(fails: bool) -> None:
        try:
            await asyncio.sleep(0 if fails else 60)
            raise IntegrityError("one")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    coroutines: list[Coroutine[Any, Any, None]] = [run(False), run(True)]
    with pytest.raises(IntegrityError):
        await gather_or_cancel(coroutines)
    assert ended == ["cancelled"]


@in_virtual_time
async def test_consumer_that_loses_a_cancellation_is_cancelled_again() -> None:
    """asyncio.wait_for can lose a cancellation (Python 3.10 and 3.11)."""

    async def breaks_off() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(1)
        yield b"a"
        raise IntegrityError("broken")

    async def ignores_cancellation(stream: Stream) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            async for _ in stream():
                await asyncio.sleep(1000)

    with pytest.raises(IntegrityError):
        await asyncio.wait_for(fan_out(breaks_off(), [ignores_cancellation]), 60)


@in_virtual_time
async def test_detached_consumer_that_loses_a_cancellation_delays_no_other() -> None:
    async def ignores_cancellation(stream: Stream) -> None:
        async for _ in stream():
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                await asyncio.sleep(10_000)

    consumer = Consumer()
    await asyncio.wait_for(fan_out(Chunks(300)(), [consumer.consume, ignores_cancellation], lag_bytes=20), 60)
    assert consumer.ended == "whole"
