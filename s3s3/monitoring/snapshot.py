"""Read the state shown on the status page from Redis, which is the same in every process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ..model import Endpoint, Route
from ..queue.admin import PendingStats
from ..queue.base import PAUSED, DeadLetter, Gap, QueueStats, ReconcileRecord, RunningReconcile
from ..queue.dead_letters import DeadLetterGroup, read_groups
from ..queue.records import Circuit, read_records
from ..queue.redis_queue import RedisJobQueue
from .formatting import count_noun
from .heartbeat import ProcessInfo, ProcessRegistry
from .history import QUARTERS, Failure, History, HistorySnapshot, Series, quantile_s, rate_per_s

#: Dead letters of a destination that are grouped by reason.
MAX_GROUPED = 5000

#: How long the last day's statistics are kept, in seconds.
DAY_KEPT_S = 60.0

#: How long groups are kept while the number of dead letters is the same, in seconds.
GROUPS_KEPT_S = 30.0

MAX_FAILURES_SHOWN = 3

#: How long failures are shown, in seconds.
RECENT_S = 3600

#: A process that started less than this time ago, in seconds, may not be subscribed yet.
STARTING_S = 15.0


class StoreState:
    """The state of a store, as the page shows it."""

    OK = "ok"
    RETRYING = "retrying"
    DEAD_LETTERS = "dead letters"
    PAUSED = "paused"
    DOWN = "down"


@dataclass(frozen=True)
class StoreView:
    """A destination, or the source, of a route.

    Attributes:
        reason: why it is paused or down, else "".
        failures: the latest failures of the last hour, one for each reason.
        compared_s: when it was last compared completely (Unix time); 0: never. None: no reconcile has run.
        circuit: since when it is paused or down, and when it is tried next; None while the whole route is paused.
    """

    name: str
    address: str
    state: str
    reason: str
    parked: int
    pending: PendingStats | None = None
    hour: Series = field(default_factory=Series)
    day: Series = field(default_factory=lambda: Series(QUARTERS))
    copied_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag_p50_s: float | None = None
    lag_p99_s: float | None = None
    dead_letters: int = 0
    failures: Sequence[Failure] = ()
    compared_s: float | None = None
    circuit: Circuit | None = None


@dataclass(frozen=True)
class RouteView:
    """A route.

    Attributes:
        command: the command that works on the route: listen or mirror.
        groups: the dead letters by destination, grouped by reason; of many, the first `MAX_GROUPED` that were read.
        current_reconcile: the process that reconciles the route now.
        depth: keys on the queue in the last hour, by minute; `day_depth`: in the last day, by quarter of an hour.
    """

    name: str
    command: str
    channel: str
    source: StoreView
    destinations: Sequence[StoreView]
    stats: QueueStats
    processes: Sequence[ProcessInfo]
    groups: Mapping[str, Sequence[DeadLetterGroup]]
    last_reconcile: ReconcileRecord | None
    current_reconcile: RunningReconcile | None
    now_ms: int
    gap: Gap | None = None
    depth: Sequence[int] = ()
    day_depth: Sequence[int] = ()

    @property
    def oldest_s(self) -> float | None:
        """The age of the oldest pending job."""
        pending = (store.pending for store in self.destinations)
        return max((each.oldest_s for each in pending if each and each.oldest_s is not None), default=None)

    @property
    def reconcile_totals(self) -> dict[str, int]:
        """The number of each outcome of the last reconcile, summed over the destinations."""
        totals = Counter[str]()
        for outcomes in self.last_reconcile.destinations.values() if self.last_reconcile else ():
            totals.update(outcomes)
        return {outcome: number for outcome, number in totals.items() if number}

    def problems(self) -> Iterator[str]:
        """Yield what needs attention and what to do, without ages: the text changes only with the problems."""
        route = f"Route {self.name}"
        if not any(process.command != "bucket" and not process.is_silent for process in self.processes):
            yield f"{route}: no process is running; start s3s3 {self.command}"
        for process in self.processes:
            name = f"process {process.pid} on {process.host}"
            if process.is_silent:
                yield f"{route}: {name} stopped sending heartbeats without shutting down cleanly"
            elif process.health_problem and self.now_ms - process.started_ms > STARTING_S * 1000:
                yield f"P{name[1:]}: {process.health_problem}"
        for store in (self.source, *self.destinations):
            if store.state == StoreState.DOWN:
                yield f"{route}: {store.name} is down and its jobs are parked: {store.reason}"
            elif store.state == StoreState.PAUSED and not (self.stats.paused and store is not self.source):
                what, option = ("the route", "") if self.stats.paused else (store.name, f" --destination {store.name}")
                yield f"{route}: {what} is paused; resume with s3s3 jobs resume --route {self.name}{option}"
        for destination, count in self.stats.dead_letters.items():
            if count and destination == DeadLetter.MESSAGES:
                messages = count_noun(count, "message")
                yield f"{route}: {messages} without a valid key: fix the producer, then run s3s3 jobs drop"
            elif count:
                keys, groups = count_noun(count, "key"), self.groups.get(destination, ())
                reasons = f": {groups[0].reason}" if groups else ""
                reasons += f", and {count_noun(len(groups) - 1, 'other reason')}" if len(groups) > 1 else ""
                yield f"{route}: {keys} failed permanently at {destination}; fix the cause, then retry{reasons}"
        yield from self._comparison_problems(route)

    def warnings(self) -> Iterator[str]:
        """Yield what should be looked at some time, and what to do."""
        if self.command == "mirror":  # its source cannot be listed
            return
        compared = self.last_reconcile.compared_s if self.last_reconcile else {}
        never = [store.name for store in self.destinations if not compared.get(store.name)]
        if never and not self.current_reconcile:
            names = "" if len(never) == len(self.destinations) else f" with {', '.join(never)}"
            yield (
                f"Route {self.name}: never compared{names}, so nothing shows that the copies are complete; run "
                f"s3s3 bucket --route {self.name}"
            )

    def _comparison_problems(self, route: str) -> Iterator[str]:
        if self.gap is not None:
            names = ", ".join(store.name for store in self.destinations if store.name not in self.gap.healed)
            cause = "Redis lost its data" if self.gap.age_ms is None else "notifications were missed"
            end = "until a backfill or reconcile closes the gap"
            yield f"{route}: {cause}, and objects may be missing at {names} {end}"
        if self.last_reconcile:
            for name, error in self.last_reconcile.errors.items():
                yield f"{route}: the last reconcile could not compare {name}: {error.removeprefix(f'{name}: ')}"
            for name, reason in self.last_reconcile.deletions_withheld.items():
                yield f"{route}: the last reconcile withheld deletions at {name}: {reason}"


class RouteSnapshotReader:
    """Reads the state of one route.

    Args:
        command: the command that works on the route: listen or mirror.
    """

    def __init__(self, route: Route, jobs: RedisJobQueue, command: str = "listen") -> None:
        self.route = route
        self.jobs = jobs
        self.command = command
        self._groups: dict[str, tuple[int, float, list[DeadLetterGroup]]] = {}
        self._day: HistorySnapshot | None = None
        self._day_read_s = 0.0
        self._history = History(jobs.client, jobs.prefix)
        self._registry = ProcessRegistry(jobs.client, jobs.prefix)

    async def read(self) -> RouteView:
        """Return the current state. Raises RedisUnavailable."""
        stats = await self.jobs.stats()
        circuits = (await read_records(self.jobs, ())).circuits if stats.circuits and not stats.paused else {}
        all_pending = await self.jobs.pending_by_destination()
        history, day = await self._read_history()
        processes = await self._registry.processes()
        last_reconcile = await self.jobs.load_reconcile_summary()
        groups = {name: await self._group(name, count) for name, count in stats.dead_letters.items() if count}
        route = self.route
        destinations = []
        for endpoint in route.destinations:
            hour = history.hours.get(endpoint.name, Series())
            pending = all_pending[endpoint.name]
            state, reason = _state(endpoint.name, stats, pending.retrying)
            if state in (StoreState.OK, StoreState.RETRYING) and stats.dead_letters.get(endpoint.name):
                state = StoreState.DEAD_LETTERS
            destinations.append(
                StoreView(
                    endpoint.name, address_text(endpoint), state, reason, pending.parked, pending, hour,
                    day.days.get(endpoint.name, Series(QUARTERS)),
                    copied_per_s=rate_per_s(hour.copied, history.now_ms),
                    bytes_per_s=rate_per_s(hour.copied_bytes, history.now_ms),
                    lag_p50_s=quantile_s(hour.lag, 0.5),
                    lag_p99_s=quantile_s(hour.lag, 0.99),
                    dead_letters=stats.dead_letters.get(endpoint.name, 0),
                    failures=_latest_failures(endpoint.name, history.failures, history.now_ms),
                    compared_s=last_reconcile.compared_s.get(endpoint.name, 0.0) if last_reconcile else None,
                    circuit=circuits.get(endpoint.name),
                )
            )  # fmt: skip
        name = route.source.name
        source = StoreView(
            name, address_text(route.source), *_state(name, stats, 0), stats.parked.get(name, 0),
            circuit=circuits.get(name),
        )  # fmt: skip
        return RouteView(
            route.name, self.command, route.channel, source, destinations, stats, processes, groups,
            last_reconcile, await self.jobs.current_reconcile(), history.now_ms, await self.jobs.gap(),
            history.depth, day.day_depth,
        )  # fmt: skip

    async def _read_history(self) -> tuple[HistorySnapshot, HistorySnapshot]:
        """Return the history of the last hour, and one with the last day, which is read once a minute."""
        if self._day is None or time.monotonic() - self._day_read_s > DAY_KEPT_S:
            self._day, self._day_read_s = await self._history.read(day=True), time.monotonic()
            return self._day, self._day
        return await self._history.read(), self._day

    async def _group(self, destination: str, count: int) -> list[DeadLetterGroup]:
        """Group the dead letters, unless that was done a short time ago and there are as many as then."""
        known_count, read_s, groups = self._groups.get(destination, (0, 0.0, []))
        if known_count != count or time.monotonic() - read_s > GROUPS_KEPT_S:
            groups = await read_groups(self.jobs.dead_letters(destination), MAX_GROUPED)
            self._groups[destination] = count, time.monotonic(), groups
        return groups


def snapshot_readers(
    client: Redis, routes: Sequence[Route], lease_s: float, command: str = "listen"
) -> list[RouteSnapshotReader]:
    """Return a reader for each route."""
    return [RouteSnapshotReader(route, RedisJobQueue.of(client, route, lease_s), command) for route in routes]


def address_text(endpoint: Endpoint) -> str:
    """Return host, port, bucket and prefix of an endpoint; none of them is secret."""
    if not endpoint.bucket_name:  # the source of a mirror
        return "the URLs that clients request"
    host = endpoint.host or f"AWS {endpoint.region}"
    port = f":{endpoint.port}" if endpoint.port else ""
    return f"{host}{port}/{endpoint.bucket_name}{'/' if endpoint.prefix else ''}{endpoint.prefix}"


def _state(name: str, stats: QueueStats, retrying: int) -> tuple[str, str]:
    reason = stats.circuits.get(name)
    if stats.paused or reason == PAUSED:
        return StoreState.PAUSED, "the route, by an operator" if stats.paused else "by an operator"
    if reason is not None:
        return StoreState.DOWN, reason.removeprefix(f"{name}: ")
    return (StoreState.RETRYING if retrying else StoreState.OK), ""


def _latest_failures(destination: str, failures: Sequence[Failure], now_ms: int) -> list[Failure]:
    """Return the destination's failures of the last hour, with those of the same reason summed."""
    found: dict[str, Failure] = {}
    for failure in failures:  # newest first
        if failure.destination == destination and now_ms - failure.at_ms < RECENT_S * 1000:
            newest = found.get(failure.reason)
            count = failure.count + (newest.count if newest else 0)
            newest = newest or failure
            found[failure.reason] = Failure(destination, failure.reason, newest.key, count, newest.at_ms)
    return list(found.values())[:MAX_FAILURES_SHOWN]
