"""The servers: real stores, a listing server for large buckets, and a relay that adds latency."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.servers import (
    HOST,
    Account,
    Process,
    Server,
    ServerMissing,
    StoreServer,
    free_ports,
    is_listening,
)
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.real.ceph_server import CephServer

STORES: Mapping[str, Callable[[], StoreServer]] = {
    "Ceph 16.2, radosgw": CephServer,
    "Swift 2.38, s3api": SwiftServer,
    "light: rclone serve s3": RcloneServer,
}
CEPH, SWIFT, LIGHT = STORES


def secure_ceph(folder: Path) -> tuple[CephServer, Path]:
    """Return a Ceph that serves HTTPS, too, and the certificate of its authority, a file in `folder`.

    Raises ServerMissing.
    """
    try:
        import trustme  # noqa: PLC0415  # of the extra "bench"
    except ImportError:
        raise ServerMissing("trustme is not installed: pip install '.[bench]'") from None
    authority, ca_file, certificate = trustme.CA(), folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return CephServer(certificate), ca_file


class ListingServer(StoreServer):
    """Buckets `a` and `b` with the same keys, more than a real store could be filled with in time."""

    name = "listing"
    accounts = (Account("any-access-key", "any-secret"),)

    def __init__(self, count: int, delay_ms: int = 0) -> None:
        super().__init__()
        (self.port,) = free_ports(1)
        self.processes = [_own(self, "listing_server.py", self.port, count, delay_ms)]


class Relay(Server):
    """A relay in front of a store that delays each response, like a distant store."""

    name = "relay"

    def __init__(self, target_port: int, delay_ms: int) -> None:
        super().__init__()
        (self.port,) = free_ports(1)
        self.processes = [_own(self, "relay.py", self.port, target_port, delay_ms)]


def _own(server: ListingServer | Relay, script: str, *arguments: int) -> Process:
    return Process(
        script,
        [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)],
        log=server.folder / "log",
        ready=lambda: is_listening(server.port),
    )
