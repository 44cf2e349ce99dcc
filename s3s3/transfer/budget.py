"""Memory and disk shared by all copies of a process, and how much an object of a given size needs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ..errors import SpoolTooSmall
from ..model import MIN_PART_BYTES, SINGLE_PUT_LIMIT_BYTES, Endpoint
from .fanout import LAG_BYTES
from .spool import SpooledFile, spool

#: Objects of up to this size are read with the GET itself and are not counted against the budget.
MAX_SMALL_BYTES = 256 * 1024

#: Objects of up to this size are held in memory as a whole, within the budget.
MAX_IN_MEMORY_BYTES = 4 * 1024 * 1024

#: Memory for a streamed object of any size: the lag of the slowest consumer, hashing, buffers.
STREAM_BYTES = LAG_BYTES + 4 * 1024 * 1024

#: S3 user guide, "Multipart upload limits".
MAX_PARTS = 10_000

PART_BYTES = 64 * 1024**2
_MIB = 1024**2


class ByteSemaphore:
    """A semaphore counted in bytes, granted in the order of the requests."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.free_bytes = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_acquire(self, size_bytes: int) -> bool:
        """Acquire without waiting; return False if too few bytes are free or other requests wait."""
        if self._waiting or size_bytes > self.free_bytes:
            return False
        self.free_bytes -= size_bytes
        return True

    async def acquire(self, size_bytes: int) -> None:
        """Acquire, waiting for earlier requests. Raises ValueError for more than the total."""
        if size_bytes > self.size_bytes:
            raise ValueError(f"cannot acquire {size_bytes} of {self.size_bytes} bytes")
        if self.try_acquire(size_bytes):
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # smaller requests may have waited behind this one
            else:
                self.release(size_bytes)
            raise

    def release(self, size_bytes: int) -> None:
        """Return acquired bytes, and grant the requests that fit now."""
        self.free_bytes += size_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            size_bytes, granted = self._waiting[0]
            if not granted.cancelled():
                if size_bytes > self.free_bytes:
                    return
                self.free_bytes -= size_bytes
                granted.set_result(None)
            self._waiting.popleft()


class BudgetRequest(NamedTuple):
    """Memory and disk that one copy needs."""

    memory_bytes: int = 0
    disk_bytes: int = 0


class CopyBudget:
    """Memory and disk of all copies of a process, bounded for objects of any size.

    Args:
        spool_dir: directory of temporary files; "" is the system's.
        spool_bytes: disk space for all temporary files together.
        memory_bytes: memory for all copies of objects over 256 KiB together.
    """

    def __init__(
        self, *, spool_dir: str = "", spool_bytes: int = 8 * 1024**3, memory_bytes: int = 64 * 1024**2
    ) -> None:
        self._directory = spool_dir
        self._memory = ByteSemaphore(memory_bytes)
        self._disk = ByteSemaphore(spool_bytes)

    def check(self, request: BudgetRequest) -> None:
        """Raise SpoolTooSmall for a request that can never be granted."""
        if request.disk_bytes > self._disk.size_bytes:
            raise SpoolTooSmall(
                f"the object must be spooled because its MD5 is not known beforehand, but its {request.disk_bytes} "
                f"bytes exceed spool_bytes = {self._disk.size_bytes}: set a larger spool_bytes in [worker]"
            )

    def try_acquire(self, request: BudgetRequest) -> bool:
        """Acquire memory and disk without waiting; return False, with nothing acquired, if that is impossible."""
        if not self._memory.try_acquire(request.memory_bytes):
            return False
        if request.disk_bytes and not self._disk.try_acquire(request.disk_bytes):
            self._memory.release(request.memory_bytes)
            return False
        return True

    async def acquire(self, request: BudgetRequest) -> None:
        """Acquire memory and disk, waiting for both."""
        # Disk first, always: two copies that each wait for what the other one has would deadlock.
        if request.disk_bytes:
            await self._disk.acquire(request.disk_bytes)
        try:
            await self._memory.acquire(request.memory_bytes)
        except BaseException:
            self._disk.release(request.disk_bytes)
            raise

    def release(self, request: BudgetRequest) -> None:
        """Return what was acquired."""
        self._memory.release(request.memory_bytes)
        if request.disk_bytes:
            self._disk.release(request.disk_bytes)

    async def spool(self, chunks: AsyncIterator[bytes]) -> SpooledFile:
        """Write a stream to a temporary file, whose size was acquired before. See `spool.spool`."""
        return await spool(self._directory, chunks)


def accepts_size(destination: Endpoint, size_bytes: int) -> bool:
    """Return whether objects of this size can be written to the destination."""
    return destination.multipart or size_bytes <= SINGLE_PUT_LIMIT_BYTES


def needs_multipart(destination: Endpoint, size_bytes: int) -> bool:
    """Return whether an object of this size is written there by a multipart upload."""
    return destination.multipart and size_bytes > destination.multipart_threshold_bytes


def part_bytes_of(destination: Endpoint, size_bytes: int) -> int:
    """Return the size of all parts but the last: 64 MiB, less with a lower threshold, more for very large objects."""
    min_bytes = -(-size_bytes // (MAX_PARTS * _MIB)) * _MIB
    return max(MIN_PART_BYTES, min(PART_BYTES, destination.multipart_threshold_bytes), min_bytes)


def required_budget(size_bytes: int, destinations: Sequence[Endpoint], *, md5_is_known: bool) -> BudgetRequest:
    """Return the memory and disk for copying an object over MAX_SMALL_BYTES.

    An object whose MD5 is not known before it is read has to be spooled for a single PUT. Each multipart upload
    spools one part at a time.
    """
    if size_bytes <= MAX_IN_MEMORY_BYTES:
        return BudgetRequest(size_bytes)
    accepting = [destination for destination in destinations if accepts_size(destination, size_bytes)]
    if not accepting:
        return BudgetRequest()
    by_parts = [destination for destination in accepting if needs_multipart(destination, size_bytes)]
    disk_bytes = sum(part_bytes_of(destination, size_bytes) for destination in by_parts)
    if len(by_parts) < len(accepting) and not md5_is_known:
        disk_bytes += size_bytes
    return BudgetRequest(STREAM_BYTES, disk_bytes)
