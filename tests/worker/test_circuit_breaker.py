"""When circuits open and close, and what a failure counts against."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

import pytest

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidCredentials,
    RedisUnavailable,
    StoreError,
    StoreUnavailable,
    TooLarge,
)
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.queue.base import PAUSED, OpenCircuit, boottime_s
from s3s3.worker.isolation import READ_TEST_KEPT_S, CircuitBreakers
from s3s3.worker.retry_policy import FAILURES_TO_OPEN, KEYS_TO_OPEN, Cause
from tests.clock import Clock

A, B, SOURCE = "dest-a", "dest-b", "source"
DOWN = OpenCircuit("dest-b: away")


class CircuitLog:
    """Records the changes of circuits; unavailable for the next `unavailable_calls` calls."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, ...]] = []
        self.unavailable_calls = 0

    def record(self, *what: str) -> None:
        if self.unavailable_calls:
            self.unavailable_calls -= 1
            raise RedisUnavailable("away")
        self.changes.append(what)

    async def trip_circuit(self, destination: str, reason: str, key: str, /, *, is_only_key: bool) -> None:
        self.record("trip", destination, reason, key, *(["the only key"] if is_only_key else []))

    async def release_probe(self, destination: str, key: str, /) -> None:
        self.record("release", destination, key)

    async def close_circuit(self, destination: str, succeeded: Sequence[str], /) -> None:
        self.record("close", destination)


class Reads:
    """Tests whether a store can be read."""

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.calls: list[tuple[str, str]] = []

    async def __call__(self, store: str, key: str) -> StoreError | None:
        self.calls.append((store, key))
        return self.error


@pytest.fixture
def jobs() -> CircuitLog:
    return CircuitLog()


@pytest.fixture
def circuits(jobs: CircuitLog) -> CircuitBreakers:
    return CircuitBreakers("default", SOURCE, jobs)


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def reading_circuits(jobs: CircuitLog, reads: Reads) -> CircuitBreakers:
    return CircuitBreakers("default", SOURCE, jobs, read_test=reads)


def down(key: str, store: str = B, destination: str = B) -> Outcome:
    error = StoreUnavailable("away", store=store)
    return Outcome(destination, key, Result.FAILED, "it is down", error=error)


def denied(key: str, operation: str = "GET", store: str = SOURCE, kind: type[AccessDenied] = AccessDenied) -> Outcome:
    return Outcome(B, key, Result.FAILED, "no", error=kind("no", store=store, operation=operation))


def copied(key: str, destination: str = B, result: Result = Result.COPIED) -> Outcome:
    return Outcome(destination, key, result)


def job(
    key: str, destinations: Sequence[str] = (A, B), attempts: Mapping[str, int] | None = None,
    succeeded: Collection[str] = (),
) -> Job:  # fmt: skip
    return Job(key, tuple(destinations), Lane.FRESH, "0-1", "token", True, attempts or {}, 0, "", succeeded)


async def judge(circuits: CircuitBreakers, outcome: Outcome, **of_job: object) -> Cause | None:
    causes = await circuits.judge(job(outcome.key, **of_job), [outcome])  # type: ignore[arg-type]
    return causes.get(outcome.destination)


async def fail(circuits: CircuitBreakers, keys: Sequence[str], store: str = B) -> None:
    for key in keys:
        assert await judge(circuits, down(key, store)) is Cause.STORE


