"""Find split points of a key range by probing listings.

A store answers one question: which key comes next after a given string? The algorithm for one split:

1. List one page after the start of the range. If the range ends within it, do not split.
2. k-ary search for the length of the common key prefix: what the last key of the page shares with all later keys.
3. Sample one listing per next character (some 16 characters of ASCII, fewer above). Each character after which there
   are more keys gives a split point.

Example with pages of 2 keys: `img/001`, `img/002`, `img/101`, `img/102`, `img/201`. The page ends at `img/002`. Later
keys begin with `img/`, but not with `img/0`. The first key after `img/1` is `img/101`, after `img/2` it is `img/201`,
and after `img/3` there is none. So the range is split at `img/1` and `img/2`, into pieces of 2, 2 and 1 keys.

The requests of a step are sent together, so a split takes few round trips. Pieces differ in size; a process that finds
its piece too long splits it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..errors import StoreError
from ..s3 import Store

#: A range of less than a page is not split.
PAGE_KEYS = 1000

#: Requests of one round of the prefix search.
SEARCH_WIDTH = 8

#: Code points below the first printable character, at the last of ASCII, and at the last of Unicode.
LOWEST, LAST_ASCII, LAST = 0x1F, 0x7E, 0x10FFFF

#: Code points that UTF-8 cannot encode, so that no key contains them.
SURROGATES = range(0xD800, 0xE000)


async def split_points(stores: Sequence[Store], after: str, until: str | None, pieces: int) -> list[str]:
    """Return strings that split a key range, in ascending order.

    Each string is the inclusive end of a piece, and there are keys after it. The list is empty if the range has less
    than two pages or no store can list after a split point.

    Args:
        after, until: the range: keys after `after`, up to and including `until`; None: to the last key.
        stores: the source first; a destination is sampled if the stores before it have too few keys.
        pieces: the desired number of pieces.

    Raises:
        StoreError: the source could not be listed. A destination that cannot be listed is not sampled.
    """
    for store in stores:
        try:
            points = await _Splitter(store, stores).split(after, until, pieces)
        except StoreError:
            if store is stores[0]:
                raise
            continue  # the comparison reports it
        if points:
            return points
    return []


class _Splitter:
    """Samples the listing of one store."""

    def __init__(self, store: Store, stores: Sequence[Store]) -> None:
        self._store = store
        self._stores = stores

    async def split(self, after: str, until: str | None, pieces: int) -> list[str]:
        points: list[str] = []
        ranges = deque([(after, until)])
        while ranges and len(points) < pieces - 1:
            start, end = ranges.popleft()
            page = await self._store.list_after(start, PAGE_KEYS)
            if len(page) < PAGE_KEYS or (end is not None and page[-1].key >= end):
                continue
            last = page[-1].key
            prefix = last[: await self._common_prefix_length(last, end)]
            samples = [prefix + chr(code) for code in _next_codes(last, prefix, end)]
            samples = [sample for sample in samples if all(store.is_valid_key(sample) for store in self._stores)]
            following = await asyncio.gather(*(self._next_key(sample, end) for sample in samples))
            # Several samples may lie before the same key. Keep the last of them, so that no piece is known to be empty.
            by_key = {key: sample for sample, key in zip(samples, following, strict=True) if key is not None}
            if by_key:
                points += by_key.values()
                ranges.extend(zip([start, *by_key.values()], [*by_key.values(), end], strict=True))
        return sorted(points)

    async def _common_prefix_length(self, last: str, until: str | None) -> int:
        """Return how many characters `last` has in common with all later keys."""
        common, different = len(self._stores[0].endpoint.prefix), len(last) + 1
        while different - common > 1:
            step = max((different - common) // (SEARCH_WIDTH + 1), 1)
            lengths = range(common + step, different, step)
            ends = [_after_prefix(last[:length]) for length in lengths]
            following = await asyncio.gather(*(self._next_key(end, until) for end in ends))
            for length, key in zip(lengths, following, strict=True):
                if key is not None:
                    different = length
                    break
                common = length
        return common

    async def _next_key(self, after: str | None, until: str | None) -> str | None:
        """Return the first key of the range after `after`, or None."""
        if after is None or (until is not None and after >= until) or not self._store.is_valid_key(after):
            return None
        page = await self._store.list_after(after, 1)
        return page[0].key if page and (until is None or page[0].key <= until) else None


def _after_prefix(prefix: str) -> str | None:
    """Return the first string after all that begin with `prefix`, or None."""
    code = ord(prefix[-1]) + 1
    if code > LAST:
        return None
    return prefix[:-1] + chr(SURROGATES.stop if code in SURROGATES else code)


def _next_codes(last: str, prefix: str, until: str | None) -> list[int]:
    """Return code points to sample: evenly spaced in ASCII, then in doubling steps."""
    at = len(prefix)
    lowest = ord(last[at]) if at < len(last) else LOWEST
    highest = ord(until[at]) if until is not None and until.startswith(prefix) and len(until) > at else LAST
    in_ascii = range(lowest + 1, min(highest, LAST_ASCII) + 1)
    codes = list(in_ascii[:: max(len(in_ascii) // (2 * SEARCH_WIDTH), 1)])
    base, step = max(lowest, LAST_ASCII), 1
    while base + step <= highest:
        if base + step not in SURROGATES:
            codes.append(base + step)
        step *= 2
    return codes
