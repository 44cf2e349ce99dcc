"""MD5 of what goes by. 1 GiB takes 1.6 s of CPU, so it is worked out in a thread while the event loop goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

HASHED_AT_ONCE_BYTES = 1024 * 1024
_HASHED_IN_PLACE_BYTES = 128 * 1024  # 0.2 ms; a thread is not worth its while below


async def md5_of(content: bytes) -> bytes:
    """Return the MD5 of content that is at hand."""
    if len(content) <= _HASHED_IN_PLACE_BYTES:
        return hashlib.md5(content, usedforsecurity=False).digest()
    return await asyncio.to_thread(lambda: hashlib.md5(content, usedforsecurity=False).digest())


class Digest:
    """The MD5 of chunks that come one by one; none is copied, and at most 2 MiB of them are kept.

    Args:
        also: done in the same thread with each chunk, such as writing it to a file. What it raises comes out of
            `add` or `end`.
        eager: a chunk does not wait for others where the thread has nothing to do: somebody waits for `also`.
    """

    def __init__(self, also: Callable[[bytes], object] | None = None, *, eager: bool = False) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._also = also
        self._eager = eager
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._under_way: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Take the next chunk. Returns at once, but where the one before the last is not hashed yet."""
        self._chunks.append(chunk)
        self._chunks_bytes += len(chunk)
        idles = self._eager and (self._under_way is None or self._under_way.done())
        if idles or self._chunks_bytes >= HASHED_AT_ONCE_BYTES:
            await self._start()

    async def end(self) -> bytes:
        """Return the MD5 of all that came."""
        await self._start()
        await self._finish()
        return self._md5.digest()

    async def _start(self) -> None:
        await self._finish()
        chunks, self._chunks, self._chunks_bytes = self._chunks, [], 0
        self._under_way = asyncio.get_running_loop().run_in_executor(None, self._work, chunks)

    async def settle(self) -> None:
        """Wait until the thread touches nothing more, whatever became of its work."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
            self._under_way.exception()

    async def _finish(self) -> None:
        if self._under_way is not None:
            # `wait` does not cancel it when we are cancelled: a thread cannot be stopped, only waited for.
            await asyncio.wait([self._under_way])
            done, self._under_way = self._under_way, None
            done.result()

    def _work(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self._md5.update(chunk)
            if self._also is not None:
                self._also(chunk)


async def md5_of_chunks(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the MD5 of all chunks."""
    digest = Digest()
    async for chunk in chunks:
        await digest.add(chunk)
    return await digest.end()
