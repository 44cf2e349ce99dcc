"""Bodies whose length nobody announced: read to their end, in memory or on disk, so that a plain PUT can take them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from ...errors import SpoolUnavailable, TooLarge
from ...model import SINGLE_PUT_LIMIT_BYTES
from ...s3 import BodyReader
from ...transfer.budget import BudgetRequest, CopyBudget
from ...transfer.spool import SpooledFile
from .origin import Kept

IN_MEMORY_BYTES = 256 * 1024
_ROOM_STEP_BYTES = 16 * 1024 * 1024


def keeper(room: CopyBudget) -> Callable[[AsyncIterator[bytes]], Awaitable[Kept]]:
    """Return what reads such a body to its end, taking the disk that it needs from `room`."""

    async def keep(chunks: AsyncIterator[bytes]) -> Kept:
        """Raises TooLarge, SpoolUnavailable, and what the chunks raise."""
        beginning: list[bytes] = []
        size_bytes = 0
        async for chunk in chunks:
            beginning.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > IN_MEMORY_BYTES:
                return await _on_disk(room, beginning, chunks)
        content = b"".join(beginning)
        return Kept(_InMemory(content), size_bytes, hashlib.md5(content, usedforsecurity=False).hexdigest())

    return keep


async def _on_disk(room: CopyBudget, beginning: list[bytes], rest: AsyncIterator[bytes]) -> Kept:
    taken = _Taken(room)
    try:
        file = await room.spool(taken.counted(beginning, rest))
    except BaseException:
        taken.give_back()
        raise
    return Kept(_OnDisk(file, taken), taken.size_bytes, file.md5.hex())


class _Taken:
    """The disk that one body takes, more of it as it comes in."""

    def __init__(self, room: CopyBudget) -> None:
        self._room = room
        self._taken_bytes = 0
        self.size_bytes = 0

    async def counted(self, beginning: list[bytes], rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        for chunk in beginning:
            self._count(chunk)
            yield chunk
        async for chunk in rest:
            self._count(chunk)
            yield chunk

    def _count(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > SINGLE_PUT_LIMIT_BYTES:
            raise TooLarge("it has more bytes than a single PUT takes (5 GiB)", operation="GET")
        while self.size_bytes > self._taken_bytes:
            # Never waited for: two that each hold a part could wait for each other for ever.
            if not self._room.try_acquire(BudgetRequest(0, _ROOM_STEP_BYTES)):
                raise SpoolUnavailable("spool_bytes is used up for now: set a larger one in [worker]")
            self._taken_bytes += _ROOM_STEP_BYTES

    def give_back(self) -> None:
        self._room.release(BudgetRequest(0, self._taken_bytes))
        self._taken_bytes = 0


class _InMemory(BodyReader):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, size_bytes: int) -> bytes:
        content, self._content = self._content, b""
        return content

    def close(self, *, abort: bool = False) -> None:
        self._content = b""


class _OnDisk(BodyReader):
    def __init__(self, file: SpooledFile, taken: _Taken) -> None:
        self._file = file
        self._chunks = file.chunks()
        self._taken = taken

    async def read(self, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < size_bytes:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                break
            pieces.append(chunk)
        return b"".join(pieces)

    def close(self, *, abort: bool = False) -> None:
        self._file.close()
        self._taken.give_back()
