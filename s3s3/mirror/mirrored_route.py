"""Queue and worker behind one front-end destination."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from ..config import WorkerSettings
from ..model import Endpoint, Job, Outcome, Route
from ..monitoring.metrics import Metrics
from ..queue.redis_queue import RedisJobQueue
from ..s3 import ObjectInfo, Source, Store, Timeouts
from ..s3.transport.pool import LOOKUP_CONNECTIONS, LOOKUP_TIMEOUTS, MAX_LOOKUP_S
from ..tasks import run_with_background, timeout
from ..transfer.budget import CopyBudget
from ..transfer.copier import Copier
from ..transfer.route_stores import EXTRA_CONNECTIONS, probe_error
from ..worker.route_worker import RouteWorker
from .mirror_copy import MirrorCopy, OnOutcome
from .miss_coalescer import MissCoalescer

#: Validity of presigned locations (s).
LOCATION_VALIDITY_S = 3600
_PUBLIC_ACLS = ("public-read", "public-read-write")

#: Takes the outcomes of a job and its duration in seconds.
OnCopies = Callable[[Sequence[Outcome], float], None]


@dataclass(frozen=True)
class Shared:
    """What all mirrors of a process share."""

    client: Redis
    worker: WorkerSettings
    budget: CopyBudget
    metrics: Metrics


class MirroredRoute:
    """Queue and worker for misses of one destination. `run` must run while requests are served.

    Attributes:
        store: the destination, with short timeouts for requests while a client waits.
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
        self._on_copies = on_copies
        transfer = Copier(source, shared.budget, metrics=shared.metrics, route=route.name)
        self._worker = RouteWorker(
            route,
            self.jobs,
            MirrorCopy(copy_store, transfer, on_outcome=on_outcome, fresh_for_s=fresh_for_s),
            settings,
            shared.metrics,
            "mirror",
            on_job_end=self._on_job_end,
        )

    def _on_job_end(self, _job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        self._on_copies(outcomes, took_s)

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work on misses until `stop` is set, then drain and deregister."""
        await run_with_background(self._work(stop, drain_s), self.misses.run())

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        await self._worker.run(stop, drain_s)
        self.misses.stop()

    async def head(self, key: str) -> ObjectInfo | None:
        """Return the copy's metadata, None if there is no copy. Raises StoreError and asyncio.TimeoutError."""
        async with timeout(MAX_LOOKUP_S):
            return await self.store.head(key)

    async def location(self, key: str, method: str) -> str:
        """Return the URL of a copy, presigned unless the destination is public. Raises StoreError."""
        expires_s = None if self.store.endpoint.acl in _PUBLIC_ACLS else LOCATION_VALIDITY_S
        return await self.store.object_url(key, method=method, expires_s=expires_s)

    # -- health

    def health_problem(self) -> str:
        """Return why misses are not copied, or ""."""
        return self._worker.health_problem()

    async def readiness_problems(self) -> list[str]:
        """Check Redis and the destination; return one line for each problem."""
        error = await probe_error(self.store)
        problems = [f"{self.name}: {error}"] if error is not None else []
        return problems + await self._worker.queue_problems()

    async def measure(self) -> None:
        """Update the gauges."""
        await self._worker.measure()


@asynccontextmanager
async def destination_stores(endpoint: Endpoint, settings: WorkerSettings) -> AsyncIterator[tuple[Store, Store]]:
    """Open a destination twice: for copies, and with short timeouts for requests while a client waits."""
    connections = settings.concurrency + EXTRA_CONNECTIONS
    copy_store = Store(endpoint, connections=connections, timeouts=Timeouts(write_s=settings.lease_s))
    client_store = Store(endpoint, connections=LOOKUP_CONNECTIONS, timeouts=LOOKUP_TIMEOUTS)
    async with copy_store, client_store:
        yield copy_store, client_store
