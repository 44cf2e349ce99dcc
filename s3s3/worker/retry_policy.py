"""From what became of a copy to what the queue is told. Pure, but for chance in the backoff."""

from __future__ import annotations

import json
import random
from collections.abc import Container

from ..errors import AccessDenied, LeaseLost, LeftBehind, NoSuchBucket, S3S3Error, StoreError, StoreUnavailable
from ..model import Outcome, Result, outcome_fields
from ..queue.base import Step, Verdict

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 900.0

_DONE = Verdict(Step.DONE)
_OF_THE_WHOLE_STORE = (StoreUnavailable, AccessDenied, NoSuchBucket)


def retry_delay_s(tries: int) -> float:
    """Return how long to wait after `tries` failed attempts: doubling, the upper half of it by chance.

    Jobs that failed together would otherwise come back together.
    """
    longest_s = min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 30), LONGEST_RETRY_S)
    return random.uniform(longest_s / 2, longest_s)


def sick_store(error: Exception | None) -> str:
    """Return the name of the store that this failure may tell something about as a whole, or ""."""
    return error.store if isinstance(error, StoreError) and isinstance(error, _OF_THE_WHOLE_STORE) else ""


def verdict_of(outcome: Outcome, *, tries: int, max_tries: int, open_circuits: Container[str]) -> Verdict:
    """Return what the queue is to do about a destination after its outcome.

    Args:
        tries: attempts that failed before this one.
        max_tries: after so many, the key becomes a dead letter there.
        open_circuits: stores that are known to be down: what fails because of them waits for them, uncounted.
    """
    if outcome.result is not Result.FAILED:
        return _DONE
    if isinstance(outcome.error, (LeaseLost, LeftBehind)):
        return Verdict(Step.BACK if isinstance(outcome.error, LeaseLost) else Step.ASIDE)
    store = sick_store(outcome.error)
    if store and store in open_circuits:
        return Verdict(Step.PARK, circuit=store)
    if isinstance(outcome.error, S3S3Error) and not outcome.error.retriable:
        return Verdict(Step.BURY, reason=outcome.reason)
    if tries + 1 >= max_tries:
        often = f"{tries + 1} times" if tries else "once"
        return Verdict(Step.BURY, reason=f"tried {often}: {outcome.reason}")
    return Verdict(Step.RETRY, retry_delay_s(tries + 1))


def event_of(route: str, outcome: Outcome, step: str) -> str:
    """Return what the runs that wait for this outcome are told: a report line, and whether it is the last word."""
    return json.dumps({**outcome_fields(route, outcome), "final": step in (Step.DONE, Step.BURY)})
