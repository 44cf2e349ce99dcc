"""`s3s3 bucket`: compare whole buckets, and copy what differs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from contextlib import nullcontext
from datetime import datetime, timezone

from rich.console import Console

from .. import config
from ..config import Config, with_buckets
from ..errors import ConfigError, ReconcileInProgress, RoutePaused, S3S3Error
from ..model import Route
from ..monitoring.formatting import count_noun, duration_text
from ..monitoring.metrics import Metrics
from ..notifications.chaining import on_copied_for
from ..queue.lease import boottime_s
from ..reconcile.comparison import ReconcileOptions
from ..reconcile.distributed import reconcile_together, shareable
from ..reconcile.lock import run_exclusive
from ..reconcile.session import last_entries, limits_in, queue_of, reconcile_with_worker
from ..reconcile.summary import ReconcileSummary
from ..tasks import wait_with_timeout
from ..transfer.route_stores import opened
from . import command
from .progress import Progress, summary_table
from .report_file import ReportFile
from .selection import add_route_option, select_routes

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Compare and copy; return the exit status."""
    arguments = command.parse(command_line(), argv)
    command.start_log(arguments)
    return command.run(lambda stop: _bucket(arguments, stop), second_signal_cancels=True)


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("bucket", "Compare the whole source with every destination, and copy what differs.")
    add_route_option(parser)
    parser.add_argument("--source-bucket", metavar="B", help="another source bucket than the configuration's")
    parser.add_argument("--dest-bucket", metavar="B", help="another destination bucket, at every destination")
    parser.add_argument("--dry-run", action="store_true", help="copy nothing; say what would be (exit 1 if anything)")
    parser.add_argument(
        "--interval", type=command.positive_duration_s, metavar="S", help="again every S seconds, until told to stop"
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="a JSON line for every object and destination, and a summary that adds up; - for standard output",
    )
    parser.add_argument("--force", action="store_true", help="copy every object, even where nothing differs")
    parser.add_argument(
        "--since", type=_time_ms, metavar="T",
        help="only objects that the source changed since then: 2026-03-01, 2026-03-01T12:00 (UTC), or 90m, 36h, 7d ago",
    )  # fmt: skip
    parser.add_argument(
        "--allow-empty", action="store_true",
        help="with delete = true, empty a destination of which the source is empty; max_delete does not count then",
    )  # fmt: skip
    parser.add_argument(
        "--distributed", action="store_true",
        help="share the work with every other process that is started so; after a crash the next start goes on",
    )  # fmt: skip
    parser.add_argument(
        "--restart", action="store_true", help="with --distributed: begin anew, and forget a run that was broken off"
    )
    parser.add_argument(
        "--wait-for-lock", action="store_true", help="wait where another process compares the same route now"
    )
    command.add_drain(parser)
    parser.add_argument("--without-redis", action="store_true", help="do not use the Redis that is configured")
    return parser


def _time_ms(text: str) -> int:
    unit_s = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit_s and text[:-1].isdigit():
        return int((datetime.now(timezone.utc).timestamp() - int(text[:-1]) * unit_s) * 1000)
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: use 2026-03-01, 2026-03-01T12:00 (UTC), or 90m, 36h, 7d"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)


async def _bucket(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config)
    routes = with_buckets(select_routes(settings, arguments.route), arguments.source_bucket, arguments.dest_bucket)
    if arguments.distributed:
        _refuse_deletions(arguments, routes)
    for doubt in config.config_warnings(settings.routes):
        log.warning("%s", doubt)
    while True:
        began_s = boottime_s()
        status = await _run_once(arguments, settings, routes, stop)
        if arguments.interval is None or stop.is_set():
            return status
        if status == command.OUT_OF_REACH:
            print(f"s3s3: next try in {duration_text(arguments.interval)}", file=sys.stderr)
        pause_s = max(arguments.interval - (boottime_s() - began_s), 0.0)
        if await wait_with_timeout(stop, pause_s):
            return command.OK


def _refuse_deletions(arguments: argparse.Namespace, routes: list[Route]) -> None:
    """Raise ConfigError where a route carries deletions over: no process of several sees all that may be deleted."""
    deleting = [there.table for route in routes for there in route.destinations if there.delete]
    if deleting and arguments.since is None:
        raise ConfigError([
            f"--distributed: {table} has delete = true, and what may be deleted is known only to a process that has "
            "seen every listing whole: run s3s3 bucket without --distributed, or with --since, which deletes nothing"
            for table in deleting
        ])  # fmt: skip


