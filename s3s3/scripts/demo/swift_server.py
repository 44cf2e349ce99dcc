"""A local OpenStack Swift with its S3 API, from the PyPI package `swift`: four processes, no root needed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .servers import HOST, Account, Process, ServerMissing, StoreServer, free_ports, http_status, is_listening
from .swift_process import DEVICE

#: More than the metadata of a Swift object takes.
_XATTR_BYTES = 2048

#: A folder with less free space is used only if there is no other: a container's /dev/shm often has 64 MiB.
_FREE_BYTES_NEEDED = 2 * 1024**3


class SwiftServer(StoreServer):
    """A Swift with several accounts. Objects survive SIGKILL.

    `folder_parent` needs user xattrs; the default is the result of `folder_with_xattrs`.
    """

    name = "swift"
    accounts = (
        Account("test:tester", "testing"),
        Account("backup:tester", "testing"),
        Account("third:tester", "testing"),
    )

    def __init__(self, folder_parent: Path | None = None) -> None:
        if importlib.util.find_spec("swift") is None:
            raise ServerMissing("Swift is not installed: run `pip install 's3s3[demo]'`")
        super().__init__(folder_parent or folder_with_xattrs())
        account_port, container_port, object_port, self.port = free_ports(4)
        self.account = self._storage("account", account_port)
        self.container = self._storage("container", container_port)
        self.object = self._storage("object", object_port)
        self.proxy = self._process("proxy", self.port, PROXY_CONF)
        self.processes = [self.account, self.container, self.object, self.proxy]
        (self.folder / "swift.conf").write_text(SWIFT_CONF)
        (self.folder / "devices" / DEVICE).mkdir(parents=True)

    def _storage(self, kind: str, port: int) -> Process:
        return self._process(kind, port, STORAGE_CONF)

    def _process(self, kind: str, port: int, template: str) -> Process:
        users = "\n".join(
            f"user_{account.access_key_id.replace(':', '_')} = {account.secret_access_key} .admin"
            for account in self.accounts
        )
        text = COMMON_CONF + template
        conf = text.format(kind=kind, host=HOST, port=port, folder=self.folder, users=users)
        (self.folder / f"{kind}-server.conf").write_text(conf)
        return Process(
            f"swift {kind} server",
            [sys.executable, "-m", "s3s3.scripts.demo.swift_process", kind, self.folder],
            log=self.folder / f"{kind}.log",
            ready=lambda: http_status(port, "/healthcheck") == 200 if kind == "proxy" else is_listening(port),
            # The resolver of eventlet adds 0.3 s to the start; only addresses are used here.
            environment={"EVENTLET_NO_GREENDNS": "yes"},
        )


def folder_with_xattrs() -> Path:
    """Return a folder for Swift's objects on a file system with user xattrs, in memory if possible.

    Raises `ServerMissing` if there is none.
    """
    candidates = [Path("/dev/shm"), Path(tempfile.gettempdir()), Path.cwd()]  # noqa: S108
    usable = [folder for folder in candidates if _supports_xattrs(folder)]
    for folder in usable:
        if shutil.disk_usage(folder).free >= _FREE_BYTES_NEEDED:
            return folder
    if usable:
        return usable[0]
    tried = ", ".join(str(folder) for folder in candidates)
    raise ServerMissing(
        "Swift needs a folder on a file system with user xattrs (ext4, XFS, tmpfs since Linux 6.6); "
        f"none of {tried} is on one: name one in TMPDIR"
    )


def _supports_xattrs(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as trial:
            os.setxattr(trial.name, "user.s3s3.trial", bytes(_XATTR_BYTES))
    except (OSError, AttributeError):  # missing folder, no permission or no xattrs; os.setxattr exists only on Linux
        return False
    return True


SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = s3s3
swift_hash_path_prefix = s3s3

[storage-policy:0]
name = gold
default = yes

[swift-constraints]
max_file_size = 5368709120
max_meta_value_length = 2048
max_header_size = 16384
"""

# Swift also logs to its standard output, so its syslog messages go to the UDP port of "discard".
COMMON_CONF = """
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
conn_timeout = 5
node_timeout = 60
container_update_timeout = 30
log_level = WARNING
log_udp_host = {host}
log_udp_port = 9
"""

STORAGE_CONF = """
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

# error_suppression_interval: with the default, a single 507 makes the whole store answer 503 for a minute.
PROXY_CONF = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes \
symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
error_suppression_interval = 0
conn_timeout = 5
node_timeout = 60

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:cache]
paste.filter_factory = s3s3.scripts.demo.swift_cache:filter_factory

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:bulk]
use = egg:swift#bulk

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000

[filter:tempauth]
use = egg:swift#tempauth
{users}

[filter:copy]
use = egg:swift#copy

[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000

[filter:dlo]
use = egg:swift#dlo

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true

[filter:symlink]
use = egg:swift#symlink
"""
