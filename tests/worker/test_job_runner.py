"""Which destinations of a job are copied to now, and how the others are settled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from s3s3.errors import DestinationTooSlow
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.queue.base import PAUSED, Disposition, DispositionKind, OpenCircuit, boottime_s
from s3s3.queue.redis_calls import RedisRetry
from s3s3.queue.redis_queue import Lease, RedisJobQueue
from s3s3.worker.isolation import CircuitBreakers
from s3s3.worker.worker import JobRunner
from tests.worker.copies import BOTH, SOURCE, A, B, Copies, fails_at

UNKNOWN = Disposition(DispositionKind.UNKNOWN)
DEFER = Disposition(DispositionKind.DEFER)


@pytest.fixture
def circuits(jobs: RedisJobQueue) -> CircuitBreakers:
    return CircuitBreakers("default", SOURCE, jobs)


def runner(jobs: RedisJobQueue, circuits: CircuitBreakers, copies: Copies | None = None) -> JobRunner:
    return JobRunner("default", frozenset(BOTH), jobs, copies or Copies(), circuits, None, RedisRetry(), 8, None, None)


def job(destinations: Sequence[str] = BOTH, trackers: str = "") -> Job:
    return Job("k", tuple(destinations), Lane.FRESH, "0-1", "token", True, {}, 0, trackers)


def test_every_configured_destination_runs(jobs: RedisJobQueue, circuits: CircuitBreakers) -> None:
    assert runner(jobs, circuits).plan(job()) == (BOTH, {})
    assert runner(jobs, circuits).plan(job((A, "dest-gone"))) == ([A], {"dest-gone": UNKNOWN})


def test_destination_with_open_circuit_is_parked(jobs: RedisJobQueue, circuits: CircuitBreakers) -> None:
    circuits.update({B: OpenCircuit("dest-b: away", "probe")})
    plan = runner(jobs, circuits).plan(job())
    assert plan == ([A], {B: Disposition(DispositionKind.PARK, circuit=B)})


def test_trackers_receive_why_a_destination_is_parked(jobs: RedisJobQueue, circuits: CircuitBreakers) -> None:
    circuits.update({B: OpenCircuit("dest-b: away")})
    event = runner(jobs, circuits).plan(job(trackers="run1")).skipped[B].event
    assert "waits for dest-b, which is down: away" in event
    assert json.loads(event)["waiting"]
    circuits.update({B: OpenCircuit(PAUSED)})
    event = runner(jobs, circuits).plan(job(trackers="run1")).skipped[B].event
    assert "waits for dest-b, which is paused" in event


def test_open_source_circuit_parks_all_configured_destinations(jobs: RedisJobQueue, circuits: CircuitBreakers) -> None:
    circuits.update({SOURCE: OpenCircuit("source: away")})
    parked = Disposition(DispositionKind.PARK, circuit=SOURCE)
    assert runner(jobs, circuits).plan(job((A, B, "dest-gone"))) == ([], {A: parked, B: parked, "dest-gone": UNKNOWN})


async def test_slow_destination_is_deferred_beside_others(jobs: RedisJobQueue, circuits: CircuitBreakers) -> None:
    slow = runner(jobs, circuits, Copies(fails_at(B, DestinationTooSlow("slow"))))
    await slow.run(job(), Lease(boottime_s() + 60), slow.plan(job()))
    assert slow.plan(job()) == ([A], {B: DEFER})
    assert slow.plan(job((B,))) == ([B], {})


async def test_copy_without_an_outcome_fails_for_all_destinations(
    jobs: RedisJobQueue, circuits: CircuitBreakers
) -> None:
    ended: list[Sequence[Outcome]] = []

    async def copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        return [Outcome(A, job.key, Result.COPIED)]

    incomplete = JobRunner(
        "default", frozenset(BOTH), jobs, copy, circuits, None, RedisRetry(), 8, None,
        lambda _, outcomes, *__: ended.append(outcomes),
    )  # fmt: skip
    await incomplete.run(job(), Lease(boottime_s() + 60), incomplete.plan(job()))
    assert [(outcome.destination, outcome.result) for outcome in ended[0]] == [(A, Result.FAILED), (B, Result.FAILED)]
