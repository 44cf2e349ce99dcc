"""The queue: its contract, which `redis` keeps for a fleet and `memory` for a `bucket` run without Redis.

The rule (who may run a key, and what a notice does meanwhile):

    put                 claim                 finish: done, or buried as a dead letter
     ──────▶  queued  ─────────▶  running  ──────────────────────────────────────▶ (no record)
                ▲  ▲                │  │
                │  └────────────────┘  │ finish: retry or park
                │   finish, and noticed│
                │   while it ran       ▼
                └──────────────────  waiting
                    due, notice,
                    circuit closed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from ..model import Job, Lane

__all__ = ["ClaimResult", "DeadLetter", "Disposition", "DispositionKind", "JobQueue", "JobRequest", "QueueStats"]

INITIAL_PROBE_INTERVAL_S = 1.0
"""How long a circuit is open before a first key is tried; each probe that fails doubles it."""

MAX_PROBE_INTERVAL_S = 30.0
MAX_TURN_S = 5.0
"""How long a turn may wait for the next: what others put is not known here."""


PAUSE_BETWEEN_WAKES_S = 0.25
"""How soon more of what is parked may be woken where `turn` was given a bound."""

NO_BOUNDS: Mapping[str, int] = MappingProxyType({})


class JobRequest(NamedTuple):
    """A key to look at, at these destinations. `notified_ms` None is now."""

    key: str
    destinations: tuple[str, ...]
    notified_ms: int | None = None


class DispositionKind:
    """What comes next for a destination of a job, in the words of the queue's rule."""

    DONE = "done"
    RETRY = "retry"
    PARK = "park"
    DEAD_LETTER = "dead-letter"
    RELEASE = "release"
    DEFER = "defer"


@dataclass(frozen=True, slots=True)
class Disposition:
    """What a worker says of one destination of its job.

    Attributes:
        step: one of `DispositionKind`. BACK hands it back untried, as a worker does that is told to stop; ASIDE does so
            to the bulk lane, where it holds up nobody's notices.
        delay_s: for RETRY, how long to wait.
        event: for the runs that wait for the job: a JSON object, "" for nothing.
        reason: for BURY, why, in plain words.
        circuit: for PARK, whose circuit it waits for: the destination's, or the source's.
    """

    step: str
    delay_s: float = 0.0
    event: str = ""
    reason: str = ""
    circuit: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A key that will not be tried again at this destination until somebody revives it.

    Attributes:
        destination: its name; `NOTICES` for a message that names no possible key.
    """

    MESSAGES = "(message)"

    destination: str
    key: str
    reason: str
    attempts: int = 0
    dead_lettered_ms: int = 0


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim brought.

    Attributes:
        jobs: each is to be finished, or its lease lapses.
        circuits: destinations that are down or held, each with the one key that may be tried there ("" for none).
        lease_from_s: when it was asked for, on the lease's clock.
        paused: a person holds the whole route.
    """

    jobs: Sequence[Job] = ()
    circuits: Mapping[str, str] = field(default_factory=dict)
    lease_from_s: float = 0.0
    paused: bool = False


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How full the queue is. Dead letters, parked keys and circuits go by destination."""

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
        """Jobs that are not done yet; one that is parked and has a retry due as well counts as two."""
        return self.fresh + self.bulk + self.retrying + sum(self.parked.values())


class JobQueue(Protocol):
    """The contract. One object serves one route; every method may raise RedisUnavailable."""

    async def enqueue(
        self, puts: Iterable[JobRequest], lane: Lane, run: str = "", unconditional: bool | None = None
    ) -> None:
        """Say that keys are worth a look. Once it returns, none of them is lost.

        `run` is told what becomes of them (`outcomes`). `unconditional`: copy without a look at the destinations first;
        None: as is due in that lane.
        """

    async def claim(self, free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        """Take up to `free` jobs, waiting up to `wait_s` for the first. Takes over lapsed ones, too.

        `min_bulk` of them come from the bulk lane before fresh ones are taken, and at most `max_bulk` in all;
        with `max_bulk` 0 the bulk lane is not waited for.
        """

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        """Lengthen the leases of running jobs; return the tokens of those that belong to somebody else now."""

    async def finish(self, job: Job, dispositions: Mapping[str, Disposition], look: bool = False) -> bool:
        """Say what became of a claimed job, and with `look` ask for another look at it later.

        There has to be a verdict for each of the job's destinations: one that is not mentioned is forgotten.
        Returns False if it was taken over meanwhile: then everything about it is looked at again.
        """

    async def promote_due(self, most: Mapping[str, int] = NO_BOUNDS) -> float:
        """Wake what is due; return the seconds until something else is.

        `most`: how many parked keys of a store whose circuit is closed to wake; of others, all.
        """

    async def trip_circuit(self, destination: str, reason: str, key: str) -> None:
        """Open the destination's circuit, or, when `key` was its probe, keep it open for longer."""

    async def close_circuit(self, destination: str) -> None:
        """The destination works again: what was parked for it wakes at the next turns."""

    async def poll_outcomes(self, run: str, wait_s: float) -> list[str]:
        """Return the events for a run that have come, waiting up to `wait_s` for the first."""

    async def save_reconcile_summary(self, summary: str) -> None:
        """Keep the summary (JSON) of a run that compared everything."""

    async def load_reconcile_summary(self) -> str | None:
        """Return the summary that was kept last."""

    async def stats(self) -> QueueStats:
        """Count."""
