from __future__ import annotations

from collections.abc import Sequence

import pytest

from s3s3.errors import AccessDenied, IntegrityError, RedisUnavailable, StoreUnavailable
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.worker.circuit_breaker import FAILURES_TO_OPEN, KEYS_TO_OPEN, CircuitBreakers

A, B, SOURCE = "dest-a", "dest-b", "source"


class Told:
    """A queue that takes down what it is told, unless it is away."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.times_away = 0

    def hear(self, *what: str) -> None:
        if self.times_away:
            self.times_away -= 1
            raise RedisUnavailable("away")
        self.told.append(what)

    async def trip_circuit(self, destination: str, reason: str, key: str) -> None:
        self.hear("trip", destination, reason, key)

    async def close_circuit(self, destination: str) -> None:
        self.hear("close", destination)


@pytest.fixture
def jobs() -> Told:
    return Told()


@pytest.fixture
def circuits(jobs: Told) -> CircuitBreakers:
    return CircuitBreakers(jobs, SOURCE)


def away(key: str, store: str = B, destination: str = B) -> Outcome:
    error = StoreUnavailable("away", store=store)
    return Outcome(destination, key, Result.FAILED, "it is away", error=error)


def copied(key: str, destination: str = B, result: Result = Result.COPIED) -> Outcome:
    return Outcome(destination, key, result)


def job(key: str, destinations: Sequence[str] = (A, B)) -> Job:
    return Job(key, tuple(destinations), Lane.FRESH, "0-1", "token", True, {}, 0)


async def fail(circuits: CircuitBreakers, keys: Sequence[str], store: str = B) -> None:
    for key in keys:
        await circuits.record([away(key, store)])


async def test_a_store_that_fails_often_enough_for_keys_enough_is_down(jobs: Told, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert (jobs.told, circuits.opened) == ([], {})
    await fail(circuits, ["k5"])
    assert jobs.told == [("trip", B, "it is away", "k5")]
    assert circuits.opened == {B: ""}


async def test_one_bad_object_is_no_sick_store(jobs: Told, circuits: CircuitBreakers) -> None:
    assert KEYS_TO_OPEN == 3
    await fail(circuits, ["k1", "k2"] * FAILURES_TO_OPEN)
    assert jobs.told == []
    await fail(circuits, ["k3"])
    assert len(jobs.told) == 1


async def test_a_success_in_between_shows_that_the_store_works(jobs: Told, circuits: CircuitBreakers) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    await circuits.record([copied("k5")])
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert jobs.told == []


async def test_failures_that_say_nothing_about_the_store_open_nothing(jobs: Told, circuits: CircuitBreakers) -> None:
    for number in range(20):
        error = IntegrityError("bits", store=B)
        await circuits.record([Outcome(B, f"k{number}", Result.FAILED, "bits", error=error)])
    assert jobs.told == []


async def test_a_source_that_fails_is_down_for_all_destinations(jobs: Told, circuits: CircuitBreakers) -> None:
    for number in range(3):
        await circuits.record([away(f"k{number}", SOURCE, A), away(f"k{number}", SOURCE, B)])
    assert set(circuits.opened) == {SOURCE}
    assert circuits.parked(job("k")) == {A: SOURCE, B: SOURCE}


@pytest.mark.parametrize("refusal", [StoreUnavailable, AccessDenied])
async def test_refusals_count_as_being_away_does(
    jobs: Told, circuits: CircuitBreakers, refusal: type[AccessDenied]
) -> None:
    for number in range(FAILURES_TO_OPEN):
        await circuits.record([Outcome(B, f"k{number}", Result.FAILED, "no", error=refusal("no", store=B))])
    assert set(circuits.opened) == {B}


async def test_each_failure_while_it_is_down_is_told_for_it_may_be_the_probes(
    jobs: Told, circuits: CircuitBreakers
) -> None:
    circuits.update({B: "probe"})
    await fail(circuits, ["probe"])
    assert jobs.told == [("trip", B, "it is away", "probe")]


async def test_any_success_closes_the_circuit_once(jobs: Told, circuits: CircuitBreakers) -> None:
    circuits.update({B: "", A: ""})
    await circuits.record([copied("k", B, Result.SAME)])
    await circuits.record([copied("k", B)])
    assert jobs.told == [("close", B)]
    assert set(circuits.opened) == {A}


async def test_a_source_that_says_that_an_object_is_gone_works_and_tells_nothing_of_the_destination(
    jobs: Told, circuits: CircuitBreakers
) -> None:
    circuits.update({B: "", SOURCE: ""})
    await circuits.record([copied("k", B, Result.SOURCE_MISSING)])
    assert jobs.told == [("close", SOURCE)]
    assert set(circuits.opened) == {B}


async def test_a_destination_that_is_down_is_not_tried_but_for_its_probe(circuits: CircuitBreakers) -> None:
    circuits.update({B: "probe"})
    assert circuits.parked(job("k")) == {B: B}
    assert circuits.parked(job("probe")) == {}
    assert circuits.parked(job("k", (A,))) == {}


async def test_the_probe_of_one_store_still_waits_for_the_others(circuits: CircuitBreakers) -> None:
    circuits.update({SOURCE: "probe", B: "other"})
    assert circuits.parked(job("probe")) == {B: B}
    assert circuits.parked(job("other")) == {A: SOURCE, B: SOURCE}


async def test_after_somebody_elses_success_it_takes_as_many_failures_again(
    jobs: Told, circuits: CircuitBreakers
) -> None:
    await fail(circuits, ["k1", "k2", "k3", "k4", "k5"])
    circuits.update({B: ""})
    circuits.update({})
    await fail(circuits, ["k6"])
    assert len(jobs.told) == 1
    assert circuits.opened == {}


async def test_the_fleet_is_told_however_long_redis_is_away_and_each_failure_counts_once(
    jobs: Told, circuits: CircuitBreakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.redis_retry.INITIAL_BACKOFF_S", 0.001)
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    jobs.times_away = 3
    await fail(circuits, ["k5"])
    assert jobs.told == [("trip", B, "it is away", "k5")]
    jobs.times_away = 3
    await circuits.record([copied("k6")])
    assert jobs.told[1:] == [("close", B)]
    await fail(circuits, ["k1", "k2", "k3", "k4"])
    assert len(jobs.told) == 2
