"""Queue and worker behind one front-end destination."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from ..config import WorkerSettings
from ..errors import RouteConflict, S3S3Error, StoreError, StoreUnavailable
from ..model import Endpoint, Job, Outcome, Result, Route
from ..monitoring.metrics import Metrics
from ..queue.redis_queue import RedisJobQueue
from ..s3 import ObjectInfo, Source, Store, Timeouts
from ..s3.transport.limits import LOOKUP_CONNECTIONS, LOOKUP_TIMEOUTS, MAX_LOOKUP_S
from ..tasks import Restarts, run_with_background, timeout
from ..transfer.budget import CopyBudget
from ..transfer.copier import Copier
from ..transfer.route_stores import EXTRA_CONNECTIONS, probe_error
from ..worker.route_worker import RouteWorker
from .miss_coalescer import MissCoalescer

#: Validity of presigned locations (s).
LOCATION_VALIDITY_S = 3600
_PUBLIC_ACLS = ("public-read", "public-read-write")

#: Time limit of one copy (s): a source that sends a few bytes at a time must not occupy a slot indefinitely.
MAX_COPY_S = 6 * 3600.0

OnOutcome = Callable[[str, Outcome], Awaitable[None]]
#: Takes the outcomes of a job and its duration in seconds.
OnCopies = Callable[[Sequence[Outcome], float], None]


@dataclass(frozen=True)
class Shared:
    """What all mirrors of a process share."""

    client: Redis
    worker: WorkerSettings
    budget: CopyBudget
    metrics: Metrics


@dataclass(frozen=True)
class MirrorCopy:
    """A worker's `Copy` for misses of one destination.

    One process at a time works on a key, and starts with a HEAD. So each object is read once, however many front ends
    request it. A permanent refusal by the source has the outcome `extraneous` instead of a dead letter, because any
    client can request any number of such keys.

    Attributes:
        on_outcome: awaited with each outcome before the queue publishes it to waiting requests.
        fresh_for_s: an older copy is made again; None: copies do not expire.
        max_copy_s: time limit of one copy.
    """

    store: Store
    transfer: Copier
    on_outcome: OnOutcome | None = None
    fresh_for_s: float | None = None
    max_copy_s: float = MAX_COPY_S

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        key, name = job.key, self.store.name
        try:
            if is_fresh(await self.store.head(key), self.store, self.fresh_for_s):
                outcome = Outcome(name, key, Result.SAME, Result.SAME.value)
            else:
                async with timeout(self.max_copy_s):
                    [outcome] = await self.transfer.copy(key, [self.store], check_lease=check_lease, compare=False)
        except asyncio.TimeoutError:
            late = StoreUnavailable(f"the copy took more than {self.max_copy_s:g} s", key=key)
            outcome = Outcome(name, key, Result.FAILED, str(late), error=late, indeterminate=True)
        except S3S3Error as failure:
            outcome = Outcome(name, key, Result.FAILED, str(failure), error=failure)
        error = outcome.error
        if isinstance(error, StoreError) and not error.store and not error.retriable:
            outcome = outcome._replace(result=Result.EXTRANEOUS)
        if self.on_outcome is not None:
            await self.on_outcome(key, outcome)
        return [outcome]


def is_fresh(info: ObjectInfo | None, store: Store, fresh_for_s: float | None) -> bool:
    """Whether a copy exists and may be served: some stores do not delete expired copies."""
    return info is not None and (fresh_for_s is None or store.source_time_ms() - info.modified_ms < fresh_for_s * 1000)


class MirroredRoute:
    """Queue and worker for misses of one destination. `run` must run while requests are served.

    `store` is the destination with short timeouts, for requests while a client waits.
    """

    def __init__(
        self,
        route: Route,
        source: Source,
        copy_store: Store,
        client_store: Store,
        shared: Shared,
        *,
        on_outcome: OnOutcome | None = None,
        on_copies: OnCopies,
        fresh_for_s: float | None = None,
    ) -> None:
        settings = shared.worker
        self.name = route.name
        self.store = client_store
        self.jobs = RedisJobQueue.of(shared.client, route, settings.lease_s)
        self.misses = MissCoalescer(self.jobs, route.name, copy_store.name)
        transfer = Copier(source, shared.budget, metrics=shared.metrics, route=route.name)
        self._restarts = Restarts(f"route {route.name}")
        self.worker = RouteWorker(
            route,
            self.jobs,
            MirrorCopy(copy_store, transfer, on_outcome=on_outcome, fresh_for_s=fresh_for_s),
            settings,
            shared.metrics,
            "mirror",
            on_job_end=lambda _job, outcomes, took_s, _: on_copies(outcomes, took_s),
            restarts=self._restarts,
        )

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work on misses until `stop` is set, then drain and deregister."""
        await run_with_background(self._work(stop, drain_s), self._restarts.run("passing outcomes on", self.misses.run))

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        try:
            await self.worker.run(stop, drain_s)
        except RouteConflict:  # logged; the front end stays unhealthy
            await stop.wait()
        self.misses.stop()

    async def head(self, key: str) -> ObjectInfo | None:
        """Return the copy's metadata, None if there is no copy. Raises StoreError and asyncio.TimeoutError."""
        async with timeout(MAX_LOOKUP_S):
            return await self.store.head(key)

    async def location(self, key: str, method: str) -> str:
        """Return the URL of a copy, presigned unless the destination is public. Raises StoreError."""
        expires_s = None if self.store.endpoint.acl in _PUBLIC_ACLS else LOCATION_VALIDITY_S
        return await self.store.object_url(key, method=method, expires_s=expires_s)

    async def readiness_problems(self) -> list[str]:
        """Check Redis and the destination; return one line for each problem."""
        error = await probe_error(self.store)
        problems = [f"{self.name}: {error}"] if error is not None else []
        return problems + await self.worker.queue_problems()


@asynccontextmanager
async def destination_stores(endpoint: Endpoint, settings: WorkerSettings) -> AsyncIterator[tuple[Store, Store]]:
    """Open a destination twice: for copies, and with short timeouts for requests while a client waits."""
    connections = settings.concurrency + EXTRA_CONNECTIONS
    timeouts = Timeouts(write_s=settings.lease_s).for_endpoint(endpoint)
    copy_store = Store(endpoint, connections=connections, timeouts=timeouts)
    client_store = Store(endpoint, connections=LOOKUP_CONNECTIONS, timeouts=LOOKUP_TIMEOUTS)
    async with copy_store, client_store:
        yield copy_store, client_store
