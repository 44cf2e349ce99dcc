"""The requests and responses of the API. The OpenAPI description is generated from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ConfigDict

from ..monitoring.snapshot import RouteView, StoreView
from ..queue.admin import KEYS_PER_CALL
from ..queue.records import KeyState

#: Items of one page of a list.
DEFAULT_LIMIT, MAX_LIMIT = 50, KEYS_PER_CALL

Answer = TypeVar("Answer")

_FORBID = ConfigDict(extra="forbid")

Key = Annotated[str, MinLen(1), MaxLen(1024)]
Limit = Annotated[int, Ge(1), Le(MAX_LIMIT)]


# -- parameters of a query


@dataclass(frozen=True)
class NoParameters:
    """A request without parameters."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID


@dataclass(frozen=True)
class JobsQuery:
    """Which keys to list.

    Attributes:
        state: queued, running, waiting (for a retry), parked (for a store) or recheck.
        route: only this route; needed if there are several.
        store: for `parked`: the store that the keys wait for; needed if there are several.
        search: only keys that contain this text.
        cursor: `cursor` of the page before.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    state: KeyState
    route: str | None = None
    store: str | None = None
    search: str = ""
    cursor: str = ""
    limit: Limit = DEFAULT_LIMIT


@dataclass(frozen=True)
class RouteQuery:
    """Only this route, or all."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    route: str | None = None


@dataclass(frozen=True)
class DeadLettersQuery:
    """Which dead letters to list.

    Attributes:
        route: only this route.
        destination: only this destination; `(message)` for messages without a valid key.
        reason: only those of this group.
        search: only those with this text in the key or the reason.
        cursor: `cursor` of the page before.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    route: str | None = None
    destination: str | None = None
    reason: str | None = None
    search: str = ""
    cursor: str = ""
    limit: Limit = DEFAULT_LIMIT


@dataclass(frozen=True)
class ExplainQuery:
    """Which key to explain."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    key: Key
    route: str | None = None


# -- bodies


@dataclass(frozen=True)
class DeadLetterSelection:
    """Which dead letters to change: exactly one of `keys`, `reason` and `all`.

    Attributes:
        route: only of this route.
        destination: only of this destination.
        keys: these keys.
        reason: all of this group: a `reason` of `/dead-letters/groups`.
        all: all of them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    route: str | None = None
    destination: str | None = None
    keys: Annotated[list[Key], MaxLen(1000)] = field(default_factory=list)
    reason: str | None = None
    all: bool = False


@dataclass(frozen=True)
class PauseRequest:
    """What to pause or resume: a route, or one of its destinations."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    route: str
    destination: str | None = None


@dataclass(frozen=True)
class ReconcileRequest:
    """Which route to compare."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    route: str


@dataclass(frozen=True)
class EnqueueRequest:
    """Keys to copy, as notifications do; `route`: only there, else at each route that matches."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    keys: Annotated[list[Key], MinLen(1), MaxLen(1000)]
    route: str | None = None


