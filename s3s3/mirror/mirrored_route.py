"""One mirrored destination: the queue of its misses, a worker on it, and who waits for what."""

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
from ..s3 import Source, Store, Timeouts
from ..s3.transport.pool import ASKING, ASKING_CONNECTIONS
from ..tasks import run_with_background
from ..transfer.budget import CopyBudget
from ..transfer.copier import Copier
from ..transfer.route_stores import EXTRA_CONNECTIONS, probe_error
from ..worker.route_worker import RouteWorker
from .mirror_copy import MirrorCopy, Settled
from .miss_coalescer import MissCoalescer

Told = Callable[[Sequence[Outcome], float], None]


@dataclass(frozen=True)
class Shared:
    """What all mirrors of a process share."""

    client: Redis
    worker: WorkerSettings
    room: CopyBudget
    metrics: Metrics


class MirroredRoute:
    """A destination that misses fill. `run` has to run beside whoever asks it.

    Attributes:
        store: the destination, asked while a client waits.
    """

    def __init__(
        self,
        route: Route,
        source: Source,
        writing: Store,
        asking: Store,
        shared: Shared,
        *,
        settled: Settled | None = None,
        fresh_for_s: float | None = None,
        told: Told | None = None,
    ) -> None:
        settings = shared.worker
        self.name = route.name
        self.store = asking
        self.jobs = RedisJobQueue.of(shared.client, route, settings.lease_s)
        self.misses = MissCoalescer(self.jobs, route.name, writing.name)
        self._told = told
        transfer = Copier(source, shared.room, metrics=shared.metrics, route=route.name)
        self._worker = RouteWorker(
            route,
            self.jobs,
            MirrorCopy(writing, transfer, settled=settled, fresh_for_s=fresh_for_s),
            settings,
            shared.metrics,
            "mirror",
            on_job_end=self._on_job_end,
        )

    def _on_job_end(self, job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        if self._told is not None:
            self._told(outcomes, took_s)

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work on misses until `stop` is set, then drain and deregister."""
        await run_with_background(self._work(stop, drain_s), self.misses.run())

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        await self._worker.run(stop, drain_s)
        self.misses.give_up()

    # -- health

    def health_problem(self) -> str:
        """Return why its misses are not being worked on, or "" while they are."""
        return self._worker.health_problem()

    async def readiness_problems(self) -> list[str]:
        """Ask Redis and the destination; return what is wrong, a line each."""
        error = await probe_error(self.store)
        wrong = [f"{self.name}: {error}"] if error is not None else []
        return wrong + await self._worker.queue_problems()

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        await self._worker.measure()


@asynccontextmanager
async def destination_stores(endpoint: Endpoint, settings: WorkerSettings) -> AsyncIterator[tuple[Store, Store]]:
    """Open a destination twice: to write to it, and to ask it while a client waits."""
    connections = settings.concurrency + EXTRA_CONNECTIONS
    writing = Store(endpoint, connections=connections, timeouts=Timeouts(write_s=settings.lease_s))
    asking = Store(endpoint, connections=ASKING_CONNECTIONS, timeouts=ASKING)
    async with writing, asking:
        yield writing, asking
