"""Explicit-state model of the queue's rules for one key, two destinations and two workers.

`check` visits every state that the steps of workers, Redis, time and an operator can reach within a budget of
disturbances. A state is stale if only a disturbance could change it and a destination without a dead letter does not
hold the source's last version. Each rule of the queue can be switched off; the shortest way to a stale state shows
what the rule is for. Change this model before the rule in `s3s3/queue/lua/`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

A, B = 1, 2
ALL = A | B
FRESH, BULK = "fresh", "bulk"
QUEUED, RUNNING, WAITING = "queued", "running", "waiting"

#: Each rule with the sentence that it stands for. Without any one of them a destination can become stale.
RULES = {
    "lease_check": "the lease is checked right before each PUT",
    "claim_before_read": "the key is running before the source is read",
    "rerun": "a notification that arrives while the key is running causes another run",
    "retry_joins_rerun": "destinations to retry join the rerun",
    "destinations_grow": "an enqueue of a queued key adds its destinations",
    "waiting_wakes_with_all": "a notification queues a waiting key with its own destinations as well",
    "recheck_after_takeover": "a takeover schedules a recheck",
    "recheck_after_no_answer": "a PUT without an answer schedules a recheck",
    "recheck_is_kept": "neither enqueue nor finish removes a recheck",
    "takeover": "an expired claim is taken over",
    "takeover_of_delivered": "an entry that was delivered and never claimed is taken over as well",
    "lost_entry_is_absent": "a record whose entry no longer exists counts as absent",
}


class Budget(NamedTuple):
    """How often each disturbance may happen."""

    writes: int = 2
    crashes: int = 0
    expiries: int = 0
    failures: int = 0
    no_answers: int = 0
    pauses: int = 0
    losses: int = 0
    redrives: int = 0


class Record(NamedTuple):
    """The record of the key in Redis. `destinations` and `rerun` are bit sets."""

    phase: str
    destinations: int
    rerun: int = 0
    lane: str = FRESH
    entry: int = 0
    token: int = 0


class Entry(NamedTuple):
    """An entry of a lane's stream. `owner` is the worker that it was delivered to, None before that."""

    id: int
    lane: str
    owner: int | None = None


class Worker(NamedTuple):
    """A busy worker.

    Attributes:
        step: delivered, claimed, read, checked or finishing.
        version: the version of the source object that it has read.
        failed: destinations that refused the PUT.
    """

    entry: int
    step: str
    token: int = 0
    destinations: int = 0
    version: int = 0
    failed: int = 0


class State(NamedTuple):
    """Everything that the rules depend on.

    Attributes:
        copies: the version that destinations A and B hold.
        notifications: published and not received yet.
        backfill: a comparison that a loss of Redis's data will cause.
        recheck: a recheck is scheduled.
        dead: destinations with a dead letter.
        late: (destination, version) of PUTs without an answer that the store may still carry out.
    """

    budget: Budget
    version: int = 0
    copies: tuple[int, int] = (0, 0)
    record: Record | None = None
    entries: tuple[Entry, ...] = ()
    next_id: int = 1
    notifications: int = 0
    backfill: bool = False
    recheck: bool = False
    dead: int = 0
    late: tuple[tuple[int, int], ...] = ()
    workers: tuple[Worker | None, ...] = (None, None)
    paused: bool = False


class Step(NamedTuple):
    """A step to another state. A disturbance need not happen; every other step happens in the end."""

    name: str
    state: State
    is_disturbance: bool = False


class Counterexample(NamedTuple):
    """The shortest way to a stale state."""

    steps: tuple[str, ...]
    state: State


