"""Measure s3s3's own work for one small object, without a network: `python -m bench.small_object`.

The store and Redis are inside the process (`bench.fake_servers`), so what is measured is Python's work:

    copy     GET, MD5, lease check, PUT, ETag: `Copier.copy_job`, 32 at a time
    queue    message, enqueue, claim, finish, metrics: the listener's subscription and worker, with an empty copy
    all      both

Valgrind counts the instructions, which other programs on the machine do not change: two runs differ by less than one
percent. The CPU time is that of the fastest of many rounds. Both include the fake servers, about a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench import fake_servers
from bench.fake_servers import REDIS_PORT, STORE_PORT, FakeRedis, FakeStore
from s3s3.model import Endpoint, Job, Lane, Outcome, Proof, Result, Route, Secret
from s3s3.monitoring.metrics import JobObserver, Metrics
from s3s3.notifications.pubsub import PubSubSource
from s3s3.queue import connection
from s3s3.queue.redis_queue import Lease, RedisJobQueue
from s3s3.s3 import Store
from s3s3.scripts.command import GC_THRESHOLD
from s3s3.tasks import run_with_background
from s3s3.transfer.budget import CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.worker.worker import Copy, Worker

CONTENT = bytes(range(256)) * 16
CONCURRENCY = 32
#: Messages published and not finished yet: enough for full batches.
OUTSTANDING = 64
ROUND_OBJECTS = 500
ROUNDS = 40
#: Objects of the two runs whose difference is counted.
COUNTED_OBJECTS = (200, 1000)

#: Handles a number of objects.
Handle = Callable[[int], Coroutine[Any, Any, None]]

#: Called with a `Handle`, as often as it wants.
Rounds = Callable[[Handle], Coroutine[Any, Any, None]]

_ROUTE = Route(
    "default", Endpoint("source", "from"), (Endpoint("dest", "to", server_side_copy=False),), channel="backup"
)


def _endpoint(name: str) -> Endpoint:
    return Endpoint(
        name, f"bucket-{name}", host="127.0.0.1", port=STORE_PORT, is_secure=False, access_key_id="id",
        secret_access_key=Secret("secret"), server_side_copy=False,
    )  # fmt: skip


@asynccontextmanager
async def _copier() -> AsyncIterator[Copier]:
    async with Store(_endpoint("source")) as source, Store(_endpoint("dest")) as destination:
        yield Copier(source, CopyBudget(), metrics=Metrics(), route="default", destinations={"dest": destination})


async def _empty_copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
    check_lease()
    return [Outcome(name, job.key, Result.COPIED, "", 4096, 4096, "", "", Proof.ETAG) for name in destinations]


async def _no_watermark(*_: object) -> None:
    """Advance nothing: the fake Redis has no scripts of `s3s3.notifications`."""


class Part(ABC):
    """One part of the work, with its own servers."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.store = FakeStore(CONTENT)

    @abstractmethod
    async def run(self, rounds: Rounds) -> None:
        """Call `rounds` with a function that does the work for a number of objects."""


class CopyPart(Part):
    """GET, MD5, PUT."""

    async def run(self, rounds: Rounds) -> None:
        async with _copier() as copier:

            async def copies(count: int) -> None:
                keys = iter([f"images/2026/10/06/camera-3-{number:06}.fits" for number in range(count)])

                async def slot() -> None:
                    for key in keys:
                        job = Job(key, ("dest",), Lane.FRESH, unconditional=True)
                        (outcome,) = await copier.copy_job(job, job.destinations, Lease(float("inf")))
                        assert outcome.proof is Proof.ETAG

                await asyncio.gather(*(slot() for _ in range(CONCURRENCY)))

            await rounds(copies)


