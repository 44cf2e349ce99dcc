"""TODO."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from ..errors import SpoolTooSmall
from .digest import Digest
from .spool import SpooledFile, _translated, _write


class ByteSemaphore:
    """So many bytes and no more, given out in the order in which they were asked for."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.free_bytes = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take_now(self, size_bytes: int) -> bool:
        """Take so much if it is free and nobody waits; say whether it was."""
        if self._waiting or size_bytes > self.free_bytes:
            return False
        self.free_bytes -= size_bytes
        return True

    async def take(self, size_bytes: int) -> None:
        """Take so much, waiting for one's turn. Raises ValueError for more than there ever is."""
        if size_bytes > self.size_bytes:
            raise ValueError(f"{size_bytes} bytes asked for, and there are only {self.size_bytes}")
        if self.take_now(size_bytes):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()  # it may have stood in the way of smaller ones
            else:
                self.give(size_bytes)
            raise

    def give(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self.free_bytes += size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if size_bytes > self.free_bytes:
                    return
                self.free_bytes -= size_bytes
                turn.set_result(None)
            self._waiting.popleft()


class BudgetRequest(NamedTuple):
    """How much room a copy takes."""

    memory_bytes: int = 0
    disk_bytes: int = 0


class CopyBudget:
    """What all copies of a process share, so that memory and disk stay bounded however large the objects are.

    Temporary files have no name from their first moment on: nothing is left behind, however the process ends.

    Args:
        spool_dir: where they are; "" is the system's temporary directory.
        spool_bytes: how much disk all of them together may take.
        memory_bytes: how much memory the copies may take, but for objects of at most 256 KiB.
    """

    def __init__(
        self, *, spool_dir: str = "", spool_bytes: int = 8 * 1024**3, memory_bytes: int = 64 * 1024**2
    ) -> None:
        self._directory = spool_dir or tempfile.gettempdir()
        self._memory = ByteSemaphore(memory_bytes)
        self._disk = ByteSemaphore(spool_bytes)

    def check(self, need: BudgetRequest) -> None:
        """Raise SpoolTooSmall for more than there ever is."""
        if need.disk_bytes > self._disk.size_bytes:
            raise SpoolTooSmall(
                f"its MD5 is not known before it is read, so it must be spooled, and its {need.disk_bytes} bytes are "
                f"more than spool_bytes = {self._disk.size_bytes} allows: set a larger spool_bytes in [worker]"
            )

    def take_now(self, need: BudgetRequest) -> bool:
        """Take what is needed if it is free and nobody waits; say whether it was."""
        if not self._memory.take_now(need.memory_bytes):
            return False
        if need.disk_bytes and not self._disk.take_now(need.disk_bytes):
            self._memory.give(need.memory_bytes)
            return False
        return True

    async def take(self, need: BudgetRequest) -> None:
        """Take what is needed, waiting for one's turn."""
        # Disk first: nobody waits for disk while he holds memory, or two could wait for each other for ever.
        if need.disk_bytes:
            await self._disk.take(need.disk_bytes)
        try:
            await self._memory.take(need.memory_bytes)
        except BaseException:
            self._disk.give(need.disk_bytes)
            raise

    def give(self, need: BudgetRequest) -> None:
        """Give back what was taken."""
        self._memory.give(need.memory_bytes)
        if need.disk_bytes:
            self._disk.give(need.disk_bytes)

    async def spool(self, chunks: AsyncIterator[bytes]) -> SpooledFile:
        """Write all chunks to a new temporary file, which is the caller's to close; its room must have been taken.

        Raises:
            SpoolUnavailable: the disk is full, or nothing can be written there.
        """
        with _translated(self._directory):
            file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  # SpooledFile closes it
        digest = Digest(also=lambda chunk: _write(file, chunk))
        try:
            with _translated(self._directory):
                async for chunk in chunks:
                    await digest.add(chunk)
                return SpooledFile(self._directory, file, await digest.end())
        except BaseException:
            await digest.settle()
            file.close()
            raise
