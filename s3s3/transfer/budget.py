"""Memory and disk budget shared by all copies of a process."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from ..errors import SpoolTooSmall
from .spool import SpooledFile, spool


class ByteSemaphore:
    """A semaphore counted in bytes, granted in the order of the requests."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.free_bytes = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_acquire(self, size_bytes: int) -> bool:
        """Acquire without waiting; return False where bytes are missing or other requests wait."""
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
        self._directory = spool_dir or tempfile.gettempdir()
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
        """Acquire memory and disk without waiting; return False, with nothing acquired, where that is impossible."""
        if not self._memory.try_acquire(request.memory_bytes):
            return False
        if request.disk_bytes and not self._disk.try_acquire(request.disk_bytes):
            self._memory.release(request.memory_bytes)
            return False
        return True

    async def acquire(self, request: BudgetRequest) -> None:
        """Acquire memory and disk, waiting for both."""
        # Disk first, always: two copies that each wait for what the other one has would never end.
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
