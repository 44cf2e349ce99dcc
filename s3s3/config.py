"""The configuration: one TOML file, checked whole and read once. `load` is all that is needed from outside.

from s3s3 import config
settings = config.load("s3s3.toml")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from . import config_file
from .addresses import is_ip, redacted
from .config_file import Faults, named
from .config_tables import Settings, read_tables
from .config_values import shown
from .errors import ConfigError
from .model import Endpoint, Route, Secret
from .schema import DESTINATION, HTTP, PUBSUB, SOURCE, WORKER, table_of

__all__ = ["Config", "ConfigError", "HttpSettings", "PubSub", "WorkerSettings", "load", "overlap", "redacted"]

DEFAULT_ROUTE = "default"
"""The route that [source] and the [dest*] tables make."""

_PLACE_KEYS = frozenset({"host", "port", "is_secure", "bucket_name", "bucket_suffix", "prefix"})


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
    """All that a configuration file says. `http` is None where no status page is wanted."""

    path: Path
    routes: tuple[Route, ...]
    pubsub: PubSub
    worker: WorkerSettings
    http: HttpSettings | None


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
    tables = read_tables(file.tables, environ, faults)
    endpoints = [settings for name, settings in tables.items() if table_of(name) in (SOURCE, DESTINATION)]
    for settings in endpoints:
        _check_endpoint(settings, faults)
    _check_overlaps(endpoints, faults)
    spool_dir = _spool_dir(tables[WORKER.name], file.path.parent, faults)
    faults.raise_any()
    address = tables[HTTP.name].values["bind"]
    return Config(
        path=file.path,
        routes=(_route(endpoints),),
        pubsub=PubSub(**tables[PUBSUB.name].values),
        worker=WorkerSettings(**{**tables[WORKER.name].values, "spool_dir": spool_dir}),
        http=HttpSettings(*address) if address else None,
    )


def _check_endpoint(settings: Settings, faults: Faults) -> None:
    pair = ("aws_access_key_id", "aws_secret_access_key")
    for given, other in (pair, pair[::-1]):
        if given in settings.written and other not in settings.written | settings.meant:
            faults.add((settings.name, given), f"given without {other}; give both, or neither for boto3's own chain")
    if "port" in settings.written and "host" not in settings.written | settings.meant:
        faults.add((settings.name, "port"), "given without host; AWS, which no host means, has no other port")
    if settings.values["calling_format"] == "SubdomainCallingFormat" and is_ip(settings.values["host"] or ""):
        faults.add((settings.name, "calling_format"), "a bucket cannot be put before an IP address; leave it out")


def _check_overlaps(settings: Sequence[Settings], faults: Faults) -> None:
    """Refuse endpoints of which one holds the other's keys: a copy would be copied again, or overwrite another."""
    sound = [one for one in settings if not (one.broken | one.meant) & _PLACE_KEYS]
    endpoints = sorted(map(_endpoint, sound), key=lambda endpoint: endpoint.name != SOURCE.name)
    for one, other in combinations(endpoints, 2):
        if overlap(one, other):
            what = "is the bucket and prefix of" if one.prefix == other.prefix else "overlaps, within one bucket, with"
            faults.add((other.name,), f"{what} [{named(one.name)}]; give it a bucket or a prefix of its own")


def overlap(one: Endpoint, other: Endpoint) -> bool:
    """Whether a key can be in both: the same bucket of the same store, and one prefix begins the other."""
    if _bucket(one) != _bucket(other):
        return False
    return one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)


def _bucket(endpoint: Endpoint) -> tuple[str, int, str]:
    """Return host, port and bucket. All of AWS counts as one host: a bucket's name is unique there."""
    host = (endpoint.host or "amazonaws.com").lower().rstrip(".")
    if f".{host}".endswith(".amazonaws.com"):
        return "amazonaws.com", 443, endpoint.bucket_name
    return host, endpoint.port or (443 if endpoint.is_secure else 80), endpoint.bucket_name


def _bucket_name(settings: Settings) -> str:
    return f"{settings.values['bucket_name']}{settings.values.get('bucket_suffix', '')}"


def _spool_dir(worker: Settings, folder: Path, faults: Faults) -> Path:
    """Return the directory; a relative one is relative to the configuration file, as a daemon starts anywhere."""
    spool_dir = folder / worker.values["spool_dir"] if worker.values["spool_dir"] else Path(tempfile.gettempdir())
    if not spool_dir.is_dir():
        faults.add((WORKER.name, "spool_dir"), f"{shown(str(spool_dir))} is no directory; make it")
    return spool_dir


def _route(endpoints: Sequence[Settings]) -> Route:
    source = next(settings for settings in endpoints if settings.name == SOURCE.name)
    return Route(
        name=DEFAULT_ROUTE,
        source=_endpoint(source),
        destinations=tuple(_endpoint(settings) for settings in endpoints if settings is not source),
        include=source.values["include"],
        exclude=source.values["exclude"],
    )


def _endpoint(settings: Settings) -> Endpoint:
    values = settings.values
    return Endpoint(
        name=settings.name,
        bucket_name=_bucket_name(settings),
        host=values["host"],
        port=values["port"],
        is_secure=values["is_secure"],
        access_key_id=values["aws_access_key_id"],
        secret_access_key=values["aws_secret_access_key"],
        prefix=values["prefix"],
        path_style=values["calling_format"] == "OrdinaryCallingFormat",
        signature_version=values["signature_version"],
        region=values["region"],
        verify_md5=values["verify_md5"],
        storage_class=values.get("storage_class"),
        acl=values.get("acl"),
        server_side_encryption=values.get("server_side_encryption"),
    )
