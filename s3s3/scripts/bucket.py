"""`s3s3 bucket`: compare whole buckets and copy what differs."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import partial
from typing import TextIO

from rich.console import Console

from .. import config
from ..config import Config, with_buckets
from ..config.value_types import InvalidValue, parse_duration
from ..errors import ConfigError, ReconcileInProgress, RoutePaused, S3S3Error
from ..model import Result, Route
from ..monitoring.formatting import count_noun, duration_text
from ..monitoring.metrics import Metrics
from ..notifications.chaining import claim_downstream, on_copied_for
from ..reconcile.comparison import ReconcileOptions
from ..reconcile.distributed import reconcile_distributed
from ..reconcile.lock import run_exclusive
from ..reconcile.reconciler import limiters_for, open_queue, reconcile_with_worker
from ..reconcile.summary import ReconcileSummary
from ..tasks import wait_with_timeout
from ..transfer.route_stores import opened
from . import cli, command
from .progress import Progress, summary_table
from .report_file import ReportFile
from .selection import add_route_option, select_routes

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Compare and copy; return the exit status."""
    parser = command_line()
    arguments = cli.parse(parser, argv)
    if arguments.json and arguments.report == "-":
        parser.error("--json and --report - both write to standard output: give the report a file")
    command.start_log(arguments)
    return command.run(lambda stop: _bucket(arguments, stop), second_signal_cancels=True)


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser("bucket", "Compare the whole source with every destination, and copy what differs.", {
        cli.OK: "every object is proven to be equal at every destination",
        cli.SOME_FAILED: "some objects failed, a dry run found differences, deletions were withheld, or the run was "
        "interrupted",
        cli.OUT_OF_REACH: "a store or Redis is unreachable, or refuses access",
    })  # fmt: skip
    add_route_option(parser)
    parser.add_argument("--source-bucket", metavar="B", help="use this source bucket instead of the configured one")
    parser.add_argument("--dest-bucket", metavar="B", help="use this bucket at every destination")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="copy nothing, show what would be done (exit status 1 if there are differences)",
    )
    parser.add_argument(
        "--interval", type=cli.positive_duration_s, metavar="T", help="repeat every T (90m, 1d) until stopped"
    )
    parser.add_argument(
        "--report", metavar="FILE", help="write a JSON line per object and destination, then a summary; - for stdout"
    )
    parser.add_argument("--force", action="store_true", help="copy every object, even if nothing differs")
    parser.add_argument(
        "--metadata", action="store_true",
        help="compare Content-Type, user metadata and other headers of equal objects, too, by a HEAD at each store",
    )  # fmt: skip
    parser.add_argument(
        "--since", type=_since_ms, metavar="T",
        help="only objects that changed at the source since T: 2026-03-01, 2026-03-01T12:00 (UTC), or 90m, 36h, 7d ago",
    )  # fmt: skip
    parser.add_argument(
        "--allow-empty", action="store_true",
        help="with delete = true, allow an empty source to empty the destination (overrides max_delete)",
    )  # fmt: skip
    parser.add_argument(
        "--distributed", action="store_true",
        help="share the work with all processes started with this option; after a crash, the next start continues",
    )  # fmt: skip
    parser.add_argument(
        "--restart", action="store_true", help="with --distributed: discard an unfinished run and start over"
    )
    parser.add_argument(
        "--wait-for-lock", action="store_true", help="if another process is comparing the route, wait until it ends"
    )
    cli.add_drain(parser)
    cli.add_take_over(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the summary as JSON; with --interval, one line for each run"
    )
    parser.add_argument("--without-redis", action="store_true", help="do not use the configured Redis")
    return parser


