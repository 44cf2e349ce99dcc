"""The contract of the job queue; `redis_queue` implements it.

The record of a key, and the steps that change it:

    enqueue               claim               finish: done or dead letter everywhere
     ──────▶  queued  ──────────▶  running  ─────────────────────────────────────▶ (no record)
                ▲  ▲                 │  │
                │  └─────────────────┘  │ finish: retry or park
                │    finish, if enqueued│
                │    while running      ▼
                └───────────────────  waiting
                  retry due, enqueue,
                  or circuit closed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from ..model import Job, Lane

__all__ = ["ClaimResult", "DeadLetter", "Disposition", "DispositionKind", "JobQueue", "JobRequest", "QueueStats"]

#: Delay between the opening of a circuit and its first probe, in seconds. Each failed probe doubles it.
INITIAL_PROBE_INTERVAL_S = 1.0
MAX_PROBE_INTERVAL_S = 30.0

#: Maximum time between two calls of `promote_due`, in seconds: other processes enqueue, too.
MAX_PROMOTE_INTERVAL_S = 5.0

#: Time after which more parked keys of a store may be queued, where `promote_due` was given a limit.
PARKED_INTERVAL_S = 0.25

NO_LIMITS: Mapping[str, int] = MappingProxyType({})


class JobRequest(NamedTuple):
    """A key to be made equal to the source at these destinations. `notified_ms` None means now."""

    key: str
    destinations: tuple[str, ...]
    notified_ms: int | None = None


class DispositionKind:
    """What happens next to one destination of a finished job."""

    DONE = "done"
    RETRY = "retry"
    PARK = "park"
    DEAD_LETTER = "dead-letter"
    RELEASE = "release"
    DEFER = "defer"


@dataclass(frozen=True, slots=True)
class Disposition:
    """How a worker settles one destination of its job.

    Attributes:
        kind: one of `DispositionKind`. RELEASE queues the destination again, without counting an attempt, as a worker
            does at shutdown. DEFER does so in the bulk lane, where it delays no notification.
        delay_s: for RETRY, the time until the next attempt.
        event: JSON object for the trackers of the job; "" for none.
        reason: for DEAD_LETTER, why.
        circuit: for PARK, the store to wait for: the destination or the source.
    """

    kind: str
    delay_s: float = 0.0
    event: str = ""
    reason: str = ""
    circuit: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A key that is not tried again at a destination until an operator redrives it.

    Attributes:
        destination: its name, or `MESSAGES` for a message that contains no valid key.
    """

    MESSAGES = "(message)"

    destination: str
    key: str
    reason: str
    attempts: int = 0
    dead_lettered_ms: int = 0


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The jobs that a claim started, and the state of the route.

    Attributes:
        jobs: each must be finished, or its lease expires and another worker takes it over.
        circuits: stores with an open circuit, each with the one key that may be tried there ("" for none).
        lease_from_s: start of the leases, by `boottime_s`.
        paused: whether an operator paused the whole route.
    """

    jobs: Sequence[Job] = ()
    circuits: Mapping[str, str] = field(default_factory=dict)
    lease_from_s: float = 0.0
    paused: bool = False


#: The reason in `QueueStats.circuits` of a store that an operator paused.
PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Number of jobs by state. Parked keys, dead letters and open circuits (with the reason) are by store."""

    fresh: int
    bulk: int
    retrying: int
    rechecks: int
    parked: Mapping[str, int]
    dead_letters: Mapping[str, int]
    circuits: Mapping[str, str]
    oldest_s: float
    paused: bool = False

    @property
    def pending(self) -> int:
        """Unfinished jobs. One that is parked and has a retry is counted twice."""
        return self.fresh + self.bulk + self.retrying + sum(self.parked.values())


@dataclass(frozen=True, slots=True)
class ReconcileRecord:
    """The last complete reconcile of a route, as stored in Redis.

    Attributes:
        ended_s: Unix time.
        seconds: how long it took.
        source_entries: objects that the source listed.
        destinations: the number of each outcome, by destination.
        errors: by store, why its listing failed.
    """

    ended_s: float
    seconds: float
    source_entries: int
    destinations: Mapping[str, Mapping[str, int]]
    errors: Mapping[str, str]


class RunningReconcile(NamedTuple):
    """The process that reconciles a route now; `since_ms` is Unix time by Redis's clock."""

    host: str
    pid: int
    since_ms: int


class JobQueue(Protocol):
    """The job queue of one route. Every method can raise RedisUnavailable."""

    async def enqueue(
        self, requests: Iterable[JobRequest], lane: Lane, tracker_id: str = "", unconditional: bool | None = None
    ) -> None:
        """Enqueue keys. When this returns, all of them are stored.

        Args:
            tracker_id: receives the outcomes, for `poll_outcomes`; "" for none.
            unconditional: copy without comparing first; None: only in the fresh lane.
        """

    async def claim(self, free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        """Start up to `free` jobs, waiting up to `wait_s` for the first. Expired claims are taken over.

        Up to `min_bulk` come from the bulk lane before any fresh ones, and at most `max_bulk` in all. With `max_bulk`
        0 a new bulk job does not end the wait.
        """

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        """Extend the leases of running jobs; return the tokens of lost ones."""

    async def finish(self, job: Job, dispositions: Mapping[str, Disposition], recheck: bool = False) -> bool:
        """Settle a claimed job, and schedule a recheck of its key if `recheck`.

        Each destination of the job needs a disposition; one without is forgotten.
        Returns False if another worker took the job over: then all its destinations are enqueued again.
        """

    async def promote_due(self, max_parked: Mapping[str, int] = NO_LIMITS) -> float:
        """Queue due retries, rechecks, probes and parked keys; return the seconds until the next call is needed.

        `max_parked`: how many keys parked for a store to queue once its circuit is closed. Other stores: all.
        """

    async def trip_circuit(self, store: str, reason: str, key: str) -> None:
        """Open the circuit of a store. If it is open and `key` is its probe, extend it."""

    async def close_circuit(self, store: str) -> None:
        """Close the circuit of a store; later calls of `promote_due` queue the keys parked for it."""

    async def poll_outcomes(self, tracker_id: str, wait_s: float) -> list[str]:
        """Return the new events of a tracker, waiting up to `wait_s` for the first."""

    async def stats(self) -> QueueStats:
        """Return the number of jobs by state."""
