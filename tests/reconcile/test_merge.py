from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.errors import ListingOutOfOrder, StoreUnavailable
from s3s3.model import Entry, Proof
from s3s3.reconcile.merge import Batch, Row, merge
from s3s3.transfer.decision import NOT_REQUESTED, Action, Reason, decide

MD5, OTHER_MD5 = "900150983cd24fb0d6963f7d28e17f72", "d41d8cd98f00b204e9800998ecf8427e"
PARTS, OTHER_PARTS = f"{MD5}-3", f"{OTHER_MD5}-2"
SAME, COPY = (Action.SAME, Reason.SAME), Action.COPY


def entry(etag: str = MD5, size_bytes: int = 3) -> Entry:
    return Entry("key", size_bytes, etag)


@pytest.mark.parametrize(
    ("source", "destination", "known", "expected"),
    [
        (None, None, {}, (Action.SAME, Reason.SOURCE_MISSING, None)),
        (None, entry(), {"delete": True}, (Action.DELETE, Reason.SOURCE_MISSING, None)),
        (None, entry(), {}, (Action.LEAVE, Reason.EXTRANEOUS, None)),
        (entry(), None, {}, (COPY, Reason.MISSING, None)),
        (entry(), None, {"delete": True}, (COPY, Reason.MISSING, None)),
        (entry(), entry(size_bytes=4), {"recorded_etag": MD5}, (COPY, Reason.SIZE, None)),
        (entry(), entry(), {}, (*SAME, Proof.ETAG)),
        (entry(PARTS), entry(PARTS), {}, (*SAME, Proof.ETAG)),
        (entry(), entry(OTHER_MD5), {}, (COPY, Reason.ETAG, None)),
        (entry(), entry(OTHER_MD5), {"recorded_etag": None, "verify_md5": True}, (COPY, Reason.ETAG, None)),
        (entry(), entry(OTHER_MD5), {"recorded_etag": OTHER_MD5}, (COPY, Reason.ETAG, None)),
        (entry(), entry(OTHER_MD5), {"recorded_etag": MD5}, (*SAME, Proof.RECORDED_ETAG)),
        (entry(PARTS), entry(), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(f"{MD5[:15]}z{MD5[16:]}"), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(OTHER_MD5.upper()), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(PARTS), {"verify_md5": True}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(PARTS), entry(), {"recorded_etag": PARTS}, (*SAME, Proof.RECORDED_ETAG)),
        (entry(), entry(PARTS), {"recorded_etag": MD5}, (*SAME, Proof.RECORDED_ETAG)),
        (entry(PARTS), entry(), {"recorded_etag": OTHER_PARTS}, (COPY, Reason.RECORDED_ETAG, None)),
        (entry(PARTS), entry(), {"recorded_etag": None}, (COPY, Reason.UNPROVEN, None)),
        (entry(PARTS), entry(OTHER_PARTS), {"recorded_etag": None}, (COPY, Reason.UNPROVEN, None)),
        (
            entry(PARTS),
            entry(),
            {"recorded_etag": None, "verify_md5": True},
            (Action.NEEDS_CONTENT, Reason.UNPROVEN, None),
        ),
        (
            entry(PARTS),
            entry(),
            {"recorded_etag": None, "verify_md5": True, "contents_equal": True},
            (*SAME, Proof.CONTENT),
        ),
        (
            entry(PARTS),
            entry(),
            {"recorded_etag": None, "verify_md5": True, "contents_equal": False},
            (COPY, Reason.CONTENT, None),
        ),
        (
            entry(PARTS),
            entry(),
            {"recorded_etag": OTHER_PARTS, "verify_md5": True, "contents_equal": True},
            (COPY, Reason.RECORDED_ETAG, None),
        ),
        # ETags of encrypted objects and empty ETags are never compared.
        (
            entry(),
            entry(),
            {"source_encrypted": True, "recorded_etag": None},
            (COPY, Reason.UNPROVEN, None),
        ),
        (
            entry(),
            entry(OTHER_MD5),
            {"destination_encrypted": True, "recorded_etag": MD5},
            (*SAME, Proof.RECORDED_ETAG),
        ),
        (entry(""), entry(""), {"recorded_etag": None}, (COPY, Reason.UNPROVEN, None)),
        (entry(""), entry(), {"recorded_etag": ""}, (COPY, Reason.UNPROVEN, None)),
    ],
)
def test_each_row_of_the_table_gives_its_decision(
    source: Entry | None,
    destination: Entry | None,
    known: dict[str, Any],
    expected: tuple[Action, Reason, Proof | None],
) -> None:
    decision = decide(source, destination, **known)

    assert (decision.action, decision.reason, decision.proof) == expected


ETAGS = st.sampled_from([MD5, OTHER_MD5, PARTS, OTHER_PARTS, ""])
ENTRIES = st.none() | st.builds(Entry, st.just("key"), st.sampled_from([0, 3]), ETAGS)
KNOWN = st.fixed_dictionaries(
    {
        "recorded_etag": st.sampled_from([NOT_REQUESTED, None]) | ETAGS,
        "source_encrypted": st.booleans(),
        "destination_encrypted": st.booleans(),
        "verify_md5": st.booleans(),
        "contents_equal": st.sampled_from([None, False, True]),
        "delete": st.booleans(),
    }
)


@settings(deadline=None)
@given(ENTRIES, ENTRIES, KNOWN)
def test_every_decision_is_justified_by_its_facts(
    source: Entry | None, destination: Entry | None, known: dict[str, Any]
) -> None:
    decision = decide(source, destination, **known)

    encrypted = known["source_encrypted"] or known["destination_encrypted"]
    if decision.action is Action.SAME and source is not None:
        assert destination is not None and source.size_bytes == destination.size_bytes
        proofs = {
            Proof.ETAG: source.etag == destination.etag != "" and not encrypted,
            Proof.RECORDED_ETAG: known["recorded_etag"] == source.etag != "",
            Proof.CONTENT: known["verify_md5"] and known["contents_equal"] is True,
        }
        assert decision.proof is not None and proofs[decision.proof]
    else:
        assert decision.proof is None
    assert (decision.action is Action.DELETE) <= (source is None and known["delete"])
    assert (decision.action is Action.NEEDS_HEAD) <= (known["recorded_etag"] is NOT_REQUESTED)
    assert (decision.action is Action.NEEDS_CONTENT) <= (known["contents_equal"] is None and known["verify_md5"])


@settings(deadline=None)
@given(ENTRIES, ENTRIES, KNOWN)
def test_a_decision_is_final_once_head_and_content_are_known(
    source: Entry | None, destination: Entry | None, known: dict[str, Any]
) -> None:
    if decide(source, destination, **known).action is Action.NEEDS_HEAD:
        known = {**known, "recorded_etag": None}
    if decide(source, destination, **known).action is Action.NEEDS_CONTENT:
        known = {**known, "contents_equal": True}

    assert decide(source, destination, **known).action not in {Action.NEEDS_HEAD, Action.NEEDS_CONTENT}


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


async def test_memory_does_not_grow_with_the_listings() -> None:
    async def listing(count: int, step: int) -> AsyncIterator[list[Entry]]:
        for start in range(0, count, 1000):
            yield [Entry(f"{number:09}", number, MD5) for number in range(start, start + 1000) if number % step]

    async def peak_bytes(count: int) -> int:
        tracemalloc.start()
        async for _batch in merge(listing(count, 7), [listing(count, 3), listing(count // 2, 2)]):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert await peak_bytes(60_000) < 1.7 * await peak_bytes(20_000)
