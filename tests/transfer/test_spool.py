from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s3s3.errors import IntegrityError, SpoolTooSmall, SpoolUnavailable
from s3s3.transfer import spool
from s3s3.transfer.budget import BudgetRequest, ByteSemaphore, CopyBudget
from tests.contents import random_bytes

MIB = 1024 * 1024


async def of(*chunks: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


class Holder:
    """Acquires bytes and keeps them until `release`."""

    def __init__(self, budget: ByteSemaphore, size_bytes: int) -> None:
        self.has = False
        self._budget, self._size_bytes = budget, size_bytes
        self.task = asyncio.create_task(self._take())

    async def _take(self) -> None:
        await self._budget.acquire(self._size_bytes)
        self.has = True

    def release(self) -> None:
        self._budget.release(self._size_bytes)


async def hold(budget: ByteSemaphore, *sizes_bytes: int) -> list[Holder]:
    holders = [Holder(budget, size_bytes) for size_bytes in sizes_bytes]
    await asyncio.sleep(0.01)
    return holders


async def test_semaphore_grants_no_more_than_its_size() -> None:
    budget = ByteSemaphore(10)
    first, second, third = await hold(budget, 4, 6, 1)

    assert (first.has, second.has, third.has) == (True, True, False)
    first.release()
    await third.task
    assert budget.free_bytes == 3


async def test_semaphore_grants_in_order_of_requests() -> None:
    budget = ByteSemaphore(10)
    first, big, small = await hold(budget, 8, 10, 1)

    assert not small.has, "it must not overtake the larger request, which would starve"
    assert not budget.try_acquire(1)
    first.release()
    await big.task
    big.release()
    await small.task


async def test_cancelled_request_lets_later_ones_pass() -> None:
    budget = ByteSemaphore(10)
    _, big, small = await hold(budget, 8, 10, 2)
    big.task.cancel()
    await asyncio.wait_for(small.task, 1)

    assert budget.free_bytes == 0


async def test_request_cancelled_when_granted_releases_its_bytes() -> None:
    budget = ByteSemaphore(10)
    first, second = await hold(budget, 10, 10)
    first.release()
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task

    assert budget.free_bytes == 10


async def test_request_larger_than_the_semaphore_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot acquire 11 of 10 bytes"):
        await ByteSemaphore(10).acquire(11)


async def test_memory_and_disk_are_acquired_together() -> None:
    budget = CopyBudget(spool_bytes=10, memory_bytes=10)

    assert budget.try_acquire(BudgetRequest(5, 10))
    assert not budget.try_acquire(BudgetRequest(5, 1)), "no disk left"
    assert not budget.try_acquire(BudgetRequest(6, 0)), "no memory left"
    assert budget.try_acquire(BudgetRequest(5, 0)), "a failed request must not keep a part"
    budget.release(BudgetRequest(5, 0))
    budget.release(BudgetRequest(5, 10))
    assert budget.try_acquire(BudgetRequest(10, 10))


async def test_copies_that_need_memory_and_disk_do_not_deadlock() -> None:
    budget = CopyBudget(spool_bytes=10, memory_bytes=10)

    async def use() -> None:
        for _ in range(20):
            await budget.acquire(BudgetRequest(6, 6))
            await asyncio.sleep(0)
            budget.release(BudgetRequest(6, 6))

    await asyncio.wait_for(asyncio.gather(use(), use(), use()), 5)


async def test_request_cancelled_while_waiting_for_memory_releases_its_disk() -> None:
    budget = CopyBudget(spool_bytes=10, memory_bytes=10)
    await budget.acquire(BudgetRequest(10, 0))
    waiting = asyncio.create_task(budget.acquire(BudgetRequest(1, 10)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert budget.try_acquire(BudgetRequest(0, 10))


def test_object_larger_than_the_spool_names_the_setting() -> None:
    with pytest.raises(SpoolTooSmall, match="set a larger spool_bytes in \\[worker\\]") as raised:
        CopyBudget(spool_bytes=10).check(BudgetRequest(0, 11))
    assert not raised.value.retriable


async def test_spooled_file_has_several_readers(tmp_path: Path) -> None:
    chunks = [random_bytes(700_000, number) for number in range(5)]
    budget = CopyBudget(spool_dir=str(tmp_path))

    with await budget.spool(of(*chunks)) as file:
        contents = await asyncio.gather(joined(file.chunks()), joined(file.chunks()))

        assert list(contents) == [b"".join(chunks)] * 2
        assert file.md5 == hashlib.md5(b"".join(chunks)).digest()
        assert names_in(tmp_path) == [], "a temporary file with a name would survive a crash"


async def test_empty_object_can_be_spooled(tmp_path: Path) -> None:
    with await CopyBudget(spool_dir=str(tmp_path)).spool(of()) as file:
        assert await joined(file.chunks()) == b""


async def test_failed_stream_leaves_no_file_open(tmp_path: Path) -> None:
    before = open_files()

    with pytest.raises(IntegrityError):
        await CopyBudget(spool_dir=str(tmp_path)).spool(of(bytes(2 * MIB), error=IntegrityError("short")))

    assert open_files() == before


async def test_cancelled_spooling_closes_its_file_after_the_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, closed_when_written = threading.Event(), []

    def slow_write(file: object, _: bytes) -> None:
        hold.wait(10)
        closed_when_written.append(file.closed)  # type: ignore[attr-defined]

    monkeypatch.setattr(spool, "_write", slow_write)
    task = asyncio.create_task(CopyBudget(spool_dir=str(tmp_path)).spool(of(*[bytes(MIB)] * 3)))
    await asyncio.sleep(0.05)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, hold.set)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert closed_when_written == [False]


async def test_full_disk_names_the_directory_and_is_retriable() -> None:
    before = open_files()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MIB)

    budget = CopyBudget(spool_dir="/dev/shm")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SpoolUnavailable) as raised:
        patch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: PTH123, SIM115
        await budget.spool(endless())

    assert "No space left on device" in str(raised.value)
    assert "/dev/shm" in str(raised.value) and "spool_dir" in str(raised.value)
    assert raised.value.retriable
    assert open_files() == before


async def test_missing_directory_is_named() -> None:
    with pytest.raises(SpoolUnavailable, match="/no/such/directory"):
        await CopyBudget(spool_dir="/no/such/directory").spool(of(b"x"))


async def test_partial_write_is_continued(tmp_path: Path) -> None:
    class Reluctant:
        def __init__(self) -> None:
            self.written = b""

        def write(self, chunk: memoryview) -> int:
            self.written += chunk[:3]
            return len(chunk[:3])

    file = Reluctant()
    spool._write(file, b"0123456789")  # type: ignore[arg-type]

    assert file.written == b"0123456789"
