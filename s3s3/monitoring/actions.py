"""What operators can change: dead letters, pauses, keys on the queue, processes that are gone.

The API and the status page share these functions; each action is a line of the log (event `operator action`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from ..errors import S3S3Error
from ..events import OPERATOR_ACTION, log_event
from ..model import Lane, matcher
from ..queue.base import DeadLetter, JobRequest
from ..queue.dead_letters import OTHER_REASONS, common_reason
from .heartbeat import ProcessRegistry
from .snapshot import RouteSnapshotReader

log = logging.getLogger(__name__)


class UnknownTarget(S3S3Error):
    """The action names a route, destination or process that does not exist."""


@dataclass(frozen=True)
class Selection:
    """Which dead letters to retry or drop: exactly one of `keys`, `reason` and `all`.

    Attributes:
        route: None: of all routes.
        destination: None: of all destinations of the route.
        reason: that of a group, as `queue.dead_letters.common_reason` returns it.
    """

    route: str | None = None
    destination: str | None = None
    keys: Sequence[str] = ()
    reason: str | None = None
    all: bool = False


class Actions:
    """Changes the queues of some routes.

    Every method can raise RedisUnavailable and, before it changes anything, UnknownTarget or ValueError.

    Args:
        readers: of the routes, which have their queues.
    """

    def __init__(self, readers: Sequence[RouteSnapshotReader]) -> None:
        self._readers = {reader.route.name: reader for reader in readers}

    async def retry(self, selection: Selection, operator: str) -> int:
        """Put dead letters back on the queue, in the bulk lane; return how many."""
        return await self._apply("retry", selection, operator)

    async def drop(self, selection: Selection, operator: str) -> int:
        """Delete dead letters; return how many."""
        return await self._apply("drop", selection, operator)

    async def _apply(self, verb: str, selection: Selection, operator: str) -> int:
        if (bool(selection.keys) + (selection.reason is not None) + selection.all) != 1:
            raise ValueError("name exactly one of keys, reason and all")
        if selection.reason == OTHER_REASONS:
            raise ValueError(f"{OTHER_REASONS} is not one reason: name keys, or all")
        total = 0
        for reader, destination in list(self._targets(selection.route, selection.destination)):
            if verb == "retry" and destination == DeadLetter.MESSAGES:
                continue  # a message has no key to copy
            apply = reader.jobs.drop if verb == "drop" else reader.jobs.redrive
            count = 0
            async for keys in _selected(reader, destination, selection):
                count += await apply(destination, keys)
            total += count
            if count:
                _audit(operator, verb, reader.route.name, destination, count=count, reason=selection.reason)
        return total

    async def pause(self, route: str, destination: str | None, operator: str) -> None:
        """Stop copying, for a route or to one destination; notifications are kept. Idempotent."""
        reader = self._stores_of(route, destination)
        await reader.jobs.pause(destination)
        _audit(operator, "pause", route, destination)

    async def resume(self, route: str, destination: str | None, operator: str) -> None:
        """Undo `pause`. A route and its destinations are paused independently of each other."""
        reader = self._stores_of(route, destination)
        await reader.jobs.resume(destination)
        _audit(operator, "resume", route, destination)

    async def enqueue(self, keys: Sequence[str], route: str | None, operator: str) -> list[str]:
        """Put keys on the queue of every route that matches, as notifications do; return those that match no route."""
        if route is not None:
            self.reader(route)
        unmatched = dict.fromkeys(keys)
        for name, reader in self._readers.items():
            if route not in (None, name) or reader.command == "mirror":
                continue
            matches = matcher(reader.route)
            matching = [key for key in keys if matches(key)]
            for key in matching:
                unmatched.pop(key, None)
            if matching:
                names = reader.route.destination_names
                await reader.jobs.enqueue([JobRequest(key, names) for key in matching], Lane.FRESH)
                _audit(operator, "enqueue", name, None, count=len(matching))
        return list(unmatched)

    async def dismiss(self, process_id: str, operator: str) -> None:
        """Forget a process that was killed. One that still runs registers again at its next heartbeat."""
        found = False
        for name, reader in self._readers.items():
            registry = ProcessRegistry(reader.jobs.client, reader.jobs.prefix)
            if any(process.id == process_id and process.is_silent for process in await registry.processes()):
                await registry.deregister(process_id)
                _audit(operator, "dismiss", name, None, process=process_id)
                found = True
        if not found:
            raise UnknownTarget("no silent process has this id")

    def reader(self, route: str) -> RouteSnapshotReader:
        """Return the reader of a route."""
        reader = self._readers.get(route)
        if reader is None:
            raise UnknownTarget(f"no such route: {route!r}; there are {', '.join(self._readers)}")
        return reader

    def _stores_of(self, route: str, destination: str | None) -> RouteSnapshotReader:
        reader = self.reader(route)
        names = reader.route.destination_names
        if destination is not None and destination not in names:
            raise UnknownTarget(f"route {route}: no such destination: {destination!r}; it has {', '.join(names)}")
        return reader

    def _targets(self, route: str | None, destination: str | None) -> Iterator[tuple[RouteSnapshotReader, str]]:
        readers = self._readers.values() if route is None else [self.reader(route)]
        found = False
        for reader in readers:
            for name in (*reader.route.destination_names, DeadLetter.MESSAGES):
                if destination in (None, name):
                    found = True
                    yield reader, name
        if not found:
            raise UnknownTarget(f"no such destination: {destination!r}")


async def _selected(
    reader: RouteSnapshotReader, destination: str, selection: Selection
) -> AsyncIterator[Sequence[str]]:
    """Yield the keys of the selected dead letters, as many at a time as one call to Redis takes."""
    if selection.keys:
        yield selection.keys
        return

    def matches(letter: DeadLetter) -> bool:
        return selection.all or common_reason(letter) == selection.reason

    async for keys in reader.jobs.dead_letter_keys(destination, matches):
        yield keys


def _audit(
    operator: str, action: str, route: str, destination: str | None,
    *, count: int | None = None, reason: str | None = None, process: str | None = None,
) -> None:  # fmt: skip
    log_event(
        log, OPERATOR_ACTION, action, route=route, destination=destination, operator=operator, count=count,
        group=reason, process=process,
    )  # fmt: skip
