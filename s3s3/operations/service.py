"""Answer the requests of the API, which the status page sends, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from redis.asyncio import Redis

from .. import __version__
from ..config import WorkerSettings
from ..errors import ReconcileInProgress, RoutePaused, S3S3Error
from ..events import OPERATOR_ACTION, log_event
from ..monitoring.actions import Actions, Selection, UnknownTarget
from ..monitoring.fleet import Fleet
from ..monitoring.snapshot import RouteSnapshotReader, address_text
from ..queue.base import DeadLetter
from ..queue.dead_letters import common_reason
from ..queue.records import Circuit, KeyRecord, KeyState, list_keys
from ..tasks import cancel
from . import models
from .explain import Explanation, explain

log = logging.getLogger(__name__)

#: Keys that are explained at a time: each sends requests to every store of its routes.
MAX_EXPLAINED = 4

#: Dead letters that are read, at most, to find one page of those that match.
MAX_LETTERS_READ = 5000

#: Starts a reconcile of a route in this process, and ends with it.
Reconcile = Callable[[], Awaitable[object]]


class Service:
    """The operations of the API; the methods have the names of `endpoints.ENDPOINTS`.

    Each raises UnknownTarget or ValueError for a request that cannot be meant, and RedisUnavailable.

    Args:
        reconcile: starts a reconcile, by route; only listeners can do that.
    """

    def __init__(
        self, fleet: Fleet, actions: Actions, settings: WorkerSettings, client: Redis,
        reconcile: Mapping[str, Reconcile],
    ) -> None:  # fmt: skip
        self._fleet = fleet
        self._actions = actions
        self._settings = settings
        self._client = client
        self._reconcile = reconcile
        self._explaining = asyncio.Semaphore(MAX_EXPLAINED)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop the reconciles that were started here."""
        await cancel(list(self._tasks.values()))

    # -- reading

    async def status(self, _: models.NoParameters) -> models.Status:
        """Return the state of the fleet; without Redis, the last known one."""
        state = await self._fleet.state()
        routes = [models.route_status(view) for view in state.views]
        return models.Status(__version__, state.read_ms, not state.error, state.problems(), state.warnings(), routes)

    async def routes(self, _: models.NoParameters) -> models.Routes:
        """Return the configured routes."""
        found = []
        for reader in self._fleet.readers:
            route = reader.route
            names = {each.name: address_text(each) for each in route.destinations}
            found.append(
                models.RouteDescription(
                    route.name, reader.command, route.channel, address_text(route.source), route.source.prefix,
                    route.include, route.exclude, names,
                )
            )  # fmt: skip
        return models.Routes(found)

    async def jobs(self, query: models.JobsQuery) -> models.JobPage:
        """Return a page of the keys in a state."""
        reader = self._one_route(query.route)
        store = query.store or ""
        if query.state is KeyState.PARKED:
            stores = reader.jobs.stores
            if store not in stores:
                raise UnknownTarget(f"state=parked needs store, one of {', '.join(stores)}")
        page = await list_keys(reader.jobs, query.state, cursor=query.cursor, limit=query.limit, store=store)
        items = [
            _job_item(reader, record, page.records.circuits)
            for record in page.records.records
            if query.search in record.key
        ]
        return models.JobPage(items, page.cursor, page.records.now_ms)

    async def dead_letter_groups(self, query: models.RouteQuery) -> models.Groups:
        """Return the dead letters by reason."""
        state = await self._fleet.state()
        if query.route is not None:
            self._actions.reader(query.route)
        views = [view for view in state.views if query.route in (None, view.name)]
        groups = [
            models.GroupItem(
                view.name, each.destination, each.reason, each.count, each.oldest_ms, each.newest_ms, each.keys
            )
            for view in views
            for some in view.groups.values()
            for each in some
        ]
        total = sum(sum(view.stats.dead_letters.values()) for view in views)
        return models.Groups(sorted(groups, key=lambda group: -group.count), total)

    async def dead_letters(self, query: models.DeadLettersQuery) -> models.DeadLetterPage:
        """Return a page of dead letters."""
        # A cursor is NUMBER:CURSOR: the number of the destination, and the cursor in its hash in Redis.
        places = list(self._places(query.route, query.destination))
        if not places:
            raise UnknownTarget(f"no such destination: {query.destination!r}")
        number_text, _, cursor_text = (query.cursor or "0:0").partition(":")
        number, cursor = int(number_text), int(cursor_text)
        items: list[models.DeadLetterItem] = []
        read = 0
        while number < len(places) and len(items) < query.limit and read < MAX_LETTERS_READ:
            reader, destination = places[number]
            cursor, letters = await reader.jobs.dead_letter_page(destination, cursor, query.limit)
            read += query.limit
            items += (_letter_item(reader, letter) for letter in letters if _is_wanted(letter, query))
            if cursor == 0:
                number += 1
        return models.DeadLetterPage(items, f"{number}:{cursor}" if number < len(places) else "")

    async def explain(self, query: models.ExplainQuery) -> Explanation:
        """Explain a key."""
        readers = [each for each in self._fleet.readers if each.command != "mirror"]
        if query.route is not None:
            wanted = self._actions.reader(query.route)
            readers = [reader for reader in readers if reader is wanted]
            if not readers:
                raise UnknownTarget(f"route {query.route} is a mirror's: its source cannot be asked for a key")
        async with self._explaining:
            return await explain(query.key, [each.route for each in readers], self._settings, self._client)

    # -- actions

    async def retry(self, body: models.DeadLetterSelection, operator: str) -> models.Changed:
        """Put dead letters back on the queue."""
        return models.Changed(await self._changed(self._actions.retry(_selection(body), operator)))

    async def drop(self, body: models.DeadLetterSelection, operator: str) -> models.Changed:
        """Delete dead letters; their objects are not copied."""
        return models.Changed(await self._changed(self._actions.drop(_selection(body), operator)))

    async def pause(self, body: models.PauseRequest, operator: str) -> models.Done:
        """Stop copying for a route or to a destination; notifications are kept."""
        await self._changed(self._actions.pause(body.route, body.destination, operator))
        return models.Done(f"{_target(body)} is paused; notifications are kept")

    async def resume(self, body: models.PauseRequest, operator: str) -> models.Done:
        """Continue copying after a pause."""
        await self._changed(self._actions.resume(body.route, body.destination, operator))
        return models.Done(f"{_target(body)} is resumed")

    async def enqueue(self, body: models.EnqueueRequest, operator: str) -> models.Enqueued:
        """Put keys on the queue, ahead of those of comparisons."""
        unmatched = await self._changed(self._actions.enqueue(body.keys, body.route, operator))
        return models.Enqueued(len(set(body.keys)) - len(unmatched), unmatched)

    async def dismiss(self, body: models.DismissRequest, operator: str) -> models.Done:
        """Forget a process that was killed."""
        await self._changed(self._actions.dismiss(body.process, operator))
        return models.Done("the process is forgotten")

    async def reconcile(self, body: models.ReconcileRequest, operator: str) -> models.Done:
        """Compare a route now, in this process. Raises ReconcileInProgress, RoutePaused."""
        reader, name = self._actions.reader(body.route), body.route
        start = self._reconcile.get(name)
        if start is None:
            raise UnknownTarget(f"route {name}: only a process of s3s3 listen can reconcile it: ask its API")
        running = await reader.jobs.current_reconcile()
        if running is not None:
            raise ReconcileInProgress(f"route {name} is being reconciled by process {running.pid} on {running.host}")
        if name in self._tasks:
            raise ReconcileInProgress(f"route {name} is being reconciled by this process")
        if (await reader.jobs.stats()).paused:
            raise RoutePaused(f"route {name} is paused: resume it first")
        self._fleet.failures.pop(name, None)
        self._tasks[name] = asyncio.create_task(self._run_reconcile(name, start))
        log_event(log, OPERATOR_ACTION, "reconcile", route=name, operator=operator)
        self._fleet.expire()
        return models.Done(f"route {name}: reconcile started")

    async def _run_reconcile(self, route: str, start: Reconcile) -> None:
        try:
            await start()
        except S3S3Error as error:
            log.warning("route %s: reconcile failed: %s", route, error)
            self._fleet.failures[route] = f"Route {route}: the reconcile that an operator started failed: {error}"
        finally:
            del self._tasks[route]
            self._fleet.expire()

    async def _changed(self, action: Awaitable[models.Answer]) -> models.Answer:
        try:
            return await action
        finally:
            self._fleet.expire()

    # -- routes and destinations

    def _one_route(self, route: str | None) -> RouteSnapshotReader:
        readers = self._fleet.readers
        if route is None and len(readers) == 1:
            return readers[0]
        if route is None:
            raise UnknownTarget(f"name a route: {', '.join(reader.route.name for reader in readers)}")
        return self._actions.reader(route)

    def _places(self, route: str | None, destination: str | None) -> Iterator[tuple[RouteSnapshotReader, str]]:
        readers = self._fleet.readers if route is None else [self._actions.reader(route)]
        for reader in readers:
            for name in (*reader.route.destination_names, DeadLetter.MESSAGES):
                if destination in (None, name):
                    yield reader, name