async def _run_once(arguments: argparse.Namespace, settings: Config, routes: list[Route], stop: asyncio.Event) -> int:
    tallies: list[ReconcileSummary] = []
    complete, worst = True, command.OK
    with ReportFile(arguments.report) if arguments.report else nullcontext() as report:
        for route in routes:
            tally = ReconcileSummary(route.name, route.destination_names, report.line if report else None)
            tallies.append(tally)
            try:
                await _compare(arguments, settings, route, stop, tally)
            except ConfigError:
                raise
            except S3S3Error as error:  # the other routes are compared all the same
                names_it = len(routes) == 1 or isinstance(error, (ReconcileInProgress, RoutePaused))
                print(f"s3s3: {'' if names_it else f'route {route.name}: '}{error}", file=sys.stderr)
                worst = max(worst, command.exit_status_for(error))
                tally.error = str(error)
            if report:
                report.line(tally.report_line([one.name for one in routes]))
            complete = tally.ended or tally.error is not None
            if not complete:
                break
        if report and complete:
            report.end()
    _tell(tallies, complete, arguments.report == "-")
    return max(worst, _status(tallies, arguments.since is not None))


async def _compare(
    arguments: argparse.Namespace, settings: Config, route: Route, stop: asyncio.Event, tally: ReconcileSummary
) -> None:
    """Compare one route, and have what differs copied. Raises RunUnderWay where another process does just that."""
    wanted = ReconcileOptions(dry_run=arguments.dry_run, force=arguments.force, since_ms=arguments.since,
                     allow_empty=arguments.allow_empty)  # fmt: skip
    metrics = Metrics()
    async with (
        queue_of(route, settings, arguments.without_redis) as jobs,
        opened(route, settings.worker, metrics, limits=limits_in(jobs, route, metrics)) as stores,
    ):
        on_copied = on_copied_for(route, settings, jobs)
        with Progress(await last_entries(jobs)) as progress:
            if arguments.distributed:
                await reconcile_together(
                    stores,
                    shareable(jobs),
                    settings.worker,
                    wanted,
                    stop,
                    afresh=arguments.restart,
                    wait_for_lock=arguments.wait_for_lock,
                    summary=tally,
                    on_progress=progress,
                    drain_s=arguments.drain_s,
                    on_copied=on_copied,
                )
                return

            async def run() -> None:
                await reconcile_with_worker(
                    stores, jobs, settings.worker, wanted, stop, summary=tally, on_progress=progress,
                    drain_s=arguments.drain_s, on_copied=on_copied,
                )  # fmt: skip

            if arguments.dry_run:  # it does nobody's work
                await run()
                return
            await run_exclusive(route.name, jobs, run, wait_for_lock=arguments.wait_for_lock, stop=stop)


def _tell(tallies: list[ReconcileSummary], complete: bool, to_stderr: bool) -> None:
    output = sys.stderr if to_stderr else sys.stdout
    console = Console(file=output, markup=False, highlight=False, soft_wrap=not output.isatty())
    tallies = [tally for tally in tallies if tally.error is None]  # what has one told it already
    table = summary_table(tallies)
    if table.row_count:
        console.print(table)
    for tally in tallies:
        if not set(tally.errors).issuperset(tally.counts):
            skipped = f"; {tally.skipped_entries:,} others have not changed since" if tally.skipped_entries else ""
            compared = count_noun(tally.source_entries - tally.skipped_entries, "object")
            console.print(f"route {tally.route}: {compared} compared in {duration_text(tally.seconds)}{skipped}")
        if tally.proven:
            console.print(f"route {tally.route}: proven: every destination holds what the source does")
        for store, error in tally.errors.items():
            why = error.removeprefix(f"{store}: ")
            console.print(f"route {tally.route}: {store} could not be compared: {why}")
        for store, why in tally.deletions_withheld.items():
            console.print(f"route {tally.route}: nothing was deleted, because of {store}: {why}")
    if not complete:
        console.print("interrupted: the rest was not compared; run it again")


def _status(tallies: list[ReconcileSummary], is_part: bool) -> int:
    """Return the exit status. `is_part`: only part of the source was asked for, and is all that can be proven."""
    if any(tally.errors for tally in tallies):
        return command.OUT_OF_REACH
    well = all(tally.proven or (is_part and tally.ended and tally.complete) for tally in tallies)
    return command.OK if well else command.SOME_FAILED
