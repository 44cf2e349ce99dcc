"""The queue within one process, for a `bucket` run without Redis: the same rule, and nothing outlives the process.

No lease lapses here: there is nobody else who could take a job over.
"""

from __future__ import annotations

import time
from asyncio import Event
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from ..model import Job, Lane
from ..tasks import wait_with_timeout
from .base import (
    INITIAL_PROBE_INTERVAL_S,
    MAX_PROBE_INTERVAL_S,
    MAX_PROMOTE_INTERVAL_S,
    NO_LIMITS,
    PARKED_INTERVAL_S,
    ClaimResult,
    DeadLetter,
    Disposition,
    DispositionKind,
    JobRequest,
    QueueStats,
)
from .lease import boottime_s

PROBE_TIMEOUT_S = 60.0


@dataclass(slots=True)
class JobRecord:
    """A key with something to do: queued, running (`token`, and `again`: what was put meanwhile), or waiting.

    `due_s`: when its retry is, or was, due; what fails before that is no try.
    """

    lane: Lane
    want: dict[str, None]
    unconditional: bool
    notified_ms: int
    runs: dict[str, None]
    phase: str = "queued"
    token: str = ""
    again: JobRecord | None = None
    attempts: dict[str, int] = field(default_factory=dict)
    due_s: float = 0.0

    @property
    def is_early(self) -> bool:
        """Whether a notice has it tried before its retry is due."""
        return boottime_s() < self.due_s

    def grow(self, put: JobRecord) -> None:
        """Ask for what was put, too."""
        if put.lane is Lane.FRESH and self.lane is Lane.BULK:
            self.lane, self.notified_ms = put.lane, put.notified_ms
        self.want |= put.want
        self.runs |= put.runs
        self.unconditional |= put.unconditional


@dataclass(slots=True)
class Circuit:
    """A store that is down, and the key that may be tried there."""

    reason: str
    pause_s: float
    probe_at_s: float
    probe: str = ""