async def test_circuit_opens_after_failures_of_several_keys(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert (jobs.changes, circuits.opened) == ([], {})
    await fail(circuits, ["k5"])
    assert jobs.changes == [("trip", B, "it is down", "k5")]
    assert circuits.opened == {B: OpenCircuit("it is down")}


async def test_first_failures_of_few_keys_do_not_open_the_circuit(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    assert KEYS_TO_OPEN == 3
    await fail(circuits, ["k1", "k2"] * FAILURES_TO_OPEN)
    assert jobs.changes == []
    await fail(circuits, ["k3"])
    assert len(jobs.changes) == 1


async def test_the_second_failure_of_a_key_opens_the_circuit_of_a_quiet_store(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    assert await judge(circuits, down("k"), attempts={B: 0}) is Cause.STORE
    assert jobs.changes == [("trip", B, "it is down", "k", "the only key")]


async def test_the_second_failure_of_a_key_is_the_object_s_if_another_key_succeeded(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    assert await judge(circuits, down("k"), attempts={B: 0}, succeeded=(SOURCE, B)) is Cause.OBJECT
    assert (jobs.changes, circuits.failed_keys) == ([], {})


async def test_a_key_that_failed_while_others_succeeded_does_not_open_the_circuit_alone(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    for _ in range(2 * FAILURES_TO_OPEN):
        assert await judge(circuits, down("k"), attempts={B: 1}) is Cause.STORE
    assert jobs.changes == []


async def test_success_resets_the_failure_count(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    await judge(circuits, copied("k5"))
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert jobs.changes == []


async def test_errors_of_single_objects_do_not_open_the_circuit(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    for number in range(20):
        error = IntegrityError("bits", store=B)
        outcome = Outcome(B, f"k{number}", Result.FAILED, "bits", error=error)
        assert await judge(circuits, outcome) is Cause.OBJECT
    assert jobs.changes == []


async def test_open_source_circuit_parks_all_destinations(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    for number in range(3):
        await circuits.judge(job(f"k{number}"), [down(f"k{number}", SOURCE, A), down(f"k{number}", SOURCE, B)])
    assert set(circuits.opened) == {SOURCE}
    assert circuits.parked(job("k")) == {A: SOURCE, B: SOURCE}


@pytest.mark.parametrize("kind", [AccessDenied, InvalidCredentials])
async def test_denied_writes_count_as_failures_of_the_store(
    jobs: CircuitLog, reading_circuits: CircuitBreakers, reads: Reads, kind: type[AccessDenied]
) -> None:
    for number in range(FAILURES_TO_OPEN):
        await judge(reading_circuits, denied(f"k{number}", "PUT", B, kind))
    assert set(reading_circuits.opened) == {B}
    assert reads.calls == [], "reading proves nothing about writing"


async def test_failure_while_open_is_reported_because_it_may_be_the_probe(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    circuits.update({B: OpenCircuit("away", "probe")})
    await fail(circuits, ["probe"])
    assert jobs.changes == [("trip", B, "it is down", "probe", "the only key")]


async def test_any_success_closes_the_circuit_once(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    circuits.update({B: DOWN, A: DOWN})
    await judge(circuits, copied("k", B, Result.SAME))
    await judge(circuits, copied("k", B))
    assert jobs.changes == [("close", B)]
    assert set(circuits.opened) == {A}


async def test_missing_source_object_closes_only_the_source_circuit(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    circuits.update({B: DOWN, SOURCE: DOWN})
    await judge(circuits, copied("k", B, Result.SOURCE_MISSING))
    assert jobs.changes == [("close", SOURCE)]
    assert set(circuits.opened) == {B}


async def test_a_failure_of_the_destination_closes_the_circuit_of_the_source(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    circuits.update({SOURCE: OpenCircuit("source: away", "k"), B: OpenCircuit("away", "other")})
    await judge(circuits, down("k"))
    assert jobs.changes[0] == ("close", SOURCE)
    assert set(circuits.opened) == {B}


@pytest.mark.parametrize("error", [TooLarge("big", store=B), IntegrityError("bits", store=B)])
async def test_a_probe_whose_outcome_shows_nothing_about_the_store_is_replaced(
    jobs: CircuitLog, circuits: CircuitBreakers, error: Exception
) -> None:
    circuits.update({B: OpenCircuit("away", "probe")})
    await judge(circuits, Outcome(B, "probe", Result.FAILED, "odd", error=error))
    assert jobs.changes == [("release", B, "probe")]
    assert set(circuits.opened) == {B}


async def test_open_circuit_parks_all_keys_but_the_probe(circuits: CircuitBreakers) -> None:
    circuits.update({B: OpenCircuit("away", "probe")})
    assert circuits.parked(job("k")) == {B: B}
    assert circuits.parked(job("probe")) == {}
    assert circuits.parked(job("k", (A,))) == {}


async def test_probe_of_one_store_still_waits_for_the_others(circuits: CircuitBreakers) -> None:
    circuits.update({SOURCE: OpenCircuit("away", "probe"), B: OpenCircuit("away", "other")})
    assert circuits.parked(job("probe")) == {B: B}
    assert circuits.parked(job("other")) == {A: SOURCE, B: SOURCE}


async def test_circuit_closed_by_another_worker_resets_the_failure_count(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4", "k5"])
    circuits.update({B: DOWN})
    circuits.update({})
    await fail(circuits, ["k6"])
    assert len(jobs.changes) == 1
    assert circuits.opened == {}


async def test_a_claim_that_was_sent_before_a_change_does_not_undo_it(
    jobs: CircuitLog, circuits: CircuitBreakers, caplog: pytest.LogCaptureFixture
) -> None:
    before_s = boottime_s()
    await fail(circuits, ["k1", "k2", "k3", "k4", "k5"])
    circuits.update({}, before_s)
    assert set(circuits.opened) == {B}
    circuits.update({B: OpenCircuit("it is down", "k1")}, boottime_s())
    await judge(circuits, copied("k1"))
    circuits.update({B: OpenCircuit("it is down", "k1")}, before_s)
    assert circuits.opened == {}
    circuits.update({B: OpenCircuit("it is down", "k1")}, boottime_s())
    assert set(circuits.opened) == {B}, "another process has opened it again"


async def test_circuit_changes_are_retried_until_redis_is_available(
    jobs: CircuitLog, circuits: CircuitBreakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_calls.INITIAL_BACKOFF_S", 0.001)
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    jobs.unavailable_calls = 3
    await fail(circuits, ["k5"])
    assert jobs.changes == [("trip", B, "it is down", "k5")]
    jobs.unavailable_calls = 3
    await judge(circuits, copied("k6"))
    assert jobs.changes[1:] == [("close", B)]
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert len(jobs.changes) == 2


# -- objects that may not be read


async def test_denied_reads_are_the_objects_while_the_store_can_be_read(
    jobs: CircuitLog, reading_circuits: CircuitBreakers, reads: Reads
) -> None:
    for number in range(30):
        assert await judge(reading_circuits, denied(f"k{number}")) is Cause.OBJECT
    assert jobs.changes == []
    assert reads.calls == [(SOURCE, "")], "the answer is kept for a while"


async def test_denied_reads_are_the_store_s_if_nothing_else_can_be_read(
    jobs: CircuitLog, reading_circuits: CircuitBreakers, reads: Reads
) -> None:
    reads.error = InvalidCredentials("wrong secret", store=SOURCE)
    for number in range(FAILURES_TO_OPEN):
        assert await judge(reading_circuits, denied(f"k{number}")) is Cause.STORE
    assert reading_circuits.opened == {SOURCE: OpenCircuit("source: wrong secret")}, "the reason of everything"


async def test_the_test_is_repeated_after_a_while_and_closes_the_circuit(
    jobs: CircuitLog, reading_circuits: CircuitBreakers, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    reads.error = InvalidCredentials("wrong secret", store=SOURCE)
    await judge(reading_circuits, denied("k"), attempts={B: 0})
    assert set(reading_circuits.opened) == {SOURCE}
    reads.error = None
    clock.now_s += READ_TEST_KEPT_S
    assert await judge(reading_circuits, denied("k"), attempts={B: 0}) is Cause.OBJECT
    assert jobs.changes[-1] == ("close", SOURCE)


async def test_an_object_that_was_read_before_is_the_better_test(
    reading_circuits: CircuitBreakers, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    reading_circuits.last_key = "good"
    await judge(reading_circuits, denied("k"))
    clock.now_s += READ_TEST_KEPT_S
    reading_circuits.last_key = "k"
    await judge(reading_circuits, denied("k"))
    assert reads.calls == [(SOURCE, "good"), (SOURCE, "")], "the denied key itself proves nothing"


async def test_a_store_that_cannot_be_listed_is_not_down_while_other_keys_are_read(
    jobs: CircuitLog, reading_circuits: CircuitBreakers, reads: Reads
) -> None:
    reads.error = InvalidCredentials("wrong secret", store=SOURCE)
    outcome = denied("k")
    assert await judge(reading_circuits, outcome, attempts={B: 0}, succeeded=(SOURCE,)) is Cause.OBJECT
    assert jobs.changes == []


# -- the log


async def test_the_log_has_a_line_when_a_circuit_opens_and_one_when_it_closes(
    circuits: CircuitBreakers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await fail(circuits, ["k1", "k2", "k3", "k4", "k5"])
    circuits.update({B: OpenCircuit("it is down", "k1")})
    await fail(circuits, ["k1"])
    await asyncio.sleep(0.01)
    await judge(circuits, copied("k1"))
    circuits.update({})
    circuits.update({A: OpenCircuit("dest-a: 503", "k1"), SOURCE: OpenCircuit(PAUSED)})
    circuits.update({})
    fields = [vars(record)["fields"] for record in caplog.records]
    assert caplog.messages == ["circuit opened: it is down", "circuit closed", "circuit opened: 503", "circuit closed"]
    assert [line["destination"] for line in fields] == [B, B, A, A]
    assert {line["route"] for line in fields} == {"default"}
    opened, closed, elsewhere, _ = fields
    assert (opened["key"], opened["attempt"]) == ("k5", 1)
    assert opened["next_attempt"].endswith("Z")
    assert closed["duration_s"] >= 0.01
    assert "key" not in elsewhere, "another process has opened it"
