"""The tags and the ACL of one object at the source, asked for once, when a destination first wants them."""

from __future__ import annotations

import asyncio

from ..model import Endpoint
from ..store import Store


class SourceMarks:
    """What destinations are to be asked for beside the object."""

    def __init__(self, source: Store, key: str) -> None:
        self._marks = source.marks
        self._key = key
        self._asking = asyncio.Lock()
        self._tags: dict[str, str] | None = None
        self._acl: dict[str, str] | None = None

    async def headers(self, destination: Endpoint) -> dict[str, str]:
        """Return the headers that ask for what this destination is to have. Raises what the source refuses with."""
        headers: dict[str, str] = {}
        async with self._asking:
            if destination.copy_tags:
                self._tags = await self._marks.tags(self._key) if self._tags is None else self._tags
                headers |= self._tags
            if destination.copy_acl:
                self._acl = await self._marks.acl(self._key) if self._acl is None else self._acl
                headers |= self._acl
        return headers
