"""`s3s3 check`: try every store and Redis, and report problems."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import config
from ..config import Config, HttpSettings
from ..config.addresses import bind_error_text, redacted_url
from ..errors import RedisTooOld, RedisUnavailable
from ..model import Endpoint, Route
from ..queue import connection
from ..queue.store_checks import StoreChecks
from ..s3.probe import StoreCapabilities, probe
from ..tasks import run_async, timeout
from . import cli, command
from .output import print_labelled, print_table, printable
from .selection import add_route_option, count_subscribers, select_routes

#: Store columns that fit into 80 characters.
MAX_STORES_PER_TABLE = 3

#: A route's name and its stores, the source first.
RouteStores = tuple[str, Sequence[StoreCapabilities]]

log = logging.getLogger(__name__)

#: How long an HTTP server at the address of the status page may take, in seconds.
PAGE_TIMEOUT_S = 5.0


@dataclass
class RedisFindings:
    """Properties of the Redis server; None is unknown.

    Attributes:
        subscribers: connections that subscribe to each channel; each listener has one for each route.
        maxmemory_bytes: 0 is unlimited.
        errors: problems, with the command that fixes each.
        notes: what an operator should know.
    """

    address: str
    channels: Sequence[str]
    reachable: bool = False
    version: str | None = None
    append_only_file: bool | None = None
    maxmemory_bytes: int | None = None
    maxmemory_policy: str | None = None
    subscribers: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class HttpFindings:
    """The address of the status page. `available`: it is free, or an s3s3 answers there."""

    address: str
    available: bool = False
    errors: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Check; return the exit status."""
    arguments = command_line().parse_args(argv)
    command.start_log(arguments)
    return command.exit_status(lambda: run_async(_check(arguments)))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser("check", "Try every store and Redis; print what each supports, and how to fix what is wrong.", {
        cli.OK: "no problem was found",
        cli.SOME_FAILED: "a problem was found",
        cli.OUT_OF_REACH: "a store or Redis is unreachable",
    })  # fmt: skip
    add_route_option(parser)
    parser.add_argument(
        "--read-only", action="store_true",
        help="write nothing (default: write a few small objects to each destination)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


async def _check(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    routes = _routes(settings, arguments.route)
    if routes:
        settings.need_spool_dir()
    for warning in config.config_warnings(settings):
        log.warning("%s", warning)
    cache = settings.mirror.cache if arguments.route is None else None
    redis, http, routes_stores, cached = await asyncio.gather(
        _check_redis(settings, routes),
        _check_http(settings.http),
        asyncio.gather(*(_probe_stores(route, writes=not arguments.read_only) for route in routes)),
        asyncio.gather(*([_probe_cached(cache.store)] if cache else [])),
    )
    if redis is not None and redis.reachable:
        await _record_checks(settings, routes, routes_stores, redis)
    routes_stores += cached
    if arguments.json:
        fields = [{"route": name, "stores": list(map(dataclasses.asdict, stores))} for name, stores in routes_stores]
        print(json.dumps({"routes": fields, "redis": _fields(redis), "http": _fields(http)}, indent=2))
    else:
        if not arguments.quiet:
            _print_tables(routes_stores, redis, has_queue=bool(routes))
        _print_problems(routes_stores, redis, http, quiet=arguments.quiet)
    stores = [store for _, found in routes_stores for store in found]
    if not all(store.reachable for store in stores) or (redis and not redis.reachable):
        return cli.OUT_OF_REACH
    has_errors = any(store.errors for store in stores) or (redis and redis.errors) or (http and http.errors)
    return cli.SOME_FAILED if has_errors else cli.OK


def _fields(findings: RedisFindings | HttpFindings | None) -> dict[str, Any] | None:
    return dataclasses.asdict(findings) if findings else None


def _routes(settings: Config, name: str | None) -> list[Route]:
    """Return the routes to check, with those of mirrors; none if the file has only a cache."""
    settings = dataclasses.replace(settings, routes=(*settings.routes, *settings.mirror.routes))
    if not settings.routes and settings.mirror.cache and name is None:
        return []
    return select_routes(settings, name)


async def _probe_stores(route: Route, *, writes: bool) -> RouteStores:
    source = [route.source] if route.source.bucket_name else []  # a mirror's source is not a store
    probes = [probe(store, writes=False) for store in source]
    probes += [probe(store, writes=writes) for store in route.destinations]
    return route.name, await asyncio.gather(*probes)


async def _probe_cached(store: Endpoint) -> RouteStores:
    return "mirror.cache", [await probe(store, writes=False)]


async def _record_checks(
    settings: Config, routes: Sequence[Route], routes_stores: Sequence[RouteStores], redis: RedisFindings
) -> None:
    """Record for the copies which destinations enforce Content-MD5; one that was not tried keeps its record."""
    client = connection.connect(settings.pubsub.url)
    try:
        for route, (_, stores) in zip(routes, routes_stores, strict=True):
            checks = StoreChecks(client, route)
            for destination, found in zip(route.destinations, stores[-len(route.destinations) :], strict=True):
                if found.verifies is not None and found.may_write:
                    await checks.record(destination, enforced=found.verifies)
    except RedisUnavailable as error:
        redis.errors.append(f"the results cannot be recorded: {error}")
    finally:
        await client.aclose()


async def _check_redis(settings: Config, routes: Sequence[Route]) -> RedisFindings | None:
    """Probe the configured Redis; return None if none is configured or needed."""
    if not settings.pubsub.url or not routes:
        return None
    channels = list(dict.fromkeys(route.channel for route in routes if route.channel))
    findings = RedisFindings(redacted_url(settings.pubsub.url.get_secret_value()), channels)
    client = connection.connect(settings.pubsub.url)
    try:
        findings.version = await connection.check_version(client)
        findings.reachable = True
        nodes = await connection.info(client)
        if not nodes:
            findings.notes.append("Redis: its user may not run INFO, so version and persistence are not checked")
        for node in nodes:
            _check_node(node, findings)
        for channel in channels:
            findings.subscribers[channel] = await count_subscribers(client, channel)
            if not findings.subscribers[channel]:
                findings.notes.append(f"Redis: no subscriber on channel {channel!r}: s3s3 listen is not running")
    except (RedisUnavailable, RedisTooOld) as error:
        findings.errors.append(str(error))
    finally:
        await client.aclose()
    return findings


def _check_node(info: Mapping[str, Any], findings: RedisFindings) -> None:
    """Check the INFO of one node (redis.io, "INFO")."""
    if "aof_enabled" in info:
        findings.append_only_file = bool(info["aof_enabled"]) and findings.append_only_file is not False
    findings.maxmemory_policy = info.get("maxmemory_policy")
    findings.maxmemory_bytes = info.get("maxmemory")
    advice = []
    if findings.append_only_file is False:
        problem = "Redis has no append-only file: if it crashes, queued keys are lost"
        advice.append((findings.notes, problem, "appendonly yes"))
    if problem := connection.eviction_problem(info):
        lines = findings.errors if findings.maxmemory_bytes else findings.notes
        advice.append((lines, problem, "maxmemory-policy noeviction"))
    for lines, problem, setting in advice:
        line = f"{problem}; fix: redis-cli CONFIG SET {setting}, then redis-cli CONFIG REWRITE"
        if line not in lines:  # the nodes of a cluster may share a problem
            lines.append(line)


async def _check_http(settings: HttpSettings | None) -> HttpFindings | None:
    """Find out whether `[http] bind` is free, or serves a status page of s3s3."""
    if settings is None:
        return None
    findings = HttpFindings(f"{settings.host}:{settings.port}")
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, settings.host, settings.port)
    except OSError as error:
        findings.available = await _is_page(settings)
        if not findings.available:
            findings.errors.append(
                f"[http] bind: cannot listen on {findings.address} ({bind_error_text(error)}), and no s3s3 answers "
                'there: choose another address with --http or [http] bind, or "" for no status page'
            )
    else:
        findings.available = True
        server.close()
    return findings


async def _is_page(settings: HttpSettings) -> bool:
    """Return whether an s3s3 serves its metrics at this address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    try:
        async with timeout(PAGE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, settings.port)
            try:
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                return b"s3s3_build_info" in await reader.read()
            finally:
                writer.close()
    except (OSError, asyncio.TimeoutError) as error:
        log.debug("%s:%d: %s", host, settings.port, error)
        return False


def _print_problems(
    routes_stores: Sequence[RouteStores], redis: RedisFindings | None, http: HttpFindings | None, *, quiet: bool
) -> None:
    errors, notes = [], []
    for route, stores in routes_stores:
        prefix = f"route {route}: " if len(routes_stores) > 1 else ""
        errors += [prefix + text for store in stores for text in store.errors]
        notes += [prefix + text for store in stores for text in store.notes]
    if redis:
        errors += redis.errors
        notes += redis.notes
    if http:
        errors += http.errors
    lines = [("error:", printable(text)) for text in errors]
    print_labelled(lines if quiet else [*lines, *(("note:", printable(text)) for text in notes)])
    if not errors and not quiet:
        print("no problems found")


def _print_tables(routes_stores: Sequence[RouteStores], redis: RedisFindings | None, *, has_queue: bool) -> None:
    for route, stores in routes_stores:
        for start in range(0, len(stores), MAX_STORES_PER_TABLE):
            part = stores[start : start + MAX_STORES_PER_TABLE]
            columns = [_store_column(store) for store in part]
            print_table(
                (f"route {route}", *(store.name for store in part)),
                [(name, *(column[name] for column in columns)) for name in columns[0]],
            )
            print()
    if redis is None and has_queue:
        print("no Redis configured: s3s3 bucket works without Redis, s3s3 listen does not\n")
    elif redis is not None:
        rows = [
            ("reachable", _yes_no(redis.reachable)),
            ("version", redis.version or "-"),
            ("append-only file", _yes_no(redis.append_only_file)),
            ("maxmemory-policy", redis.maxmemory_policy or "-"),
            *((f"subscribers of {printable(name)}", f"{redis.subscribers.get(name, '-')}") for name in redis.channels),
        ]
        print_table(("Redis", printable(redis.address)), rows)
        print()


def _store_column(store: StoreCapabilities) -> dict[str, str]:
    listing = "-"
    if store.list_version is not None:
        order = {True: ", in order", False: ", out of order", None: ""}[store.list_in_order]
        listing = f"v{store.list_version}{order}"
    clock = "-"
    if store.clock_skew_s is not None:
        clock = f"{store.clock_skew_s:+,} s" if abs(store.clock_skew_s) > 1 else "ok"  # stores send whole seconds
    return {
        "address": store.address,
        "bucket": store.bucket_name,
        "reachable": _yes_no(store.reachable),
        "V2 signatures": _yes_no(store.signature_v2),
        "V4 signatures": _yes_no(store.signature_v4),
        "enforces Content-MD5": _yes_no(store.content_md5_enforced),
        "ETag is MD5": _yes_no(store.etag_is_md5),
        "verifies copies": _yes_no(store.verifies),
        "listing": listing,
        "clock": clock,
        "may read": _yes_no(store.may_read),
        "may write": _yes_no(store.may_write),
    }


def _yes_no(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[answer]