def _target(body: models.PauseRequest) -> str:
    return f"route {body.route}" if body.destination is None else f"route {body.route}: {body.destination}"


def _selection(body: models.DeadLetterSelection) -> Selection:
    return Selection(body.route, body.destination, body.keys, body.reason, body.all)


def _is_wanted(letter: DeadLetter, query: models.DeadLettersQuery) -> bool:
    if query.reason is not None and common_reason(letter) != query.reason:
        return False
    return query.search in letter.key or query.search in letter.reason


def _letter_item(reader: RouteSnapshotReader, letter: DeadLetter) -> models.DeadLetterItem:
    return models.DeadLetterItem(
        reader.route.name, letter.destination, letter.key, letter.reason, common_reason(letter), letter.attempts,
        letter.dead_lettered_ms,
    )  # fmt: skip


def _job_item(reader: RouteSnapshotReader, record: KeyRecord, circuits: Mapping[str, Circuit]) -> models.JobItem:
    waits = [circuits[store] for store in record.parked if store in circuits]
    times = [record.retry_at_ms, record.recheck_at_ms, *(each.probe_at_ms for each in waits)]
    texts = [f"{each.store} is paused" if each.is_paused else f"{each.store} is down: {each.reason}" for each in waits]
    if record.retry_at_ms is not None:
        failures = [failure for some in record.failures.values() for failure in some]
        last = max(failures, key=lambda failure: failure.at_ms, default=None)
        texts.append(f"retry after {last.reason}" if last else "retry")
    if record.phase == "" and record.recheck_at_ms is not None:
        texts.append("comparison after a write that was not answered")
    return models.JobItem(
        reader.route.name, record.key, record.phase, record.lane, record.destinations, dict(record.attempts or {}),
        record.notified_ms, record.failed_ms, min((at for at in times if at is not None), default=None),
        "; ".join(texts), record.owner,
    )  # fmt: skip
