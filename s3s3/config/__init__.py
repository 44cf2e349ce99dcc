"""The configuration: one TOML file, checked whole and read once. `load` is all that is needed from outside.

from s3s3 import config
settings = config.load("s3s3.toml")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from ..errors import ConfigError
from ..model import Route, Secret
from . import toml_file as config_file
from .addresses import redacted_url
from .mirror import MirrorSettings, cache_route, mirror_routes, mirror_settings
from .overlaps import config_warnings, overlap, with_buckets
from .routes import DEFAULT_ROUTE, RouteSettings, build_routes, check_endpoints, check_routes, routes_in
from .schema import HTTP, PUBSUB, SQS, STREAM, WEBHOOK, WORKER
from .table_reader import ParsedTable, read_tables
from .toml_file import ConfigErrors
from .value_types import InvalidValue, parse, toml_repr

__all__ = ["DEFAULT_ROUTE", "Config", "ConfigError", "HttpSettings", "PubSub", "SqsSettings", "StreamSettings",
           "WebhookSettings", "WorkerSettings", "config_warnings", "load", "overlap", "redacted_url",
           "with_buckets"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PubSub:
    """Where keys are published and the queue is kept. `url` may hold a password; "" is no Redis.

    `channel` "": keys are published nowhere.
    """

    url: Secret
    channel: str
    mark_done: bool
    backfill: bool
    backfill_margin_s: float


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How the work is done."""

    concurrency: int
    max_attempts: int
    lease_s: float
    spool_dir: Path
    spool_bytes: int


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the status page is served. `host` stands without the brackets of an IPv6 address.

    `token`: who knows it may do something there; None: nobody may.
    """

    host: str
    port: int
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The stream that producers add notices to, and the group that its listeners are."""

    name: str
    group: str


@dataclass(frozen=True, slots=True)
class SqsSettings:
    """The SQS queue of events. `region` None is the one in `url`, else boto3's; `endpoint_url` "" is Amazon's."""

    url: str
    region: str | None
    endpoint_url: str


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where events are taken by HTTP. `token` "" lets everybody send."""

    host: str
    port: int
    token: Secret


@dataclass(frozen=True, slots=True)
class Config:
    """All that a configuration file says.

    `http` is None where no status page is wanted. `routes` is empty where there is nothing but mirrors.
    `stream`, `sqs` and `webhook` are None where they are off.
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

    def need_routes(self) -> None:
        """Raise ConfigError where there is nothing but mirrors."""
        if not self.routes:
            raise ConfigError([f"{self.path}: no route: add tables [source] and [destination], or [routes.NAME]"])

    def routes_named(self, name: str | None) -> list[Route]:
        """Return the route of that name, or all for None. Raises ConfigError where there is none."""
        self.need_routes()
        named = [route for route in self.routes if name in (None, route.name)]
        if not named:
            names = ", ".join(route.name for route in self.routes)
            raise ConfigError([f"--route {name}: there is no such route; the configuration has {names}"])
        return named


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    http_bind: tuple[str, str] | None = None,
) -> Config:
    """Find the configuration file, check the whole of it, and return what it says.

    Args:
        path: the file; None: $S3S3_CONFIG, else the first there is of ./s3s3.toml, /usr/local/etc/s3s3.toml and
            /etc/s3s3/s3s3.toml.
        environ: where "${NAME}" is looked up.
        http_bind: replaces `[http] bind`: the name of the option or variable that gave it, and its text.

    Raises:
        ConfigError: there is no file, or something is wrong with it; all faults are listed.
    """
    file = config_file.read(path, environ)
    errors = ConfigErrors(file)
    settings = read_tables(file.tables, environ, errors)
    routes = routes_in(settings)
    mirrors = mirror_routes(settings, errors)
    check_endpoints(settings, [*routes, *mirrors, *cache_route(settings, errors)], errors)
    check_routes([*routes, *mirrors], errors)
    tables = {**settings.tables, HTTP.name: _with_bind(settings.tables[HTTP.name], http_bind)}
    _check_sources(tables, routes, errors)
    spool_dir = _spool_dir(tables[WORKER.name], file.path.parent, errors)
    errors.raise_if_any()
    return Config(
        path=file.path,
        routes=build_routes(routes, default_channel=tables[PUBSUB.name].values["channel"]),
        pubsub=PubSub(**tables[PUBSUB.name].values),
        worker=WorkerSettings(**{**tables[WORKER.name].values, "spool_dir": spool_dir}),
        http=_http_settings(tables[HTTP.name]),
        mirror=mirror_settings(settings),
        stream=StreamSettings(**tables[STREAM.name].values) if STREAM.name in tables else None,
        sqs=SqsSettings(**tables[SQS.name].values) if SQS.name in tables else None,
        webhook=_webhook(tables[WEBHOOK.name]) if WEBHOOK.name in tables else None,
    )


