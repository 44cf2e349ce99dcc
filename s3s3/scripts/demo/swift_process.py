"""Run one of Swift's four processes: `python -m s3s3.scripts.demo.swift_process KIND FOLDER`.

KIND is account, container, object or proxy. FOLDER holds swift.conf and KIND-server.conf, and gets the ring.
"""

from __future__ import annotations

import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from typing import Any

DEVICE = "d1"
RING_KINDS = ("account", "container", "object")


def main() -> None:
    """Serve until SIGTERM."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    utils: Any = import_module("swift.common.utils")
    # Before the first import of swift.common.constraints, which reads that file; `swift_dir` does not affect it.
    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    # It looks up the current user's name, which may not exist in a container.
    utils.drop_privileges = lambda _user: None
    for ring_kind in RING_KINDS if kind == "proxy" else (kind, "container", "account"):
        _save_ring(ring_kind, folder)
    options = {}
    if kind == "object":
        options["global_conf_callback"] = import_module("swift.obj.server").global_conf_callback
    run_wsgi = import_module("swift.common.wsgi").run_wsgi
    sys.exit(run_wsgi(str(folder / f"{kind}-server.conf"), f"{kind}-server", verbose=True, **options))


def _save_ring(kind: str, folder: Path) -> None:
    """Write the ring of one device. Each process writes the rings that it reads; the bytes are always the same."""
    ring_file = folder / f"{kind}.ring.gz"
    if ring_file.exists():
        return
    server = ConfigParser()
    server.read(folder / f"{kind}-server.conf")
    host, port = server.get("DEFAULT", "bind_ip"), server.getint("DEFAULT", "bind_port")
    device = {"region": 1, "zone": 1, "ip": host, "port": port, "device": DEVICE, "weight": 1}
    builder = import_module("swift.common.ring").RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    builder.add_dev({**device, "replication_ip": host, "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(str(ring_file))


if __name__ == "__main__":
    main()
