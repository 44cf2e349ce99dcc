"""Compare an unchanged bucket with its copy: `s3s3 bucket`, `rclone check`, and `rclone size` of one bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cost import Cost, run_to_end
from bench.peers import rclone_environment
from bench.s3s3_commands import command, write_config
from bench.servers import ListingServer
from bench.workloads import Measured, PrintLine, rotated
from s3s3.scripts.demo.rclone_server import find_rclone
from s3s3.scripts.demo.servers import HOST, ServerMissing

NAME = "a listing server of the bench"
S3S3, CHECK, SIZE = "s3s3 bucket", "rclone check", "rclone size"

Run = Callable[[ListingServer, Path], Cost]


def _s3s3(server: ListingServer, folder: Path) -> Cost:
    endpoints = [server.endpoint("a", "source"), server.endpoint("b", "dest", server_side_copy=False)]
    config = write_config(folder, endpoints, "")
    return run_to_end(command("bucket", "--config", config), log=folder / "s3s3.log")


def _rclone(*verb: str) -> Run:
    def run(server: ListingServer, folder: Path) -> Cost:
        url = f"http://{HOST}:{server.port}"
        command_line: list[str | Path] = [find_rclone(), *verb, "--fast-list", "--checkers=32"]
        return run_to_end(command_line, log=folder / "rclone.log", environment=rclone_environment(server, url))

    return run


PEERS: dict[str, Run] = {
    S3S3: _s3s3,
    CHECK: _rclone("check", "bench:a", "bench:b"),
    SIZE: _rclone("size", "bench:a"),
}


@dataclass(frozen=True)
class Compares:
    """Compare a bucket of `count` keys with an equal copy."""

    count: int
    peers: Sequence[str] = tuple(PEERS)

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; yield the cost of each peer. Each key of the source counts as an object."""
        count = round(self.count * scale)
        able = self._able(print_line)
        with ExitStack() as stack:
            server = stack.enter_context(ListingServer(count))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
            for run in range(runs):
                for peer in rotated(able, run):
                    cost = replace(PEERS[peer](server, folder), objects=count)
                    yield Measured(f"unchanged, {self.count:,} keys", NAME, peer, run, cost)

    def _able(self, print_line: PrintLine) -> Sequence[str]:
        try:
            find_rclone()
        except ServerMissing as error:
            print_line(f"  without rclone: {error}")
            return [S3S3]
        return self.peers


COMPARES = {
    "10k-keys": Compares(10_000),
    "100k-keys": Compares(100_000),
    "1m-keys": Compares(1_000_000, (S3S3, CHECK)),
}
