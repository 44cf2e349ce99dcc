"""`s3s3 mirror`: the HTTP front ends and the cache."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
from contextlib import AsyncExitStack

from .. import __version__, config
from ..config.mirror import MirrorSettings
from ..errors import ConfigError
from ..mirror.access_log import start_access_log
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
from . import cli, command

log = logging.getLogger(__name__)

#: Every connection is an open file; the default limit of most systems is 1,024.
MAX_FILES = 65_536


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    arguments = command_line().parse_args(argv)
    command.start_log(arguments)
    if arguments.access_log:
        start_access_log()
    return command.run(lambda stop: _mirror(arguments, stop))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    statuses = {cli.OUT_OF_REACH: "a store or Redis is unreachable"}
    parser = cli.parser(
        "mirror", "Run the HTTP front ends: serve copies, and create missing ones, until SIGTERM.", statuses
    )
    parser.add_argument(
        "--access-log", action="store_true", help="write a JSON line to standard output for each request"
    )
    cli.add_drain(parser)
    cli.add_take_over(parser)
    cli.add_http(parser)
    parser.add_argument(
        "--make-buckets", action="store_true",
        help="create the mirrors' buckets, set their expiry to lifespan_days if the store supports it, and exit",
    )  # fmt: skip
    return parser


async def _mirror(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config, http_bind=cli.http_bind(arguments))
    mirror = settings.mirror
    makes_copies = mirror.redirect is not None or mirror.proxy is not None
    if not makes_copies and mirror.cache is None:
        tables = "[mirror.redirect], [mirror.proxy] or [mirror.cache]"
        raise ConfigError([f"{settings.path}: no mirror: add a table {tables}"])
    if arguments.make_buckets:
        return await _make_buckets(mirror)
    if makes_copies and not settings.pubsub.url:
        raise ConfigError(['[pubsub] url = "": mirrors need Redis; remove url to use redis://localhost:6379/0'])
    if makes_copies:
        settings.need_spool_dir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    from ..operations.http_api import api_for  # noqa: PLC0415  it imports pydantic, as reading the file has done

    for warning in config.config_warnings(settings):
        log.warning("%s", warning)
    metrics = Metrics(process=True)
    client = None
    frontends: list[FrontEnd] = []
    services: list[FrontEnd | CacheService] = []
    async with AsyncExitStack() as stack:
        record_event = await _event_recorder(os.environ.get("INFLUXDB_URL", ""), stack)
        options = {"record_event": record_event, "with_access_log": arguments.access_log}
        if makes_copies:
            client = connection.connect(settings.pubsub.url)
            stack.push_async_callback(client.aclose)
            shared = Shared(client, settings.worker, copy_budget(settings.worker), metrics)
            frontends = await stack.enter_async_context(open_frontends(mirror, shared, **options))
            services += frontends
        if mirror.cache is not None:
            services.append(await stack.enter_async_context(open_cache(mirror.cache, metrics, **options)))
        log.info("s3s3 %s: serving %s", __version__, ", ".join(service.name for service in services))
        check_redis = frontends[0].routes[0].jobs.check if frontends else None
        page = status_page_for(settings, client)
        app = application(services, metrics, page, check_redis=check_redis, api=api_for(settings, client, page, {}))
        async with served(app, settings.http):
            await asyncio.gather(run(frontends, stop, arguments.drain_s, take_over=arguments.take_over), stop.wait())
    log.info("stopped")
    return cli.OK


async def _make_buckets(settings: MirrorSettings) -> int:
    expiry_days: list[tuple[Endpoint, int | None]] = []
    if settings.proxy is not None:
        expiry_days.append((settings.proxy.destination, None))
    if settings.redirect is not None:
        lifespan_days = settings.redirect.lifespan_days
        expiry_days += [(endpoint, lifespan_days) for endpoint in settings.redirect.destinations.values()]
    for endpoint, days in expiry_days:
        buckets = BucketAdmin(endpoint)
        try:
            created = await buckets.create()
            print(f"{endpoint.name}: bucket {endpoint.bucket_name} {'created' if created else 'exists'}")
            if days is not None:
                expires = await buckets.expire_after(days)
                print(f"{endpoint.name}: " + (
                    f"the store deletes copies after {days} days" if expires else
                    "the store does not support expiry rules: copies are replaced when requested after "
                    f"{days} days, and never deleted"
                ))  # fmt: skip
        finally:
            await buckets.close()
    return cli.OK


async def _event_recorder(url: str, stack: AsyncExitStack) -> EventRecorder | None:
    if not url:
        return None
    try:
        influx = InfluxDBSender(url)
    except ValueError:
        log.warning("INFLUXDB_URL is not a URL like http://USER:PASSWORD@HOST:8086/DATABASE: no statistics are sent")
        return None
    return (await stack.enter_async_context(influx)).record
