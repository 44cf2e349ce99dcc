"""What a run tells."""

from s3s3.model import Outcome, Proof, Result
from s3s3.report import Tally, outcome_fields


def test_a_report_line_has_its_fields_in_their_order() -> None:
    outcome = Outcome("dest", "key", Result.SOURCE_GONE, "r", 1, 2, "m", "n", Proof.RECORDED_ETAG)
    assert outcome_fields("default", outcome) == {
        "route": "default",
        "destination": "dest",
        "key": "key",
        "outcome": "source gone",
        "reason": "r",
        "source_size_bytes": 1,
        "destination_size_bytes": 2,
        "source_md5": "m",
        "destination_md5": "n",
        "proof": "recorded etag",
    }


def test_every_outcome_is_counted_and_goes_out_as_a_line() -> None:
    lines: list[dict[str, object]] = []
    tally = Tally("default", ("a", "b"), lines.append)
    tally.tell(Outcome("a", "k", Result.COPIED, source_size_bytes=5))
    tally.tell(Outcome("a", "k2", Result.COPIED, source_size_bytes=7))
    tally.tell(Outcome("b", "k", Result.SAME))
    tally.count("b", "same", 10)
    assert tally.counts == {"a": {"copied": 2}, "b": {"same": 11}}
    assert tally.copied_bytes == 12
    assert [line["key"] for line in lines] == ["k", "k2", "k"]


def test_a_run_is_complete_only_when_nothing_failed_nothing_would_and_nothing_could_not_be_compared() -> None:
    assert Tally("default", ("a",)).complete
    for result in (Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE):
        tally = Tally("default", ("a",))
        tally.tell(Outcome("a", "k", result))
        assert not tally.complete
    broken = Tally("default", ("a",))
    broken.errors["a"] = "its listing broke off"
    assert not broken.complete
