"""What a run tells."""

from collections.abc import Callable

import pytest

from s3s3.model import Outcome, Proof, Result, outcome_fields
from s3s3.reconcile.summary import ReconcileSummary


def test_a_report_line_has_its_fields_in_their_order() -> None:
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


def test_every_outcome_is_counted_and_goes_out_as_a_line() -> None:
    lines: list[dict[str, object]] = []
    tally = ReconcileSummary("default", ("a", "b"), lines.append)
    tally.report(Outcome("a", "k", Result.COPIED, source_size_bytes=5))
    tally.report(Outcome("a", "k2", Result.COPIED, source_size_bytes=7))
    tally.report(Outcome("b", "k", Result.SAME))
    tally.count("b", "same", by=10)
    assert tally.counts == {"a": {"copied": 2}, "b": {"same": 11}}
    assert tally.copied_bytes == 12
    assert [line["key"] for line in lines] == ["k", "k2", "k"]


def test_a_run_is_complete_only_when_nothing_failed_nothing_would_and_nothing_could_not_be_compared() -> None:
    assert ReconcileSummary("default", ("a",)).complete
    for result in (Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE):
        tally = ReconcileSummary("default", ("a",))
        tally.report(Outcome("a", "k", result))
        assert not tally.complete
    broken = ReconcileSummary("default", ("a",))
    broken.errors["a"] = "its listing broke off"
    assert not broken.complete


def proof_of_two() -> ReconcileSummary:
    """A run over three objects: `a` lacks nothing, `b` had one more that was left."""
    tally = ReconcileSummary("default", ("a", "b"))
    tally.source_entries, tally.ended = 3, True
    for name in ("a", "b"):
        tally.count(name, "same", "etag", by=2)
        tally.count(name, "copied", "content")
    tally.destination_only["b"] = 1
    tally.count("b", "extraneous")
    return tally


def test_a_run_is_proven_when_every_object_is_accounted_for_and_every_copy_has_its_proof() -> None:
    tally = proof_of_two()
    assert tally.proven
    summary = tally.report_line(["default", "raw"])["summary"]
    assert summary["routes"] == ["default", "raw"]
    assert summary["destinations"] == {"a": {"same": 2, "copied": 1}, "b": {"same": 2, "copied": 1, "extraneous": 1}}
    assert summary["proofs"] == {"a": {"etag": 2, "content": 1}, "b": {"etag": 2, "content": 1}}
    assert (summary["source_entries"], summary["destination_only"]) == (3, {"a": 0, "b": 1})
    tally.count("b", "source_missing")  # it was listed, and is gone now
    tally.source_entries += 1
    tally.count("a", "source_missing")
    assert tally.proven


def changed(**values: object) -> Callable[[ReconcileSummary], None]:
    def spoil(tally: ReconcileSummary) -> None:
        for name, value in values.items():
            setattr(tally, name, value)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        changed(ended=False),
        changed(error="the listing broke off"),
        changed(source_entries=4),
        lambda tally: tally.count("a", "source_missing"),
        changed(source_entries=4, counts={"a": {"same": 4}, "b": {"same": 4, "extraneous": 1}}),
        changed(source_entries=4, skipped_entries=1),
        lambda tally: tally.errors.update(a="its listing broke off"),
        lambda tally: tally.deletions_withheld.update(a="too many"),
    ],
    ids=["interrupted", "broken off", "an object without an outcome", "one more than there are", "a copy without proof",
         "a part only", "a destination not listed", "deletions withheld"],
)  # fmt: skip
def test_whatever_is_not_accounted_for_leaves_the_run_unproven(spoil: Callable[[ReconcileSummary], object]) -> None:
    tally = proof_of_two()
    spoil(tally)
    assert not tally.proven
    assert tally.report_line()["summary"]["proven"] is False
