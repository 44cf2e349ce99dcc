"""`make stores-table`: write the results of `s3s3 check` for real stores into docs/stores.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from s3s3 import __version__
from s3s3.scripts.demo.rclone_server import RcloneServer, find_rclone
from s3s3.scripts.demo.servers import HOST, Account, StoreServer, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import command, write_config
from tests.real.ceph_server import CephServer

PAGE = Path(__file__).parents[2] / "docs" / "stores.md"
BEGIN, END = "<!-- written by make stores-table -->\n", "<!-- to here -->\n"

ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "V2 signatures": lambda found: _word(found["signature_v2"]),
    "V4 signatures": lambda found: _word(found["signature_v4"]),
    "enforces Content-MD5": lambda found: _word(found["content_md5_enforced"]),
    "ETag is the MD5": lambda found: _word(found["etag_is_md5"]),
    "listing": lambda found: f"version {found['list_version']}",
    "listing in UTF-8 order": lambda found: _word(found["list_in_order"]),
    "reads and writes": lambda found: _word(found["may_read"] and found["may_write"]),
    "errors": lambda found: str(len(found["errors"])) if found["errors"] else "none",
}
#: In UTF-8 order, which differs from UTF-16 order.
KEYS = ("a b", "a-b", "a/b", "a0", "\u00e9", "\uff5e", "\U0001f4f7")


class MotoServer(StoreServer):
    """moto's mock of AWS, in this process."""

    name = "moto"
    accounts = (Account("moto-access-key", "moto-secret"),)
    signature_version = "s3v4"

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415  # slow, and only used here

        super().__init__()
        (self.port,) = free_ports(1)
        self.processes = []
        self._moto = ThreadedMotoServer(HOST, self.port, verbose=False)
        self._moto.start()

    def close(self) -> None:
        self._moto.stop()


def checked(store: StoreServer, folder: Path) -> dict[str, Any]:
    """Return the results of `s3s3 check` for a store as a destination with a few objects."""
    client = store.boto3_client()
    source, destination = f"source-{store.port}", f"destination-{store.port}"
    for bucket in (source, destination):
        client.create_bucket(Bucket=bucket)
    for key in KEYS:
        client.put_object(Bucket=destination, Key=key, Body=b"content")
    config = write_config(folder, store.endpoint(source), [store.endpoint(destination, "destination")], "")
    result = subprocess.run(command("check", "--config", config, "--json"), capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(result.stdout)["routes"][0]["stores"][1]
    return found


@contextmanager
def _running(kind: str) -> Iterator[StoreServer]:
    if kind == "moto":
        server = MotoServer()
        try:
            yield server
        finally:
            server.close()
        return
    makers = {"ceph": CephServer, "swift": SwiftServer, "rclone": RcloneServer}
    with makers[kind]() as started:
        assert isinstance(started, StoreServer)
        yield started


def _versions() -> dict[str, str]:
    ceph = subprocess.run(["ceph", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    rclone = subprocess.run([find_rclone(), "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {
        "ceph": f"Ceph {ceph}, radosgw",
        "swift": f"OpenStack Swift {metadata.version('swift')}, s3api",
        "rclone": f"rclone {rclone.lstrip('v')}, `serve s3`",
        "moto": f"moto {metadata.version('moto')}, a mock",
    }


def _word(found: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[found]


def table(found: dict[str, dict[str, Any]], names: dict[str, str]) -> str:
    """Return the table, with one column per store."""
    lines = ["| | " + " | ".join(names[kind] for kind in found) + " |", "|---" * (len(found) + 1) + "|"]
    for row, cell in ROWS.items():
        lines.append(f"| {row} | " + " | ".join(cell(results) for results in found.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Check all stores and write the page."""
    names, found = _versions(), {}
    for kind in names:
        with _running(kind) as store, TemporaryDirectory() as folder:
            found[kind] = checked(store, Path(folder))
    heading = f"Tested on {time.strftime('%Y-%m-%d')} with s3s3 {__version__}, Python {sys.version.split()[0]}.\n\n"
    notes = [f"- {text.replace('destination', names[kind].partition(',')[0], 1)}\n"
            for kind in found for text in (*found[kind]["errors"], *found[kind]["notes"])]  # fmt: skip
    text = PAGE.read_text()
    written = BEGIN + heading + table(found, names) + ("\n" + "".join(notes) if notes else "") + END
    PAGE.write_text(re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: written, text, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
