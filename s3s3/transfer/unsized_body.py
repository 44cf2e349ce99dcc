"""Buffer bodies without Content-Length in memory or on disk, because a plain PUT needs the length."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import SpoolUnavailable, TooLarge
from ..model import SINGLE_PUT_LIMIT_BYTES
from ..s3 import BodyReader, SpooledBody
from .budget import BudgetRequest, CopyBudget
from .spool import SpooledFile

#: Longer bodies are buffered on disk (bytes).
MAX_MEMORY_BYTES = 256 * 1024
_RESERVATION_BYTES = 16 * 1024 * 1024


async def spool_body(budget: CopyBudget, chunks: AsyncGenerator[bytes, None]) -> SpooledBody:
    """Read a body to its end; the disk space it needs comes from `budget`. An implementation of `s3.Spool`."""
    prefix: list[bytes] = []
    size_bytes = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            prefix.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > MAX_MEMORY_BYTES:
                break
        else:
            content = b"".join(prefix)
            return SpooledBody(_InMemory(content), size_bytes, hashlib.md5(content, usedforsecurity=False).hexdigest())
        reservation = _Reservation(budget)
        try:
            file = await budget.spool(reservation.counted(prefix, chunks))
        except BaseException:
            reservation.release()
            raise
        return SpooledBody(_OnDisk(file, reservation), reservation.size_bytes, file.md5.hex())


class _Reservation:
    """The disk budget of one body, which grows with it."""

    def __init__(self, budget: CopyBudget) -> None:
        self._budget = budget
        self._reserved_bytes = 0
        self.size_bytes = 0

    async def counted(self, prefix: list[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        for chunk in prefix:
            yield self._count(chunk)
        async for chunk in rest:
            yield self._count(chunk)

    def _count(self, chunk: bytes) -> bytes:
        self.size_bytes += len(chunk)
        if self.size_bytes > SINGLE_PUT_LIMIT_BYTES:
            raise TooLarge("the object exceeds the limit of a single PUT (5 GiB)", operation="GET")
        while self.size_bytes > self._reserved_bytes:
            # Does not wait: two bodies that each hold a part of the budget could block each other.
            if not self._budget.try_acquire(BudgetRequest(0, _RESERVATION_BYTES)):
                raise SpoolUnavailable("spool_bytes is used up; increase it in [worker]")
            self._reserved_bytes += _RESERVATION_BYTES
        return chunk

    def release(self) -> None:
        self._budget.release(BudgetRequest(0, self._reserved_bytes))
        self._reserved_bytes = 0


class _InMemory(BodyReader):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, size_bytes: int) -> bytes:
        content, self._content = self._content, b""
        return content

    def close(self, *, abort: bool = False) -> None:
        self._content = b""


class _OnDisk(BodyReader):
    def __init__(self, file: SpooledFile, reservation: _Reservation) -> None:
        self._file = file
        self._chunks = file.chunks()
        self._reservation = reservation

    async def read(self, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < size_bytes and (chunk := await anext(self._chunks, b"")):
            pieces.append(chunk)
        return b"".join(pieces)

    def close(self, *, abort: bool = False) -> None:
        self._file.close()
        self._reservation.release()
