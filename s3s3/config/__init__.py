"""Load and validate the TOML file; the settings dataclasses.

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
    """The `[worker]` table."""

    concurrency: int
    max_attempts: int
    lease_s: float
    spool_dir: Path
    spool_bytes: int


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The `[http]` table. `host` has no brackets around an IPv6 address.

    `token` allows changes on the status page; None makes the page read-only.
    """

    host: str
    port: int
    token: Secret | None = None


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
    `routes` is empty if the file has only mirrors.
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
        """Raise ConfigError if the file has only mirrors."""
        if not self.routes:
            raise ConfigError([f"{self.path}: no route; add the tables [source] and [destination], or [routes.NAME]"])

    def routes_named(self, name: str | None) -> list[Route]:
        """Return the route called `name`, or all routes for None. Raises ConfigError if there is none."""
        self.need_routes()
        named = [route for route in self.routes if name in (None, route.name)]
        if not named:
            names = ", ".join(route.name for route in self.routes)
            raise ConfigError([f"--route {name}: no such route; the configuration has {names}"])
        return named


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    http_bind: tuple[str, str] | None = None,
) -> Config:
    """Find the configuration file, validate it and return its settings.

    Args:
        path: the file; None: $S3S3_CONFIG, else the first that exists of ./s3s3.toml, /usr/local/etc/s3s3.toml and
            /etc/s3s3/s3s3.toml.
        environ: the environment, for values of the form "${NAME}".
        http_bind: replaces `[http] bind`: the option or variable that set it, and its value.

    Raises:
        ConfigError: there is no file, or it is invalid; all problems are listed.
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
    http, worker = tables[HTTP.name].values, tables[WORKER.name].values
    namespace = tables[PUBSUB.name].values["namespace"]
    # A relative spool_dir is relative to the configuration file.
    spool_dir = file.path.parent / worker["spool_dir"] if worker["spool_dir"] else Path(tempfile.gettempdir())
    if not spool_dir.is_dir():
        errors.add((WORKER.name,), f"{toml_repr(str(spool_dir))} is not a directory; create it", "spool_dir")
    errors.raise_if_any()
    return Config(
        path=file.path,
        routes=build_routes(routes, tables[PUBSUB.name].values["channel"], namespace),
        pubsub=PubSub(**tables[PUBSUB.name].values),
        worker=WorkerSettings(**{**worker, "spool_dir": spool_dir}),
        http=HttpSettings(http["bind"][0], http["bind"][1], http["token"]) if http["bind"] else None,
        mirror=mirror_settings(settings),
        stream=_stream_settings(tables.get(STREAM.name), namespace),
        sqs=SqsSettings(**tables[SQS.name].values) if SQS.name in tables else None,
        webhook=_webhook_settings(tables.get(WEBHOOK.name)),
    )


def _stream_settings(table: ParsedTable | None, namespace: str) -> StreamSettings | None:
    return None if table is None else StreamSettings(table.values["name"], table.values["group"] or namespace)


def _webhook_settings(table: ParsedTable | None) -> WebhookSettings | None:
    if table is None:
        return None
    host, port = table.values["bind"]
    return WebhookSettings(host, port, table.values["token"])


def _check_sources(tables: Mapping[str, ParsedTable], routes: Sequence[RouteSettings], errors: ConfigErrors) -> None:
    """Report conflicts between the sources of notifications."""
    pubsub, http = tables[PUBSUB.name].values, tables[HTTP.name].values
    for table in (STREAM, SQS, WEBHOOK):
        if table.name in tables and pubsub["url"] == "":
            errors.add((table.name,), "notifications need Redis, which holds the queue; give [pubsub] a url")
    if set("{}") & set(pubsub["namespace"] or ""):
        errors.add((PUBSUB.name,), "must not contain braces, which mark the route's name in Redis keys", "namespace")
    channels = [pubsub["channel"] if route.channel is None else route.channel for route in routes]
    if pubsub["mark_done"] and "" in channels:
        message = "the marker's name begins with the channel; give each route a channel, or leave mark_done out"
        errors.add((PUBSUB.name,), message, "mark_done")
    prefixes = [(route.source.values["prefix"] or "") if route.source else None for route in routes]
    rows = zip(routes, channels, prefixes, strict=True)
    for (first, channel, prefix), (second, other_channel, other) in combinations(rows, 2):
        if not (pubsub["mark_done"] and channel and channel == other_channel) or prefix is None or other is None:
            continue
        if prefix.startswith(other) or other.startswith(prefix):
            message = f"would set the same marker on channel {toml_repr(channel)}; use two channels"
            errors.add((PUBSUB.name,), f"routes {first.name} and {second.name} {message}", "mark_done")
    if WEBHOOK.name in tables and http["bind"] and http["bind"] == tables[WEBHOOK.name].values["bind"]:
        errors.add((WEBHOOK.name,), "is also the address of [http]; give it another port", "bind")


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