class QueuePart(Part):
    """Message, enqueue, claim, finish; with a copy that does nothing."""

    async def run(self, rounds: Rounds) -> None:
        await self._run_with(_empty_copy, rounds)

    async def _run_with(self, copy: Copy, rounds: Rounds) -> None:
        url = f"redis://127.0.0.1:{REDIS_PORT}/0"
        client, subscriber = connection.connect(url), connection.connect(url, decode=False)
        jobs = RedisJobQueue.of(client, _ROUTE, 60.0)
        observer = JobObserver("default", Metrics())
        pubsub = PubSubSource(_ROUTE, "backup", jobs, subscriber, count=observer.on_notification)
        pubsub._election.is_leader = True
        pubsub.watermark.advance = _no_watermark  # type: ignore[assignment, method-assign]
        worker = Worker(_ROUTE, jobs, copy, concurrency=CONCURRENCY, on_job_end=observer.on_job_end)
        stop = asyncio.Event()

        async def publish(count: int) -> None:
            left, running = count, 0
            done = asyncio.Event()

            def more(finished: int) -> None:
                nonlocal left, running
                running -= finished
                number = min(left, OUTSTANDING - running)
                if number:
                    self.redis.publish([b"images/2026/10/06/camera-3-%06d.fits" % (left - n) for n in range(number)])
                left, running = left - number, running + number
                if not running:
                    done.set()

            self.redis.on_finished = more
            more(0)
            await done.wait()

        async def main() -> None:
            while not self.redis.has_subscriber:
                await asyncio.sleep(0.01)
            await rounds(publish)
            stop.set()

        await run_with_background(main(), worker.run(stop), pubsub.subscription.run(), pubsub._enqueue_received())


class WholePart(QueuePart):
    """Everything that happens for one object."""

    async def run(self, rounds: Rounds) -> None:
        async with _copier() as copier:
            await self._run_with(copier.copy_job, rounds)


PARTS: Mapping[str, type[Part]] = {"copy": CopyPart, "queue": QueuePart, "all": WholePart}


def run(name: str, rounds: Rounds) -> None:
    """Run a part in a loop of its own."""
    part = PARTS[name]()
    fake_servers.run(part.run(rounds), {STORE_PORT: part.store, REDIS_PORT: part.redis})


def cpu_us(name: str) -> float:
    """Return the CPU time of one object, in us, in the fastest of many rounds."""
    fastest_s = float("inf")

    async def rounds(work: Handle) -> None:
        nonlocal fastest_s
        await work(ROUND_OBJECTS)
        gc.collect()
        gc.freeze()  # as in a daemon
        gc.set_threshold(GC_THRESHOLD)
        for _ in range(ROUNDS):
            began_s = time.process_time()
            await work(ROUND_OBJECTS)
            fastest_s = min(fastest_s, time.process_time() - began_s)

    run(name, rounds)
    return fastest_s / ROUND_OBJECTS * 1e6


def instructions(name: str) -> float:
    """Return the number of instructions for one object, by valgrind."""
    few, many = COUNTED_OBJECTS
    counts = []
    for objects in (few, many):
        command = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
                   sys.executable, "-m", "bench.small_object", "--only", name, "--objects", str(objects))  # fmt: skip
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True,
                              check=True)  # fmt: skip
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        assert found, done.stderr
        counts.append(int(found[1].replace(",", "")))
    return (counts[1] - counts[0]) / (many - few)


def main() -> int:
    """Print the CPU time and the instructions of one object."""
    parser = argparse.ArgumentParser(prog="python -m bench.small_object", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="parts to measure")
    parser.add_argument("--time", action="store_true", help="measure the CPU time only, without valgrind")
    parser.add_argument("--objects", type=int, help="handle so many objects and print nothing, for a profiler")
    arguments = parser.parse_args()
    for name in arguments.only:
        if arguments.objects:
            run(name, lambda work: work(arguments.objects))
            continue
        line = f"{name:8}{cpu_us(name):8.1f} us"
        if not arguments.time and shutil.which("valgrind"):
            line += f"{instructions(name) / 1000:10.1f} thousand instructions"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
