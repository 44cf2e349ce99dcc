"""Workloads: each is done by every peer in turn, several times."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import peers, servers
from bench.cost import Cost, PeerFailed
from bench.objects import GIB, KIB, MIB, Copying, fill, keys_for, remove
from bench.peers import Peer
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer

#: Copies of a run above this size are removed afterwards, because the servers keep them in memory.
MAX_KEPT_BYTES = 100 * MIB


@dataclass(frozen=True)
class Measured:
    """One run of one workload by one peer. Runs with the same number were made side by side."""

    work: str
    server: str
    peer: str
    run: int
    cost: Cost


PrintLine = Callable[[str], None]


class Work(Protocol):
    """A workload that can be measured."""

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; yield the cost of each peer. `scale` multiplies the number of objects."""


@dataclass(frozen=True)
class Copies:
    """Copy `count` objects of one size.

    Attributes:
        max_runs: limit for workloads with long runs.
        runs_per_server: runs before a new server is started, because its memory is limited.
        delay_ms: added to each response of the store.
    """

    name: str
    server: str
    count: int
    size_bytes: int
    peers: Sequence[Peer]
    destinations: int = 1
    max_runs: int = 100
    runs_per_server: int = 100
    delay_ms: int = 0

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; failures of a peer are reported and not included."""
        able = [peer for peer in self.peers if not _report_missing(peer, print_line)]
        count = max(round(self.count * scale), 1)
        numbers = range(min(runs, self.max_runs))
        for first in numbers[:: self.runs_per_server]:
            yield from self._run_on_server(numbers[first : first + self.runs_per_server], able, count, print_line)

    def _run_on_server(
        self, runs: Sequence[int], able: Sequence[Peer], count: int, print_line: PrintLine
    ) -> Iterator[Measured]:
        with ExitStack() as stack:
            server = stack.enter_context(servers.STORES[self.server]())
            redis = stack.enter_context(RedisServer(append_only=True))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
            port = server.port
            if self.delay_ms:
                port = stack.enter_context(servers.Relay(server.port, self.delay_ms)).port
            sources: dict[int, str] = {}
            for run in runs:
                for peer in rotated(able, run):
                    share = max(round(count * peer.share), 1)
                    if share not in sources:
                        sources[share] = f"source-{share}"
                        fill(server, sources[share], keys_for(share), self.size_bytes)
                    work = Copying(server, redis, sources[share], self._new_buckets(server), keys_for(share),
                                   self.size_bytes, folder, port)  # fmt: skip
                    try:
                        yield Measured(self.name, self.server, peer.name, run, peer.copy(work))
                    except PeerFailed as error:  # measure the other peers anyway
                        print_line(f"  FAILED: {peer.name}: {error}")
                    if work.total_bytes > MAX_KEPT_BYTES:
                        remove(server, work.destinations)

    def _new_buckets(self, server: StoreServer) -> tuple[str, ...]:
        names = tuple(f"copy-{uuid.uuid4().hex[:12]}" for _ in range(self.destinations))
        for name in names:
            server.boto3_client().create_bucket(Bucket=name)
        return names


def _report_missing(peer: Peer, print_line: PrintLine) -> bool:
    reason = peer.missing()
    if reason:
        print_line(f"  without {peer.name}: {reason}")
    return bool(reason)


def rotated(able: Sequence[Any], run: int) -> list[Any]:
    """Return the peers rotated by `run`, so that other load on the machine affects all alike."""
    first = run % len(able)
    return [*able[first:], *able[:first]]


TWO = (peers.S3S3, peers.RCLONE_TUNED)
OTHERS = (peers.RCLONE_TUNED, peers.RCLONE, peers.BOTO3)
LARGE = (*TWO, peers.S3S3_CLIENT)
BIG = (*LARGE, peers.CURL)

LISTENERS = (*(peers.s3s3_with(count) for count in (1, 2, 4)), peers.RCLONE_TUNED)

COPIES = {
    "small": Copies("4 KiB", servers.CEPH, 10_000, 4 * KIB, (*TWO, peers.WRK)),
    "others": Copies("4 KiB, the others", servers.CEPH, 2_000, 4 * KIB, OTHERS),
    "small-swift": Copies("4 KiB", servers.SWIFT, 1_000, 4 * KIB, (*TWO, peers.WRK)),
    "small-light": Copies("4 KiB", servers.LIGHT, 5_000, 4 * KIB, (*TWO, peers.WRK)),
    "64k": Copies("64 KiB", servers.CEPH, 2_000, 64 * KIB, TWO),
    "256k": Copies("256 KiB", servers.CEPH, 1_000, 256 * KIB, TWO),
    "1m": Copies("1 MiB", servers.CEPH, 300, MIB, LARGE),
    "4m": Copies("4 MiB", servers.CEPH, 100, 4 * MIB, LARGE),
    "64m": Copies("64 MiB", servers.CEPH, 8, 64 * MIB, BIG),
    # Ceph keeps all in memory here and frees it hours after a deletion: a third run would find it full.
    "1g": Copies("1 GiB", servers.CEPH, 1, GIB, BIG, runs_per_server=2),
    "2-destinations": Copies("4 KiB, 2 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=2),
    "3-destinations": Copies("4 KiB, 3 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=3),
    "processes": Copies("4 KiB, 50 ms away", servers.CEPH, 2_000, 4 * KIB, LISTENERS, delay_ms=50),
}