class MemoryJobQueue:
    """The queue of one route, in memory. See `s3s3.queue.base.JobQueue` for the contract."""

    def __init__(self, destinations: Sequence[str], *, source: str = "source", recheck_delay_s: float = 120.0) -> None:
        self.destinations = tuple(destinations)
        self._look_after_s = recheck_delay_s
        self._records: dict[str, JobRecord] = {}
        self._lanes: dict[Lane, dict[str, None]] = {lane: {} for lane in Lane}
        self._due_s: dict[str, float] = {}
        self._looks_s: dict[str, float] = {}
        self._parked: dict[str, dict[str, None]] = {name: {} for name in (source, *destinations)}
        self._circuits: dict[str, Circuit] = {}
        self._dead: dict[str, dict[str, DeadLetter]] = {name: {} for name in destinations}
        self._events: dict[str, list[str]] = defaultdict(list)
        self._last_reconcile: str | None = None
        self._tokens = count(1)
        self._changed = Event()

    async def enqueue(
        self, requests: Iterable[JobRequest], lane: Lane, tracker_id: str = "", unconditional: bool | None = None
    ) -> None:
        unconditional = lane is Lane.FRESH if unconditional is None else unconditional
        for key, destinations, notified_ms in requests:
            when_ms = _now_ms() if notified_ms is None else notified_ms
            self._put(
                key,
                JobRecord(
                    lane, dict.fromkeys(destinations), unconditional, when_ms, {tracker_id: None} if tracker_id else {}
                ),
            )

    def _put(self, key: str, put: JobRecord) -> None:
        record = self._records.setdefault(key, put)
        if record.phase == "running":
            put.unconditional = False
            if record.again:
                record.again.grow(put)
            else:
                record.again = put
            return
        if put.lane is Lane.FRESH and record.lane is Lane.BULK:
            self._lanes[Lane.BULK].pop(key, None)
        record.grow(put)
        self._enqueue(key, record)

    def _look(self, key: str) -> None:
        self._put(key, JobRecord(Lane.BULK, dict.fromkeys(self.destinations), False, _now_ms(), {}))

    def _enqueue(self, key: str, record: JobRecord) -> None:
        record.phase, record.token = "queued", ""
        self._records[key] = record
        self._due_s.pop(key, None)
        self._lanes[record.lane].setdefault(key)
        self._changed.set()

    async def claim(self, free: int, min_bulk: int, max_bulk: int, wait_s: float) -> ClaimResult:
        lanes = tuple(Lane) if max_bulk > 0 else (Lane.FRESH,)
        await self._until(lambda: any(self._lanes[lane] for lane in lanes), wait_s)
        asked_s = boottime_s()
        bulk = self._take(Lane.BULK, min(min_bulk, free))
        jobs = bulk + self._take(Lane.FRESH, free - len(bulk))
        jobs += self._take(Lane.BULK, min(max_bulk - len(bulk), free - len(jobs)))
        return ClaimResult(jobs, {name: circuit.probe for name, circuit in self._circuits.items()}, asked_s)

    def _take(self, lane: Lane, most: int) -> list[Job]:
        return [self._run(key) for key in list(islice(self._lanes[lane], max(most, 0)))]

    def _run(self, key: str) -> Job:
        record = self._records[key]
        del self._lanes[record.lane][key]
        record.phase, record.token = "running", str(next(self._tokens))
        return Job(
            key, tuple(record.want), record.lane, "", record.token, record.unconditional, dict(record.attempts),
            record.notified_ms, " ".join(record.runs),
        )  # fmt: skip

    def _owns(self, job: Job) -> bool:
        record = self._records.get(job.key)
        return record is not None and record.token == job.token

    async def renew(self, jobs: Sequence[Job]) -> set[str]:
        return {job.token for job in jobs if not self._owns(job)}

    async def finish(self, job: Job, dispositions: Mapping[str, Disposition], recheck: bool = False) -> bool:
        if recheck:
            self._looks_s[job.key] = boottime_s() + self._look_after_s
        if not self._owns(job):
            self._look(job.key)
            return False
        record = self._records.pop(job.key)
        record.want = {
            name: None for name, disposition in dispositions.items() if self._is_left(job, record, name, disposition)
        }
        record.unconditional, steps = False, {disposition.kind for disposition in dispositions.values()}
        if DispositionKind.RETRY in steps:
            delay_s = min(
                disposition.delay_s
                for disposition in dispositions.values()
                if disposition.kind == DispositionKind.RETRY
            )
            due_s = boottime_s() + delay_s
            record.due_s = min(due_s, record.due_s) if record.is_early else due_s
        if again := record.again:
            again.want |= record.want
            again.runs |= record.runs if record.want else {}
            again.attempts, again.due_s = record.attempts, record.due_s
            self._enqueue(job.key, again)
        elif DispositionKind.DEFER in steps or DispositionKind.RELEASE in steps:
            if DispositionKind.DEFER in steps:
                record.lane = Lane.BULK
            self._enqueue(job.key, record)
        elif record.want:
            record.phase, record.token = "waiting", ""
            self._records[job.key] = record
            if DispositionKind.RETRY in steps:
                self._due_s[job.key] = record.due_s
        return True

    def _is_left(self, job: Job, record: JobRecord, destination: str, disposition: Disposition) -> bool:
        """Note what became of a destination; return whether something is left to do there."""
        if disposition.event:
            for run in record.runs:
                self._events[run].append(disposition.event)
            self._changed.set()
        if disposition.kind in (DispositionKind.DONE, DispositionKind.DEAD_LETTER):
            attempts = record.attempts.pop(destination, 0) + 1
            letters = self._dead.setdefault(destination, {})
            letters.pop(job.key, None)
            if disposition.kind == DispositionKind.DEAD_LETTER:
                letters[job.key] = DeadLetter(destination, job.key, disposition.reason, attempts, _now_ms())
            return False
        if disposition.kind == DispositionKind.RETRY:
            if not (record.is_early and destination in record.attempts):
                record.attempts[destination] = record.attempts.get(destination, 0) + 1
        elif disposition.kind == DispositionKind.PARK:
            self._parked[disposition.circuit][job.key] = None
        return True

    async def promote_due(self, max_parked: Mapping[str, int] = NO_LIMITS) -> float:
        now_s = boottime_s()
        for key in _due(self._due_s, now_s):
            self._wake(key)
        for key in _due(self._looks_s, now_s):
            self._look(key)
        for store, parked in self._parked.items():
            circuit = self._circuits.get(store)
            if circuit is None:
                for key in list(islice(parked, max_parked.get(store))):
                    del parked[key]
                    self._wake(key)
            elif circuit.probe_at_s <= now_s:
                self._probe(store, circuit, now_s)
        coming_s = [*self._due_s.values(), *self._looks_s.values(), *(c.probe_at_s for c in self._circuits.values())]
        if any(self._parked.get(store) for store in max_parked):
            coming_s.append(now_s + PARKED_INTERVAL_S)
        return max(min([now_s + MAX_PROMOTE_INTERVAL_S, *coming_s]) - now_s, 0.0)

    def _wake(self, key: str) -> bool:
        record = self._records.get(key)
        if record is None or record.phase != "waiting":
            return False
        record.lane = Lane.BULK  # who has waited already shall not hold up others
        self._enqueue(key, record)
        return True

    def _probe(self, store: str, circuit: Circuit, now_s: float) -> None:
        """Let one key show whether the store is back. What is parked may long be done with by now."""
        parked = self._parked[store]
        while parked:
            key = next(iter(parked))
            del parked[key]
            if self._wake(key):
                circuit.probe, circuit.probe_at_s = key, now_s + PROBE_TIMEOUT_S
                return
        del self._circuits[store]

    async def trip_circuit(self, store: str, reason: str, key: str) -> None:
        circuit = self._circuits.get(store)
        if circuit is None:
            pause_s = INITIAL_PROBE_INTERVAL_S
        elif circuit.probe == key:
            pause_s = min(2 * circuit.pause_s, MAX_PROBE_INTERVAL_S)
        else:
            return
        self._circuits[store] = Circuit(reason, pause_s, boottime_s() + pause_s)

    async def close_circuit(self, store: str) -> None:
        self._circuits.pop(store, None)

    async def poll_outcomes(self, tracker_id: str, wait_s: float) -> list[str]:
        await self._until(lambda: tracker_id in self._events, wait_s)
        return self._events.pop(tracker_id, [])

    async def save_reconcile_summary(self, summary: str) -> None:
        self._last_reconcile = summary

    async def load_reconcile_summary(self) -> str | None:
        return self._last_reconcile

    async def stats(self) -> QueueStats:
        active = [record for record in self._records.values() if record.phase != "waiting"]
        oldest_ms = min((record.notified_ms for record in active), default=_now_ms())
        fresh = sum(record.lane is Lane.FRESH for record in active)
        return QueueStats(
            fresh,
            len(active) - fresh,
            len(self._due_s),
            len(self._looks_s),
            parked={store: len(keys) for store, keys in self._parked.items()},
            dead_letters={destination: len(letters) for destination, letters in self._dead.items()},
            circuits={store: circuit.reason for store, circuit in self._circuits.items()},
            oldest_s=max(_now_ms() - oldest_ms, 0) / 1000,
        )

    async def dead_letters(self, destination: str) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters of a destination."""
        for letter in list(self._dead.get(destination, {}).values()):
            yield letter

    async def _until(self, has_come: Callable[[], bool], wait_s: float) -> None:
        until_s = boottime_s() + wait_s
        while not has_come() and (left_s := until_s - boottime_s()) > 0:
            self._changed.clear()
            await wait_with_timeout(self._changed, left_s)


def _due(times_s: dict[str, float], now_s: float) -> list[str]:
    """Take out what is due."""
    due = [key for key, time_s in times_s.items() if time_s <= now_s]
    for key in due:
        del times_s[key]
    return due


def _now_ms() -> int:
    return int(time.time() * 1000)
