"""Who holds up the others is kept apart, and shown now and then whether it still has to be."""

from __future__ import annotations

import pytest

from s3s3.errors import DestinationTooSlow, StoreUnavailable
from s3s3.model import Outcome, Result
from s3s3.worker.slow_destinations import ISOLATE_FOR_S, SlowDestinations

A, B, C = "dest-a", "dest-b", "dest-c"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def known(clock: Clock) -> SlowDestinations:
    """C was left behind."""
    known = SlowDestinations()
    known.record([copied(A), copied(B), Outcome(C, "k", Result.FAILED, "", error=DestinationTooSlow("slow"))])
    return known


def copied(name: str) -> Outcome:
    return Outcome(name, "k", Result.COPIED)


def test_nobody_is_kept_apart_who_was_not_left_behind() -> None:
    known = SlowDestinations()
    known.record([copied(A), Outcome(B, "k", Result.FAILED, "", error=StoreUnavailable("down", store=B))])
    assert known.isolate([A, B]) == []


def test_who_was_left_behind_is_kept_apart_from_the_others_only(known: SlowDestinations) -> None:
    assert known.isolate([A, B, C]) == [C]
    assert known.isolate([C]) == []


def test_after_a_while_one_job_tries_it_and_the_next_ones_do_not_wait_for_that(
    known: SlowDestinations, clock: Clock
) -> None:
    clock.now_s += ISOLATE_FOR_S
    assert known.isolate([A, C]) == []
    assert known.isolate([A, C]) == [C]


def test_who_keeps_up_with_others_is_kept_apart_no_more(known: SlowDestinations) -> None:
    known.record([copied(C)])
    assert known.isolate([A, C]) == [C], "alone it kept up with nobody"
    known.record([copied(A), copied(C)])
    assert known.isolate([A, C]) == []


def test_who_fails_beside_others_has_not_kept_up(known: SlowDestinations) -> None:
    known.record([copied(A), Outcome(C, "k", Result.FAILED, "", error=StoreUnavailable("down", store=C))])
    assert known.isolate([A, C]) == [C]
