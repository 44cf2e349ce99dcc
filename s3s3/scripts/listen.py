"""`s3s3 listen`: the daemon, as one process or as several."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from .. import __version__, config
from ..errors import RedisUnavailable
from ..listener import listen, route_listeners, sources_for
from ..monitoring.health import application, served
from ..monitoring.metrics import Metrics
from ..monitoring.multiprocess import Several, socket_of
from ..monitoring.status_page import status_page_for
from ..monitoring.systemd import SystemdNotifier, notified
from ..queue import connection, redis_errors
from ..reconcile.periodic import Schedule
from . import command
from .supervisor import Processes

log = logging.getLogger(__name__)

ENDED_AFTER_DRAIN_S = 30.0
"""What a process may take to end once it has drained, before it is killed."""


def main(argv: list[str] | None = None) -> int:
    """Listen until SIGTERM or SIGINT; return the exit status."""
    arguments = command.parse(command_line(), argv)
    command.start_log(arguments)
    if arguments.processes > 1:
        given = sys.argv[1:] if argv is None else argv
        return command.run(lambda stop: _several(arguments, given, stop))
    return command.run(lambda stop: _listen(arguments, stop))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("listen", "Copy every object that a notice names, until told to stop.")
    parser.add_argument(
        "--reconcile-interval",
        default=0.0,
        type=command.span_s,
        metavar="S",
        help="also compare whole buckets, every S seconds (default: 0, never)",
    )
    parser.add_argument("--no-initial", action="store_true", help="... but not at the start")
    command.add_drain(parser)
    parser.add_argument(
        "--processes", type=_at_least_one, default=1, metavar="N",
        help="so many processes, to use more than one core; each does [worker] concurrency jobs at once (default: 1)",
    )  # fmt: skip
    parser.add_argument("--as-one-of-several", type=Path, metavar="SOCKET", help=argparse.SUPPRESS)
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} processes would do nothing")
    return number


async def _listen(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config)
    metrics = Metrics(process=True)
    periodic = Schedule(arguments.reconcile_interval or None, initial=not arguments.no_initial)
    where = arguments.as_one_of_several or settings.http
    if arguments.as_one_of_several:
        await command.stop_with_standard_input(stop)
    async with route_listeners(settings, metrics, periodic) as listeners:
        for listener in listeners:
            channel = f"channel {listener.route.channel}" if listener.route.channel else "no channel"
            log.info("s3s3 %s: route %s: %s, %s to %s", __version__, listener.route.name,
                     channel, listener.route.source.name,
                     ", ".join(listener.route.destination_names))  # fmt: skip
        sources = sources_for(listeners, settings, metrics)
        status = None if arguments.as_one_of_several else status_page_for(settings, listeners[0].jobs.client)

        async def stuck() -> str:
            ailments = [] if stop.is_set() else [why for one in listeners if (why := one.health_problem())]
            return await _curable(ailments, listeners[0].jobs.client)

        notify = SystemdNotifier({} if arguments.as_one_of_several else os.environ)
        async with served(application(listeners, metrics, status, sources=sources), where), notified(stuck, notify):
            await listen(listeners, sources, stop, arguments.drain_s)
    log.info("stopped")
    return command.OK


async def _several(arguments: argparse.Namespace, given: Sequence[str], stop: asyncio.Event) -> int:
    """Keep several processes listening; one page tells of them all."""
    settings = config.load(arguments.config)
    with tempfile.TemporaryDirectory(prefix="s3s3-listen-") as folder:
        sockets = Path(folder)
        processes = Processes(arguments.processes, lambda number: _command(number, given, socket_of(sockets, number)))
        pages = Several(processes.members, sockets)
        client = connection.connect(settings.pubsub.url) if settings.pubsub.url else None
        try:

            async def stuck() -> str:
                return await _curable([] if stop.is_set() else await pages.ailments(), client)

            async with served(pages.application(status_page_for(settings, client)), settings.http), notified(stuck):
                ended = await processes.run(stop, arguments.drain_s + ENDED_AFTER_DRAIN_S)
        finally:
            if client is not None:
                await client.aclose()
    log.info("all %d processes have stopped", arguments.processes)
    return ended


async def _curable(ailments: Sequence[str], client: Redis | None) -> str:
    """Return what ails a listener, "" where Redis is away: a restart would bring that back no sooner."""
    if not ailments or client is None:
        return ""
    try:
        with redis_errors.translate_errors():
            await client.ping()
    except RedisUnavailable:
        return ""
    return "; ".join(ailments)


def _command(number: int, given: Sequence[str], socket: Path) -> list[str]:
    """Return the command line of one of several: ours, but for what one alone has to do."""
    alone = ["--processes=1", "--as-one-of-several", str(socket)]
    if number > 1:  # only the first compares whole buckets
        alone.append("--reconcile-interval=0")
    return [sys.executable, "-m", "s3s3.scripts.main", "listen", *given, *alone]
