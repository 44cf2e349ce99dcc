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
from ..config import Config
from ..config.addresses import redacted_url
from ..errors import RedisTooOld, RedisUnavailable
from ..model import Route
from ..queue import connection
from ..queue.store_checks import StoreChecks
from ..s3.probe import StoreCapabilities, probe
from ..tasks import run_async
from . import cli, command
from .output import print_labelled, print_table, printable
from .selection import add_route_option, count_subscribers, select_routes

#: Store columns that fit into 80 characters.
MAX_STORES_PER_TABLE = 3

#: A route's name and its stores, the source first.
RouteStores = tuple[str, Sequence[StoreCapabilities]]

log = logging.getLogger(__name__)


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
    routes = select_routes(settings, arguments.route)
    settings.need_spool_dir()
    for warning in config.config_warnings(settings):
        log.warning("%s", warning)
    redis, routes_stores = await asyncio.gather(
        _check_redis(settings, routes),
        asyncio.gather(*(_probe_stores(route, writes=not arguments.read_only) for route in routes)),
    )
    if redis is not None and redis.reachable:
        await _record_checks(settings, routes, routes_stores, redis)
    if arguments.json:
        fields = [{"route": name, "stores": list(map(dataclasses.asdict, stores))} for name, stores in routes_stores]
        print(json.dumps({"routes": fields, "redis": dataclasses.asdict(redis) if redis else None}, indent=2))
    else:
        _print(routes_stores, redis, quiet=arguments.quiet)
    findings = [store for _, stores in routes_stores for store in stores] + ([redis] if redis else [])
    if not all(found.reachable for found in findings):
        return cli.OUT_OF_REACH
    return cli.SOME_FAILED if any(found.errors for found in findings) else cli.OK


async def _probe_stores(route: Route, *, writes: bool) -> RouteStores:
    probes = [probe(route.source, writes=False), *(probe(store, writes=writes) for store in route.destinations)]
    return route.name, await asyncio.gather(*probes)


async def _record_checks(
    settings: Config, routes: Sequence[Route], routes_stores: Sequence[RouteStores], redis: RedisFindings
) -> None:
    """Record for the copies which destinations enforce Content-MD5; one that was not tried keeps its record."""
    client = connection.connect(settings.pubsub.url)
    try:
        for route, (_, stores) in zip(routes, routes_stores, strict=True):
            checks = StoreChecks(client, route)
            for destination, found in zip(route.destinations, stores[1:], strict=True):
                if found.verifies is not None and found.may_write:
                    await checks.record(destination, enforced=found.verifies)
    except RedisUnavailable as error:
        redis.errors.append(f"the results cannot be recorded: {error}")
    finally:
        await client.aclose()


async def _check_redis(settings: Config, routes: Sequence[Route]) -> RedisFindings | None:
    """Probe the configured Redis; return None if none is configured."""
    if not settings.pubsub.url:
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


def _print(routes_stores: Sequence[RouteStores], redis: RedisFindings | None, *, quiet: bool) -> None:
    if not quiet:
        _print_tables(routes_stores, redis)
    errors, notes = [], []
    for route, stores in routes_stores:
        prefix = f"route {route}: " if len(routes_stores) > 1 else ""
        errors += [prefix + text for store in stores for text in store.errors]
        notes += [prefix + text for store in stores for text in store.notes]
    if redis:
        errors += redis.errors
        notes += redis.notes
    lines = [("error:", printable(text)) for text in errors]
    print_labelled(lines if quiet else [*lines, *(("note:", printable(text)) for text in notes)])
    if not errors and not quiet:
        print("no problems found")


def _print_tables(routes_stores: Sequence[RouteStores], redis: RedisFindings | None) -> None:
    for route, stores in routes_stores:
        for start in range(0, len(stores), MAX_STORES_PER_TABLE):
            part = stores[start : start + MAX_STORES_PER_TABLE]
            columns = [_store_column(store) for store in part]
            print_table(
                (f"route {route}", *(store.name for store in part)),
                [(name, *(column[name] for column in columns)) for name in columns[0]],
            )
            print()
    if redis is None:
        print("no Redis configured: s3s3 bucket works without Redis, s3s3 listen does not\n")
    else:
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
