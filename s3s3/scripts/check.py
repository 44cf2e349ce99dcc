"""`s3s3 check`: try every store and Redis, and say what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from .. import config
from ..config import Config
from ..errors import RedisTooOld, RedisUnavailable
from ..model import Route
from ..queue import connection
from ..s3.probe import StoreCapabilities, probe
from . import command
from .output import print_labelled, print_table, printable
from .redis_probe import RedisFindings, probe_redis
from .selection import add_route_option, chosen

STORES_IN_ONE_TABLE = 3
"""So many columns fit into 80 characters."""

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Check; return the exit status."""
    arguments = command_line().parse_args(argv)
    command.start_log(arguments)
    return command.exit_status(lambda: uvloop.run(_check(arguments)))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("check", "Try every store and Redis: what each can do, what is wrong, and what cures it.")
    add_route_option(parser)
    parser.add_argument(
        "--read-only", action="store_true", help="write nothing (otherwise a few tiny objects at each destination)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


async def _check(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    routes = chosen(settings, arguments.route)
    for doubt in config.config_warnings(settings.routes):
        log.warning("%s", doubt)
    redis, found = await asyncio.gather(
        _check_redis(settings, routes),
        asyncio.gather(*(_check_route(route, writes=not arguments.read_only) for route in routes)),
    )
    if arguments.json:
        print(json.dumps({"routes": [_as_fields(one) for one in found],
                          "redis": dataclasses.asdict(redis) if redis else None}, indent=2))  # fmt: skip
    else:
        _show(found, redis)
    everything = _everything(found, redis)
    if not all(one.reachable for one in everything):
        return command.OUT_OF_REACH
    return command.SOME_FAILED if any(one.wrong for one in everything) else command.OK


@dataclass(frozen=True)
class RouteFindings:
    """What was found out of a route's stores, the source's first."""

    route: str
    stores: Sequence[StoreCapabilities]


def _everything(found: Sequence[RouteFindings], redis: RedisFindings | None) -> list[StoreCapabilities | RedisFindings]:
    stores: list[StoreCapabilities | RedisFindings] = [store for one in found for store in one.stores]
    return [*stores, redis] if redis else stores


async def _check_route(route: Route, *, writes: bool) -> RouteFindings:
    source = probe(route.source, writes=False)
    return RouteFindings(
        route.name, await asyncio.gather(source, *(probe(there, writes=writes) for there in route.destinations))
    )


async def _check_redis(settings: Config, routes: Sequence[Route]) -> RedisFindings | None:
    """Return what was found out of the Redis that is configured, None where none is."""
    if not settings.pubsub.url:
        return None
    channels = list(dict.fromkeys(route.channel for route in routes))
    findings = RedisFindings(connection.redacted_url(settings.pubsub.url), channels)
    client = connection.connect(settings.pubsub.url)
    try:
        await probe_redis(client, findings)
    except (RedisUnavailable, RedisTooOld) as error:
        findings.wrong.append(str(error))
    finally:
        await client.aclose()
    return findings


def _as_fields(found: RouteFindings) -> dict[str, Any]:
    return {"route": found.route, "stores": [dataclasses.asdict(store) for store in found.stores]}


# -- for people


def _show(found: Sequence[RouteFindings], redis: RedisFindings | None) -> None:
    for one in found:
        for start in range(0, len(one.stores), STORES_IN_ONE_TABLE):
            stores = one.stores[start : start + STORES_IN_ONE_TABLE]
            columns = [_store_column(store) for store in stores]
            rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
            print_table((f"route {one.route}", *(store.name for store in stores)), rows)
            print()
    if redis is None:
        print("no Redis is configured, which is enough for `s3s3 bucket`\n")
    else:
        print_table(("Redis", printable(redis.address)), list(_redis_column(redis).items()))
        print()
    said: list[tuple[str, StoreCapabilities | RedisFindings]] = [
        (f"route {one.route}: " if len(found) > 1 else "", store) for one in found for store in one.stores
    ]
    said += [("", redis)] if redis else []
    advice = [("wrong:", about + text) for about, one in said for text in one.wrong]
    advice += [("note:", about + text) for about, one in said for text in one.notes]
    print_labelled([(label, printable(text)) for label, text in advice])
    if not any(one.wrong for _, one in said):
        print("nothing is wrong")


def _store_column(store: StoreCapabilities) -> dict[str, str]:
    listing = ""
    if store.list_version is not None:
        listing = (
            f"v{store.list_version}" + {True: ", in order", False: ", out of order", None: ""}[store.list_in_order]
        )
    return {
        "address": store.address,
        "bucket": store.bucket_name,
        "reachable": _word(store.reachable),
        "V2 signatures": _word(store.signature_v2),
        "V4 signatures": _word(store.signature_v4),
        "Content-MD5 enforced": _word(store.content_md5_enforced),
        "ETag is MD5": _word(store.etag_is_md5),
        "listing": listing or "-",
        "clock": "-" if store.clock_skew_s is None else _skew_text(store.clock_skew_s),
        "may read": _word(store.may_read),
        "may write": _word(store.may_write),
    }


def _redis_column(redis: RedisFindings) -> dict[str, str]:
    return {
        "reachable": _word(redis.reachable),
        "version": redis.version or "-",
        "append-only file": _word(redis.append_only_file),
        "maxmemory-policy": redis.maxmemory_policy or "-",
        **{f"subscribers of {printable(name)}": str(redis.subscribers.get(name, "-")) for name in redis.channels},
    }


def _skew_text(skew_s: int) -> str:
    return f"{skew_s:+,} s" if abs(skew_s) > 1 else "right"  # stores tell whole seconds


def _word(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[answer]
