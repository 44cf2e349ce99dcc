"""Slow destinations are isolated, and tried again from time to time."""

from __future__ import annotations

import pytest

from s3s3.errors import DestinationTooSlow, StoreUnavailable
from s3s3.model import Outcome, Result
from s3s3.worker.isolation import ISOLATE_FOR_S, SlowDestinations
from tests.clock import Clock

A, B, C = "dest-a", "dest-b", "dest-c"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def known(clock: Clock) -> SlowDestinations:
    """C was too slow."""
    known = SlowDestinations()
    known.record([copied(A), copied(B), Outcome(C, "k", Result.FAILED, "", error=DestinationTooSlow("slow"))])
    return known


def copied(name: str) -> Outcome:
    return Outcome(name, "k", Result.COPIED)


def test_only_too_slow_destinations_are_isolated() -> None:
    known = SlowDestinations()
    known.record([copied(A), Outcome(B, "k", Result.FAILED, "", error=StoreUnavailable("down", store=B))])
    assert known.isolate([A, B]) == []


def test_slow_destination_is_deferred_only_beside_others(known: SlowDestinations) -> None:
    assert known.isolate([A, B, C]) == [C]
    assert known.isolate([C]) == []


def test_after_isolation_a_single_job_tries_the_destination(known: SlowDestinations, clock: Clock) -> None:
    clock.now_s += ISOLATE_FOR_S
    assert known.isolate([A, C]) == []
    assert known.isolate([A, C]) == [C]


def test_destination_that_is_fast_again_is_no_longer_isolated(known: SlowDestinations) -> None:
    known.record([copied(C)])
    assert known.isolate([A, C]) == [C], "alone it proves nothing"
    known.record([copied(A), copied(C)])
    assert known.isolate([A, C]) == []


def test_failure_does_not_end_the_isolation(known: SlowDestinations) -> None:
    known.record([copied(A), Outcome(C, "k", Result.FAILED, "", error=StoreUnavailable("down", store=C))])
    assert known.isolate([A, C]) == [C]
