"""Counts, report lines and whether a reconcile is proven."""

from collections.abc import Callable

import pytest

from s3s3.model import Outcome, Proof, Result, outcome_fields
from s3s3.reconcile.summary import ReconcileSummary


def test_a_report_line_has_its_fields_in_order() -> None:
    outcome = Outcome("dest", "key", Result.SOURCE_MISSING, "r", 1, 2, "m", "n", Proof.RECORDED_ETAG)
    assert outcome_fields("default", outcome) == {
        "route": "default",
        "destination": "dest",
        "key": "key",
        "outcome": "source_missing",
        "reason": "r",
        "source_size_bytes": 1,
        "destination_size_bytes": 2,
        "source_md5": "m",
        "destination_md5": "n",
        "proof": "recorded_etag",
    }


def test_every_outcome_is_counted_and_reported() -> None:
    lines: list[dict[str, object]] = []
    summary = ReconcileSummary("default", ("a", "b"), lines.append)
    summary.report(Outcome("a", "k", Result.COPIED, source_size_bytes=5))
    summary.report(Outcome("a", "k2", Result.COPIED, source_size_bytes=7))
    summary.report(Outcome("b", "k", Result.SAME))
    summary.count("b", "same", by=10)
    assert summary.counts == {"a": {"copied": 2}, "b": {"same": 11}}
    assert summary.copied_bytes == 12
    assert [line["key"] for line in lines] == ["k", "k2", "k"]


def test_a_reconcile_is_complete_only_without_failures_pending_changes_and_listing_errors() -> None:
    assert ReconcileSummary("default", ("a",)).complete
    for result in (Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE):
        summary = ReconcileSummary("default", ("a",))
        summary.report(Outcome("a", "k", result))
        assert not summary.complete
    broken = ReconcileSummary("default", ("a",))
    broken.errors["a"] = "its listing failed"
    assert not broken.complete


def proven_summary() -> ReconcileSummary:
    """A reconcile of three objects; `b` has an extraneous one."""
    summary = ReconcileSummary("default", ("a", "b"))
    summary.source_entries, summary.ended = 3, True
    for name in ("a", "b"):
        summary.count(name, "same", "etag", by=2)
        summary.count(name, "copied", "content")
    summary.destination_only["b"] = 1
    summary.count("b", "extraneous")
    return summary


def test_a_reconcile_is_proven_if_all_objects_are_counted_and_all_copies_have_a_proof() -> None:
    summary = proven_summary()
    assert summary.proven
    line = summary.report_line(["default", "raw"])["summary"]
    assert line["routes"] == ["default", "raw"]
    assert line["destinations"] == {"a": {"same": 2, "copied": 1}, "b": {"same": 2, "copied": 1, "extraneous": 1}}
    assert line["proofs"] == {"a": {"etag": 2, "content": 1}, "b": {"etag": 2, "content": 1}}
    assert (line["source_entries"], line["destination_only"]) == (3, {"a": 0, "b": 1})
    summary.count("b", "source_missing")  # listed, and gone at the copy
    summary.source_entries += 1
    summary.count("a", "source_missing")
    assert summary.proven


def changed(**values: object) -> Callable[[ReconcileSummary], None]:
    def change(summary: ReconcileSummary) -> None:
        for name, value in values.items():
            setattr(summary, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed(ended=False),
        changed(error="the listing failed"),
        changed(source_entries=4),
        lambda summary: summary.count("a", "source_missing"),
        changed(source_entries=4, counts={"a": {"same": 4}, "b": {"same": 4, "extraneous": 1}}),
        lambda summary: summary.proofs["a"].pop("content"),
        changed(source_entries=4, skipped_entries=1),
        lambda summary: summary.errors.update(a="its listing failed"),
        lambda summary: summary.deletions_withheld.update(a="too many"),
    ],
    ids=["interrupted", "listing failed", "an object without an outcome", "an outcome too many", "a copy without proof",
         "a copy of a store without ETags",
         "skipped objects", "a destination not listed", "deletions withheld"],
)  # fmt: skip
def test_a_reconcile_with_anything_unaccounted_for_is_not_proven(change: Callable[[ReconcileSummary], object]) -> None:
    summary = proven_summary()
    change(summary)
    assert not summary.proven
    assert summary.report_line()["summary"]["proven"] is False
