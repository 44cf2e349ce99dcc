"""The configuration: one TOML file, checked whole and read once. `load` is all that is needed from outside.

from s3s3 import config
settings = config.load("s3s3.toml")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import config_file
from .addresses import redacted
from .config_file import Faults
from .config_mirror import MirrorSettings, mirror_settings, mirrors_in
from .config_routes import DEFAULT_ROUTE, check_endpoints, check_routes, made_routes, overlap, routes_in
from .config_tables import Settings, read_tables
from .config_values import shown
from .errors import ConfigError
from .model import Route, Secret
from .schema import HTTP, PUBSUB, WORKER

__all__ = ["DEFAULT_ROUTE", "Config", "ConfigError", "HttpSettings", "PubSub", "WorkerSettings", "load", "overlap",
           "redacted"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PubSub:
    """Where keys are published and the queue is kept. `url` may hold a password; "" is no Redis."""

    url: Secret
    channel: str
    mark_done: bool
    heal: bool
    heal_margin_s: float


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How the work is done."""

    concurrency: int
    max_tries: int
    lease_s: float
    spool_dir: Path
    spool_bytes: int


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the status page is served. `host` stands without the brackets of an IPv6 address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Config:
    """All that a configuration file says.

    `http` is None where no status page is wanted. `routes` is empty where there is nothing but mirrors.
    """

    path: Path
    routes: tuple[Route, ...]
    pubsub: PubSub
    worker: WorkerSettings
    http: HttpSettings | None
    mirror: MirrorSettings = field(default_factory=MirrorSettings)

    def need_routes(self) -> None:
        """Raise ConfigError where there is nothing but mirrors."""
        if not self.routes:
            raise ConfigError([f"{self.path}: no route: add tables [source] and [destination], or [routes.NAME]"])


def load(path: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Find the configuration file, check the whole of it, and return what it says.

    Args:
        path: the file; None: $S3S3_CONFIG, else the first there is of ./s3s3.toml, /usr/local/etc/s3s3.toml and
            /etc/s3s3/s3s3.toml.
        environ: where "${NAME}" is looked up.

    Raises:
        ConfigError: there is no file, or something is wrong with it; all faults are listed.
    """
    file = config_file.read(path, environ)
    faults = Faults(file)
    settings = read_tables(file.tables, environ, faults)
    routes = routes_in(settings)
    mirrors = mirrors_in(settings, faults)
    check_endpoints(settings, [*routes, *mirrors], faults)
    check_routes([*routes, *mirrors], faults)
    tables = settings.tables
    spool_dir = _spool_dir(tables[WORKER.name], file.path.parent, faults)
    faults.raise_any()
    address = tables[HTTP.name].values["bind"]
    return Config(
        path=file.path,
        routes=made_routes(routes, default_channel=tables[PUBSUB.name].values["channel"]),
        pubsub=PubSub(**tables[PUBSUB.name].values),
        worker=WorkerSettings(**{**tables[WORKER.name].values, "spool_dir": spool_dir}),
        http=HttpSettings(*address) if address else None,
        mirror=mirror_settings(settings),
    )


def _spool_dir(worker: Settings, folder: Path, faults: Faults) -> Path:
    """Return the directory; a relative one is relative to the configuration file, as a daemon starts anywhere."""
    spool_dir = folder / worker.values["spool_dir"] if worker.values["spool_dir"] else Path(tempfile.gettempdir())
    if not spool_dir.is_dir():
        faults.add((WORKER.name,), f"{shown(str(spool_dir))} is no directory; make it", "spool_dir")
    return spool_dir
