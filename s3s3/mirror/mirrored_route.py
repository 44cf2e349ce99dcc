"""One mirrored destination: the queue of its misses, a worker on it, and who waits for what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from ..config import WorkerSettings
from ..errors import S3S3Error
from ..model import Endpoint, Job, Outcome, Route
from ..monitoring.heartbeat import Heartbeat, ProcessState
from ..monitoring.job_observer import JobObserver
from ..monitoring.metrics import Metrics
from ..queue.redis_queue import RedisJobQueue
from ..s3 import Source, Store, Timeouts
from ..s3.transport.pool import ASKING, ASKING_CONNECTIONS
from ..tasks import run_with_background
from ..transfer.budget import CopyBudget
from ..transfer.copier import Copier
from ..transfer.route_stores import CONNECTIONS_BESIDE_COPIES, refused
from ..worker.worker import Worker
from .mirror_copy import MirrorCopy, Settled
from .miss_coalescer import MissCoalescer

log = logging.getLogger(__name__)

STALLED_AFTER_S = 60.0

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
        self._heartbeat = Heartbeat(route, self.jobs, shared.metrics, self._state, "mirror")
        self._observer = JobObserver(route.name, shared.metrics, self._heartbeat.failed)
        self._told = told
        transfer = Copier(source, shared.room, metrics=shared.metrics, route=route.name)
        self._worker = Worker(
            route,
            self.jobs,
            MirrorCopy(writing, transfer, settled=settled, fresh_for_s=fresh_for_s),
            concurrency=settings.concurrency,
            max_attempts=settings.max_attempts,
            lease_s=settings.lease_s,
            finished=self._finished,
        )

    def _finished(self, job: Job, outcomes: Sequence[Outcome], took_s: float) -> None:
        self._observer.on_job_end(job, outcomes, took_s)
        if self._told is not None:
            self._told(outcomes, took_s)

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Work on misses until `stop` is set, and leave the queue as one ought to."""
        await run_with_background(self._work(stop, drain_s), self.misses.run(), self._heartbeat.run())

    async def _work(self, stop: asyncio.Event, drain_s: float) -> None:
        await self._worker.run(stop, drain_s)
        self.misses.give_up()
        try:
            await self._heartbeat.deregister()
        except S3S3Error as error:
            log.warning("%s: could not sign off: %s", self.name, error)

    # -- health

    def health_problem(self) -> str:
        """Return why its misses are not being worked on, or "" while they are."""
        silent_s = self._worker.silent_s
        if silent_s > STALLED_AFTER_S:
            return f"{self.name}: the queue has not answered for {silent_s:.0f} s"
        return ""

    def _state(self) -> ProcessState:
        return ProcessState(self._worker.running, leads=False, health_problem=self.health_problem())

    async def readiness_problems(self) -> list[str]:
        """Ask Redis and the destination; return what is wrong, a line each."""
        error = await refused(self.store)
        wrong = [f"{self.name}: {error}"] if error is not None else []
        try:
            await self.jobs.check()
        except S3S3Error as failure:
            wrong.append(str(failure))
        return wrong

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self._observer.measure(await self.jobs.stats(), self._worker.running)


@asynccontextmanager
async def destination_stores(endpoint: Endpoint, settings: WorkerSettings) -> AsyncIterator[tuple[Store, Store]]:
    """Open a destination twice: to write to it, and to ask it while a client waits."""
    connections = settings.concurrency + CONNECTIONS_BESIDE_COPIES
    writing = Store(endpoint, connections=connections, timeouts=Timeouts(write_s=settings.lease_s))
    asking = Store(endpoint, connections=ASKING_CONNECTIONS, timeouts=ASKING)
    async with writing, asking:
        yield writing, asking
