from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from s3s3.errors import IntegrityError
from s3s3.transfer.fanout import fan_out, gather_or_cancel

Stream = Callable[[], AsyncIterator[bytes]]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting: what takes how long is then exact."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector.select = self._skip  # type: ignore[attr-defined]  # asyncio keeps it to itself

    def time(self) -> float:
        return self._now_s

    def _skip(self, timeout: float | None) -> list[object]:
        assert timeout is not None, "everybody waits for something that never happens"
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


class Taker:
    """Takes a stream at its own speed and remembers what came, and how it ended."""

    def __init__(self, pause_s: float = 0.0, stop_after: int | None = None) -> None:
        self.came = b""
        self.ended = ""
        self._pause_s = pause_s
        self._stop_after = stop_after

    async def take(self, stream: Stream) -> None:
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


@in_virtual_time
async def test_every_taker_gets_the_whole_stream_and_it_is_read_once() -> None:
    chunks, takers = Chunks(300), [Taker(), Taker(0.001), Taker()]

    await fan_out(chunks(), [taker.take for taker in takers])

    assert [taker.came for taker in takers] == [chunks.content] * 3
    assert [taker.ended for taker in takers] == ["whole"] * 3
    assert chunks.read == 300


@in_virtual_time
async def test_a_stream_that_fails_never_ends_for_any_taker() -> None:
    chunks, takers = Chunks(5, IntegrityError("short")), [Taker(), Taker(10)]

    with pytest.raises(IntegrityError, match="short"):
        await fan_out(chunks(), [taker.take for taker in takers])

    assert [taker.ended for taker in takers] == ["cancelled"] * 2


@in_virtual_time
async def test_a_taker_that_gives_up_leaves_the_others_alone() -> None:
    chunks, gone, steady = Chunks(100), Taker(stop_after=3), Taker()

    await fan_out(chunks(), [gone.take, steady.take])

    assert (gone.ended, steady.ended, steady.came) == ("stopped", "whole", chunks.content)


@in_virtual_time
async def test_nothing_more_is_read_when_every_taker_has_given_up() -> None:
    chunks = Chunks(10_000)

    await fan_out(chunks(), [Taker(stop_after=3).take, Taker(stop_after=7).take])

    assert chunks.read < 100
    assert chunks.closed


@in_virtual_time
async def test_a_taker_that_gives_up_while_it_is_waited_for_ends_the_waiting() -> None:
    chunks, steady = Chunks(100), Taker()

    async def give_up(stream: Stream) -> None:
        await stream().__anext__()
        await asyncio.sleep(0.05)

    await fan_out(chunks(), [give_up], lag_bytes=2)
    await asyncio.wait_for(fan_out(chunks(), [give_up, steady.take], lag_bytes=2), 2)

    assert steady.ended == "whole"


@in_virtual_time
async def test_the_reading_is_never_further_ahead_than_the_lag() -> None:
    chunks, slow = Chunks(60), Taker(0.001)
    ahead: list[int] = []

    async def measure(stream: Stream) -> None:
        async for chunk in stream():
            slow.came += chunk
            await asyncio.sleep(0.001)
            ahead.append(chunks.read - len(slow.came))

    await fan_out(chunks(), [measure], lag_bytes=10)

    assert max(ahead) == 11  # the lag, and the chunk that went over it


@in_virtual_time
async def test_one_that_hangs_is_cut_loose_and_the_others_go_on() -> None:
    chunks, hung, quick = Chunks(100), Taker(60), Taker()
    began_s = asyncio.get_running_loop().time()

    await fan_out(chunks(), [hung.take, quick.take], lag_bytes=10, stall_budget_s=3)

    assert asyncio.get_running_loop().time() - began_s == pytest.approx(3)
    assert (hung.ended, quick.ended, quick.came) == ("cancelled", "whole", chunks.content)


@in_virtual_time
async def test_one_that_is_more_than_twice_as_slow_is_cut_loose_although_it_moves() -> None:
    chunks, slow, quick = Chunks(10_000), Taker(0.022), Taker(0.01)

    await fan_out(chunks(), [slow.take, quick.take], lag_bytes=10, stall_budget_s=3)

    assert (slow.ended, quick.ended) == ("cancelled", "whole")
    assert 100 < len(slow.came) < 5_000


@in_virtual_time
async def test_one_that_is_less_than_twice_as_slow_is_waited_for() -> None:
    chunks, slow, quick = Chunks(10_000), Taker(0.019), Taker(0.01)

    await fan_out(chunks(), [slow.take, quick.take], lag_bytes=10, stall_budget_s=3)

    assert (slow.ended, quick.ended) == ("whole", "whole")


@in_virtual_time
async def test_nobody_is_cut_loose_while_all_are_slow() -> None:
    chunks, takers = Chunks(40), [Taker(0.01), Taker(0.01)]

    await fan_out(chunks(), [taker.take for taker in takers], lag_bytes=2, stall_budget_s=0.05)

    assert [taker.ended for taker in takers] == ["whole"] * 2


@in_virtual_time
async def test_a_single_taker_is_never_cut_loose() -> None:
    chunks, slow = Chunks(10), Taker(0.05)

    await fan_out(chunks(), [slow.take], lag_bytes=1, stall_budget_s=0.01)

    assert slow.ended == "whole"


@in_virtual_time
async def test_cancelled_it_leaves_no_taker_behind() -> None:
    chunks, takers = Chunks(100), [Taker(60), Taker(60)]
    fan = asyncio.create_task(fan_out(chunks(), [taker.take for taker in takers], lag_bytes=5))
    await asyncio.sleep(0.05)
    fan.cancel()

    with pytest.raises(asyncio.CancelledError):
        await fan
    assert [taker.ended for taker in takers] == ["cancelled"] * 2
    assert chunks.closed


@in_virtual_time
async def test_a_defect_in_a_taker_comes_out() -> None:
    async def stumble(_: Stream) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fan_out(Chunks(3)(), [stumble, Taker().take])


@in_virtual_time
async def test_together_returns_all_results_in_order() -> None:
    async def later(number: int) -> int:
        await asyncio.sleep(0.01 / (number + 1))
        return number

    assert await gather_or_cancel(later(number) for number in range(3)) == [0, 1, 2]


@in_virtual_time
async def test_together_leaves_nothing_running_when_one_fails() -> None:
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
async def test_a_taker_that_did_not_hear_that_it_is_cancelled_is_asked_again() -> None:
    """A library's asyncio.wait_for loses a cancellation now and then (Python 3.10 and 3.11)."""

    async def breaks_off() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(1)
        yield b"a"
        raise IntegrityError("broken")

    async def deaf_once(stream: Stream) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            async for _ in stream():
                await asyncio.sleep(1000)

    with pytest.raises(IntegrityError):
        await asyncio.wait_for(fan_out(breaks_off(), [deaf_once]), 60)


@in_virtual_time
async def test_a_taker_that_is_cut_loose_and_did_not_hear_it_keeps_nobody() -> None:
    async def deaf_once(stream: Stream) -> None:
        async for _ in stream():
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                await asyncio.sleep(10_000)

    taker = Taker()
    await asyncio.wait_for(fan_out(Chunks(300)(), [taker.take, deaf_once], lag_bytes=20), 60)
    assert taker.ended == "whole"
