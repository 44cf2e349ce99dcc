"""MD5 of streamed data, computed in a thread.

1 GiB takes 1.6 s of CPU; hashlib releases the GIL meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

#: Bytes that are hashed by one call in the thread.
BATCH_BYTES = 1024 * 1024

#: Up to here hashing (0.2 ms) costs less than the thread.
_INLINE_BYTES = 128 * 1024


async def md5_of(content: bytes) -> bytes:
    """Return the MD5 of bytes in memory."""
    if len(content) <= _INLINE_BYTES:
        return hashlib.md5(content, usedforsecurity=False).digest()
    return await asyncio.to_thread(lambda: hashlib.md5(content, usedforsecurity=False).digest())


class Digest:
    """Incremental MD5 of chunks. No chunk is copied; at most 2 MiB of them are kept.

    Args:
        also: called in the same thread with each chunk, such as to write a file. `add` or `end` raises its errors.
        eager: process a chunk as soon as the thread is idle, instead of in batches.
    """

    def __init__(self, also: Callable[[bytes], object] | None = None, *, eager: bool = False) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._also = also
        self._eager = eager
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._running: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Add the next chunk. Waits only if the batch before the last one is not processed yet."""
        self._chunks.append(chunk)
        self._chunks_bytes += len(chunk)
        is_idle = self._eager and (self._running is None or self._running.done())
        if is_idle or self._chunks_bytes >= BATCH_BYTES:
            await self._start()

    async def end(self) -> bytes:
        """Return the MD5 of all chunks (16 bytes)."""
        await self._start()
        await self._finish()
        return self._md5.digest()

    async def wait_for_thread(self) -> None:
        """Wait until the thread is idle, and discard its error, if any."""
        if self._running is not None:
            await asyncio.wait([self._running])
            self._running.exception()

    async def _start(self) -> None:
        await self._finish()
        chunks, self._chunks, self._chunks_bytes = self._chunks, [], 0
        self._running = asyncio.get_running_loop().run_in_executor(None, self._process, chunks)

    async def _finish(self) -> None:
        if self._running is not None:
            # `wait` leaves the future alone on cancellation: a thread cannot be stopped, only waited for.
            await asyncio.wait([self._running])
            done, self._running = self._running, None
            done.result()

    def _process(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self._md5.update(chunk)
            if self._also is not None:
                self._also(chunk)


async def md5_of_chunks(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the MD5 of a stream."""
    digest = Digest()
    async for chunk in chunks:
        await digest.add(chunk)
    return await digest.end()
