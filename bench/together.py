"""A million keys compared by several processes together (`s3s3 bucket --distributed`), each answer 50 ms late.

What they wait for is the store, as one waits for a large or a distant one: two cores show nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from redis import Redis

from bench.comparing import NAME
from bench.cost import run_side_by_side
from bench.s3s3_commands import command, write_config
from bench.servers import ListingServer
from bench.workloads import Measured, Tell, turned
from s3s3.scripts.demo.redis_server import RedisServer

PROCESSES = (0, 1, 2, 4)
"""0 is the plain run, which shares nothing."""

MAX_RUNS = 3
"""One of each takes three minutes."""


@dataclass(frozen=True)
class Together:
    """A bucket of so many keys, and a copy that is equal. `delay_ms`: every answer comes so late."""

    count: int
    delay_ms: int

    def run(self, runs: int, scale: float, tell: Tell) -> Iterator[Measured]:
        """Do it; yield what all processes took together, an entry of the source counting as an object."""
        count = round(self.count * scale)
        with ExitStack() as stack:
            server = stack.enter_context(ListingServer(count, self.delay_ms))
            redis = stack.enter_context(RedisServer())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
            endpoints = [server.endpoint("a", "source"), server.endpoint("b", "dest", server_side_copy=False)]
            config = write_config(folder, endpoints, redis.url)
            work = f"unchanged, {self.count:,} keys, {self.delay_ms} ms away"
            for run in range(min(runs, MAX_RUNS)):
                for processes in turned(PROCESSES, run):
                    with Redis.from_url(redis.url) as client:
                        client.flushall()
                    shared = ["--distributed"] if processes else []
                    commands = [command("bucket", "--config", config, *shared)] * max(processes, 1)
                    cost = run_side_by_side(commands, log=folder / "s3s3.log")
                    yield Measured(work, NAME, _peer(processes), run, replace(cost, objects=count))


def _peer(processes: int) -> str:
    return f"s3s3 bucket --distributed, {processes} at once" if processes else "s3s3 bucket"


RUNS = {"together": Together(1_000_000, delay_ms=50)}
