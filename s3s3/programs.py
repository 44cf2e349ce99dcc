"""Copy objects and use the queue from programs, with asyncio or without.

`Copier` copies single objects with connections that stay open; `Queue` puts keys on a route's queue, which listeners
work on. `SyncCopier` and `SyncQueue` have the same methods for programs without asyncio; they are thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from .api import default_worker_settings
from .config import WorkerSettings
from .model import Job, Lane, Outcome, Proof, Result, Route, Secret, matcher
from .monitoring.heartbeat import claim_route
from .monitoring.metrics import Metrics
from .notifications.message import BadMessage, check_key
from .queue.base import DeadLetter, JobRequest, QueueStats
from .queue.connection import connect
from .queue.redis_queue import RedisJobQueue
from .queue.tracker import OutcomeTracker
from .s3.request import no_check
from .tasks import LoopThread
from .transfer.route_stores import RouteStores, opened

__all__ = ["Copier", "Queue", "SyncCopier", "SyncQueue"]

#: Outcomes that `Queue.put` waits for at a time, in keys.
MAX_OUTSTANDING = 10_000


class Copier:
    """Copies objects of one route, verified, with connections that stay open::

        async with Copier(route_of(source, [ceph, swift])) as copier:
            outcomes = await copier.copy("images/a.fits")

    It has no queue: it does not retry for longer than seconds, and does not coordinate with listeners. On a route that
    has listeners use `Queue`.

    Args:
        route: a result of `s3s3.api.route_of`, or one of `Config.routes_named`.
        settings: `Config.worker`; None: its defaults.
    """

    def __init__(self, route: Route, settings: WorkerSettings | None = None) -> None:
        self.route = route
        self._settings = settings or default_worker_settings()
        self._stack = AsyncExitStack()
        self._stores: RouteStores | None = None

    async def __aenter__(self) -> Copier:
        self._stores = await self._stack.enter_async_context(opened(self.route, self._settings, Metrics()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stores = None
        await self._stack.aclose()

    async def copy(self, key: str, *, force: bool = False) -> dict[str, Outcome]:
        """Make every destination equal to the source's object; return the outcome by the destination's name.

        Calls may run concurrently. Failures are outcomes: `result` is FAILED, and `reason` and `error` say why.

        Args:
            key: its full name in the source bucket.
            force: copy without comparing first.

        Raises:
            RuntimeError: the copier is not open: use it in `async with`.
        """
        if self._stores is None:
            raise RuntimeError("the copier is not open; use it in `async with`, or SyncCopier in `with`")
        job = Job(key, self.route.destination_names, Lane.BULK, unconditional=force)
        outcomes = await self._stores.copier.copy_job(job, job.destinations, no_check, isolate_slow=False)
        return {outcome.destination: outcome for outcome in outcomes}


class Queue:
    """The queue of one route in Redis. What is put on it survives every crash and is copied by listeners::

        [route] = config.load("s3s3.toml").routes_named("images")
        async with Queue("redis://localhost", route) as queue:
            await queue.put(["a.fits", "b.fits"])

    Every method raises RedisUnavailable if Redis cannot be reached; `put` may be repeated then.

    Args:
        url: as in `[pubsub] url`.
        route: as in the configuration of the listeners.

    Raises ConfigError if the URL is invalid.
    """

    def __init__(self, url: str | Secret, route: Route) -> None:
        self.route = route
        self._client = connect(url)
        self._jobs = RedisJobQueue.of(self._client, route, lease_s=60.0)  # it claims nothing
        self._matches = matcher(route)
        self._is_claimed = False

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._client.aclose()

    async def put(
        self, keys: str | Iterable[str], *, wait: bool = False, timeout_s: float | None = None
    ) -> list[Outcome]:
        """Put keys on the queue, ahead of those of comparisons. When this returns, all of them are stored.

        Args:
            keys: names in the source bucket.
            wait: wait for the outcome of each key at each destination, and return them in the order of their arrival.
            timeout_s: how long to wait for outcomes; None: without a limit.

        Raises:
            ValueError: a key is not valid, or the route does not include it. Nothing was put on the queue.
            TimeoutError: outcomes are missing after `timeout_s`; their keys remain on the queue.
            RouteConflict: the listeners of a route of this name have other buckets or another channel.
        """
        if not self._is_claimed:
            await claim_route(self.route, self._jobs, "Queue")
            self._is_claimed = True
        wanted = [keys] if isinstance(keys, str) else list(keys)
        for key in wanted:
            self._check(key)
        names = self.route.destination_names
        if not wait:
            await self._jobs.enqueue([JobRequest(key, names) for key in wanted], Lane.FRESH)
            return []
        fields: list[dict[str, Any]] = []
        tracker = OutcomeTracker(self._jobs, fields.append, on_retry=lambda _: None, lane=Lane.FRESH)
        give_up_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        for start in range(0, len(wanted), MAX_OUTSTANDING):
            await tracker.enqueue([JobRequest(key, names) for key in wanted[start : start + MAX_OUTSTANDING]])
            while len(tracker):
                if give_up_at_s is not None and time.monotonic() >= give_up_at_s:
                    raise TimeoutError(f"{len(tracker)} of {len(wanted)} keys have no outcome after {timeout_s:g} s; "
                                       f"they remain on the queue of route {self.route.name}")  # fmt: skip
                await tracker.poll(1.0 if give_up_at_s is None else min(1.0, give_up_at_s - time.monotonic()))
        return [_outcome(each) for each in fields]

    async def stats(self) -> QueueStats:
        """Return the number of jobs by state, and the stores that are down or paused."""
        return await self._jobs.stats()

    async def dead_letters(self, destination: str | None = None) -> list[DeadLetter]:
        """Return the dead letters of one destination, or of all."""
        return [
            letter for name in self._destinations(destination) async for letter in self._jobs.dead_letters(name)
        ]  # fmt: skip

    async def retry(self, keys: str | Iterable[str] | None = None, destination: str | None = None) -> int:
        """Put dead letters back on the queue; return how many were found.

        Args:
            keys: None: all.
            destination: only of this one; None: of all.
        """
        count = 0
        for name in self._destinations(destination):
            if keys is not None:
                count += await self._jobs.redrive(name, [keys] if isinstance(keys, str) else list(keys))
                continue
            async for some in self._jobs.dead_letter_keys(name):
                count += await self._jobs.redrive(name, some)
        return count

    def _destinations(self, destination: str | None) -> Sequence[str]:
        names = self.route.destination_names
        if destination is None:
            return names
        if destination not in names:
            raise ValueError(f"no such destination: {destination}; route {self.route.name} has {', '.join(names)}")
        return [destination]

    def _check(self, key: str) -> None:
        try:
            check_key(key)
        except BadMessage as error:
            raise ValueError(f"not a key: {key[:60]!r}: {error}") from None
        if not self._matches(key):
            raise ValueError(f"route {self.route.name} does not include {key!r}; see prefix, include and exclude")


class SyncCopier:
    """`Copier` without asyncio. Its methods may be called from several threads, also in a notebook::

        with SyncCopier(route_of(source, [ceph, swift])) as copier:
            outcomes = copier.copy("images/a.fits")

    The arguments are those of `Copier`.
    """

    def __init__(self, route: Route, settings: WorkerSettings | None = None) -> None:
        self._copier = Copier(route, settings)
        self._thread = LoopThread()

    def __enter__(self) -> SyncCopier:
        self._thread.start()
        self._thread.run(self._copier.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._thread.run(self._copier.__aexit__())
        finally:
            self._thread.stop()

    def copy(self, key: str, *, force: bool = False) -> dict[str, Outcome]:
        """Make every destination equal to the source's object; see `Copier.copy`."""
        return self._thread.run(self._copier.copy(key, force=force))


