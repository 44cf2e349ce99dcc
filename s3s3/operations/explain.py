"""Explain a key: which routes match, what each store has, what would be done and why, and what the queue knows.

The decision is that of a copy: `DestinationCopy.compare` sends the HEAD and decides. Nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from redis.asyncio import Redis

from ..config import WorkerSettings
from ..errors import RedisUnavailable, S3S3Error
from ..events import object_id
from ..model import Endpoint, Result, Route, mismatch
from ..monitoring.history import History
from ..monitoring.metrics import Metrics
from ..monitoring.snapshot import address_text
from ..queue.base import DeadLetter, FailedAttempt
from ..queue.records import Circuit, Records, read_records
from ..queue.redis_queue import RedisJobQueue
from ..s3 import ObjectInfo, Store
from ..tasks import timeout
from ..transfer.decision import Action, Decision, decide, describe
from ..transfer.destination import DestinationCopy
from ..transfer.metadata import RefusedRecords
from ..transfer.route_stores import RouteStores, opened
from .queue_text import queue_texts

#: How long a store may take to answer, in seconds.
STORE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ObjectState:
    """What a store answers to a HEAD of the key.

    Attributes:
        exists: None if the answer is unknown; `error` has the reason.
        modified_ms: Last-Modified (Unix time); at a destination that is when it was last written.
        recorded_etag: the source's ETag that a copy records.
    """

    store: str
    address: str
    exists: bool | None
    size_bytes: int | None = None
    etag: str | None = None
    modified_ms: int | None = None
    recorded_etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class LastFailure:
    """The last failure of the key that is known.

    Attributes:
        attempts: how many were counted; 0 if unknown.
        earlier: the failed attempts before it, oldest first; only the latest of many.
    """

    at_ms: int
    reason: str
    attempts: int = 0
    earlier: Sequence[FailedAttempt] = ()


@dataclass(frozen=True)
class DestinationExplanation:
    """One destination of a route that matches.

    Attributes:
        action: what a comparison would do now (`transfer.decision.Action`); None if a store did not answer.
        reason: of the decision; `text` says it in words, or why there is none.
        proof: how equality was established.
        circuit: why its circuit is open, "paused" if an operator paused it, else None.
        dead_letter: it is not tried again until an operator retries it.
        last_failure: a recent failure that is not final, if one is known.
    """

    object: ObjectState
    action: str | None
    reason: str | None
    text: str
    proof: str | None
    circuit: str | None = None
    dead_letter: LastFailure | None = None
    last_failure: LastFailure | None = None


@dataclass(frozen=True)
class QueueState:
    """What the queue knows of the key; times are Unix times by Redis's clock.

    Attributes:
        text: it in words, with what it waits for.
        next_attempt_ms: when the next attempt is due, if that is known.
    """

    text: str
    phase: str
    lane: str
    destinations: Sequence[str]
    attempts: dict[str, int]
    notified_ms: int | None
    failed_ms: int | None
    next_attempt_ms: int | None
    parked: Sequence[str]
    recheck_at_ms: int | None
    owner: str
    paused: bool


@dataclass(frozen=True)
class RouteExplanation:
    """A route. Without a match, only `mismatch` and `hint` are set.

    Attributes:
        mismatch: why it does not match; "" if it does.
        hint: the key that was meant, perhaps.
        log_id: the id in each log line about this object, in every process.
        queue: None without Redis; `queue_error` has the reason.
        next_steps: what an operator can do, as commands.
    """

    route: str
    mismatch: str = ""
    hint: str = ""
    log_id: str = ""
    source: ObjectState | None = None
    destinations: Sequence[DestinationExplanation] = ()
    queue: QueueState | None = None
    queue_error: str | None = None
    next_steps: Sequence[str] = ()

    @property
    def errors(self) -> list[str]:
        """Why a store or Redis could not be asked."""
        states = [each.object for each in self.destinations] + ([self.source] if self.source else [])
        return [text for text in (self.queue_error, *(state.error for state in states)) if text]


@dataclass(frozen=True)
class Explanation:
    """A key, at each route; routes that match are first."""

    key: str
    routes: Sequence[RouteExplanation]

    @property
    def is_matched(self) -> bool:
        """Whether a route matches."""
        return any(not each.mismatch for each in self.routes)


async def explain(key: str, routes: Sequence[Route], settings: WorkerSettings, client: Redis | None) -> Explanation:
    """Explain a key at these routes.

    Args:
        client: None: no Redis is configured.
    """
    matching = [route for route in routes if not mismatch(route, key)]
    found = await asyncio.gather(*(_explain_route(key, route, settings, client) for route in matching))
    others = [
        RouteExplanation(route.name, reason, _meant(route, key)) for route in routes if (reason := mismatch(route, key))
    ]
    return Explanation(key, [*found, *sorted(others, key=lambda other: not other.hint)])


def _meant(route: Route, key: str) -> str:
    """Return a key that the route matches and that may have been meant: "" if there is none."""
    prefix, bucket = route.source.prefix, route.source.bucket_name
    plain = key.lstrip("/")
    head, rest = key[: len(prefix)], key[len(prefix) :]
    corrected = prefix + rest if get_close_matches(head, [prefix], cutoff=0.8) else ""
    candidates = (
        plain, key.removeprefix(f"s3://{bucket}/"), plain.removeprefix(f"{bucket}/"), corrected, prefix + plain,
    )  # fmt: skip
    for candidate in candidates:
        if candidate and candidate != key and not mismatch(route, candidate):
            return candidate
    return ""


async def _explain_route(key: str, route: Route, settings: WorkerSettings, client: Redis | None) -> RouteExplanation:
    jobs = None if client is None else RedisJobQueue.of(client, route, settings.lease_s)
    async with opened(route, settings, Metrics()) as stores:
        (source, copies), (queue, queue_error, failures) = await asyncio.gather(
            _compare(key, stores), _read_queue(key, route, jobs)
        )
    letters, recent, circuits = failures
    destinations = [
        _destination(copy, circuits.get(copy.object.store), letters.get(copy.object.store),
                     recent.get(copy.object.store))
        for copy in copies
    ]  # fmt: skip
    explanation = RouteExplanation(
        route.name, "", "", object_id(route.name, key), source, destinations, queue, queue_error
    )
    steps = list(_next_steps(key, explanation))
    return RouteExplanation(**{**vars(explanation), "next_steps": steps})


# -- stores


async def _compare(key: str, stores: RouteStores) -> tuple[ObjectState, list[DestinationExplanation]]:
    """HEAD the source and every destination; decide as a copy does."""
    source = stores.source
    info, error = await _answer(source.head, key)
    state = _object_state(source.endpoint, info, error)
    return state, await asyncio.gather(
        *(_compare_one(key, stores, store, info, error) for store in stores.destinations)
    )


async def _compare_one(
    key: str, stores: RouteStores, store: Store, source: ObjectInfo | None, source_error: str | None
) -> DestinationExplanation:
    copy = DestinationCopy(store, key, stores.route.name, RefusedRecords())
    decision: Decision | None = None
    if source is None:
        copy.info, error = await _answer(store.head, key)
        if source_error is None and error is None:
            decision = decide(None, copy.info, delete=store.endpoint.delete)
    else:
        _, error = await _answer(lambda _: copy.compare(source, stores.source.endpoint.verify_md5), key)
        if copy.outcome is not None and copy.outcome.result is Result.FAILED:
            error = copy.outcome.reason
        decision = copy.decision
    state = _object_state(store.endpoint, copy.info, error)
    if decision is None:
        text = "unknown: it could not be compared" if source_error is None else "unknown: the source did not answer"
        return DestinationExplanation(state, None, None, text, None)
    proof = decision.proof.value if decision.proof else None
    return DestinationExplanation(state, decision.action.value, decision.reason.value, describe(decision), proof)


async def _answer(
    call: Callable[[str], Awaitable[ObjectInfo | None]], key: str
) -> tuple[ObjectInfo | None, str | None]:
    """Return what the store answers, and the error if it does not."""
    try:
        async with timeout(STORE_TIMEOUT_S):
            return await call(key), None
    except asyncio.TimeoutError:
        return None, f"no answer within {STORE_TIMEOUT_S:g} s"
    except S3S3Error as error:
        return None, str(error)


def _object_state(endpoint: Endpoint, info: ObjectInfo | None, error: str | None) -> ObjectState:
    address = address_text(endpoint)
    if info is None:
        return ObjectState(endpoint.name, address, None if error else False, error=error)
    headers = {name: value.encode("utf-8", "backslashreplace").decode() for name, value in info.headers.items()}
    return ObjectState(
        endpoint.name, address, True, info.size_bytes, info.etag, info.modified_ms or None, info.recorded_etag, headers,
        error,
    )  # fmt: skip


# -- queue

_Failures = tuple[dict[str, DeadLetter], dict[str, LastFailure], "dict[str, Circuit]"]


async def _read_queue(
    key: str, route: Route, jobs: RedisJobQueue | None
) -> tuple[QueueState | None, str | None, _Failures]:
    """Return what the queue knows, or why it could not be read; and dead letters, failures and circuits by store."""
    if jobs is None:
        return None, "no Redis is configured ([pubsub] url), so there is no queue", ({}, {}, {})
    try:
        found = await read_records(jobs, [key])
        stats = await jobs.stats()
        letters = {name: letter for name in route.destination_names if (letter := await jobs.dead_letter(name, key))}
        history = await History(jobs.client, jobs.prefix).read()
    except RedisUnavailable as error:
        return None, str(error), ({}, {}, {})
    recent = {
        name: LastFailure(failures[-1].at_ms, failures[-1].reason, earlier=failures[:-1])
        for name, failures in found.records[0].failures.items()
    }
    for failure in history.failures:  # newest first; each names one key as an example
        if failure.key == key:
            recent.setdefault(failure.destination, LastFailure(failure.at_ms, failure.reason))
    return _queue_state(route, found, is_paused=stats.paused), None, (letters, recent, dict(found.circuits))


def _queue_state(route: Route, found: Records, *, is_paused: bool) -> QueueState:
    record, now_ms = found.records[0], found.now_ms
    waits = [found.circuits[store] for store in record.parked if store in found.circuits]
    times = [at_ms for at_ms in (record.retry_at_ms, *(each.probe_at_ms for each in waits)) if at_ms is not None]
    text = "; ".join(queue_texts(record, waits, now_ms))
    if is_paused:
        text = f"route {route.name} is paused, so nothing is copied; {text}"
    return QueueState(
        text, record.phase, record.lane, list(record.destinations), dict(record.attempts or {}), record.notified_ms,
        record.failed_ms, min(times, default=None), list(record.parked), record.recheck_at_ms, record.owner, is_paused,
    )  # fmt: skip


def _destination(
    copy: DestinationExplanation, circuit: Circuit | None, letter: DeadLetter | None, recent: LastFailure | None
) -> DestinationExplanation:
    dead = LastFailure(letter.dead_lettered_ms, letter.reason, letter.attempts, letter.failures) if letter else None
    reason = None if circuit is None else "paused" if circuit.is_paused else circuit.reason
    return DestinationExplanation(**{**vars(copy), "circuit": reason, "dead_letter": dead, "last_failure": recent})


# -- advice


def _next_steps(key: str, found: RouteExplanation) -> Iterator[str]:
    """Yield commands that help, the most likely first."""
    quoted = _quoted(key)
    if found.queue and found.queue.paused:
        yield f"s3s3 jobs resume --route {found.route}"
    for each in found.destinations:
        name = each.object.store
        if each.circuit == "paused":
            yield f"s3s3 jobs resume --route {found.route} --destination {name}"
        if each.dead_letter:
            yield f"fix the cause at {name}, then: s3s3 jobs retry --route {found.route} --destination {name} {quoted}"
    if found.errors and any(each.action is None for each in found.destinations):
        yield "s3s3 check"
    waits = found.queue is not None and found.queue.phase != ""
    behind = [each for each in found.destinations if each.action in (Action.COPY.value, Action.DELETE.value)]
    if behind and not waits and not all(each.dead_letter for each in behind):
        yield f"s3s3 publish --route {found.route} --wait {quoted}"


def _quoted(key: str) -> str:
    """Return a key as a word of a shell."""
    import shlex  # noqa: PLC0415 - only advice needs it

    if not key.isprintable():
        return "$'" + key.encode("unicode_escape").decode().replace("'", "\\'") + "'"
    return ("-- " if key.startswith("-") else "") + shlex.quote(key)
