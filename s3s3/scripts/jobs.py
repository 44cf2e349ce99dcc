"""`s3s3 jobs`: show and manage the queue and its dead letters."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Sequence

from .. import config
from ..errors import RouteConflict
from ..model import Route
from ..monitoring.formatting import count_noun, duration_text, time_text
from ..monitoring.heartbeat import claim_route
from ..queue.base import PAUSED, DeadLetter, QueueStats
from ..queue.redis_queue import RedisJobQueue
from ..tasks import run_async
from . import cli, command
from .output import print_indented, print_table, printable
from .selection import add_selection, complete_dead_letters, connected_queues, destinations_of, select_routes

log = logging.getLogger(__name__)

RouteQueue = tuple[Route, RedisJobQueue]


def main(argv: list[str] | None = None) -> int:
    """Run the action; return the exit status."""
    parser = command_line()
    arguments = cli.parse_with_keys(parser, argv)
    if arguments.action in ("retry", "drop") and bool(arguments.keys) == arguments.all:
        parser.error(f"{arguments.action}: name the keys of the dead letters, or use --all")
    command.start_log(arguments)
    return command.exit_status(lambda: run_async(_jobs(arguments)))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    statuses = {cli.OUT_OF_REACH: "Redis is unreachable"}
    with_missing = {**statuses, cli.SOME_FAILED: "a named key is not a dead letter"}
    parser = cli.parser("jobs", "Show and manage the queue and its dead letters.", statuses)
    _add_list_options(parser)
    actions = cli.Actions(parser, "list")
    listing = actions.add("list", "show pending jobs, unavailable stores and dead letters", statuses)
    _add_list_options(listing, is_action=True)
    for name, help_text in (
        ("retry", "put dead letters back on the queue"),
        ("drop", "delete dead letters"),
    ):
        action = actions.add(name, help_text, with_missing)
        keys = action.add_argument("keys", metavar="KEY", nargs="*", help="dead letters")
        complete_dead_letters(keys)
        action.add_argument("--all", action="store_true", help="all dead letters, instead of named keys")
        add_selection(action, is_action=True)
    for name, help_text in (
        ("pause", "stop copying, for a route or to a destination; notifications are kept"),
        ("resume", "continue copying after pause"),
    ):
        add_selection(actions.add(name, help_text, statuses), is_action=True)
    return parser


def _add_list_options(parser: cli.CommandParser, *, is_action: bool = False) -> None:
    add_selection(parser, is_action=is_action)
    parser.add_argument(
        "--limit", type=_limit, default=argparse.SUPPRESS if is_action else 20, metavar="N",
        help="at most N dead letters of each destination (default: 20; 0 for all)",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS if is_action else False, help="print JSON"
    )


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return int(text)


async def _jobs(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    settings = dataclasses.replace(settings, routes=(*settings.routes, *settings.mirror.routes))
    # Unusable messages are dead letters, too, but cannot be retried.
    extra = (DeadLetter.MESSAGES,) if arguments.action in ("list", "drop") else ()
    routes = select_routes(settings, arguments.route, arguments.destination, *extra)
    async with connected_queues(settings, routes) as (_, queues):
        for route, jobs in queues:
            await _check(route, jobs, is_read_only=arguments.action == "list")
        if arguments.action == "list":
            return await _list(arguments, queues)
        if arguments.action in ("pause", "resume"):
            return await _pause_or_resume(arguments, queues)
        return await _retry_or_drop(arguments, queues)


async def _check(route: Route, jobs: RedisJobQueue, *, is_read_only: bool) -> None:
    """Warn if this configuration has other buckets than what is in Redis; refuse changes while its processes run."""
    try:
        await claim_route(route, jobs, "jobs", verify=True)
    except RouteConflict as error:
        if error.is_running and not is_read_only:
            raise
        log.warning("%s", error)


# -- retry and drop


async def _retry_or_drop(arguments: argparse.Namespace, queues: Sequence[RouteQueue]) -> int:
    missing = set(arguments.keys)
    retry = arguments.action == "retry"
    for route, jobs in queues:
        for destination in destinations_of(route, arguments.destination, *(() if retry else (DeadLetter.MESSAGES,))):
            changed = 0
            async for keys in _keys(arguments, jobs, destination):
                count = await (jobs.redrive if retry else jobs.drop)(destination, keys)
                changed += count
                if count:
                    missing -= set(keys)
            if (changed or arguments.all) and not arguments.quiet:
                result = "put back on the queue" if retry else "dropped"
                print(f"route {route.name}: {destination}: {count_noun(changed, 'dead letter')} {result}")
    for key in sorted(missing):
        print(f"not a dead letter: {printable(key)}")
    return cli.SOME_FAILED if missing else cli.OK


async def _keys(arguments: argparse.Namespace, jobs: RedisJobQueue, destination: str) -> AsyncIterator[list[str]]:
    """Yield the keys to change: named keys singly, to learn which of them existed, or all in chunks."""
    for key in arguments.keys:
        yield [key]
    if arguments.all:
        async for keys in jobs.dead_letter_keys(destination):
            yield keys


# -- pause and resume


async def _pause_or_resume(arguments: argparse.Namespace, queues: Sequence[RouteQueue]) -> int:
    destination = arguments.destination

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text)

    for route, jobs in queues:
        title = f"route {route.name}" if destination is None else f"route {route.name}: {destination}"
        if arguments.action == "pause":
            await jobs.pause(destination)
            say(f"{title}: paused; notifications are kept, nothing is copied")
        else:
            await jobs.resume(destination)
            say(f"{title}: resumed")
            # A route and its destinations are paused independently of each other.
            resume, stats = f"s3s3 jobs resume --route {route.name}", await jobs.stats()
            if stats.paused:
                print(f"route {route.name}: the route itself is still paused: {resume}")
            for name, reason in stats.circuits.items():
                if reason == PAUSED and destination is None:
                    print(f"route {route.name}: {name} is still paused: {resume} --destination {name}")
    return cli.OK


# -- list


async def _list(arguments: argparse.Namespace, queues: Sequence[RouteQueue]) -> int:
    found = []
    for route, jobs in queues:
        destinations = destinations_of(route, arguments.destination, DeadLetter.MESSAGES)
        letters = {name: await _letters(jobs, name, arguments.limit) for name in destinations}
        found.append((route, await jobs.stats(), letters))
    if arguments.json:
        routes = []
        for route, stats, letters in found:
            fields = dataclasses.asdict(stats)
            fields["dead_letter_counts"] = fields.pop("dead_letters")
            listed = {name: [dataclasses.asdict(letter) for letter in some] for name, some in letters.items()}
            routes.append({"route": route.name, **fields, "pending": stats.pending, "dead_letters": listed})
        print(json.dumps({"routes": routes}, indent=2))
        return cli.OK
    for number, (route, stats, letters) in enumerate(found):
        if number:
            print()
        _print_route(route, stats, letters)
    return cli.OK


async def _letters(jobs: RedisJobQueue, destination: str, limit: int) -> list[DeadLetter]:
    letters = []
    async for letter in jobs.dead_letters(destination):
        letters.append(letter)
        if limit and len(letters) == limit:
            break
    return sorted(letters, key=lambda letter: letter.dead_lettered_ms)


def _print_route(route: Route, stats: QueueStats, letters: dict[str, list[DeadLetter]]) -> None:
    print(f"route {route.name}: {'PAUSED; ' if stats.paused else ''}{stats.pending:,} pending"
          + (f", the oldest for {duration_text(stats.oldest_s)}" if stats.oldest_s else ""))  # fmt: skip
    print_indented(f"{stats.fresh:,} from notifications, {stats.bulk:,} from comparisons; "
                   f"{stats.retrying:,} retrying, {sum(stats.parked.values()):,} parked; "
                   f"{stats.rechecks:,} rechecks scheduled", 2)  # fmt: skip
    rows = [
        (name, f"{stats.parked.get(name, 0):,}", f"{stats.dead_letters.get(name, 0):,}", _state(name, stats))
        for name in dict.fromkeys((*stats.parked, *stats.dead_letters))
        if name in (route.source.name, *letters)
    ]
    print()
    print_table(("store", "parked", "dead letters", "state"), rows)
    for destination, some in letters.items():
        if not some:
            continue
        print(f"\ndead letters of {destination}:")
        for letter in some:
            attempts = f", {count_noun(letter.attempts, 'attempt')}" if letter.attempts > 1 else ""
            print_indented(printable(letter.key), 2)
            print_indented(f"{time_text(letter.dead_lettered_ms)}{attempts}: {printable(letter.reason)}", 6)
        if (more := stats.dead_letters.get(destination, 0) - len(some)) > 0:
            print(f"  ... and {more:,} more; --limit 0 lists all")


def _state(name: str, stats: QueueStats) -> str:
    if name == DeadLetter.MESSAGES:
        return "unusable messages"
    reason = stats.circuits.get(name)
    if reason is None:
        return "ok"
    return "paused" if reason == PAUSED else f"down: {printable(reason)}"
