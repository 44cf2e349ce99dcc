"""Turn a copy outcome into a queue disposition: done, retry, park or dead letter.

A failure is final, the object's, or the store's (`cause_of`):

failure                                                        cause
an error that S3 words and that is known to be permanent       final
an error that concerns one object (a wrong MD5, a full disk)   the object's
an error that may concern the whole store: no connection, 5xx, AccessDenied, a page of a proxy ...
    - while the store's circuit is open                        the store's
    - SlowDown and the like                                    the store's
    - several other keys fail there in a row                   the store's
    - another key has succeeded there since this key's last
      failure, for a write: with a write                       the object's
    - otherwise                                                the store's
AccessDenied to a read, or SignatureDoesNotMatch, while
another read of the store works                                the object's (`CircuitBreakers`)

cause          situation                                       disposition
final                                                          dead letter
the object's   attempts left                                   retry, counted
the object's   none left                                       dead letter
the store's    its circuit is open, or opens now               park
the store's    otherwise                                       retry, not counted

A circuit opens (`opens_circuit`) after FAILURES_TO_OPEN failures in a row of KEYS_TO_OPEN keys, and, in a quiet bucket,
at the second failure of a key if no other key has succeeded in between. A key with counted attempts does not open it
alone: others succeeded while it failed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Sequence
from enum import Enum

from ..errors import (
    AccessDenied,
    DestinationTooSlow,
    InvalidCredentials,
    LeaseLost,
    NoSuchBucket,
    S3S3Error,
    StoreError,
    StoreUnavailable,
    UnexpectedResponse,
)
from ..model import Outcome, Result, outcome_fields
from ..queue.base import MAX_PROBE_INTERVAL_S, Disposition, DispositionKind
from ..tasks import backoff_s

INITIAL_RETRY_S = 5.0
MAX_RETRY_S = 900.0

#: A circuit opens after this many failures in a row ...
FAILURES_TO_OPEN = 5

#: ... of this many different keys: a single object that always fails does not mean that the store is down.
KEYS_TO_OPEN = 3

DONE = Disposition(DispositionKind.DONE)
_STORE_WIDE_ERRORS = (StoreUnavailable, UnexpectedResponse, AccessDenied, NoSuchBucket)
_WRITES = frozenset(("PUT", "POST", "DELETE"))
_THROTTLING_CODES = frozenset((
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests",
    "TooManyRequestsException", "BandwidthLimitExceeded",
))  # fmt: skip


class Cause(Enum):
    """What a failure counts against."""

    FINAL = "final"
    OBJECT = "object"
    STORE = "store"


def unavailable_store(error: Exception | None) -> str:
    """Return the name of the store if this error may concern all its objects, else ""."""
    return error.store if isinstance(error, StoreError) and isinstance(error, _STORE_WIDE_ERRORS) else ""


def may_concern_one_object(error: Exception | None) -> bool:
    """Return whether a read of something else can prove that a refusal is this object's condition.

    That is a read that was denied, or a signature that was refused: some stores change headers before they verify it,
    such as a metadata name with "_" (Ceph 16, V2), or bytes of UTF-8 values (Swift 2.38, V4).
    """
    if isinstance(error, InvalidCredentials):
        return error.code == "SignatureDoesNotMatch"
    return isinstance(error, AccessDenied) and error.operation not in _WRITES


def cause_of(
    error: Exception | None,
    *,
    succeeded: Container[str] = (),
    other_failing_keys: int = 0,
    open_circuits: Container[str] = (),
) -> Cause:
    """Return what a failure counts against.

    Args:
        succeeded: stores at which another key succeeded since this key's last failure; see `Job.succeeded`.
        other_failing_keys: how many other keys have failed at the store in a row.
        open_circuits: stores with an open circuit.
    """
    if isinstance(error, S3S3Error) and not error.retriable:
        return Cause.FINAL
    store = unavailable_store(error)
    if not store or not isinstance(error, StoreError):
        return Cause.OBJECT
    is_throttled = error.code in _THROTTLING_CODES or error.status == 429
    if store in open_circuits or is_throttled or other_failing_keys >= KEYS_TO_OPEN:
        return Cause.STORE
    return Cause.OBJECT if has_worked(error, succeeded) else Cause.STORE


def has_worked(error: StoreError, succeeded: Container[str]) -> bool:
    """Return whether another key succeeded where this one failed, by a write if this was one."""
    return (f"{error.store}:write" if error.operation in _WRITES else error.store) in succeeded


def used_stores(source: str, outcome: Outcome) -> tuple[str, ...]:
    """Return the stores that an outcome shows to work, for `Job.succeeded` of other jobs."""
    name, result = outcome.destination, outcome.result
    if result is Result.FAILED:  # a destination is used after the source has been read
        return (source,) if isinstance(outcome.error, StoreError) and outcome.error.store == name else ()
    if result is Result.SOURCE_MISSING:
        return (source,)
    return (source, name, f"{name}:write") if result in (Result.COPIED, Result.DELETED) else (source, name)


def opens_circuit(failed_keys: Sequence[str], *, attempts: int | None, others_succeeded: bool) -> bool:
    """Return whether a failure that is the store's opens its circuit.

    Args:
        failed_keys: keys of the recent failures in a row, this one included.
        attempts: counted attempts of this key; None: it has not failed before.
        others_succeeded: another key succeeded there since this key's last failure.
    """
    if attempts == 0 and not others_succeeded:
        return True
    return len(failed_keys) >= FAILURES_TO_OPEN and len(set(failed_keys)) >= KEYS_TO_OPEN


def disposition_for(
    outcome: Outcome, cause: Cause | None, *, attempts: int, max_attempts: int, open_circuits: Collection[str]
) -> Disposition:
    """Return how to settle a destination after its outcome.

    Args:
        cause: of a failure; None for other outcomes.
        attempts: earlier counted attempts.
        max_attempts: counted attempts until the key becomes a dead letter.
        open_circuits: stores known to be down; a failure caused by one parks the key.
    """
    if outcome.result is not Result.FAILED:
        return DONE
    if isinstance(outcome.error, (LeaseLost, DestinationTooSlow)):
        return Disposition(DispositionKind.RELEASE if isinstance(outcome.error, LeaseLost) else DispositionKind.DEFER)
    store = unavailable_store(outcome.error)
    if cause is Cause.FINAL:
        disposition = Disposition(DispositionKind.DEAD_LETTER, reason=outcome.reason)
    elif cause is Cause.STORE and store in open_circuits:
        disposition = Disposition(DispositionKind.PARK, circuit=store, has_failed=True)
    elif cause is Cause.STORE:
        delay_s = backoff_s(attempts + 1, INITIAL_RETRY_S, MAX_PROBE_INTERVAL_S)
        disposition = Disposition(DispositionKind.RETRY_UNCOUNTED, delay_s, reason=outcome.reason)
    elif attempts + 1 >= max_attempts:
        count = f"{attempts + 1} attempts" if attempts else "1 attempt"
        disposition = Disposition(DispositionKind.DEAD_LETTER, reason=f"after {count}: {outcome.reason}")
    else:
        delay_s = backoff_s(attempts + 1, INITIAL_RETRY_S, MAX_RETRY_S)
        disposition = Disposition(DispositionKind.RETRY, delay_s, reason=outcome.reason)
    return disposition


def outcome_event(route: str, outcome: Outcome, kind: str, *, is_paused: bool = False) -> str:
    """Return the event for trackers (JSON): a report line, and whether the outcome is final.

    `waiting` is in it if the key waits until its store works: that is not a failure of the key. For a destination that
    an operator has paused (`is_paused`), waiting does not help.
    """
    event = {**outcome_fields(route, outcome), "final": kind in (DispositionKind.DONE, DispositionKind.DEAD_LETTER)}
    if kind in (DispositionKind.PARK, DispositionKind.RETRY_UNCOUNTED) and not is_paused:
        event["waiting"] = True
    return json.dumps(event)