def _check_sources(tables: Mapping[str, ParsedTable], routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Add what is wrong with the ways by which notices come, taken together."""
    pubsub, http = tables[PUBSUB.name].values, tables[HTTP.name].values
    for table in (STREAM, SQS, WEBHOOK):
        if table.name in tables and pubsub["url"] == "":
            errors.add((table.name,), "notices need Redis, where the queue is kept; give [pubsub] a url")
    channels = [pubsub["channel"] if route.channel is None else route.channel for route in routes]
    if pubsub["mark_done"] and "" in channels:
        message = "the mark begins with the channel's name; give each route a channel, or leave mark_done out"
        errors.add((PUBSUB.name,), message, "mark_done")
    if pubsub["mark_done"]:
        _check_marks(routes, channels, errors)
    if WEBHOOK.name in tables and http["bind"] and http["bind"] == tables[WEBHOOK.name].values["bind"]:
        errors.add((WEBHOOK.name,), "is the address of [http], too; give it a port of its own", "bind")


def _check_marks(routes: Sequence[RouteSettings], channels: Sequence[str], errors: ConfigErrors) -> None:
    """Add a fault for each two routes of which a mark would not tell which of them has copied the key."""
    prefixes = [(route.source.values["prefix"] or "") if route.source else None for route in routes]
    for (one, here, start), (other, destination, end) in combinations(zip(routes, channels, prefixes, strict=True), 2):
        if here and here == destination and start is not None and end is not None and _begins(start, end):
            message = (
                f"a mark on channel {toml_repr(here)} would not tell which of the routes {one.name} and {other.name} "
            )
            errors.add((PUBSUB.name,), message + "has copied the key; give each a channel of its own", "mark_done")


def _begins(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _webhook(table: ParsedTable) -> WebhookSettings:
    host, port = table.values["bind"]
    return WebhookSettings(host, port, table.values["token"])


def _with_bind(http: ParsedTable, http_bind: tuple[str, str] | None) -> ParsedTable:
    """Return the table `[http]` with another `bind`. Raises ConfigError."""
    bind = HTTP.key("bind")
    if http_bind is None or bind is None:
        return http
    origin, text = http_bind
    try:
        return replace(http, values={**http.values, "bind": parse(bind, text)})
    except InvalidValue as error:
        raise ConfigError([f"{origin}: {error.message(found=toml_repr(text))}"]) from None


def _http_settings(http: ParsedTable) -> HttpSettings | None:
    if not http.values["bind"]:
        return None
    host, port = http.values["bind"]
    return HttpSettings(host, port, http.values["token"])


def _spool_dir(worker: ParsedTable, folder: Path, errors: ConfigErrors) -> Path:
    """Return the directory; a relative one is relative to the configuration file, as a daemon starts anywhere."""
    spool_dir = folder / worker.values["spool_dir"] if worker.values["spool_dir"] else Path(tempfile.gettempdir())
    if not spool_dir.is_dir():
        errors.add((WORKER.name,), f"{toml_repr(str(spool_dir))} is no directory; make it", "spool_dir")
    return spool_dir
