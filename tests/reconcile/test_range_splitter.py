"""Where stretches of keys are cut, with nothing known of their names."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.model import Endpoint, Entry
from s3s3.reconcile.range_splitter import cuts


@dataclass
class Listed:
    """What cutting asks of a store."""

    keys: Sequence[str]
    prefix: str = ""
    name_bytes: int = 1024
    asked: int = 0
    listed: int = field(default=0, init=False)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("source", "bucket", prefix=self.prefix)

    async def list_after(self, start_after: str, most: int) -> list[Entry]:
        start_after.encode()  # a lone surrogate is no name
        assert start_after.startswith(self.prefix) or not start_after
        self.asked += 1
        at = bisect_right(self.keys, start_after)
        self.listed += len(self.keys[at : at + most])
        return [Entry(key, 1, "", 0) for key in self.keys[at : at + most]]

    def is_valid_key(self, key: str) -> bool:
        return key.startswith(self.prefix) and len(key.encode()) <= self.name_bytes


async def cut(keys: Sequence[str], pieces: int = 8, after: str = "", until: str | None = None) -> list[str]:
    return await cuts([Listed(keys)], after, until, pieces)  # type: ignore[list-item]


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
async def test_cut_again_and_again_no_piece_stays_large_and_none_is_empty(name: str) -> None:
    keys = BUCKETS[name]
    store = Listed(keys)
    uncut: list[tuple[str, str | None]] = [("", None)]
    whole: list[str] = []
    while uncut:
        after, until = uncut.pop()
        points = await cuts([store], after, until, 4)  # type: ignore[list-item]
        assert points == sorted(set(points))
        assert all(after < point and (until is None or point < until) for point in points)
        if not points:
            assert sizes(keys, [], after, until)[0] <= 2000
        assert all(sizes(keys, points, after, until))
        uncut += zip([after, *points], [*points, until], strict=True) if points else []
        whole += points
    assert sum(sizes(keys, sorted(whole))) == len(keys)


@pytest.mark.parametrize("name", BUCKETS)
async def test_a_cut_costs_some_questions_however_long_the_keys_are(name: str) -> None:
    store = Listed(BUCKETS[name])
    assert len(await cuts([store], "", None, 2)) >= 1  # type: ignore[list-item]
    assert store.asked <= 130
    assert store.listed <= 5_000


async def test_ordinary_names_are_cut_into_pieces_of_like_size() -> None:
    for name in ("numbers", "hashes"):
        keys = BUCKETS[name]
        points = await cut(keys, 8)
        assert len(points) >= 7
        assert max(sizes(keys, points)) < len(keys) / 2, name


async def test_less_than_two_pages_are_not_cut() -> None:
    assert await cut([f"{n:04}" for n in range(999)]) == []
    assert await cut([f"{n:04}" for n in range(5000)], after="4100") == []
    assert await cut([f"{n:04}" for n in range(5000)], until="0900") == []
    assert await cut([]) == []


async def test_a_prefix_is_never_left() -> None:
    keys = [f"images/{number:05}" for number in range(5000)]
    points = await cuts([Listed(keys, "images/")], "", None, 4)  # type: ignore[list-item]
    assert points
    assert all(point.startswith("images/") for point in points)


async def test_no_cut_is_at_a_name_that_a_destination_could_not_hold() -> None:
    keys = ["k" * 100 + f"{number:05}" for number in range(5000)]
    stores = [Listed(keys), Listed(keys, name_bytes=100)]
    assert await cuts(stores, "", None, 4) == []  # type: ignore[arg-type]


async def test_what_only_a_destination_holds_is_cut_too() -> None:
    keys = [f"{number:05}" for number in range(5000)]
    assert await cuts([Listed([]), Listed(keys)], "", None, 4)  # type: ignore[list-item]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=30, unique=True))
async def test_whatever_the_names_are_pieces_join_up_and_none_is_empty(names: list[str]) -> None:
    keys = sorted(stem + tail for stem in names for tail in (str(n).rjust(3, "\x02") for n in range(40)))
    keys = sorted(set(keys))
    points = await cut(keys, 6)
    assert points or len(keys) < 2000
    assert points == sorted(set(points))
    assert all(sizes(keys, points))