def _since_ms(text: str) -> int:
    try:
        if text[-1:] in ("s", "m", "h", "d"):
            return int((time.time() - parse_duration(text)) * 1000)
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except (InvalidValue, ValueError):
        raise argparse.ArgumentTypeError(
            f"must be a time such as 2026-03-01, 2026-03-01T12:00 (UTC), 90m, 36h or 7d, not {text!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)


async def _bucket(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config)
    routes = with_buckets(select_routes(settings, arguments.route), arguments.source_bucket, arguments.dest_bucket)
    settings.need_spool_dir()
    if arguments.distributed and arguments.since is None:
        problems = [
            f"--distributed: {destination.table} has delete = true, which needs one process that lists the whole "
            "bucket: run s3s3 bucket without --distributed, or with --since, which deletes nothing"
            for route in routes for destination in route.destinations if destination.delete
        ]  # fmt: skip
        if problems:
            raise ConfigError(problems)
    for warning in config.config_warnings(settings):
        log.warning("%s", warning)
    while True:
        started_s = time.monotonic()
        status = await _compare_all(arguments, settings, routes, stop)
        if arguments.interval is None or stop.is_set():
            return status
        if status == cli.OUT_OF_REACH:
            print(f"s3s3: next attempt in {duration_text(arguments.interval)}", file=sys.stderr)
        pause_s = max(arguments.interval - (time.monotonic() - started_s), 0.0)
        if await wait_with_timeout(stop, pause_s):
            return cli.OK


async def _compare_all(
    arguments: argparse.Namespace, settings: Config, routes: list[Route], stop: asyncio.Event
) -> int:
    summaries: list[ReconcileSummary] = []
    ended, worst = True, cli.OK
    with ReportFile(arguments.report) if arguments.report else nullcontext() as report:
        for route in routes:
            summary = ReconcileSummary(route.name, route.destination_names, report.line if report else None)
            summaries.append(summary)
            try:
                await _compare(arguments, settings, route, stop, summary)
            except ConfigError:
                raise
            except S3S3Error as error:  # continue with the next route
                names_route = len(routes) == 1 or isinstance(error, (ReconcileInProgress, RoutePaused))
                print(f"s3s3: {'' if names_route else f'route {route.name}: '}{error}", file=sys.stderr)
                worst = max(worst, command.exit_status_for(error))
                summary.error = str(error)
            if report:
                report.line(summary.report_line([each.name for each in routes]))
            ended = summary.ended or summary.error is not None
            if not ended:
                break
        if report and ended:
            report.complete()
    # With --since, other objects were not compared: the run cannot be proven, only complete.
    partial_run = arguments.since is not None
    succeeded = all(
        each.proven or (partial_run and each.ended and each.complete and not each.unproven_copies) for each in summaries
    )
    status = worst if succeeded else max(worst, cli.SOME_FAILED)
    if any(summary.errors for summary in summaries):
        status = cli.OUT_OF_REACH
    has_queue = bool(settings.pubsub.url) and not arguments.without_redis
    steps = {summary.route: next_steps(summary, has_queue=has_queue) for summary in summaries}
    if arguments.json:
        names = [each.name for each in routes]
        results = [{**each.report_line(names)["summary"], "next": steps[each.route]} for each in summaries]
        indent = None if arguments.interval else 2
        print(json.dumps({"exit_status": status, "routes": results}, indent=indent), flush=True)
    elif not (arguments.quiet and status == cli.OK):
        equality = "has the contents and the metadata" if arguments.metadata else "has the contents"
        _print_summaries(summaries, steps, ended, equality, sys.stderr if arguments.report == "-" else sys.stdout)
    return status


def next_steps(summary: ReconcileSummary, *, has_queue: bool) -> list[str]:
    """Return what to do about what is not equal after a reconcile; why deletions are withheld says it itself."""
    steps = []
    if failed := summary.total(Result.FAILED):
        copies, route = count_noun(failed, "failed copy", "failed copies"), f"--route {summary.route}"
        if has_queue:
            steps.append(f"s3s3 jobs {route} shows the {copies} by reason; fix it, then: s3s3 jobs retry --all {route}")
        else:
            steps.append(
                f"the log has the reasons of the {copies}, --report FILE each key; fix them, then run it again"
            )
    if summary.total(Result.WOULD_COPY, Result.WOULD_DELETE):
        steps.append("run it without --dry-run to make the destinations equal; --report FILE lists the keys")
    if summary.errors:
        steps.append("s3s3 check tries the stores and prints what to fix")
    if summary.unproven_copies:
        steps.append("verify_md5 = true in the destination compares the contents")
    return steps


async def _compare(
    arguments: argparse.Namespace, settings: Config, route: Route, stop: asyncio.Event, summary: ReconcileSummary
) -> None:
    """Compare one route and copy what differs. Raises ReconcileInProgress if another process is comparing it."""
    options = ReconcileOptions(dry_run=arguments.dry_run, force=arguments.force, since_ms=arguments.since,
                               allow_empty=arguments.allow_empty, metadata=arguments.metadata)  # fmt: skip
    metrics = Metrics()
    async with (
        open_queue(
            route,
            settings,
            without_redis=arguments.without_redis,
            dry_run=options.dry_run,
            take_over=arguments.take_over,
        ) as jobs,
        opened(route, settings.worker, metrics, limits=limiters_for(jobs, route, metrics)) as stores,
    ):
        if not options.dry_run:
            await claim_downstream(route, settings, jobs, take_over=arguments.take_over)
        on_copied = on_copied_for(route, settings, jobs)
        last = await jobs.load_reconcile_summary() if jobs else None
        with Progress(last.source_entries if last else None, quiet=arguments.quiet) as progress:
            if arguments.distributed:
                await reconcile_distributed(
                    stores, jobs, settings.worker, options, stop, restart=arguments.restart,
                    wait_for_lock=arguments.wait_for_lock, summary=summary, on_progress=progress,
                    drain_s=arguments.drain_s, on_copied=on_copied,
                )  # fmt: skip
                return
            run = partial(
                reconcile_with_worker, stores, jobs, settings.worker, options, stop, summary=summary,
                on_progress=progress, drain_s=arguments.drain_s, on_copied=on_copied,
            )  # fmt: skip
            if arguments.dry_run:  # changes nothing, so needs no lock
                await run()
            else:
                await run_exclusive(
                    route.name, jobs, run, wait_for_lock=arguments.wait_for_lock, stop=stop,
                    progress=lambda: summary.progress,
                )  # fmt: skip


def _print_summaries(
    summaries: list[ReconcileSummary], steps: Mapping[str, list[str]], ended: bool, equality: str, output: TextIO
) -> None:
    console = Console(file=output, markup=False, highlight=False, soft_wrap=not output.isatty())
    summaries = [summary for summary in summaries if summary.error is None]  # the error is printed already
    table = summary_table(summaries)
    if table.row_count:
        console.print(table)
    for summary in summaries:
        title = f"route {summary.route}"
        if not summary.errors.keys() >= summary.counts.keys():
            skipped = f"; {summary.skipped_entries:,} not changed since then" if summary.skipped_entries else ""
            compared = count_noun(summary.source_entries - summary.skipped_entries, "object")
            console.print(f"{title}: {compared} compared in {duration_text(summary.seconds)}{skipped}")
        if summary.proven:
            console.print(f"{title}: proven: every destination {equality} of the source")
        if summary.unproven_copies:
            objects = count_noun(summary.unproven_copies, "object")
            console.print(f"{title}: not proven: the store returned no ETag for {objects}")
        for store, error in summary.errors.items():
            console.print(f"{title}: could not compare {store}: {error.removeprefix(f'{store}: ')}")
        for destination, reason in summary.deletions_withheld.items():
            console.print(f"{title}: deletions withheld at {destination}: {reason}")
        if summary.queued_keys:
            keys = count_noun(summary.queued_keys, "key")
            console.print(f"{title}: {keys} left on the queue, for listeners or the next s3s3 bucket")
        for step in steps[summary.route]:
            console.print(f"{title}: next: {step}", soft_wrap=True)  # a command can be copied
    if not ended:
        console.print("interrupted: not everything was compared; run it again")
