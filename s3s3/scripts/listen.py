"""`s3s3 listen`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import logging

from .. import __version__, config
from ..listener import listen, route_listeners, sources_for
from ..monitoring.health import application, restart_reasons, served
from ..monitoring.metrics import Metrics
from ..monitoring.status_page import status_page_for
from ..monitoring.systemd import notified
from ..reconcile.periodic import Schedule
from . import cli, command

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Listen until SIGTERM or SIGINT; return the exit status."""
    arguments = cli.parse(command_line(), argv)
    command.start_log(arguments)
    return command.run(lambda stop: _listen(arguments, stop))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    statuses = {cli.OUT_OF_REACH: "every source refuses access, or Redis was unreachable until the end"}
    parser = cli.parser(
        "listen", "Run the daemon: copy every object that a notification names, until SIGTERM.", statuses
    )
    parser.add_argument(
        "--reconcile-interval",
        default=0.0,
        type=cli.duration_s,
        metavar="T",
        help="also compare whole buckets every T, such as 90m or 1d (default: never)",
    )
    parser.add_argument("--no-initial", action="store_true", help="skip the comparison at start-up")
    cli.add_drain(parser)
    cli.add_take_over(parser)
    cli.add_http(parser)
    return parser


async def _listen(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config, http_bind=cli.http_bind(arguments))
    settings.need_spool_dir()
    from ..operations.http_api import api_for  # noqa: PLC0415  it imports pydantic, as reading the file has done

    metrics = Metrics(process=True)
    periodic = Schedule(arguments.reconcile_interval or None, initial=not arguments.no_initial)
    async with route_listeners(settings, metrics, periodic) as listeners:
        for listener in listeners:
            route = listener.route
            log.info("s3s3 %s: route %s: %s, %s to %s", __version__, route.name,
                     f"channel {route.channel}" if route.channel else "no channel",
                     route.source.name, ", ".join(route.destination_names))  # fmt: skip
        sources = sources_for(listeners, settings, metrics)
        client = listeners[0].jobs.client
        check_redis = listeners[0].jobs.check
        page = status_page_for(settings, client)
        api = api_for(settings, client, page, {each.route.name: each.reconcile_now for each in listeners})
        app = application(listeners, metrics, page, sources=sources, check_redis=check_redis, api=api)

        async def unhealthy_reason() -> str:
            return "" if stop.is_set() else "; ".join(await restart_reasons(listeners, check_redis))

        async with served(app, settings.http) as page_problem, notified(unhealthy_reason, limitation=page_problem):
            await listen(listeners, sources, stop, arguments.drain_s, take_over=arguments.take_over)
    log.info("stopped")
    return cli.OK
