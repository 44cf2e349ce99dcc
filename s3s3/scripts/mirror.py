"""`s3s3 mirror`: the HTTP front ends and the cache."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from .. import __version__, config
from ..config import Config
from ..config.mirror import MirrorSettings
from ..errors import ConfigError
from ..mirror import access_log
from ..mirror.cache.service import CacheService, open_cache
from ..mirror.frontends import FrontEnd, open_frontends, run
from ..mirror.influxdb import InfluxDBSender
from ..mirror.mirrored_route import Shared
from ..mirror.request_stats import EventRecorder
from ..model import Endpoint
from ..monitoring.health import application, served
from ..monitoring.metrics import Metrics
from ..monitoring.status_page import status_page_for
from ..queue import connection
from ..s3 import BucketAdmin
from ..transfer.route_stores import copy_budget
from . import command

log = logging.getLogger(__name__)

#: Every connection is an open file; the default limit of most systems is 1,024.
MAX_FILES = 65_536


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    arguments = command_line().parse_args(argv)
    command.start_log(arguments)
    if arguments.access_log:
        access_log.start()
    return command.run(lambda stop: _mirror(arguments, stop))


def command_line() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    parser = command.parser("mirror", "Run the HTTP front ends: serve copies, and create missing ones, until SIGTERM.")
    parser.add_argument(
        "--access-log", action="store_true", help="write a JSON line to standard output for each request"
    )
    command.add_drain(parser)
    command.add_http(parser)
    parser.add_argument(
        "--make-buckets", action="store_true",
        help="create the mirrors' buckets, set their expiry to lifespan_days if the store supports it, and exit",
    )  # fmt: skip
    return parser


async def _mirror(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config, http_bind=command.http_bind(arguments))
    mirror = settings.mirror
    makes_copies = mirror.redirect is not None or mirror.proxy is not None
    if not makes_copies and mirror.cache is None:
        raise ConfigError(
            [f"{settings.path}: no mirror: add a table [mirror.redirect], [mirror.proxy] or [mirror.cache]"]
        )
    if arguments.make_buckets:
        return await _make_buckets(settings.mirror)
    if makes_copies and not settings.pubsub.url:
        raise ConfigError(['[pubsub] url = "": mirrors need Redis; remove url to use redis://localhost:6379/0'])
    _raise_file_limit()
    metrics = Metrics(process=True)
    async with _opened(settings, metrics, with_access_log=arguments.access_log) as opened:
        log.info("s3s3 %s: serving %s", __version__, ", ".join(service.name for service in opened))
        frontends = [service for service in opened if isinstance(service, FrontEnd)]
        client = frontends[0].routes[0].jobs.client if frontends else None
        async with served(application(opened, metrics, status_page_for(settings, client)), settings.http):
            await asyncio.gather(run(frontends, stop, arguments.drain_s), stop.wait())
    log.info("stopped")
    return command.OK


async def _make_buckets(settings: MirrorSettings) -> int:
    if settings.proxy is not None:
        await _make_bucket(settings.proxy.destination, None)
    if settings.redirect is not None:
        for endpoint in settings.redirect.destinations.values():
            await _make_bucket(endpoint, settings.redirect.lifespan_days)
    return command.OK


async def _make_bucket(endpoint: Endpoint, lifespan_days: int | None) -> None:
    buckets = BucketAdmin(endpoint)
    try:
        created = await buckets.create()
        print(f"{endpoint.name}: bucket {endpoint.bucket_name} {'created' if created else 'exists'}")
        if lifespan_days is not None:
            expires = await buckets.expire_after(lifespan_days)
            print(f"{endpoint.name}: " + (
                f"the store deletes copies after {lifespan_days} days" if expires else
                "the store does not support expiry rules: copies are replaced when requested after "
                f"{lifespan_days} days, and never deleted"
            ))  # fmt: skip
    finally:
        await buckets.close()


@asynccontextmanager
async def _opened(
    settings: Config, metrics: Metrics, *, with_access_log: bool
) -> AsyncIterator[list[FrontEnd | CacheService]]:
    async with AsyncExitStack() as stack:
        record_event = await _event_recorder(os.environ.get("INFLUXDB_URL", ""), stack)
        opened: list[FrontEnd | CacheService] = []
        if settings.pubsub.url:
            client = connection.connect(settings.pubsub.url)
            stack.push_async_callback(client.aclose)
            shared = Shared(client, settings.worker, copy_budget(settings.worker), metrics)
            opened += await stack.enter_async_context(
                open_frontends(settings.mirror, shared, record_event=record_event, with_access_log=with_access_log)
            )
        if settings.mirror.cache is not None:
            cache = open_cache(
                settings.mirror.cache, metrics, record_event=record_event, with_access_log=with_access_log
            )
            opened.append(await stack.enter_async_context(cache))
        yield opened


async def _event_recorder(url: str, stack: AsyncExitStack) -> EventRecorder | None:
    if not url:
        return None
    try:
        influx = InfluxDBSender(url)
    except ValueError:
        log.warning("INFLUXDB_URL is not a URL like http://USER:PASSWORD@HOST:8086/DATABASE: no statistics are sent")
        return None
    return (await stack.enter_async_context(influx)).record


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