class SyncQueue:
    """`Queue` without asyncio. Its methods may be called from several threads, also in a notebook::

        with SyncQueue("redis://localhost", route) as queue:
            queue.put(["a.fits", "b.fits"])

    The arguments are those of `Queue`.
    """

    def __init__(self, url: str | Secret, route: Route) -> None:
        self._queue = Queue(url, route)
        self._thread = LoopThread()

    def __enter__(self) -> SyncQueue:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._thread.run(self._queue.close())
        finally:
            self._thread.stop()

    def put(self, keys: str | Iterable[str], *, wait: bool = False, timeout_s: float | None = None) -> list[Outcome]:
        """Put keys on the queue; see `Queue.put`."""
        return self._thread.run(self._queue.put(keys, wait=wait, timeout_s=timeout_s))

    def stats(self) -> QueueStats:
        """Return the number of jobs by state; see `Queue.stats`."""
        return self._thread.run(self._queue.stats())

    def dead_letters(self, destination: str | None = None) -> list[DeadLetter]:
        """Return the dead letters; see `Queue.dead_letters`."""
        return self._thread.run(self._queue.dead_letters(destination))

    def retry(self, keys: str | Iterable[str] | None = None, destination: str | None = None) -> int:
        """Put dead letters back on the queue; see `Queue.retry`."""
        return self._thread.run(self._queue.retry(keys, destination))


def _outcome(fields: dict[str, Any]) -> Outcome:
    """Return the outcome in the fields of a report line."""
    proof = fields["proof"]
    return Outcome(
        fields["destination"], fields["key"], Result(fields["outcome"]), fields["reason"],
        fields["source_size_bytes"], fields["destination_size_bytes"], fields["source_md5"], fields["destination_md5"],
        Proof(proof) if proof else None,
    )  # fmt: skip
