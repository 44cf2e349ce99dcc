"""What callers pass to the job queue and receive from it.

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

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from ..model import Job

#: Delay between the opening of a circuit and its first probe, in seconds. Each failed probe doubles it.
INITIAL_PROBE_INTERVAL_S = 1.0
MAX_PROBE_INTERVAL_S = 30.0

#: Maximum time between two calls of `promote_due`, in seconds: other processes enqueue, too.
MAX_PROMOTE_INTERVAL_S = 5.0

#: Time after which more parked keys of a store may be queued, if `promote_due` was given a limit.
PARKED_INTERVAL_S = 0.25

#: Return a monotonic time for lease deadlines, in s. On Linux it includes the time in suspend (clock_gettime(2)).
boottime_s: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic
)

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
    RETRY_UNCOUNTED = "retry-uncounted"
    PARK = "park"
    DEAD_LETTER = "dead-letter"
    RELEASE = "release"
    DEFER = "defer"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Disposition:
    """How a worker settles one destination of its job.

    Attributes:
        kind: one of `DispositionKind`. RETRY_UNCOUNTED is a RETRY that does not count as an attempt. RELEASE queues
            the destination again, without counting an attempt, as a worker does at shutdown. DEFER does so in the bulk
            lane, where it delays no notification. UNKNOWN is for a destination that the worker does not have: parked
            for the processes that have it, else done.
        delay_s: for RETRY and RETRY_UNCOUNTED, the time until the next attempt.
        event: JSON object for the trackers of the job; "" for none.
        reason: for DEAD_LETTER, RETRY and RETRY_UNCOUNTED, why.
        circuit: for PARK, the store to wait for: the destination or the source.
        has_failed: for PARK, whether the store was tried.
    """

    kind: str
    delay_s: float = 0.0
    event: str = ""
    reason: str = ""
    circuit: str = ""
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """When an attempt failed (Unix time), and why."""

    at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A key that is not tried again at a destination until an operator redrives it.

    Attributes:
        destination: its name, or `MESSAGES` for a message that contains no valid key.
        failures: the failed attempts before the last one, oldest first; only the latest of many.
    """

    MESSAGES = "(message)"

    destination: str
    key: str
    reason: str
    attempts: int = 0
    dead_lettered_ms: int = 0
    failures: Sequence[FailedAttempt] = ()


class OpenCircuit(NamedTuple):
    """An open circuit: why it opened, and the one key that may be tried at its store ("" for none)."""

    reason: str
    probe: str = ""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The jobs that a claim started, and the state of the route.

    Attributes:
        jobs: each must be finished, or its lease expires and another worker takes it over.
        circuits: the open circuits by store, and the paused stores with the reason PAUSED.
        lease_from_s: start of the leases, by `boottime_s`.
        paused: whether an operator paused the whole route.
    """

    jobs: Sequence[Job] = ()
    circuits: Mapping[str, OpenCircuit] = field(default_factory=dict)
    lease_from_s: float = 0.0
    paused: bool = False


#: The reason of the circuit of a store that an operator paused.
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
    """The last reconcile of a route that reached its end, as stored in Redis.

    Attributes:
        ended_s: Unix time.
        seconds: how long it took.
        source_entries: objects that the source listed.
        destinations: the number of each outcome, by destination.
        errors: by destination, why its last comparison failed.
        compared_s: by destination, when its last comparison without an error ended (Unix time).
        deletions_withheld: by destination, why nothing was deleted there.
        failures: how many reconciles in succession could not compare every destination.
    """

    ended_s: float
    seconds: float
    source_entries: int
    destinations: Mapping[str, Mapping[str, int]]
    errors: Mapping[str, str]
    compared_s: Mapping[str, float] = field(default_factory=dict)
    deletions_withheld: Mapping[str, str] = field(default_factory=dict)
    failures: int = 0


class Gap(NamedTuple):
    """Time during which notifications were missed, or after which Redis lost jobs.

    Attributes:
        age_ms: how long ago it began; None if Redis has lost its data.
        generation: differs for each gap.
        healed: destinations that have been compared since, or whose missed keys are enqueued.
    """

    age_ms: int | None
    generation: str
    healed: frozenset[str] = frozenset()


class RunningReconcile(NamedTuple):
    """The process that reconciles a route now; `since_ms` is Unix time by Redis's clock.

    Attributes:
        compared: objects that the source has listed; 0: none, or unknown.
        outcomes: the number of each outcome, summed over the destinations.
    """

    host: str
    pid: int
    since_ms: int
    compared: int = 0
    outcomes: Mapping[str, int] = MappingProxyType({})
