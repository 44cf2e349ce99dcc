from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.errors import ListingOutOfOrder, StoreUnavailable
from s3s3.model import Entry
from s3s3.reconcile.merge import Batch, Row, merge

MD5 = "900150983cd24fb0d6963f7d28e17f72"


async def pages_of(
    entries: Sequence[Entry], page_size: int, error: Exception | None = None
) -> AsyncIterator[list[Entry]]:
    for start in range(0, len(entries), page_size):
        yield list(entries[start : start + page_size])
        await asyncio.sleep(0)
    if error is not None:
        raise error


async def merged(listings: Sequence[AsyncIterator[list[Entry]]]) -> list[Batch]:
    source, *destinations = listings
    return [batch async for batch in merge(source, destinations)]


def rows_of(batches: Sequence[Batch]) -> list[Row]:
    return [row for batch in batches for row in batch.rows]


def joined_by_hand(listings: Sequence[Sequence[Entry]]) -> list[Row]:
    by_key = [{entry.key: entry for entry in listing} for listing in listings]
    every_key = sorted({key for entries in by_key for key in entries}, key=str.encode)
    return [(key, by_key[0].get(key), tuple(entries.get(key) for entries in by_key[1:])) for key in every_key]


KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3) | st.sampled_from("abcdefgh")
LISTINGS = st.lists(
    st.sets(KEYS, max_size=12).map(lambda keys: [Entry(key, len(key), MD5) for key in sorted(keys, key=str.encode)]),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(LISTINGS, st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_a_merge_of_pages_is_the_join_of_whole_listings(listings: list[list[Entry]], page_sizes: list[int]) -> None:
    batches = asyncio.run(merged([pages_of(*pair) for pair in zip(listings, page_sizes, strict=False)]))

    assert rows_of(batches) == joined_by_hand(listings)
    assert not any(batch.failed for batch in batches)


@settings(deadline=None)
@given(st.sets(KEYS, min_size=1))
def test_str_order_is_the_order_of_the_utf8_bytes(keys: set[str]) -> None:
    assert sorted(keys) == sorted(keys, key=str.encode)


async def test_equal_pages_become_one_batch_each() -> None:
    listing = [Entry(f"{number:03}", 1, MD5) for number in range(9)]

    batches = await merged([pages_of(listing, 3), pages_of(listing, 3), pages_of(listing, 3)])

    assert [len(batch.rows) for batch in batches] == [3, 3, 3]
    assert all(copies == (source, source) for _, source, copies in rows_of(batches))


async def test_an_empty_page_is_not_the_end_of_a_listing() -> None:
    async def with_empty_pages() -> AsyncIterator[list[Entry]]:
        yield []
        yield [Entry("a", 1, MD5)]
        yield []
        yield [Entry("b", 1, MD5)]

    assert [key for key, *_ in rows_of(await merged([with_empty_pages(), pages_of([], 1)]))] == ["a", "b"]


async def test_a_destination_whose_listing_fails_does_not_stop_the_others() -> None:
    listing = [Entry(f"{number:03}", 1, MD5) for number in range(6)]
    away = StoreUnavailable("no answer", store="swift")

    batches = await merged([pages_of(listing, 2), pages_of(listing[:2], 2, away), pages_of(listing, 2)])

    assert [batch.failed for batch in batches] == [{}, {0: away}, {0: away}]
    assert [copies[1] for _, _, copies in rows_of(batches)] == listing


async def test_a_destination_that_fails_after_the_last_key_is_reported_too() -> None:
    listing = [Entry("a", 1, MD5)]
    away = ListingOutOfOrder("b after c", store="swift")

    batches = await merged([pages_of(listing, 1), pages_of(listing, 1, away)])

    assert batches[-1].failed == {0: away}


async def test_a_source_whose_listing_fails_ends_the_merge() -> None:
    away = StoreUnavailable("no answer", store="ceph")

    with pytest.raises(StoreUnavailable, match="ceph"):
        await merged([pages_of([Entry("a", 1, MD5)], 1, away), pages_of([Entry("a", 1, MD5)], 1)])


def peak_bytes(count: int) -> int:
    """Return the peak memory, in bytes, of merging three listings of up to `count` objects."""

    async def listing(count: int, step: int) -> AsyncIterator[list[Entry]]:
        for start in range(0, count, 1000):
            yield [Entry(f"{number:09}", number, MD5) for number in range(start, start + 1000) if number % step]

    async def run() -> None:
        async for _batch in merge(listing(count, 7), [listing(count, 3), listing(count // 2, 2)]):
            pass

    tracemalloc.start()
    asyncio.run(run())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.long
def test_memory_does_not_grow_with_the_listings() -> None:
    # In a process of its own: threads that serve other tests take memory, too.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        some, more = process.map(peak_bytes, (20_000, 60_000))
    assert more < 1.7 * some
