"""Turn a copy outcome into a queue disposition: done, retry, park or dead letter."""

from __future__ import annotations

import json
import random
from collections.abc import Container

from ..errors import (
    AccessDenied,
    DestinationTooSlow,
    LeaseLost,
    NoSuchBucket,
    S3S3Error,
    StoreError,
    StoreUnavailable,
    UnexpectedResponse,
)
from ..model import Outcome, Result, outcome_fields
from ..queue.base import Disposition, DispositionKind

INITIAL_RETRY_S = 5.0
MAX_RETRY_S = 900.0

DONE = Disposition(DispositionKind.DONE)
_STORE_WIDE_ERRORS = (StoreUnavailable, UnexpectedResponse, AccessDenied, NoSuchBucket)


def backoff_s(attempts: int) -> float:
    """Return the delay after `attempts` failures: exponential, its upper half random.

    Without jitter, jobs that failed together would be retried together.
    """
    max_s = min(INITIAL_RETRY_S * 2.0 ** min(attempts - 1, 30), MAX_RETRY_S)
    return random.uniform(max_s / 2, max_s)


def unavailable_store(error: Exception | None) -> str:
    """Return the name of the store if this error may concern all its objects, else ""."""
    return error.store if isinstance(error, StoreError) and isinstance(error, _STORE_WIDE_ERRORS) else ""


def disposition_for(
    outcome: Outcome, *, attempts: int, max_attempts: int, open_circuits: Container[str]
) -> Disposition:
    """Return how to settle a destination after its outcome.

    Args:
        attempts: earlier failed attempts.
        max_attempts: failed attempts until the key becomes a dead letter.
        open_circuits: stores known to be down; a failure caused by one parks the key and is not counted.
    """
    if outcome.result is not Result.FAILED:
        return DONE
    if isinstance(outcome.error, (LeaseLost, DestinationTooSlow)):
        return Disposition(DispositionKind.RELEASE if isinstance(outcome.error, LeaseLost) else DispositionKind.DEFER)
    store = unavailable_store(outcome.error)
    if store and store in open_circuits:
        return Disposition(DispositionKind.PARK, circuit=store)
    if isinstance(outcome.error, S3S3Error) and not outcome.error.retriable:
        return Disposition(DispositionKind.DEAD_LETTER, reason=outcome.reason)
    if attempts + 1 >= max_attempts:
        count = f"{attempts + 1} attempts" if attempts else "1 attempt"
        return Disposition(DispositionKind.DEAD_LETTER, reason=f"after {count}: {outcome.reason}")
    return Disposition(DispositionKind.RETRY, backoff_s(attempts + 1))


def outcome_event(route: str, outcome: Outcome, kind: str) -> str:
    """Return the event for trackers (JSON): a report line, and whether the outcome is final."""
    is_final = kind in (DispositionKind.DONE, DispositionKind.DEAD_LETTER)
    return json.dumps({**outcome_fields(route, outcome), "final": is_final})
