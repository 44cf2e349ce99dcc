"""Where to cut a stretch of keys, so that several processes can compare its pieces.

Nothing is known of the names before, and a store tells only what comes after one. So it is asked: for a page, which
tells whether the stretch is worth cutting; for where keys first stop sharing their beginning with the last key of that
page, however long that is; and for what comes after a few characters there. Each round of questions is asked at once,
so that a distant store takes a handful of round trips. Pieces are not equal, and need not be: whoever finds one too
long cuts it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..s3 import Store

PAGE_KEYS = 1000
AT_ONCE = 8
"""Questions of one round in the search for what keys share."""

LOWEST, LAST_ASCII, LAST = 0x1F, 0x7E, 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
"""Code points that UTF-8 does not have, so no key does."""


async def cuts(stores: Sequence[Store], after: str, until: str | None, pieces: int) -> list[str]:
    """Return where to cut the keys after `after`, up to and with `until`, into some `pieces`, in ascending order.

    Each name ends a piece (and belongs to it, if it is a key), and there are keys after each. None is returned for
    a stretch of less than two pages, or whose keys differ in a place that not every store's names reach.

    Args:
        stores: the source first; a destination is asked where those before it hold little.

    Raises:
        StoreError: a store could not be asked.
    """
    for store in stores:
        found = await _Cutter(store, stores).cuts(after, until, pieces)
        if found:
            return found
    return []


class _Cutter:
    """Asks one store. Names are those in the source, as everywhere."""

    def __init__(self, store: Store, stores: Sequence[Store]) -> None:
        self._store = store
        self._stores = stores
        self._prefix_length = len(stores[0].endpoint.prefix)

    async def cuts(self, after: str, until: str | None, pieces: int) -> list[str]:
        found: list[str] = []
        stretches = deque([(after, until)])
        while stretches and len(found) < pieces - 1:
            begin, end = stretches.popleft()
            points = await self._cut(begin, end)
            found += points
            if points:
                stretches.extend(zip([begin, *points], [*points, end], strict=True))
        return sorted(found)

    async def _cut(self, after: str, until: str | None) -> list[str]:
        page = await self._store.list_after(after, PAGE_KEYS)
        if len(page) < PAGE_KEYS or (until is not None and page[-1].key >= until):
            return []
        last = page[-1].key
        shared = last[: await self._shared_length(last, until)]
        points = [shared + chr(code) for code in _codes(last, shared, until)]
        points = [point for point in points if all(store.is_valid_key(point) for store in self._stores)]
        following = await asyncio.gather(*(self._next(point, until) for point in points))
        # Of the points between two keys, the last: so no piece is known to be empty.
        by_key = {key: point for point, key in zip(points, following, strict=True) if key is not None}
        return list(by_key.values())

    async def _shared_length(self, last: str, until: str | None) -> int:
        """Return how many characters of `last` all keys after it begin with, as far as the stretch goes."""
        shared, differs = self._prefix_length, len(last) + 1
        while differs - shared > 1:
            step = max((differs - shared) // (AT_ONCE + 1), 1)
            lengths = range(shared + step, differs, step)
            beyond = [_beyond(last[:length]) for length in lengths]
            following = await asyncio.gather(*(self._next(name, until) for name in beyond))
            for length, key in zip(lengths, following, strict=True):
                if key is not None:
                    differs = length
                    break
                shared = length
        return shared

    async def _next(self, name: str | None, until: str | None) -> str | None:
        """Return the key that comes next after a name, None where that is not in the stretch."""
        if name is None or (until is not None and name >= until) or not self._store.is_valid_key(name):
            return None
        page = await self._store.list_after(name, 1)
        return page[0].key if page and (until is None or page[0].key <= until) else None


def _beyond(start: str) -> str | None:
    """Return the first name after all those that begin so, None where there is none."""
    code = ord(start[-1]) + 1
    if code > LAST:
        return None
    return start[:-1] + chr(SURROGATES.stop if code in SURROGATES else code)


def _codes(last: str, shared: str, until: str | None) -> list[int]:
    """Return the code points to try after what keys share: evenly in ASCII, in doubling steps above it."""
    at = len(shared)
    lowest = ord(last[at]) if at < len(last) else LOWEST
    highest = ord(until[at]) if until is not None and until.startswith(shared) and len(until) > at else LAST
    in_ascii = range(lowest + 1, min(highest, LAST_ASCII) + 1)
    codes = list(in_ascii[:: max(len(in_ascii) // (2 * AT_ONCE), 1)])
    base, step = max(lowest, LAST_ASCII), 1
    while base + step <= highest:
        if base + step not in SURROGATES:
            codes.append(base + step)
        step *= 2
    return codes
