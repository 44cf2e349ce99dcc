"""What is measured: each piece of work, done by every peer in turn, as many times as asked for."""

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

KEPT_AFTERWARDS_BYTES = 100 * MIB
"""What a run wrote is removed when it is more than this: the servers keep it in memory."""


@dataclass(frozen=True)
class Measured:
    """One peer doing one piece of work once. Runs of the same number stood side by side."""

    work: str
    server: str
    peer: str
    run: int
    cost: Cost


Tell = Callable[[str], None]


class Work(Protocol):
    """A piece of work that can be measured."""

    def run(self, runs: int, scale: float, tell: Tell) -> Iterator[Measured]:
        """Do it; yield what each peer took. `scale`: of the number of objects."""


@dataclass(frozen=True)
class Copies:
    """Copying of so many objects of one size.

    Attributes:
        most_runs: so often at most, where a run takes long.
        runs_on_a_server: then another one, where its memory would not hold more.
        delay_ms: the store's answers take so much longer.
    """

    name: str
    server: str
    count: int
    size_bytes: int
    peers: Sequence[Peer]
    destinations: int = 1
    most_runs: int = 100
    runs_on_a_server: int = 100
    delay_ms: int = 0

    def run(self, runs: int, scale: float, tell: Tell) -> Iterator[Measured]:
        """Do it; what a peer could not do is told, and in no figure."""
        able = [peer for peer in self.peers if not _told_missing(peer, tell)]
        count = max(round(self.count * scale), 1)
        numbers = range(min(runs, self.most_runs))
        for first in numbers[:: self.runs_on_a_server]:
            yield from self._on_a_server(numbers[first : first + self.runs_on_a_server], able, count, tell)

    def _on_a_server(self, runs: Sequence[int], able: Sequence[Peer], count: int, tell: Tell) -> Iterator[Measured]:
        with ExitStack() as stack:
            server = stack.enter_context(servers.STORES[self.server]())
            redis = stack.enter_context(RedisServer(append_only=True))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
            port = server.port
            if self.delay_ms:
                port = stack.enter_context(servers.Relay(server.port, self.delay_ms)).port
            sources: dict[int, str] = {}
            for run in runs:
                for peer in turned(able, run):
                    share = max(round(count * peer.share), 1)
                    if share not in sources:
                        sources[share] = f"source-{share}"
                        fill(server, sources[share], keys_for(share), self.size_bytes)
                    work = Copying(server, redis, sources[share], self._new_buckets(server), keys_for(share),
                                   self.size_bytes, folder, port)  # fmt: skip
                    try:
                        yield Measured(self.name, self.server, peer.name, run, peer.copy(work))
                    except PeerFailed as error:  # the others are worth measuring all the same
                        tell(f"  FAILED: {peer.name}: {error}")
                    if work.total_bytes > KEPT_AFTERWARDS_BYTES:
                        remove(server, work.destinations)

    def _new_buckets(self, server: StoreServer) -> tuple[str, ...]:
        names = tuple(f"copy-{uuid.uuid4().hex[:12]}" for _ in range(self.destinations))
        for name in names:
            server.boto3_client().create_bucket(Bucket=name)
        return names


def _told_missing(peer: Peer, tell: Tell) -> bool:
    reason = peer.missing()
    if reason:
        tell(f"  without {peer.name}: {reason}")
    return bool(reason)


def turned(able: Sequence[Any], run: int) -> list[Any]:
    """Return the peers, each time another one first: what the machine does meanwhile hits all of them alike."""
    first = run % len(able)
    return [*able[first:], *able[:first]]


TWO = (peers.S3S3, peers.RCLONE_TUNED)
OTHERS = (peers.RCLONE_TUNED, peers.RCLONE, peers.BOTO3)
BIG = (*TWO, peers.CURL)

LISTENERS = (*(peers.s3s3_with(count) for count in (1, 2, 4)), peers.RCLONE_TUNED)

COPIES = {
    "small": Copies("4 KiB", servers.CEPH, 10_000, 4 * KIB, (*TWO, peers.WRK)),
    "others": Copies("4 KiB, the others", servers.CEPH, 2_000, 4 * KIB, OTHERS),
    "small-swift": Copies("4 KiB", servers.SWIFT, 1_000, 4 * KIB, (*TWO, peers.WRK)),
    "small-light": Copies("4 KiB", servers.LIGHT, 5_000, 4 * KIB, (*TWO, peers.WRK)),
    "64k": Copies("64 KiB", servers.CEPH, 2_000, 64 * KIB, TWO),
    "1m": Copies("1 MiB", servers.CEPH, 300, MIB, TWO),
    "64m": Copies("64 MiB", servers.CEPH, 8, 64 * MIB, BIG),
    # Ceph keeps all in memory here, and gives room back hours after a deletion: a third run finds it full.
    "1g": Copies("1 GiB", servers.CEPH, 1, GIB, BIG, runs_on_a_server=2),
    "2-destinations": Copies("4 KiB, 2 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=2),
    "3-destinations": Copies("4 KiB, 3 destinations", servers.CEPH, 2_000, 4 * KIB, TWO, destinations=3),
    "processes": Copies("4 KiB, 50 ms away", servers.CEPH, 2_000, 4 * KIB, LISTENERS, delay_ms=50),
}
