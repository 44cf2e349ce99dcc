"""Compare a million keys with several processes (`s3s3 bucket --distributed`) and responses 50 ms late.

The delay stands for a large or distant store; without it two cores would be the limit.
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
from bench.workloads import Measured, PrintLine, rotated
from s3s3.scripts.demo.redis_server import RedisServer

#: Numbers of processes; 0 is a run without --distributed.
PROCESSES = (0, 1, 2, 4)

#: One run of each takes three minutes.
MAX_RUNS = 3


@dataclass(frozen=True)
class Together:
    """Compare a bucket of `count` keys with an equal copy. `delay_ms` is added to each response."""

    count: int
    delay_ms: int

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; yield the total cost of all processes. Each key of the source counts as an object."""
        count = round(self.count * scale)
        with ExitStack() as stack:
            server = stack.enter_context(ListingServer(count, self.delay_ms))
            redis = stack.enter_context(RedisServer())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
            endpoints = [server.endpoint("a", "source"), server.endpoint("b", "dest", server_side_copy=False)]
            config = write_config(folder, endpoints, redis.url)
            work = f"unchanged, {self.count:,} keys, {self.delay_ms} ms away"
            for run in range(min(runs, MAX_RUNS)):
                for processes in rotated(PROCESSES, run):
                    with Redis.from_url(redis.url) as client:
                        client.flushall()
                    shared = ["--distributed"] if processes else []
                    commands = [command("bucket", "--config", config, *shared)] * max(processes, 1)
                    cost = run_side_by_side(commands, log=folder / "s3s3.log")
                    yield Measured(work, NAME, _peer(processes), run, replace(cost, objects=count))


def _peer(processes: int) -> str:
    return f"s3s3 bucket --distributed, {processes} processes" if processes else "s3s3 bucket"


RUNS = {"together": Together(1_000_000, delay_ms=50)}
