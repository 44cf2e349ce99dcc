from __future__ import annotations

import json

import pytest

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidCredentials,
    InvalidKey,
    LeaseLost,
    NoSuchBucket,
    RequestTooLarge,
    S3S3Error,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    UnexpectedResponse,
)
from s3s3.model import Outcome, Proof, Result
from s3s3.queue.base import MAX_PROBE_INTERVAL_S, Disposition, DispositionKind
from s3s3.worker.retry_policy import (
    Cause,
    cause_of,
    disposition_for,
    may_concern_one_object,
    opens_circuit,
    outcome_event,
    unavailable_store,
    used_stores,
)

OBJECT_ERRORS = [
    IntegrityError("bits", store="dest"),
    RequestTooLarge("a proxy's limit", store="dest", operation="PUT"),
    ValueError("a defect"),
    None,
]
STORE_ERRORS = [
    StoreUnavailable("away", store="dest", operation="PUT"),
    UnexpectedResponse("a page", store="dest", operation="PUT"),
    AccessDenied("no", store="dest", operation="PUT"),
    InvalidCredentials("no", store="dest", operation="PUT"),
    NoSuchBucket("no", store="dest", operation="PUT"),
]
FINAL_ERRORS = [
    TooLarge("big", store="dest"),
    InvalidKey("odd", store="dest"),
    StoreRefused("archived", store="dest"),
    S3S3Error("no"),
]


def failed(error: Exception | None) -> Outcome:
    return Outcome("dest", "k", Result.FAILED, "it broke", error=error)


def settled(
    cause: Cause, attempts: int = 0, open_circuits: tuple[str, ...] = (), error: Exception | None = None
) -> Disposition:
    error = error or StoreUnavailable("away", store="dest")
    return disposition_for(failed(error), cause, attempts=attempts, max_attempts=8, open_circuits=open_circuits)


# -- what a failure counts against


@pytest.mark.parametrize("error", FINAL_ERRORS)
def test_an_error_that_s3_words_as_permanent_is_final(error: Exception) -> None:
    assert cause_of(error) is Cause.FINAL
    assert cause_of(error, open_circuits=("dest",)) is Cause.FINAL


@pytest.mark.parametrize("error", OBJECT_ERRORS)
def test_an_error_of_one_object_is_the_object_s(error: Exception | None) -> None:
    assert cause_of(error) is Cause.OBJECT
    assert cause_of(error, open_circuits=("dest",), other_failing_keys=9) is Cause.OBJECT


@pytest.mark.parametrize("error", STORE_ERRORS)
def test_an_error_that_may_concern_the_store_is_the_store_s_without_evidence(error: StoreError) -> None:
    assert cause_of(error) is Cause.STORE


@pytest.mark.parametrize("error", STORE_ERRORS)
def test_it_is_the_object_s_if_another_key_was_written_since_the_last_failure(error: StoreError) -> None:
    assert cause_of(error, succeeded=("source", "dest", "dest:write")) is Cause.OBJECT


@pytest.mark.parametrize(
    ("operation", "succeeded", "cause"),
    [
        ("PUT", ("dest",), Cause.STORE),
        ("DELETE", ("dest",), Cause.STORE),
        ("POST", ("dest:write",), Cause.OBJECT),
        ("HEAD", ("dest",), Cause.OBJECT),
        ("HEAD", ("source", "other", "other:write"), Cause.STORE),
    ],
)
def test_only_a_success_of_the_same_kind_at_the_same_store_is_evidence(
    operation: str, succeeded: tuple[str, ...], cause: Cause
) -> None:
    """A store that is read-only for maintenance still answers reads."""
    assert cause_of(StoreUnavailable("no", store="dest", operation=operation), succeeded=succeeded) is cause


def test_while_several_keys_fail_in_a_row_a_success_is_no_evidence() -> None:
    """A store that works for a moment now and then is not well."""
    error = StoreUnavailable("away", store="dest")
    assert cause_of(error, succeeded=("dest",), other_failing_keys=2) is Cause.OBJECT
    assert cause_of(error, succeeded=("dest",), other_failing_keys=3) is Cause.STORE


def test_while_the_circuit_is_open_an_older_success_is_no_evidence() -> None:
    error = StoreUnavailable("away", store="dest")
    assert cause_of(error, succeeded=("dest",), open_circuits=("dest",)) is Cause.STORE
    assert cause_of(error, succeeded=("dest",), open_circuits=("source",)) is Cause.OBJECT


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (400, "ThrottlingException"), (429, "")])
def test_throttling_is_never_the_object_s(status: int, code: str) -> None:
    error = StoreUnavailable("slow down", store="dest", status=status, code=code)
    assert cause_of(error, succeeded=("dest", "dest:write")) is Cause.STORE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AccessDenied("no", store="source", operation="GET"), True),
        (AccessDenied("no", store="source", operation="HEAD"), True),
        (AccessDenied("no", store="dest", operation="PUT"), False),
        (InvalidCredentials("no", store="source", operation="GET"), False),
        (InvalidCredentials("no", store="dest", operation="PUT", code="InvalidAccessKeyId"), False),
        (InvalidCredentials("no", store="dest", operation="PUT", code="SignatureDoesNotMatch"), True),
        (StoreUnavailable("away", store="source", operation="GET"), False),
        (None, False),
    ],
)
def test_a_denied_read_and_a_refused_signature_may_concern_one_object(error: Exception | None, expected: bool) -> None:
    assert may_concern_one_object(error) is expected


