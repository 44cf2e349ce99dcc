from __future__ import annotations

import json

import pytest

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidKey,
    LeaseLost,
    NoSuchBucket,
    S3S3Error,
    StoreUnavailable,
    TooLarge,
)
from s3s3.model import Outcome, Proof, Result
from s3s3.queue.base import Disposition, DispositionKind
from s3s3.worker.retry_policy import backoff_s, disposition_for, outcome_event, unavailable_store


def failed(error: Exception | None) -> Outcome:
    return Outcome("dest", "k", Result.FAILED, "it broke", error=error)


def judged(error: Exception | None, attempts: int = 0, open_circuits: tuple[str, ...] = ()) -> Disposition:
    return disposition_for(failed(error), attempts=attempts, max_attempts=8, open_circuits=open_circuits)


@pytest.mark.parametrize("result", [result for result in Result if result is not Result.FAILED])
def test_every_result_but_failed_is_done(result: Result) -> None:
    outcome = Outcome("dest", "k", result)
    assert disposition_for(outcome, attempts=7, max_attempts=8, open_circuits=("dest",)) == Disposition(
        DispositionKind.DONE
    )


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("away", store="dest"),
        AccessDenied("no", store="dest"),
        NoSuchBucket("no", store="dest"),
        IntegrityError("bits", store="dest"),
        ValueError("a defect"),
        None,
    ],
)
def test_retriable_error_is_retried(error: Exception | None) -> None:
    disposition = judged(error)
    assert disposition.kind == DispositionKind.RETRY
    assert 2.5 <= disposition.delay_s <= 5


@pytest.mark.parametrize("error", [TooLarge("big", store="dest"), InvalidKey("odd", store="dest"), S3S3Error("no")])
def test_permanent_error_is_dead_lettered_with_its_reason(error: Exception) -> None:
    assert judged(error) == Disposition(DispositionKind.DEAD_LETTER, reason="it broke")


def test_last_attempt_is_dead_lettered() -> None:
    error = StoreUnavailable("away", store="dest")
    assert judged(error, attempts=6).kind == DispositionKind.RETRY
    assert judged(error, attempts=7) == Disposition(DispositionKind.DEAD_LETTER, reason="after 8 attempts: it broke")


def test_lost_lease_releases_without_counting_an_attempt() -> None:
    assert judged(LeaseLost("over"), attempts=7) == Disposition(DispositionKind.RELEASE)


def test_failure_of_a_store_with_open_circuit_is_parked() -> None:
    assert judged(StoreUnavailable("away", store="dest"), 7, ("dest",)) == Disposition(
        DispositionKind.PARK, circuit="dest"
    )
    assert judged(StoreUnavailable("away", store="source"), 7, ("source",)) == Disposition(
        DispositionKind.PARK, circuit="source"
    )
    assert judged(StoreUnavailable("away", store="source"), 0, ("dest",)).kind == DispositionKind.RETRY


def test_failure_of_the_object_itself_is_not_parked() -> None:
    assert judged(TooLarge("big", store="dest"), 0, ("dest",)).kind == DispositionKind.DEAD_LETTER
    assert judged(IntegrityError("bits", store="dest"), 0, ("dest",)).kind == DispositionKind.RETRY


@pytest.mark.parametrize("kind", [StoreUnavailable, AccessDenied, NoSuchBucket])
def test_store_wide_errors_name_the_store(kind: type[StoreUnavailable]) -> None:
    assert unavailable_store(kind("no", store="dest")) == "dest"


@pytest.mark.parametrize(
    "error", [IntegrityError("bits", store="dest"), TooLarge("big", store="dest"), OSError(), None]
)
def test_other_errors_name_no_store(error: Exception | None) -> None:
    assert unavailable_store(error) == ""


@pytest.mark.parametrize(
    ("attempts", "longest_s"), [(1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (50, 900), (100_000, 900)]
)
def test_backoff_doubles_up_to_a_limit_with_jitter(attempts: int, longest_s: float) -> None:
    delays_s = [backoff_s(attempts) for _ in range(200)]
    assert longest_s / 2 <= min(delays_s) < 0.6 * longest_s
    assert 0.9 * longest_s < max(delays_s) <= longest_s


@pytest.mark.parametrize(
    ("step", "final"),
    [
        (DispositionKind.DONE, True),
        (DispositionKind.DEAD_LETTER, True),
        (DispositionKind.RETRY, False),
        (DispositionKind.PARK, False),
    ],
)
def test_event_is_a_report_line_and_whether_it_is_final(step: str, final: bool) -> None:
    outcome = Outcome("dest", "k", Result.COPIED, "missing", 5, None, "a" * 32, "a" * 32, Proof.ETAG)
    assert json.loads(outcome_event("default", outcome, step)) == {
        "route": "default",
        "destination": "dest",
        "key": "k",
        "outcome": "copied",
        "reason": "missing",
        "source_size_bytes": 5,
        "destination_size_bytes": None,
        "source_md5": "a" * 32,
        "destination_md5": "a" * 32,
        "proof": "etag",
        "final": final,
    }
