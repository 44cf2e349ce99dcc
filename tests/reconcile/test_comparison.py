"""Decisions per key and destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Entry
from s3s3.monitoring.metrics import Metrics
from s3s3.reconcile.comparison import Comparison, ReconcileOptions
from s3s3.reconcile.merge import Batch, Row
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.s3 import ObjectInfo

MD5_A, MD5_B, PARTS = "a" * 32, "b" * 32, "c" * 32 + "-2"


@dataclass
class Destination:
    """A store that answers HEAD requests."""

    name: str = "dest"
    delete: bool = False
    recorded: dict[str, str | None] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    error: StoreUnavailable | None = None
    requested: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "bucket", delete=self.delete)

    async def head(self, key: str) -> ObjectInfo | None:
        self.requested.append(key)
        if self.error:
            raise self.error
        if key not in self.entries:
            return None
        recorded_etag, headers = self.recorded.get(key), self.headers.get(key, {})
        return ObjectInfo(*self.entries[key], headers=headers, recorded_etag=recorded_etag)


async def compare(
    rows: list[tuple[Entry | None, Entry | None]],
    destination: Destination | None = None,
    options: ReconcileOptions = ReconcileOptions(),  # noqa: B008
    failed: dict[int, Any] | None = None,
    has_report: bool = True,
    source: Destination | None = None,
) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, str, str]], ReconcileSummary]:
    """Return the jobs by key, a tuple for each report line, and the summary."""
    reported: list[dict[str, Any]] = []
    destination = destination or Destination()
    source = source or Destination("source", entries={s.key: s for s, _ in rows if s})
    summary = ReconcileSummary("default", ("dest",), reported.append if has_report else None)
    comparison = Comparison(source, [destination], options, lambda key: not key.startswith("no/"), summary, Metrics())  # type: ignore[arg-type, list-item]
    batch = Batch([((s or d).key, s, (d,)) for s, d in rows], failed or {})  # type: ignore[union-attr]
    jobs = await comparison.compare(batch)
    rest = [(line["key"], line["outcome"], line["reason"]) for line in reported]
    return {job.key: job.destinations for job in jobs}, rest, summary


def entry(key: str, etag: str = MD5_A, size_bytes: int = 1, modified_ms: int = 0) -> Entry:
    return Entry(key, size_bytes, etag, modified_ms)


async def test_differing_objects_become_jobs_and_the_rest_is_reported() -> None:
    jobs, rest, summary = await compare(
        [
            (entry("same"), entry("same")),
            (entry("missing"), None),
            (entry("size"), entry("size", size_bytes=2)),
            (entry("etag"), entry("etag", MD5_B)),
            (None, entry("extraneous")),
        ]
    )
    assert jobs == dict.fromkeys(("missing", "size", "etag"), ("dest",))
    assert rest == [("same", "same", "same"), ("extraneous", "extraneous", "extraneous")]
    assert summary.source_entries == 4


async def test_a_dry_run_returns_no_jobs_and_reports_what_it_would_copy() -> None:
    jobs, rest, _ = await compare(
        [(entry("a"), None), (entry("b"), entry("b"))], options=ReconcileOptions(dry_run=True)
    )
    assert jobs == {}
    assert rest == [("a", "would_copy", "missing"), ("b", "same", "same")]


async def test_force_copies_equal_objects_but_nothing_that_the_source_has_not() -> None:
    jobs, rest, _ = await compare([(entry("a"), entry("a")), (None, entry("b"))], options=ReconcileOptions(force=True))
    assert jobs == {"a": ("dest",)}
    assert rest == [("b", "extraneous", "extraneous")]


async def test_since_skips_objects_modified_earlier() -> None:
    rows: list[tuple[Entry | None, Entry | None]] = [
        (entry("old", modified_ms=9), None),
        (entry("new", modified_ms=10), None),
    ]
    jobs, _, _ = await compare(rows, options=ReconcileOptions(since_ms=10))
    assert set(jobs) == {"new"}


async def test_keys_that_do_not_match_the_route_are_not_counted() -> None:
    jobs, rest, summary = await compare([(entry("no/1"), None), (None, entry("no/2"))])
    assert (jobs, rest, summary.source_entries) == ({}, [], 0)


async def test_a_head_is_sent_only_if_an_etag_is_not_an_md5() -> None:
    copies = {"proven": entry("proven", MD5_A), "stale": entry("stale", MD5_A), "unproven": entry("unproven", MD5_A)}
    destination = Destination(entries=copies, recorded={"proven": PARTS, "stale": "older-3"})
    rows: list[tuple[Entry | None, Entry | None]] = [(entry(key, PARTS), copies[key]) for key in copies]
    rows.append((entry("plain"), entry("plain")))
    jobs, rest, _ = await compare(rows, destination)
    assert sorted(destination.requested) == ["proven", "stale", "unproven"]
    assert set(jobs) == {"stale", "unproven"}
    assert ("proven", "same", "same") in rest


async def test_an_object_that_is_gone_at_the_head_is_missing() -> None:
    jobs, _, _ = await compare([(entry("a", PARTS), entry("a", MD5_B))], Destination())
    assert jobs == {"a": ("dest",)}


async def test_an_object_whose_head_failed_is_left_to_a_job() -> None:
    destination = Destination(error=StoreUnavailable("away", store="dest"))
    jobs, rest, _ = await compare([(entry("a", PARTS), entry("a", MD5_B)), (entry("b"), None)], destination)
    assert jobs == {"a": ("dest",), "b": ("dest",)}
    assert rest == []


async def test_in_a_dry_run_a_failed_head_fails_only_its_object() -> None:
    destination = Destination(error=StoreUnavailable("away", store="dest"))
    rows: list[tuple[Entry | None, Entry | None]] = [(entry("a", PARTS), entry("a", MD5_B)), (entry("b"), None)]
    jobs, rest, summary = await compare(rows, destination, ReconcileOptions(dry_run=True))
    assert jobs == {}
    assert [each[:2] for each in rest] == [("b", "would_copy"), ("a", "failed")]
    assert not summary.complete


FITS, TEXT = {"content-type": "image/fits"}, {"content-type": "text/plain"}


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("has_report", [False, True])
async def test_headers_of_equal_objects_are_compared_if_that_is_wanted(metadata: bool, has_report: bool) -> None:
    entries = {key: entry(key) for key in ("changed", "same")}
    source = Destination("source", entries=entries, headers={"changed": FITS})
    destination = Destination(entries=entries, headers={"changed": TEXT})
    rows: list[tuple[Entry | None, Entry | None]] = [(each, each) for each in entries.values()]
    options = ReconcileOptions(metadata=metadata)

    jobs, rest, summary = await compare(rows, destination, options, has_report=has_report, source=source)

    assert set(jobs) == ({"changed"} if metadata else set())
    assert summary.counts["dest"] == {"same": 1 if metadata else 2}
    assert sorted(destination.requested) == sorted(source.requested) == (["changed", "same"] if metadata else [])
    assert ("same", "same", "same") in rest or not has_report


async def test_a_dry_run_reports_a_difference_of_the_headers() -> None:
    source = Destination("source", entries={"a": entry("a")}, headers={"a": FITS})
    destination = Destination(entries={"a": entry("a")}, headers={"a": TEXT})
    options = ReconcileOptions(dry_run=True, metadata=True)

    jobs, rest, _ = await compare([(entry("a"), entry("a"))], destination, options, source=source)

    assert (jobs, rest) == ({}, [("a", "would_copy", "metadata")])


async def test_headers_are_compared_where_a_head_is_sent_anyway() -> None:
    source = Destination("source", entries={"a": entry("a", PARTS)}, headers={"a": FITS})
    destination = Destination(entries={"a": entry("a")}, recorded={"a": PARTS}, headers={"a": TEXT})

    jobs, _, _ = await compare([(entry("a", PARTS), entry("a"))], destination, source=source)

    assert jobs == {"a": ("dest",)}


async def test_an_object_that_the_source_deleted_after_its_listing_is_left_to_a_job() -> None:
    destination = Destination(entries={"a": entry("a")})
    gone, options = Destination("source"), ReconcileOptions(metadata=True)

    jobs, rest, _ = await compare([(entry("a"), entry("a"))], destination, options, source=gone)
    assert (jobs, rest) == ({"a": ("dest",)}, [])
    options = ReconcileOptions(metadata=True, dry_run=True)
    jobs, rest, _ = await compare([(entry("a"), entry("a"))], destination, options, source=gone)
    assert (jobs, rest) == ({}, [("a", "source_missing", "source_missing")])


async def test_an_object_whose_head_at_the_source_failed_is_left_to_a_job() -> None:
    source = Destination("source", error=StoreUnavailable("away", store="source"))
    rows: list[tuple[Entry | None, Entry | None]] = [(entry("a"), entry("a")), (entry("b"), None)]

    jobs, rest, _ = await compare(rows, options=ReconcileOptions(metadata=True), source=source)

    assert (set(jobs), rest) == ({"a", "b"}, [])


async def test_a_destination_whose_listing_failed_is_neither_compared_nor_written_to() -> None:
    jobs, rest, summary = await compare([(entry("a"), None)], failed={0: StoreUnavailable("away", store="dest")})
    assert (jobs, rest) == ({}, [])
    assert summary.errors == {"dest": "dest: away"}


@pytest.mark.parametrize("has_report", [True, False])
async def test_equal_objects_are_counted_alike_with_and_without_a_report(has_report: bool) -> None:
    rows: list[tuple[Entry | None, Entry | None]] = [(entry(f"k{number}"), entry(f"k{number}")) for number in range(7)]
    _, rest, summary = await compare(rows, has_report=has_report)
    assert summary.counts == {"dest": {"same": 7}}
    assert len(rest) == (7 if has_report else 0)


async def test_extraneous_objects_are_candidates_where_deletions_are_propagated() -> None:
    candidates: list[tuple[str, Entry]] = []
    summary = ReconcileSummary("default", ("keeps", "deletes"))
    stores = [Destination("keeps"), Destination("deletes", delete=True)]
    comparison = Comparison(
        Destination("source"),  # type: ignore[arg-type]
        stores,  # type: ignore[arg-type]
        ReconcileOptions(force=True),
        lambda key: key != "no",
        summary,
        Metrics(),
        lambda *candidate: candidates.append(candidate),
    )
    rows: list[Row] = [
        ("a", None, (entry("a"), entry("a"))),
        ("b", entry("b"), (entry("b"), None)),
        ("no", None, (entry("no"),) * 2),
    ]

    jobs = await comparison.compare(Batch(rows, {}))

    assert candidates == [("deletes", entry("a"))]
    assert [job.key for job in jobs] == ["b"]
    assert summary.counts["keeps"] == {"extraneous": 1}
    assert comparison.entries == {"keeps": 2, "deletes": 1}


@pytest.mark.parametrize("has_report", [True, False])
async def test_the_objects_of_a_destination_and_the_reasons_are_counted(has_report: bool) -> None:
    summary = ReconcileSummary("default", ("dest",), (lambda _: None) if has_report else None)
    metrics = Metrics()
    source, destination = Destination("source"), Destination()
    comparison = Comparison(source, [destination], ReconcileOptions(), lambda key: key != "no", summary, metrics)  # type: ignore[arg-type, list-item]
    pairs = [(entry("a"), entry("a")), (entry("b"), entry("b", MD5_B)), (entry("c"), None), (None, entry("d")),
             (None, entry("no"))]  # fmt: skip

    await comparison.compare(Batch([((s or d).key, s, (d,)) for s, d in pairs], {}))  # type: ignore[union-attr]

    assert comparison.entries == {"dest": 3}
    reasons = {labels[2]: count for labels, count in metrics.reconcile_entries.items()}
    assert reasons == {"same": 1, "etag": 1, "missing": 1, "extraneous": 1}