@pytest.mark.parametrize("error", STORE_ERRORS)
def test_store_wide_errors_name_the_store(error: StoreError) -> None:
    assert unavailable_store(error) == "dest"


@pytest.mark.parametrize("error", [*OBJECT_ERRORS, *FINAL_ERRORS])
def test_other_errors_name_no_store(error: Exception | None) -> None:
    assert unavailable_store(error) == ""


@pytest.mark.parametrize(
    ("result", "used"),
    [
        (Result.COPIED, {"source", "dest", "dest:write"}),
        (Result.DELETED, {"source", "dest", "dest:write"}),
        (Result.SAME, {"source", "dest"}),
        (Result.SOURCE_MISSING, {"source"}),
        (Result.FAILED, set()),
    ],
)
def test_an_outcome_shows_which_stores_work(result: Result, used: set[str]) -> None:
    assert set(used_stores("source", Outcome("dest", "k", result))) == used


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (StoreUnavailable("away", store="dest", operation="PUT"), {"source"}),
        (StoreUnavailable("away", store="source", operation="GET"), set()),
        (ValueError("a defect"), set()),
    ],
)
def test_a_failure_at_the_destination_shows_that_the_source_was_read(error: Exception, used: set[str]) -> None:
    assert set(used_stores("source", failed(error))) == used


# -- when a circuit opens


@pytest.mark.parametrize(
    ("failed_keys", "attempts", "others_succeeded", "opens"),
    [
        (["k"], None, False, False),  # one failure: perhaps a hiccup
        (["k", "k"], 0, False, True),  # a quiet bucket
        (["k", "k"], 0, True, False),  # throttled, or one of several keys that fail
        (["k", "k"], 2, False, False),  # others succeeded while it failed
        (["a", "b", "c", "a"], None, False, False),
        (["a", "b", "a", "b", "a"], None, False, False),
        (["a", "b", "c", "a", "b"], None, False, True),
        (["a", "b", "c", "a", "b"], 3, True, True),
    ],
)
def test_a_circuit_opens_by_the_decision_table(
    failed_keys: list[str], attempts: int | None, others_succeeded: bool, opens: bool
) -> None:
    assert opens_circuit(failed_keys, attempts=attempts, others_succeeded=others_succeeded) is opens


# -- how a destination is settled


@pytest.mark.parametrize("result", [result for result in Result if result is not Result.FAILED])
def test_every_result_but_failed_is_done(result: Result) -> None:
    outcome = Outcome("dest", "k", result)
    assert disposition_for(outcome, None, attempts=7, max_attempts=8, open_circuits=("dest",)) == Disposition(
        DispositionKind.DONE
    )


def test_a_final_failure_is_dead_lettered_with_its_reason() -> None:
    assert settled(Cause.FINAL) == Disposition(DispositionKind.DEAD_LETTER, reason="it broke")


def test_a_failure_of_the_object_is_counted() -> None:
    disposition = settled(Cause.OBJECT)
    assert (disposition.kind, disposition.reason) == (DispositionKind.RETRY, "it broke")
    assert 2.5 <= disposition.delay_s <= 5
    assert settled(Cause.OBJECT, attempts=6).kind == DispositionKind.RETRY


def test_last_attempt_is_dead_lettered() -> None:
    assert settled(Cause.OBJECT, attempts=7) == Disposition(
        DispositionKind.DEAD_LETTER, reason="after 8 attempts: it broke"
    )


@pytest.mark.parametrize("attempts", [0, 7])
def test_a_failure_of_the_store_is_not_counted_however_many_there_were(attempts: int) -> None:
    disposition = settled(Cause.STORE, attempts)
    assert (disposition.kind, disposition.reason) == (DispositionKind.RETRY_UNCOUNTED, "it broke")
    assert 2.5 <= disposition.delay_s <= MAX_PROBE_INTERVAL_S


def test_failure_of_a_store_with_open_circuit_is_parked() -> None:
    assert settled(Cause.STORE, 7, ("dest",)) == Disposition(DispositionKind.PARK, circuit="dest", has_failed=True)
    error = StoreUnavailable("away", store="source")
    assert settled(Cause.STORE, 7, ("source",), error) == Disposition(
        DispositionKind.PARK, circuit="source", has_failed=True
    )
    assert settled(Cause.STORE, 0, ("dest",), error).kind == DispositionKind.RETRY_UNCOUNTED


def test_lost_lease_releases_without_counting_an_attempt() -> None:
    assert settled(Cause.OBJECT, 7, error=LeaseLost("over")) == Disposition(DispositionKind.RELEASE)


def test_each_counted_attempt_doubles_the_delay() -> None:
    for attempts, longest_s in ((0, 5), (1, 10), (6, 320)):
        delays_s = [settled(Cause.OBJECT, attempts).delay_s for _ in range(100)]
        assert longest_s / 2 <= min(delays_s) < max(delays_s) <= longest_s


@pytest.mark.parametrize(
    ("step", "state"),
    [
        (DispositionKind.DONE, {"final": True}),
        (DispositionKind.DEAD_LETTER, {"final": True}),
        (DispositionKind.RETRY, {"final": False}),
        (DispositionKind.RETRY_UNCOUNTED, {"final": False, "waiting": True}),
        (DispositionKind.PARK, {"final": False, "waiting": True}),
    ],
)
def test_event_is_a_report_line_and_whether_it_is_final(step: str, state: dict[str, bool]) -> None:
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
        **state,
    }
