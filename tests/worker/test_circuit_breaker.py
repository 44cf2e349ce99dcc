from __future__ import annotations

from collections.abc import Sequence

import pytest

from s3s3.errors import AccessDenied, IntegrityError, RedisUnavailable, StoreUnavailable
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.worker.isolation import FAILURES_TO_OPEN, KEYS_TO_OPEN, CircuitBreakers

A, B, SOURCE = "dest-a", "dest-b", "source"


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

    async def trip_circuit(self, destination: str, reason: str, key: str) -> None:
        self.record("trip", destination, reason, key)

    async def close_circuit(self, destination: str) -> None:
        self.record("close", destination)


@pytest.fixture
def jobs() -> CircuitLog:
    return CircuitLog()


@pytest.fixture
def circuits(jobs: CircuitLog) -> CircuitBreakers:
    return CircuitBreakers(jobs, SOURCE)


def down(key: str, store: str = B, destination: str = B) -> Outcome:
    error = StoreUnavailable("away", store=store)
    return Outcome(destination, key, Result.FAILED, "it is down", error=error)


def copied(key: str, destination: str = B, result: Result = Result.COPIED) -> Outcome:
    return Outcome(destination, key, result)


def job(key: str, destinations: Sequence[str] = (A, B)) -> Job:
    return Job(key, tuple(destinations), Lane.FRESH, "0-1", "token", True, {}, 0)


async def fail(circuits: CircuitBreakers, keys: Sequence[str], store: str = B) -> None:
    for key in keys:
        await circuits.record([down(key, store)])


async def test_circuit_opens_after_failures_of_several_keys(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert (jobs.changes, circuits.opened) == ([], {})
    await fail(circuits, ["k5"])
    assert jobs.changes == [("trip", B, "it is down", "k5")]
    assert circuits.opened == {B: ""}


async def test_failures_of_few_keys_do_not_open_the_circuit(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    assert KEYS_TO_OPEN == 3
    await fail(circuits, ["k1", "k2"] * FAILURES_TO_OPEN)
    assert jobs.changes == []
    await fail(circuits, ["k3"])
    assert len(jobs.changes) == 1


async def test_success_resets_the_failure_count(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    await circuits.record([copied("k5")])
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert jobs.changes == []


async def test_errors_of_single_objects_do_not_open_the_circuit(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    for number in range(20):
        error = IntegrityError("bits", store=B)
        await circuits.record([Outcome(B, f"k{number}", Result.FAILED, "bits", error=error)])
    assert jobs.changes == []


async def test_open_source_circuit_parks_all_destinations(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    for number in range(3):
        await circuits.record([down(f"k{number}", SOURCE, A), down(f"k{number}", SOURCE, B)])
    assert set(circuits.opened) == {SOURCE}
    assert circuits.parked(job("k")) == {A: SOURCE, B: SOURCE}


@pytest.mark.parametrize("refusal", [StoreUnavailable, AccessDenied])
async def test_refusals_count_as_failures_of_the_store(
    jobs: CircuitLog, circuits: CircuitBreakers, refusal: type[AccessDenied]
) -> None:
    for number in range(FAILURES_TO_OPEN):
        await circuits.record([Outcome(B, f"k{number}", Result.FAILED, "no", error=refusal("no", store=B))])
    assert set(circuits.opened) == {B}


async def test_failure_while_open_is_reported_because_it_may_be_the_probe(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    circuits.update({B: "probe"})
    await fail(circuits, ["probe"])
    assert jobs.changes == [("trip", B, "it is down", "probe")]


async def test_any_success_closes_the_circuit_once(jobs: CircuitLog, circuits: CircuitBreakers) -> None:
    circuits.update({B: "", A: ""})
    await circuits.record([copied("k", B, Result.SAME)])
    await circuits.record([copied("k", B)])
    assert jobs.changes == [("close", B)]
    assert set(circuits.opened) == {A}


async def test_missing_source_object_closes_only_the_source_circuit(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    circuits.update({B: "", SOURCE: ""})
    await circuits.record([copied("k", B, Result.SOURCE_MISSING)])
    assert jobs.changes == [("close", SOURCE)]
    assert set(circuits.opened) == {B}


async def test_open_circuit_parks_all_keys_but_the_probe(circuits: CircuitBreakers) -> None:
    circuits.update({B: "probe"})
    assert circuits.parked(job("k")) == {B: B}
    assert circuits.parked(job("probe")) == {}
    assert circuits.parked(job("k", (A,))) == {}


async def test_probe_of_one_store_still_waits_for_the_others(circuits: CircuitBreakers) -> None:
    circuits.update({SOURCE: "probe", B: "other"})
    assert circuits.parked(job("probe")) == {B: B}
    assert circuits.parked(job("other")) == {A: SOURCE, B: SOURCE}


async def test_circuit_closed_by_another_worker_resets_the_failure_count(
    jobs: CircuitLog, circuits: CircuitBreakers
) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4", "k5"])
    circuits.update({B: ""})
    circuits.update({})
    await fail(circuits, ["k6"])
    assert len(jobs.changes) == 1
    assert circuits.opened == {}


async def test_circuit_changes_are_retried_until_redis_is_available(
    jobs: CircuitLog, circuits: CircuitBreakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_calls.INITIAL_BACKOFF_S", 0.001)
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    jobs.unavailable_calls = 3
    await fail(circuits, ["k5"])
    assert jobs.changes == [("trip", B, "it is down", "k5")]
    jobs.unavailable_calls = 3
    await circuits.record([copied("k6")])
    assert jobs.changes[1:] == [("close", B)]
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert len(jobs.changes) == 2
