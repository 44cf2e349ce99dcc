"""Split points of key ranges, found by listing alone."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.errors import StoreError, StoreUnavailable
from s3s3.model import Endpoint, Entry
from s3s3.reconcile.range_splitter import split_points


@dataclass
class Listed:
    """A store that can be listed."""

    keys: Sequence[str]
    prefix: str = ""
    name_bytes: int = 1024
    requests: int = 0
    listed: int = field(default=0, init=False)
    error: StoreError | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("source", "bucket", prefix=self.prefix)

    async def list_after(self, start_after: str, most: int) -> list[Entry]:
        start_after.encode()  # fails for a lone surrogate
        assert start_after.startswith(self.prefix) or not start_after
        self.requests += 1
        if self.error is not None:
            raise self.error
        at = bisect_right(self.keys, start_after)
        self.listed += len(self.keys[at : at + most])
        return [Entry(key, 1, "", 0) for key in self.keys[at : at + most]]

    def is_valid_key(self, key: str) -> bool:
        return key.startswith(self.prefix) and len(key.encode()) <= self.name_bytes


async def split(keys: Sequence[str], pieces: int = 8, after: str = "", until: str | None = None) -> list[str]:
    return await split_points([Listed(keys)], after, until, pieces)  # type: ignore[list-item]


def sizes(keys: Sequence[str], points: Sequence[str], after: str = "", until: str | None = None) -> list[int]:
    bounds = [bisect_right(keys, point) for point in (after, *points)]
    bounds.append(len(keys) if until is None else bisect_right(keys, until))
    return [end - begin for begin, end in pairwise(bounds)]


RANDOM = random.Random(7)
BUCKETS = {
    "numbers": [f"object-{number:010}" for number in range(20_000)],
    "hashes": sorted(f"{RANDOM.getrandbits(128):032x}" for _ in range(20_000)),
    "dates": [f"{2000 + n // 4000}/{n // 400 % 12:02}/{n:06}.fits" for n in range(20_000)],
    "a long shared prefix": ["p/" * 480 + f"{number:06}" for number in range(20_000)],
    "one enormous prefix": sorted(["a", "b/1", "z", *(f"m/{number:06}" for number in range(20_000)), "\U0001f4f7"]),
    "Japanese": sorted(chr(0x4E00 + n % 5000) + chr(0x3041 + n // 5000) + str(n) for n in range(20_000)),
    "emoji": sorted(f"\U0001f4f7{chr(0x1F300 + number % 500)}{number}" for number in range(20_000)),
    "keys that begin others": [
        "x" + "/" * (number // 100) + str(number % 100).rjust(3, "0") for number in range(9_000)
    ],
    "control characters": sorted(f"\x01{chr(1 + number % 30)}{number}" for number in range(20_000)),
    "the last code point": sorted("\U0010ffff" * (1 + n % 3) + str(n) for n in range(9_000)),
}
BUCKETS = {name: sorted(keys) for name, keys in BUCKETS.items()}


@pytest.mark.parametrize("name", BUCKETS)
async def test_repeated_splits_leave_no_large_and_no_empty_piece(name: str) -> None:
    keys = BUCKETS[name]
    store = Listed(keys)
    open_ranges: list[tuple[str, str | None]] = [("", None)]
    all_points: list[str] = []
    while open_ranges:
        after, until = open_ranges.pop()
        points = await split_points([store], after, until, 4)  # type: ignore[list-item]
        assert points == sorted(set(points))
        assert all(after < point and (until is None or point < until) for point in points)
        if not points:
            assert sizes(keys, [], after, until)[0] <= 2000
        assert all(sizes(keys, points, after, until))
        open_ranges += zip([after, *points], [*points, until], strict=True) if points else []
        all_points += points
    assert sum(sizes(keys, sorted(all_points))) == len(keys)


@pytest.mark.parametrize("name", BUCKETS)
async def test_the_number_of_requests_does_not_grow_with_the_length_of_keys(name: str) -> None:
    store = Listed(BUCKETS[name])
    assert len(await split_points([store], "", None, 2)) >= 1  # type: ignore[list-item]
    assert store.requests <= 130
    assert store.listed <= 5_000


async def test_ordinary_keys_are_split_into_pieces_of_similar_size() -> None:
    for name in ("numbers", "hashes"):
        keys = BUCKETS[name]
        points = await split(keys, 8)
        assert len(points) >= 7
        assert max(sizes(keys, points)) < len(keys) / 2, name


async def test_less_than_two_pages_are_not_split() -> None:
    assert await split([f"{n:04}" for n in range(999)]) == []
    assert await split([f"{n:04}" for n in range(5000)], after="4100") == []
    assert await split([f"{n:04}" for n in range(5000)], until="0900") == []
    assert await split([]) == []


async def test_split_points_have_the_prefix_of_the_route() -> None:
    keys = [f"images/{number:05}" for number in range(5000)]
    points = await split_points([Listed(keys, "images/")], "", None, 4)  # type: ignore[list-item]
    assert points
    assert all(point.startswith("images/") for point in points)


async def test_split_points_are_valid_keys_at_every_destination() -> None:
    keys = ["k" * 100 + f"{number:05}" for number in range(5000)]
    stores = [Listed(keys), Listed(keys, name_bytes=100)]
    assert await split_points(stores, "", None, 4) == []  # type: ignore[arg-type]


async def test_a_range_that_only_a_destination_has_keys_in_is_split_too() -> None:
    keys = [f"{number:05}" for number in range(5000)]
    assert await split_points([Listed([]), Listed(keys)], "", None, 4)  # type: ignore[list-item]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=30, unique=True))
async def test_pieces_of_any_keys_are_contiguous_and_not_empty(names: list[str]) -> None:
    keys = sorted(stem + tail for stem in names for tail in (str(n).rjust(3, "\x02") for n in range(40)))
    keys = sorted(set(keys))
    points = await split(keys, 6)
    assert points or len(keys) < 2000
    assert points == sorted(set(points))
    assert all(sizes(keys, points))


async def test_a_destination_that_cannot_be_listed_is_not_sampled() -> None:
    source, full = Listed(["a"]), Listed(BUCKETS["numbers"])
    down = Listed([], error=StoreUnavailable("HTTP 503", store="swift"))
    assert await split_points([source, down, full], "", None, 8)  # type: ignore[list-item]
    assert await split_points([source, down], "", None, 8) == []  # type: ignore[list-item]
    with pytest.raises(StoreUnavailable):
        await split_points([down, full], "", None, 8)  # type: ignore[list-item]
