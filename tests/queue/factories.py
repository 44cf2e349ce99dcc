"""Requests, claims and dispositions for tests of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from s3s3.model import Job, Lane
from s3s3.queue.base import ClaimResult, Disposition, DispositionKind, JobRequest
from s3s3.queue.redis_queue import RedisJobQueue

A, B = DESTINATIONS = ("dest-a", "dest-b")

DONE = Disposition(DispositionKind.DONE)
RELEASE = Disposition(DispositionKind.RELEASE)
DEFER = Disposition(DispositionKind.DEFER)
RETRY_LATER = Disposition(DispositionKind.RETRY, delay_s=60.0)
RETRY_NOW = Disposition(DispositionKind.RETRY, delay_s=0.0)
RETRY_UNCOUNTED = Disposition(DispositionKind.RETRY_UNCOUNTED, delay_s=0.0)
ALL_DONE: Mapping[str, Disposition] = {A: DONE, B: DONE}


def parked(store: str, *, has_failed: bool = False) -> Disposition:
    return Disposition(DispositionKind.PARK, circuit=store, has_failed=has_failed)


def dead_letter(reason: str) -> Disposition:
    return Disposition(DispositionKind.DEAD_LETTER, reason=reason)


def retry(reason: str, kind: str = DispositionKind.RETRY) -> Disposition:
    return Disposition(kind, reason=reason)


async def notify(jobs: RedisJobQueue, *keys: str) -> None:
    """Enqueue keys as notifications do."""
    await jobs.enqueue([JobRequest(key, DESTINATIONS) for key in keys], Lane.FRESH)


async def claim(jobs: RedisJobQueue, free: int = 10) -> list[Job]:
    """Claim from both lanes without waiting."""
    return list((await jobs.claim(free, 0, free, 0)).jobs)


async def claim_one(jobs: RedisJobQueue) -> Job:
    (job,) = await claim(jobs)
    return job


async def finish_all(jobs: RedisJobQueue) -> list[Job]:
    """Claim and finish until nothing is queued; return the jobs in order."""
    found = []
    while claimed := await claim(jobs):
        for job in claimed:
            await jobs.finish(job, dict.fromkeys(job.destinations, DONE))
        found += claimed
    return found


def scope(job: Job) -> tuple[str, tuple[str, ...]]:
    """Return the key and the destinations of a job."""
    return job.key, job.destinations


def recording_queue() -> Any:
    """Return a fake queue: `claim` returns the enqueued jobs in order."""
    return _RecordingQueue()


class _RecordingQueue:
    def __init__(self) -> None:
        self._jobs: list[Job] = []

    async def enqueue(self, requests: Iterable[JobRequest], lane: Lane) -> None:
        for key, destinations, notified_ms in requests:
            self._jobs.append(Job(key, destinations, lane, "", "", lane is Lane.FRESH, {}, notified_ms or 0))

    async def claim(self, *_: object) -> ClaimResult:
        jobs, self._jobs = self._jobs, []
        return ClaimResult(jobs)
