"""Workloads: each is done by every peer in turn, several times."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
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

#: What each peer copies before the first run that counts: objects of the workload's size, or of WARM_UP_BYTES.
WARM_UP_COUNT = 16
WARM_UP_BYTES = 4 * MIB


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
class Site:
    """Running servers. `filled`: buckets that have their objects."""

    server: StoreServer
    redis: RedisServer
    folder: Path
    port: int
    ca_file: Path | None = None
    filled: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Copies:
    """Copy `count` objects of one size.

    Attributes:
        max_runs: limit for workloads with long runs.
        runs_per_server: runs before a new server is started, because its memory is limited.
        delay_ms: added to each response of the store.
        is_secure: the programs use HTTPS, with a local authority.
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
    is_secure: bool = False

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; failures of a peer are reported and not included."""
        able = [peer for peer in self.peers if not _report_missing(peer, print_line)]
        count = max(round(self.count * scale), 1)
        numbers = range(min(runs, self.max_runs))
        for first in numbers[:: self.runs_per_server]:
            with ExitStack() as stack:
                site = self._open_site(stack)
                if scale >= 1:
                    self._warm_up(site, able, print_line)
                for run in numbers[first : first + self.runs_per_server]:
                    peers_of_run = [peer for peer in able if run < peer.max_runs]
                    for peer in rotated(peers_of_run, run):
                        share = max(round(count * peer.share), 1)
                        if cost := self._copy(site, peer, f"source-{share}", share, self.size_bytes, print_line):
                            yield Measured(self.name, self.server, peer.name, run, cost)

    def _open_site(self, stack: ExitStack) -> Site:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
        redis = stack.enter_context(RedisServer(append_only=True))
        if self.is_secure:
            ceph, ca_file = servers.secure_ceph(folder)
            stack.enter_context(ceph)
            return Site(ceph, redis, folder, ceph.tls_port, ca_file)
        server = stack.enter_context(servers.STORES[self.server]())
        port = stack.enter_context(servers.Relay(server.port, self.delay_ms)).port if self.delay_ms else server.port
        return Site(server, redis, folder, port)

    def _warm_up(self, site: Site, able: Sequence[Peer], print_line: PrintLine) -> None:
        """Copy a few objects with each peer: the first run of a program and of a server takes longer."""
        for peer in able:
            self._copy(site, peer, "warm-up", WARM_UP_COUNT, min(self.size_bytes, WARM_UP_BYTES), print_line)

    def _copy(
        self, site: Site, peer: Peer, source: str, count: int, size_bytes: int, print_line: PrintLine
    ) -> Cost | None:
        """Return the cost; report a failure and return None, so that the other peers are measured anyway."""
        keys = keys_for(count)
        if source not in site.filled:
            fill(site.server, source, keys, size_bytes)
            site.filled.add(source)
        there = self._new_buckets(site.server)
        work = Copying(site.server, site.redis, source, there, keys, size_bytes, site.folder, site.port, site.ca_file)
        try:
            return peer.copy(work)
        except PeerFailed as error:
            print_line(f"  FAILED: {peer.name}: {error}")
            return None
        finally:
            if work.total_bytes > MAX_KEPT_BYTES:
                remove(site.server, there)

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
BOTH_CHECKSUMS = (*TWO, peers.S3S3_CLIENT)
LARGE = (*BOTH_CHECKSUMS, peers.S5CMD, peers.S3TRANSFER)
BIG = (*LARGE, peers.CURL)

LISTENERS = (*(peers.s3s3_with(count) for count in (1, 2, 4)), peers.RCLONE_TUNED)

COPIES = {
    "small": Copies("4 KiB", servers.CEPH, 10_000, 4 * KIB, (*TWO, peers.WRK)),
    "others": Copies("4 KiB, the others", servers.CEPH, 2_000, 4 * KIB, OTHERS),
    "small-swift": Copies("4 KiB", servers.SWIFT, 1_000, 4 * KIB, (*TWO, peers.WRK)),
    "small-light": Copies("4 KiB", servers.LIGHT, 5_000, 4 * KIB, (*TWO, peers.WRK)),
    "64k": Copies("64 KiB", servers.CEPH, 2_000, 64 * KIB, TWO),
    "256k": Copies("256 KiB", servers.CEPH, 1_000, 256 * KIB, LARGE),
    "1m": Copies("1 MiB", servers.CEPH, 300, MIB, LARGE),
    "4m": Copies("4 MiB", servers.CEPH, 100, 4 * MIB, LARGE),
    "64m": Copies("64 MiB", servers.CEPH, 8, 64 * MIB, BIG),
    # Ceph keeps all in memory here and frees it hours after a deletion: a second run would find it full.
    "1g": Copies("1 GiB", servers.CEPH, 1, GIB, BIG, runs_per_server=1),
    "1m-https": Copies("1 MiB, HTTPS", servers.CEPH, 300, MIB, LARGE, is_secure=True),
    "64m-https": Copies("64 MiB, HTTPS", servers.CEPH, 8, 64 * MIB, LARGE, is_secure=True),
    "2-destinations": Copies("4 KiB, 2 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=2),
    "3-destinations": Copies("4 KiB, 3 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=3),
    "processes": Copies("4 KiB, 50 ms away", servers.CEPH, 2_000, 4 * KIB, LISTENERS, delay_ms=50),
}
