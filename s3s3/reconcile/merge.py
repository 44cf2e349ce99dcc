"""Merge-join sorted listings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from ..errors import S3S3Error
from ..model import Entry

Page = Sequence[Entry]

#: A key, the source's entry, and the entry of each destination in their order.
Row = tuple[str, "Entry | None", "tuple[Entry | None, ...]"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Adjacent rows of a merge, in ascending order of their keys.

    Attributes:
        failed: the error of each listing that failed, by the position of its destination. From this batch on its
            entries are unknown, and None in the rows.
    """

    rows: list[Row]
    failed: Mapping[int, S3S3Error]


async def merge(
    source: AsyncIterator[Page], destinations: Sequence[AsyncIterator[Page]]
) -> AsyncGenerator[Batch, None]:
    """Merge the listings of the source and all destinations, page by page.

    Each listing is read once, with one page in memory. The keys must ascend in UTF-8 byte order, as `Store.pages`
    guarantees. Python compares `str` by code point, which is the same order (RFC 3629, section 1).

    Raises:
        S3S3Error: the source's listing failed. The error of a destination is in `Batch.failed` instead.
    """
    listings = [_Listing(source), *map(_Listing, destinations)]
    failed: dict[int, S3S3Error] = {}
    while True:
        reported = len(failed)
        for position, listing in enumerate(listings):
            try:
                await listing.fill()
            except S3S3Error as error:
                if position == 0:
                    raise
                failed[position - 1] = error
                listing.ended = True
        last_keys = [listing.keys[-1] for listing in listings if listing.keys]
        if not last_keys:
            if len(failed) > reported:
                yield Batch([], dict(failed))
            return
        # Every listing has been read up to this key, so the entries before it can be joined without reading more.
        known_to = min(last_keys)
        yield Batch(_join([listing.take(known_to) for listing in listings]), dict(failed))


_key_of = attrgetter("key")
_Slice = tuple[list[str], Sequence[Entry]]


@dataclass(slots=True)
class _Listing:
    """The entries of a listing that were read and not joined yet."""

    pages: AsyncIterator[Page]
    entries: Sequence[Entry] = ()
    keys: list[str] = field(default_factory=list)
    ended: bool = False

    async def fill(self) -> None:
        """Read the next page if nothing is left of the last one."""
        while not self.keys and not self.ended:
            try:
                self.entries = await self.pages.__anext__()
            except StopAsyncIteration:
                self.ended = True
            else:
                self.keys = list(map(_key_of, self.entries))

    def take(self, known_to: str) -> _Slice:
        """Remove and return the entries up to and including the key `known_to`."""
        end = bisect_right(self.keys, known_to)
        taken = self.keys[:end], self.entries[:end]
        self.keys, self.entries = self.keys[end:], self.entries[end:]
        return taken


def _join(slices: Sequence[_Slice]) -> list[Row]:
    """Join slices that cover the same key range."""
    (source_keys, source), *destinations = slices
    if all(keys == source_keys for keys, _ in destinations):  # fast path for unchanged buckets
        if not destinations:
            return [(key, entry, ()) for key, entry in zip(source_keys, source, strict=True)]
        copies = zip(*(entries for _, entries in destinations), strict=True)
        return list(zip(source_keys, source, copies, strict=True))
    by_key = [dict(zip(keys, entries, strict=True)) for keys, entries in slices]
    every_key = sorted(set().union(*by_key))
    of_source, *of_destinations = (list(map(entries.get, every_key)) for entries in by_key)
    return list(zip(every_key, of_source, zip(*of_destinations, strict=True), strict=True))