@dataclass(frozen=True)
class DismissRequest:
    """The id of a process that stopped without shutting down."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    process: str


# -- responses


@dataclass(frozen=True)
class StoreStatus:
    """A source or destination.

    Attributes:
        state: ok, retrying, dead letters, paused or down, for `reason`.
        since_ms: since when it is paused or down; `next_attempt_ms`: when one of its parked keys tries it next.
        queued: unfinished keys, running ones included. The numbers of keys are estimates unless `is_exact`.
        compared_ms: when it was last compared completely (Unix time); None: never, or unknown.
    """

    name: str
    address: str
    state: str
    reason: str
    queued: int
    retrying: int
    parked: int
    is_exact: bool
    dead_letters: int
    oldest_s: float | None
    copied_per_s: float
    bytes_per_s: float
    lag_p50_s: float | None
    lag_p99_s: float | None
    compared_ms: int | None
    since_ms: int | None
    next_attempt_ms: int | None


@dataclass(frozen=True)
class ProcessStatus:
    """A process that works on a route; `silent_s` is the age of its last heartbeat."""

    id: str
    host: str
    pid: int
    version: str
    command: str
    started_ms: int
    running: int
    is_leader: bool
    is_silent: bool
    silent_s: float
    health_problem: str


@dataclass(frozen=True)
class ReconcileStatus:
    """A reconcile: the last one that reached its end, or the running one.

    Attributes:
        at_ms: when it ended, or when the running one began.
        compared: objects that the source has listed.
        expected: objects that the source listed at the last reconcile, to estimate the progress.
        outcomes: number of each outcome, summed over the destinations.
        errors: by destination, why it could not be compared.
    """

    is_running: bool
    at_ms: int
    compared: int
    expected: int | None
    outcomes: Mapping[str, int]
    errors: Mapping[str, str]
    host: str = ""
    pid: int = 0


@dataclass(frozen=True)
class RouteStatus:
    """A route: its stores, its queue, its processes and its reconciles."""

    name: str
    command: str
    channel: str
    paused: bool
    pending: int
    oldest_s: float | None
    rechecks: int
    source: StoreStatus
    destinations: Sequence[StoreStatus]
    processes: Sequence[ProcessStatus]
    last_reconcile: ReconcileStatus | None
    current_reconcile: ReconcileStatus | None


@dataclass(frozen=True)
class Status:
    """The fleet.

    Attributes:
        is_current: False: Redis does not answer, and this is the last known state, of `at_ms`.
        problems: what needs attention, and what to do; `warnings`: what should be looked at some time.
    """

    version: str
    at_ms: int
    is_current: bool
    problems: Sequence[str]
    warnings: Sequence[str]
    routes: Sequence[RouteStatus]


@dataclass(frozen=True)
class RouteDescription:
    """A configured route; `command` is listen or mirror."""

    name: str
    command: str
    channel: str
    source: str
    prefix: str
    include: Sequence[str]
    exclude: Sequence[str]
    destinations: Mapping[str, str]


@dataclass(frozen=True)
class Routes:
    """The configured routes, each with the addresses of its destinations by name."""

    routes: Sequence[RouteDescription]


@dataclass(frozen=True)
class JobItem:
    """A key on the queue; times are Unix times by Redis's clock.

    Attributes:
        waits_for: why it waits, in words; "" if it does not.
        owner: HOST:PID of the process that runs it.
    """

    route: str
    key: str
    phase: str
    lane: str
    destinations: Sequence[str]
    attempts: Mapping[str, int]
    notified_ms: int | None
    failed_ms: int | None
    next_attempt_ms: int | None
    waits_for: str
    owner: str


@dataclass(frozen=True)
class JobPage:
    """A page of keys; `cursor` leads to the next one, "" after the last. A page can be empty before the last."""

    items: Sequence[JobItem]
    cursor: str
    now_ms: int


@dataclass(frozen=True)
class DeadLetterItem:
    """A key that failed permanently at a destination."""

    route: str
    destination: str
    key: str
    reason: str
    group: str
    attempts: int
    dead_lettered_ms: int


@dataclass(frozen=True)
class DeadLetterPage:
    """A page of dead letters; `cursor` leads to the next one, "" after the last. A page can be empty before that."""

    items: Sequence[DeadLetterItem]
    cursor: str


@dataclass(frozen=True)
class GroupItem:
    """The dead letters of one destination with the same reason; `keys` are some of them."""

    route: str
    destination: str
    reason: str
    count: int
    oldest_ms: int
    newest_ms: int
    keys: Sequence[str]


@dataclass(frozen=True)
class Groups:
    """Dead letters by reason, the largest group first. `total` counts all, also those that were not grouped."""

    groups: Sequence[GroupItem]
    total: int


@dataclass(frozen=True)
class Changed:
    """How many dead letters the action changed."""

    count: int


@dataclass(frozen=True)
class Done:
    """What was done, in words."""

    message: str


@dataclass(frozen=True)
class Enqueued:
    """How many keys are on the queue, and those that match no route."""

    count: int
    unmatched: Sequence[str]


@dataclass(frozen=True)
class Problem:
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    detail: str


# -- from the views of the status page


def route_status(view: RouteView) -> RouteStatus:
    """Return the status of a route."""
    last, running = view.last_reconcile, view.current_reconcile
    processes = [
        ProcessStatus(
            each.id, each.host, each.pid, each.version, each.command, each.started_ms, each.running, each.is_leader,
            each.is_silent, round(each.silent_s, 1), each.health_problem,
        )
        for each in view.processes
    ]  # fmt: skip
    return RouteStatus(
        view.name, view.command, view.channel, view.stats.paused, view.stats.pending, view.oldest_s,
        view.stats.rechecks, _store_status(view.source), [_store_status(store) for store in view.destinations],
        processes,
        None if last is None else ReconcileStatus(
            False, int(last.ended_s * 1000), last.source_entries, None, view.reconcile_totals, dict(last.errors)
        ),
        None if running is None else ReconcileStatus(
            True, running.since_ms, running.compared, last.source_entries if last else None, dict(running.outcomes), {},
            running.host, running.pid,
        ),
    )  # fmt: skip


def _store_status(store: StoreView) -> StoreStatus:
    pending, circuit = store.pending, store.circuit
    return StoreStatus(
        store.name, store.address, store.state, store.reason, pending.queued if pending else 0,
        pending.retrying if pending else 0, store.parked, pending.exact if pending else True, store.dead_letters,
        pending.oldest_s if pending else None, store.copied_per_s, store.bytes_per_s, store.lag_p50_s, store.lag_p99_s,
        int(store.compared_s * 1000) if store.compared_s else None, circuit.since_ms if circuit else None,
        circuit.probe_at_ms if circuit else None,
    )  # fmt: skip
