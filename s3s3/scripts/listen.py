"""`s3s3 listen`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import logging

from .. import __version__, config
from ..listener import Periodic, listen, route_listeners
from ..metrics import Metrics
from ..web.health import application, served
from . import options

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Listen until SIGTERM or SIGINT; return the exit status."""
    parser = options.parser("listen", "Copy every object that a notice names, until told to stop.")
    parser.add_argument(
        "--reconcile-interval", type=float, metavar="S", help="also compare whole buckets, every S seconds"
    )
    parser.add_argument("--no-initial", action="store_true", help="... but not at the start")
    parser.add_argument(
        "--drain-s", type=float, default=60.0, metavar="S",
        help="when told to stop, hand back what still runs after S seconds (default: 60)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    options.start_log(arguments)
    return options.run(lambda stop: _listen(arguments, stop))


async def _listen(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config)
    metrics = Metrics(process=True)
    periodic = Periodic(arguments.reconcile_interval, initial=not arguments.no_initial)
    async with route_listeners(settings, metrics, periodic) as listeners:
        for listener in listeners:
            log.info("s3s3 %s: route %s: channel %s, %s to %s", __version__, listener.route.name,
                     listener.route.channel, listener.route.source.name,
                     ", ".join(listener.route.destination_names))  # fmt: skip
        async with served(application(listeners, metrics), settings.http):
            await listen(listeners, settings, stop, arguments.drain_s)
    log.info("stopped")
    return options.OK
