"""A body whose head promises its Content-MD5 (RFC 1864)."""

from __future__ import annotations

import hashlib

from .broken import WrongMd5
from .reading import Content


class Promised(Content):
    """Gives the body, but its last bytes only where the whole has the MD5. An ETag may be none; this header is one."""

    def __init__(self, content: Content, size_bytes: int, md5: str) -> None:
        self._content = content
        self._left = size_bytes
        self._promised = md5
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def take(self, size_bytes: int) -> bytes:
        chunk = await self._content.take(size_bytes)
        self._md5.update(chunk)
        self._left -= len(chunk)
        if chunk and self._left <= 0 and self._md5.hexdigest() != self._promised:
            self.close(drop=True)
            raise WrongMd5
        return chunk

    def close(self, *, drop: bool = False) -> None:
        self._content.close(drop=drop)
