"""From merged listings to what is to be copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Entry
from s3s3.reconcile.comparison import Comparison, ReconcileOptions
from s3s3.reconcile.deletions import DeletionCandidate
from s3s3.reconcile.merge import Batch, Row
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.s3 import ObjectInfo

MD5_A, MD5_B, PARTS = "a" * 32, "b" * 32, "c" * 32 + "-2"


@dataclass
class Destination:
    """What a comparison asks of a store: a HEAD."""

    name: str = "dest"
    delete: bool = False
    recorded: dict[str, str | None] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    error: StoreUnavailable | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "bucket", delete=self.delete)

    async def head(self, key: str) -> ObjectInfo | None:
        self.asked.append(key)
        if self.error:
            raise self.error
        return ObjectInfo(*self.entries[key], recorded_etag=self.recorded.get(key)) if key in self.entries else None


async def compare(
    rows: list[tuple[Entry | None, Entry | None]],
    destination: Destination | None = None,
    options: ReconcileOptions = ReconcileOptions(),  # noqa: B008
    failed: dict[int, Any] | None = None,
    lines: bool = True,
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, str, str]], ReconcileSummary]:
    """Return what is to be copied where, and (key, outcome, reason) of the rest."""
    told: list[dict[str, Any]] = []
    destination = destination or Destination()
    tally = ReconcileSummary("default", ("dest",), told.append if lines else None)
    comparison = Comparison([destination], options, lambda key: not key.startswith("no/"), tally)  # type: ignore[list-item]
    batch = Batch([((s or d).key, s, (d,)) for s, d in rows], failed or {})  # type: ignore[union-attr]
    puts = await comparison.differing(batch)
    rest = [(line["key"], line["outcome"], line["reason"]) for line in told]
    return {put.key: put.destinations for put in puts}, rest, tally


def entry(key: str, etag: str = MD5_A, size_bytes: int = 1, modified_ms: int = 0) -> Entry:
    return Entry(key, size_bytes, etag, modified_ms)


async def test_what_differs_is_to_be_copied_and_the_rest_is_told() -> None:
    puts, rest, tally = await compare(
        [
            (entry("same"), entry("same")),
            (entry("missing"), None),
            (entry("size"), entry("size", size_bytes=2)),
            (entry("etag"), entry("etag", MD5_B)),
            (None, entry("extraneous")),
        ]
    )
    assert puts == dict.fromkeys(("missing", "size", "etag"), ("dest",))
    assert rest == [("same", "same", "same"), ("extraneous", "extraneous", "extraneous")]
    assert tally.source_entries == 4


async def test_a_dry_run_copies_nothing_and_says_what_it_would() -> None:
    puts, rest, _ = await compare(
        [(entry("a"), None), (entry("b"), entry("b"))], options=ReconcileOptions(dry_run=True)
    )
    assert puts == {}
    assert rest == [("a", "would_copy", "missing"), ("b", "same", "same")]


async def test_force_copies_what_is_the_same_too_but_never_what_the_source_lacks() -> None:
    puts, rest, _ = await compare([(entry("a"), entry("a")), (None, entry("b"))], options=ReconcileOptions(force=True))
    assert puts == {"a": ("dest",)}
    assert rest == [("b", "extraneous", "extraneous")]


async def test_since_leaves_alone_what_the_source_changed_before() -> None:
    rows: list[tuple[Entry | None, Entry | None]] = [
        (entry("old", modified_ms=9), None),
        (entry("new", modified_ms=10), None),
    ]
    puts, _, _ = await compare(rows, options=ReconcileOptions(since_ms=10))
    assert set(puts) == {"new"}


async def test_keys_that_are_none_of_the_route_s_count_for_nothing() -> None:
    puts, rest, tally = await compare([(entry("no/1"), None), (None, entry("no/2"))])
    assert (puts, rest, tally.source_entries) == ({}, [], 0)


async def test_only_where_an_etag_is_no_md5_a_head_is_asked_for() -> None:
    there = {"proven": entry("proven", MD5_A), "stale": entry("stale", MD5_A), "unproven": entry("unproven", MD5_A)}
    destination = Destination(entries=there, recorded={"proven": PARTS, "stale": "older-3"})
    rows: list[tuple[Entry | None, Entry | None]] = [(entry(key, PARTS), there[key]) for key in there]
    rows.append((entry("plain"), entry("plain")))
    puts, rest, _ = await compare(rows, destination)
    assert sorted(destination.asked) == ["proven", "stale", "unproven"]
    assert set(puts) == {"stale", "unproven"}
    assert ("proven", "same", "same") in rest


async def test_what_vanished_between_listing_and_head_is_missing() -> None:
    puts, _, _ = await compare([(entry("a", PARTS), entry("a", MD5_B))], Destination())
    assert puts == {"a": ("dest",)}


async def test_a_head_that_fails_is_a_failure_of_that_object_alone() -> None:
    destination = Destination(error=StoreUnavailable("away", store="dest"))
    puts, rest, tally = await compare([(entry("a", PARTS), entry("a", MD5_B)), (entry("b"), None)], destination)
    assert puts == {"b": ("dest",)}
    assert rest[0][:2] == ("a", "failed")
    assert not tally.complete


async def test_a_destination_whose_listing_broke_off_is_neither_compared_nor_written_to() -> None:
    puts, rest, tally = await compare([(entry("a"), None)], failed={0: StoreUnavailable("away", store="dest")})
    assert (puts, rest) == ({}, [])
    assert tally.errors == {"dest": "dest: away"}


@pytest.mark.parametrize("lines", [True, False])
async def test_equal_objects_are_counted_alike_whether_or_not_anybody_reads_lines(lines: bool) -> None:
    rows: list[tuple[Entry | None, Entry | None]] = [(entry(f"k{number}"), entry(f"k{number}")) for number in range(7)]
    _, rest, tally = await compare(rows, lines=lines)
    assert tally.counts == {"dest": {"same": 7}}
    assert len(rest) == (7 if lines else 0)


async def test_what_only_a_destination_has_is_a_candidate_where_deletions_are_carried_over() -> None:
    gone: list[DeletionCandidate] = []
    tally = ReconcileSummary("default", ("keeps", "deletes"))
    stores = [Destination("keeps"), Destination("deletes", delete=True)]
    comparison = Comparison(stores, ReconcileOptions(force=True), lambda key: key != "no", tally, gone.append)  # type: ignore[arg-type]
    rows: list[Row] = [
        ("a", None, (entry("a"), entry("a"))),
        ("b", entry("b"), (entry("b"), None)),
        ("no", None, (entry("no"),) * 2),
    ]

    puts = await comparison.differing(Batch(rows, {}))

    assert gone == [DeletionCandidate("deletes", entry("a"))]
    assert [put.key for put in puts] == ["b"]
    assert tally.counts["keeps"] == {"extraneous": 1}
    assert comparison.entries == {"keeps": 2, "deletes": 1}


@pytest.mark.parametrize("lines", [True, False])
async def test_a_destination_s_objects_are_counted_however_they_compare(lines: bool) -> None:
    tally = ReconcileSummary("default", ("dest",), (lambda _: None) if lines else None)
    comparison = Comparison([Destination()], ReconcileOptions(), lambda key: key != "no", tally)  # type: ignore[list-item]
    pairs = [(entry("a"), entry("a")), (entry("b"), entry("b", MD5_B)), (entry("c"), None), (None, entry("d")),
             (None, entry("no"))]  # fmt: skip

    await comparison.differing(Batch([((s or d).key, s, (d,)) for s, d in pairs], {}))  # type: ignore[union-attr]

    assert comparison.entries == {"dest": 3}