class Model:
    """The rules of the queue, with those in `without` switched off."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        assert without <= RULES.keys()
        self._without = without

    def has(self, rule: str) -> bool:
        return rule not in self._without

    # -- the atomic scripts

    def enqueue(self, state: State, destinations: int, lane: str) -> State:
        record = state.record
        if record is None:
            return self._queue(state, destinations, lane)
        if record.phase == WAITING:
            wakes_with = record.destinations | (destinations if self.has("waiting_wakes_with_all") else 0)
            return self._queue(state, wakes_with, lane)
        has_entry = any(entry.id == record.entry for entry in state.entries)
        if not has_entry and self.has("lost_entry_is_absent"):
            recheck = state.recheck or record.phase == RUNNING
            return self._queue(state._replace(recheck=recheck), destinations | record.destinations | record.rerun, lane)
        if record.phase == RUNNING:
            rerun = record.rerun | (destinations if self.has("rerun") else 0)
            return state._replace(record=record._replace(rerun=rerun))
        grown = record.destinations | (destinations if self.has("destinations_grow") else 0)
        record = record._replace(destinations=grown)
        if lane == FRESH and record.lane == BULK:
            entry = Entry(state.next_id, FRESH)
            record = record._replace(lane=FRESH, entry=entry.id)
            state = state._replace(entries=(*state.entries, entry), next_id=state.next_id + 1)
        return state._replace(record=record)

    def _queue(self, state: State, destinations: int, lane: str) -> State:
        entry = Entry(state.next_id, lane)
        return state._replace(
            record=Record(QUEUED, destinations, lane=lane, entry=entry.id),
            entries=(*state.entries, entry),
            next_id=state.next_id + 1,
        )

    def claim(self, state: State, number: int, entry: Entry, version: int | None = None) -> State:
        """Claim an entry that was delivered to a worker. `version` is what it has read before, None for nothing."""
        record = state.record
        owns = record is not None and record.entry == entry.id
        if record is not None and owns and record.phase == QUEUED:
            return self._run(state, number, entry, record, version)
        if record is None or not owns or record.phase != RUNNING:
            state = _without_entry(state, entry.id)
        return _with_worker(state, number, None)

    def _run(self, state: State, number: int, entry: Entry, record: Record, version: int | None = None) -> State:
        worker = Worker(entry.id, "claimed", state.next_id, record.destinations)
        if version is not None:
            worker = worker._replace(step="read", version=version)
        entries = tuple(other._replace(owner=number) if other.id == entry.id else other for other in state.entries)
        record = record._replace(phase=RUNNING, token=state.next_id)
        state = state._replace(record=record, entries=entries, next_id=state.next_id + 1)
        return _with_worker(state, number, worker)

    def take_over(self, state: State, number: int, entry: Entry) -> State:
        record = state.record
        if record is not None and record.phase == RUNNING and record.entry == entry.id:
            recheck = state.recheck or self.has("recheck_after_takeover")
            return self._run(state._replace(recheck=recheck), number, entry, record)
        return self.claim(state, number, entry, None if self.has("claim_before_read") else state.version)

    def finish(self, state: State, number: int, retry: int, dead: int) -> State:
        worker, record = state.workers[number], state.record
        assert worker is not None
        state = _with_worker(state, number, None)
        if record is None or not _owns(record, worker):
            return self.enqueue(state, ALL, BULK)
        state = _without_entry(state, worker.entry)
        state = state._replace(record=None, dead=state.dead & ~worker.destinations | dead)
        if not self.has("recheck_is_kept"):
            state = state._replace(recheck=False)
        if record.rerun:
            joins = retry if self.has("retry_joins_rerun") else 0
            return self._queue(state, record.rerun | joins, BULK)
        return state._replace(record=Record(WAITING, retry) if retry else None)

    # -- all that can happen in a state

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._disturbances(state)
        if state.notifications:
            received = state._replace(notifications=state.notifications - 1)
            yield Step("receive", self.enqueue(received, ALL, FRESH))
        if state.backfill:
            yield Step("backfill", self.enqueue(state._replace(backfill=False), ALL, BULK))
        if state.record is not None and state.record.phase == WAITING:
            yield Step("retry is due", self._queue(state, state.record.destinations, BULK))
        for put in state.late:
            late = tuple(other for other in state.late if other is not put)
            yield Step(f"late PUT of {put[1]}", _put(state._replace(late=late), *put))
        if state.recheck and not _is_in_flight(state):
            yield Step("recheck is due", self.enqueue(state._replace(recheck=False), ALL, BULK))
        if state.paused:
            yield Step("resume", state._replace(paused=False))
        for number, worker in enumerate(state.workers):
            if worker is None:
                yield from self._idle_steps(state, number)
            else:
                yield from self._busy_steps(state, number, worker)

    def _disturbances(self, state: State) -> Iterator[Step]:
        budget = state.budget
        if budget.writes:
            written = _spend(state, writes=budget.writes - 1)
            yield Step(
                "write", written._replace(version=state.version + 1, notifications=state.notifications + 1), True
            )
        if budget.pauses and not state.paused:
            yield Step("pause", _spend(state, pauses=budget.pauses - 1)._replace(paused=True), True)
        if budget.losses:
            for entry in state.entries:
                lost = _without_entry(_spend(state, losses=budget.losses - 1), entry.id)
                yield Step("Redis loses an entry", lost._replace(backfill=True), True)
        if budget.redrives:
            for destination in (A, B):
                if state.dead & destination:
                    redriven = _spend(state, redrives=budget.redrives - 1)._replace(dead=state.dead & ~destination)
                    yield Step(f"redrive {destination}", self.enqueue(redriven, destination, BULK), True)

    def _idle_steps(self, state: State, number: int) -> Iterator[Step]:
        if state.paused:
            return
        for entry in state.entries:
            if entry.owner is None:
                owned = tuple(other._replace(owner=number) if other is entry else other for other in state.entries)
                version = state.version  # read too early where the rule is switched off
                delivered = _with_worker(
                    state._replace(entries=owned), number, Worker(entry.id, "delivered", version=version)
                )
                yield Step(f"{number} is sent the entry", delivered)
            elif self.has("takeover"):
                is_claimed = state.record is not None and state.record.phase == RUNNING
                if not is_claimed and not self.has("takeover_of_delivered"):
                    continue
                is_alive = any(worker is not None and worker.entry == entry.id for worker in state.workers)
                if not is_alive:
                    yield Step(f"{number} takes over", self.take_over(state, number, entry))
                elif state.budget.expiries:
                    expired = _spend(state, expiries=state.budget.expiries - 1)
                    yield Step(f"{number} takes over", self.take_over(expired, number, entry), True)

    def _busy_steps(self, state: State, number: int, worker: Worker) -> Iterator[Step]:
        budget = state.budget
        if budget.crashes:
            crashed = _spend(state, crashes=budget.crashes - 1)
            yield Step(f"{number} crashes", _with_worker(crashed, number, None), True)
        if worker.step == "delivered":
            entry = next((entry for entry in state.entries if entry.id == worker.entry), Entry(worker.entry, FRESH))
            version = None if self.has("claim_before_read") else worker.version
            yield Step(f"{number} claims", self.claim(state, number, entry, version))
        elif worker.step == "claimed":
            read = worker._replace(step="read", version=state.version)
            yield Step(f"{number} reads {state.version}", _with_worker(state, number, read))
        elif worker.step == "read":
            owns = state.record is not None and _owns(state.record, worker)
            step = "checked" if owns or not self.has("lease_check") else "finishing"
            yield Step(f"{number} checks its lease", _with_worker(state, number, worker._replace(step=step)))
        elif worker.step == "checked":
            yield from self._puts(state, number, worker)
        else:
            yield Step(f"{number} finishes", self.finish(state, number, worker.failed, 0))
            if worker.failed:
                yield Step(f"{number} dead-letters", self.finish(state, number, 0, worker.failed))

    def _puts(self, state: State, number: int, worker: Worker) -> Iterator[Step]:
        done = worker._replace(step="finishing")
        written = _put(_with_worker(state, number, done), worker.destinations, worker.version)
        yield Step(f"{number} PUTs {worker.version}", written)
        for destination in (A, B):
            if not worker.destinations & destination:
                continue
            failed = _with_worker(state, number, done._replace(failed=destination))
            failed = _put(failed, worker.destinations & ~destination, worker.version)
            if state.budget.failures:
                refused = _spend(failed, failures=state.budget.failures - 1)
                yield Step(f"{number} PUTs {worker.version}, {destination} refuses", refused, True)
            if state.budget.no_answers:
                unanswered = _spend(failed, no_answers=state.budget.no_answers - 1)
                unanswered = unanswered._replace(
                    late=tuple(sorted((*state.late, (destination, worker.version)))),
                    recheck=state.recheck or self.has("recheck_after_no_answer"),
                )
                yield Step(f"{number} PUTs {worker.version}, {destination} does not answer", unanswered, True)


def check(budget: Budget, without: frozenset[str] = frozenset()) -> Counterexample | None:
    """Return the shortest way to a stale state, or None if no reachable state is stale."""
    model = Model(without)
    start = State(budget)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        is_final = True
        for step in model.steps(state):
            is_final = is_final and step.is_disturbance
            following = _with_small_ids(step.state)
            if following not in came_from:
                came_from[following] = (state, step.name)
                queue.append(following)
        if is_final and _is_stale(state):
            return Counterexample(_steps_to(state, came_from), state)
    return None


def _is_stale(state: State) -> bool:
    return any(
        copy != state.version and not state.dead & destination
        for destination, copy in zip((A, B), state.copies, strict=True)
    )


def _steps_to(state: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    names = []
    while (origin := came_from[state]) is not None:
        state, name = origin
        names.append(name)
    return tuple(reversed(names))


def _owns(record: Record, worker: Worker) -> bool:
    return record.phase == RUNNING and record.token == worker.token


def _is_in_flight(state: State) -> bool:
    """Whether a PUT of a former owner can still change a destination. A recheck is due only after that time."""
    return bool(state.late) or any(
        worker is not None and worker.step == "checked" and (state.record is None or not _owns(state.record, worker))
        for worker in state.workers
    )


def _put(state: State, destinations: int, version: int) -> State:
    a, b = state.copies
    return state._replace(copies=(version if destinations & A else a, version if destinations & B else b))


def _spend(state: State, **left: int) -> State:
    return state._replace(budget=state.budget._replace(**left))


def _with_worker(state: State, number: int, worker: Worker | None) -> State:
    return state._replace(workers=(*state.workers[:number], worker, *state.workers[number + 1 :]))


def _without_entry(state: State, entry_id: int) -> State:
    return state._replace(entries=tuple(entry for entry in state.entries if entry.id != entry_id))


def _with_small_ids(state: State) -> State:
    """Number entries and tokens anew, so that states which differ only in their ids are one."""
    ids: dict[int, int] = {0: 0}

    def small(number: int) -> int:
        return ids.setdefault(number, len(ids))

    entries = tuple(entry._replace(id=small(entry.id)) for entry in state.entries)
    record = state.record
    if record is not None:
        record = record._replace(entry=small(record.entry), token=small(record.token))
    workers = tuple(
        worker and worker._replace(entry=small(worker.entry), token=small(worker.token)) for worker in state.workers
    )
    return state._replace(entries=entries, record=record, workers=workers, next_id=len(ids))
