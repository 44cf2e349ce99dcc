"""From what became of a copy to what the queue is told. Pure, but for chance in the backoff."""

from __future__ import annotations

import json
import random
from collections.abc import Container

from ..errors import AccessDenied, DestinationTooSlow, LeaseLost, NoSuchBucket, S3S3Error, StoreError, StoreUnavailable
from ..model import Outcome, Result, outcome_fields
from ..queue.base import Disposition, DispositionKind

INITIAL_RETRY_S = 5.0
MAX_RETRY_S = 900.0

_DONE = Disposition(DispositionKind.DONE)
_OF_THE_WHOLE_STORE = (StoreUnavailable, AccessDenied, NoSuchBucket)


def backoff_s(attempts: int) -> float:
    """Return how long to wait after `attempts` failed attempts: doubling, the upper half of it by chance.

    Jobs that failed together would otherwise come back together.
    """
    longest_s = min(INITIAL_RETRY_S * 2.0 ** min(attempts - 1, 30), MAX_RETRY_S)
    return random.uniform(longest_s / 2, longest_s)


def unavailable_store(error: Exception | None) -> str:
    """Return the name of the store that this failure may tell something about as a whole, or ""."""
    return error.store if isinstance(error, StoreError) and isinstance(error, _OF_THE_WHOLE_STORE) else ""


def disposition_for(
    outcome: Outcome, *, attempts: int, max_attempts: int, open_circuits: Container[str]
) -> Disposition:
    """Return what the queue is to do about a destination after its outcome.

    Args:
        tries: attempts that failed before this one.
        max_attempts: after so many, the key becomes a dead letter there.
        open_circuits: stores that are known to be down: what fails because of them waits for them, uncounted.
    """
    if outcome.result is not Result.FAILED:
        return _DONE
    if isinstance(outcome.error, (LeaseLost, DestinationTooSlow)):
        return Disposition(DispositionKind.RELEASE if isinstance(outcome.error, LeaseLost) else DispositionKind.DEFER)
    store = unavailable_store(outcome.error)
    if store and store in open_circuits:
        return Disposition(DispositionKind.PARK, circuit=store)
    if isinstance(outcome.error, S3S3Error) and not outcome.error.retriable:
        return Disposition(DispositionKind.DEAD_LETTER, reason=outcome.reason)
    if attempts + 1 >= max_attempts:
        often = f"{attempts + 1} times" if attempts else "once"
        return Disposition(DispositionKind.DEAD_LETTER, reason=f"tried {often}: {outcome.reason}")
    return Disposition(DispositionKind.RETRY, backoff_s(attempts + 1))


def event_of(route: str, outcome: Outcome, step: str) -> str:
    """Return what the runs that wait for this outcome are told: a report line, and whether it is the last word."""
    return json.dumps(
        {**outcome_fields(route, outcome), "final": step in (DispositionKind.DONE, DispositionKind.DEAD_LETTER)}
    )
