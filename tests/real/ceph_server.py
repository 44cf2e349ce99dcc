"""Start a Ceph with one monitor, one OSD in memory and one radosgw; needs root and Debian's packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from s3s3.scripts.demo.servers import (
    HOST,
    Account,
    Process,
    ServerFailed,
    ServerMissing,
    StoreServer,
    free_ports,
    http_status,
)

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
GATEWAY = "client.rgw.a"


class CephServer(StoreServer):
    """A Ceph. Its S3 `gateway` can be killed and paused separately, which loses no objects.

    The OSD keeps its objects in memory: they survive `stop` but not `osd.kill` (it does not start again after that).

    `certificate`: a PEM file of certificate and key, with which it serves HTTPS at `tls_port`, too.
    """

    name = "ceph"
    accounts = (Account("ceph-access-key", "ceph/secret+1"), Account("other-access-key", "ceph/secret+2"))

    def __init__(self, certificate: Path | None = None) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise ServerMissing(
                f"Ceph is not installed ({', '.join(missing)}): "
                "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw"
            )
        if os.geteuid() != 0:
            raise ServerMissing("Ceph's daemons need root")
        super().__init__()
        *monitor_ports, self.port, self.tls_port = free_ports(4)  # an OSD chooses its own, from 6800
        tls = f" ssl_endpoint={HOST}:{self.tls_port} ssl_certificate={certificate}" if certificate else ""
        self._fsid, self._osd_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        self._monitor_address = "[v2:{0}:{1},v1:{0}:{2}]".format(HOST, *monitor_ports)
        self._conf = self.folder / "ceph.conf"
        self._conf.write_text(
            CONF.format(
                folder=self.folder,
                fsid=self._fsid,
                monitor_address=self._monitor_address,
                gateway=GATEWAY,
                host=HOST,
                port=self.port,
                tls=tls,
            )
        )
        self._environment = {**os.environ, "CEPH_CONF": str(self._conf)}
        self.monitor = self._process("mon.a", ["ceph-mon", "-i", "a"], (self.folder / "mon.a.asok").exists)
        self.osd = self._process("osd.0", ["ceph-osd", "-i", "0"], (self.folder / "osd.0.asok").exists)
        self.gateway = self._process(GATEWAY, ["radosgw", "-n", GATEWAY], self._serves)
        self.processes = [self.monitor, self.osd, self.gateway]

    def _process(self, name: str, command: Sequence[str], ready: Callable[[], bool]) -> Process:
        return Process(
            command[0],
            [*command, "-f"],
            log=self.folder / f"{name}.log",  # the daemon writes to it, too
            ready=ready,
            environment={"CEPH_CONF": str(self._conf)},
        )

    def _serves(self) -> bool:
        # GET / works before the OSD is up; only a request for a bucket needs it.
        return http_status(self.port, "/no-such-bucket") == 404

    def start(self) -> None:
        is_new = not (self.folder / "mon").exists()
        if is_new:
            self._make_monitor()
        self.monitor.start()
        self.monitor.wait_ready()
        if is_new:
            self._make_osd()
        super().start()
        if is_new:
            self._make_users()

    def _make_monitor(self) -> None:
        monmap = self.folder / "monmap"
        self._run(
            "monmaptool", "--create", "--clobber", "--fsid", self._fsid, "--addv", "a", self._monitor_address, monmap
        )
        (self.folder / "mon").mkdir()
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)

    def _make_osd(self) -> None:
        (self.folder / "osd").mkdir()
        self._run("ceph", "--connect-timeout", "20", "osd", "new", self._osd_uuid)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd_uuid)

    def _make_users(self) -> None:
        for number, account in enumerate(self.accounts):
            self._run(
                "radosgw-admin",
                "user",
                "create",
                f"--uid=user{number}",
                f"--display-name=user {number}",
                f"--access-key={account.access_key_id}",
                f"--secret-key={account.secret_access_key}",
            )

    def add_tenant(self, tenant: str) -> Account:
        """Create a user in a tenant of its own; return its keys."""
        account = Account(f"{tenant}-access-key", f"{tenant}/secret")
        self._run(
            "radosgw-admin", "user", "create", f"--tenant={tenant}", "--uid=owner", f"--display-name={tenant}",
            f"--access-key={account.access_key_id}", f"--secret-key={account.secret_access_key}",
        )  # fmt: skip
        return account

    def remove_tail(self, key: str) -> None:
        """Remove the objects in Ceph's data pool that hold the content of one key, but not its head: HEAD and LIST
        still show the key."""
        pool = "default.rgw.buckets.data"
        names = self._run("rados", "-p", pool, "ls").splitlines()
        tail = [name for name in names if "__multipart_" in name or "__shadow_" in name]
        mine = [name for name in tail if f"_{key}." in name]
        if not mine:
            raise ServerFailed(f"no tail objects of {key!r} in {tail}")
        self._run("rados", "-p", pool, "rm", *mine)

    def damage(self, key: str, bucket_name: str, content: bytes) -> None:
        """Replace the bytes of an object of one part, as a failing disk does: its ETag and size stay."""
        pool, file = "default.rgw.buckets.data", self.folder / "damaged"
        stats = json.loads(self._run("radosgw-admin", "bucket", "stats", f"--bucket={bucket_name}"))
        name = f"{stats['marker']}_{key}"
        file.write_bytes(content)
        self._run("rados", "-p", pool, "put", name, file)

    def _run(self, *command: str | Path) -> str:
        result = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        if result.returncode != 0:
            raise ServerFailed(f"{command[0]} ended with status {result.returncode}: {result.stderr[-2000:]}")
        return result.stdout


# trust forwarded https: a topic URL with a password is accepted only over HTTPS, or behind a proxy that reports HTTPS.
# mon client mode = crc: without authentication, radosgw hangs otherwise.
# tcp_nodelay: otherwise every GET takes 44 ms. paxos: otherwise the start takes 12 s.
# watch timeout: otherwise a radosgw started after a killed one needs 30 s to create a bucket.
CONF = """
[global]
fsid = {fsid}
mon host = {monitor_address}
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
objecter tick interval = 0.5

[mon]
mon data = {folder}/mon
paxos propose interval = 0.02
paxos min wait = 0.01

[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd fast shutdown = false
osd client watch timeout = 2

[client]
ms mon client mode = crc

[{gateway}]
rgw frontends = beast endpoint={host}:{port}{tls} tcp_nodelay=1
rgw enable lc threads = false
rgw enable ops log = false
rgw trust forwarded https = true
"""
