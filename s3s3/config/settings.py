"""The settings that the programs use, as immutable records. Importing them does not import pydantic."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..model import Route, Secret
from .mirror import MirrorSettings

#: Name of the route that [source] and the [dest*] tables define.
DEFAULT_ROUTE = "default"


@dataclass(frozen=True, slots=True)
class PubSub:
    """The `[pubsub]` table. `url` may contain a password; "" means no Redis. `channel` "" means no channel.

    `namespace` is the first part of every Redis key.
    """

    url: Secret
    channel: str
    namespace: str
    mark_done: bool
    backfill: bool
    backfill_margin_s: float


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The `[worker]` table. `spool_dir` None: the system's temporary directory."""

    concurrency: int
    max_attempts: int
    lease_s: float
    spool_dir: Path | None
    spool_bytes: int


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The `[http]` table. `host` has no brackets around an IPv6 address.

    `token` allows changes on the status page; None makes the page read-only. `allowed_hosts` are globs of further names
    under which browsers may open the page.
    """

    host: str
    port: int
    token: Secret | None = None
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The `[stream]` table: the Redis stream of notifications and the consumer group of the listeners."""

    name: str
    group: str


@dataclass(frozen=True, slots=True)
class SqsSettings:
    """The `[sqs]` table. `region` None: from `url`, else boto3's. `endpoint_url` "": AWS."""

    url: str
    region: str | None
    endpoint_url: str
    ca_file: str | None = None
    verify_tls: bool = True
    client_cert_file: str | None = None
    client_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """The `[webhook]` table. `token` "" disables authentication."""

    host: str
    port: int
    token: Secret


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one configuration file.

    `http` is None without a status page; `stream`, `sqs` and `webhook` are None if their tables are missing.
    `routes` is empty if the file has only mirrors. `secret_files` are the files that contain a secret, each with the
    key of one.
    """

    path: Path
    routes: tuple[Route, ...]
    pubsub: PubSub
    worker: WorkerSettings
    http: HttpSettings | None
    mirror: MirrorSettings = field(default_factory=MirrorSettings)
    stream: StreamSettings | None = None
    sqs: SqsSettings | None = None
    webhook: WebhookSettings | None = None
    secret_files: Mapping[Path, str] = field(default_factory=dict, compare=False)

    def need_routes(self) -> None:
        """Raise ConfigError if the file has only mirrors."""
        if not self.routes:
            raise ConfigError([f"{self.path}: no route; add the tables [source] and [destination], or [routes.NAME]"])

    def need_spool_dir(self) -> None:
        """Raise ConfigError if no temporary file can be created in `[worker] spool_dir`.

        A full disk is no reason: it may have room when an object has to be spooled.
        """
        import tempfile  # noqa: PLC0415  only commands that copy need it

        directory = self.worker.spool_dir
        try:
            with tempfile.TemporaryFile(dir=directory):
                return
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
                return
            if directory is None:
                problem = "no temporary directory is writable; name a writable directory (or make /tmp writable)"
            elif not directory.is_dir():
                problem = f"{str(directory)!r} is not a directory; create it"
            else:
                problem = f"cannot write to {str(directory)!r} ({error.strerror}); name another directory"
        raise ConfigError([f"{self.path}: [worker] spool_dir: {problem}"])

    def routes_named(self, name: str | None) -> list[Route]:
        """Return the route called `name`, or all routes for None. Raises ConfigError if there is none."""
        self.need_routes()
        named = [route for route in self.routes if name in (None, route.name)]
        if not named:
            names = ", ".join(route.name for route in self.routes)
            raise ConfigError([f"--route {name}: no such route; the configuration has {names}"])
        return named
