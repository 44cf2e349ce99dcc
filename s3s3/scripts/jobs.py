"""`s3s3 jobs`: show and manage the queue and its dead letters."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import config
from ..errors import RouteConflict
from ..model import Route
from ..monitoring.formatting import count_noun, duration_text, time_text
from ..monitoring.heartbeat import claim_route
from ..monitoring.history import Failure, History
from ..operations.queue_text import circuit_text, queue_texts
from ..queue.admin import KEYS_PER_CALL
from ..queue.base import PAUSED, DeadLetter, QueueStats
from ..queue.dead_letters import DeadLetterGroup, common_reason, read_groups
from ..queue.records import Circuit, KeyRecord, KeyState, Records, list_keys
from ..queue.redis_queue import RedisJobQueue
from ..tasks import run_async
from . import cli, command
from .output import print_command, print_indented, print_table, printable, printable_key
from .selection import add_selection, complete_dead_letters, connected_queues, destinations_of, select_routes

log = logging.getLogger(__name__)

RouteQueue = tuple[Route, RedisJobQueue]


def main(argv: list[str] | None = None) -> int:
    """Run the action; return the exit status."""
    parser = command_line()
    arguments = cli.parse_with_keys(parser, argv)
    if arguments.action in ("retry", "drop") and _choices(arguments) != 1:
        parser.error(f"{arguments.action}: name the keys of the dead letters, or use --reason or --all")
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
        _add_reason(action, is_action=True)
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
        help="at most N keys in each list (default: 20; 0 for all)",
    )  # fmt: skip
    parser.add_argument(
        "--keys", dest="keys_wanted", action="store_true", default=argparse.SUPPRESS if is_action else False,
        help="list each dead letter, not only the reasons",
    )  # fmt: skip
    _add_reason(parser, is_action=is_action)
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS if is_action else False, help="print JSON"
    )


def _add_reason(parser: cli.CommandParser, *, is_action: bool) -> None:
    parser.add_argument(
        "--reason", metavar="TEXT", default=argparse.SUPPRESS if is_action else None,
        help="only dead letters whose reason contains TEXT",
    )  # fmt: skip


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return int(text)


async def _jobs(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config, secrets_of=("pubsub",))
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


def _choices(arguments: argparse.Namespace) -> int:
    return bool(arguments.keys) + bool(arguments.reason) + bool(arguments.all)


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
            if (changed or not arguments.keys) and not arguments.quiet:
                result = "put back on the queue" if retry else "dropped"
                print(f"route {route.name}: {destination}: {count_noun(changed, 'dead letter')} {result}")
    for key in sorted(missing):
        print(f"not a dead letter: {printable(key)}")
    return cli.SOME_FAILED if missing else cli.OK


async def _keys(arguments: argparse.Namespace, jobs: RedisJobQueue, destination: str) -> AsyncIterator[list[str]]:
    """Yield the keys to change: named keys singly, to learn which of them existed, or the others in chunks."""
    for key in arguments.keys:
        yield [key]
    if arguments.keys:
        return
    async for chunk in jobs.dead_letter_keys(destination, lambda letter: _has_reason(letter, arguments.reason)):
        yield chunk


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


@dataclass
class Found:
    """What is listed of one route; `letters`, `retries` and `parked` are limited, the groups are complete.

    `failures` are the latest ones of any key, newest first, each with the number of those with the same reason.
    """

    route: Route
    stats: QueueStats
    letters: dict[str, list[DeadLetter]]
    groups: dict[str, list[DeadLetterGroup]]
    retries: Records
    parked: dict[str, Records]
    failures: Sequence[Failure]


async def _list(arguments: argparse.Namespace, queues: Sequence[RouteQueue]) -> int:
    found = [await _read(arguments, route, jobs) for route, jobs in queues]
    if arguments.json:
        print(json.dumps({"routes": [_fields(each) for each in found]}, indent=2))
        return cli.OK
    for number, each in enumerate(found):
        if number:
            print()
        _print_route(each)
        _print_waiting(each)
        for destination in each.groups:
            if arguments.keys_wanted:
                _print_letters(each, destination)
            else:
                _print_groups(each, destination)
    return cli.OK


async def _read(arguments: argparse.Namespace, route: Route, jobs: RedisJobQueue) -> Found:
    limit, letters, groups = arguments.limit, {}, {}
    for name in destinations_of(route, arguments.destination, DeadLetter.MESSAGES):
        listed = letters[name] = list[DeadLetter]()
        groups[name] = await read_groups(_selected_letters(jobs, name, arguments.reason, listed, limit))
        listed.sort(key=lambda letter: letter.dead_lettered_ms)
    stats = await jobs.stats()
    page = partial(list_keys, jobs, limit=limit or KEYS_PER_CALL)
    wanted = destinations_of(route, arguments.destination)
    retries = (await page(KeyState.WAITING)).records
    records = [each for each in retries.records if not set(each.destinations).isdisjoint(wanted)]
    parked = {
        store: (await page(KeyState.PARKED, store=store)).records
        for store, count in stats.parked.items()
        if store in (route.source.name, *wanted) and (count or store in stats.circuits)
    }
    failures = [
        each for each in (await History(jobs.client, jobs.prefix).read()).failures if each.destination in wanted
    ]
    return Found(route, stats, letters, groups, retries._replace(records=records), parked, failures)


async def _selected_letters(
    jobs: RedisJobQueue, destination: str, reason: str | None, listed: list[DeadLetter], limit: int
) -> AsyncIterator[DeadLetter]:
    """Yield the letters with this reason, and keep the first ones in `listed`."""
    async for letter in jobs.dead_letters(destination):
        if _has_reason(letter, reason):
            if not limit or len(listed) < limit:
                listed.append(letter)
            yield letter


def _has_reason(letter: DeadLetter, reason: str | None) -> bool:
    return reason is None or reason in letter.reason or reason in common_reason(letter)


def _fields(found: Found) -> dict[str, Any]:
    fields = dataclasses.asdict(found.stats)
    fields["dead_letter_counts"] = fields.pop("dead_letters")
    now_ms, circuits = found.retries.now_ms, found.retries.circuits
    records = {each.key: each for page in (found.retries, *found.parked.values()) for each in page.records}
    waiting = [
        {**dataclasses.asdict(each), "text": "; ".join(queue_texts(each, _waits(each, circuits), now_ms))}
        for each in records.values()
    ]
    return {
        "route": found.route.name,
        **fields,
        "pending": found.stats.pending,
        "waiting": waiting,
        "recent_failures": [dataclasses.asdict(failure) for failure in found.failures],
        "open_circuits": [circuit._asdict() for circuit in circuits.values()],
        "dead_letter_groups": [dataclasses.asdict(group) for some in found.groups.values() for group in some],
        "dead_letters": {name: [dataclasses.asdict(each) for each in some] for name, some in found.letters.items()},
    }


def _waits(record: KeyRecord, circuits: Mapping[str, Circuit]) -> list[Circuit]:
    return [circuits[store] for store in record.parked if store in circuits]


def _print_route(found: Found) -> None:
    route, stats = found.route, found.stats
    print(f"route {route.name}: {'PAUSED; ' if stats.paused else ''}{stats.pending:,} pending"
          + (f", the oldest for {duration_text(stats.oldest_s)}" if stats.oldest_s else ""))  # fmt: skip
    print_indented(f"{stats.fresh:,} from notifications, {stats.bulk:,} from comparisons; "
                   f"{stats.retrying:,} retrying, {sum(stats.parked.values()):,} parked; "
                   f"{stats.rechecks:,} rechecks scheduled", 2)  # fmt: skip
    rows = [
        (name, f"{stats.parked.get(name, 0):,}", f"{stats.dead_letters.get(name, 0):,}", _state(name, stats))
        for name in dict.fromkeys((*stats.parked, *stats.dead_letters))
        if name in (route.source.name, *found.letters)
    ]
    print()
    print_table(("store", "parked", "dead letters", "state"), rows)


def _print_waiting(found: Found) -> None:
    now_ms, circuits = found.retries.now_ms, found.retries.circuits
    for store, parked in found.parked.items():
        circuit = circuits.get(store)
        why = circuit_text(circuit, now_ms) if circuit else f"parked until {store} has a free slot"
        print()
        print_indented(f"{count_noun(found.stats.parked[store], 'key')} {printable(why)}:", 0)
        if circuit is not None and circuit.is_paused:
            print_command(f"resume: s3s3 jobs resume --route {found.route.name} --destination {store}", 2)
        for record in parked.records:
            print_indented(printable_key(record.key), 2)
        _print_more(found.stats.parked[store] - len(parked.records))
    if not found.retries.records:
        return
    print(f"\n{count_noun(found.stats.retrying, 'key')} with a retry:")
    for record in found.retries.records:
        print_indented(printable_key(record.key), 2)
        print_indented(printable("; ".join(queue_texts(record, _waits(record, circuits), now_ms))), 6)
    _print_more(found.stats.retrying - len(found.retries.records))
    latest = {failure.destination: failure for failure in reversed(found.failures)}
    for name in sorted({name for record in found.retries.records for name in record.destinations} & latest.keys()):
        ago = duration_text(max(now_ms - latest[name].at_ms, 0) / 1000)
        print_indented(f"last failure at {name}, {ago} ago: {printable(latest[name].reason)}", 2)


def _print_groups(found: Found, destination: str) -> None:
    groups = found.groups[destination]
    if not groups:
        return
    print(f"\ndead letters of {destination} by reason:")
    for group in groups:
        print_indented(f"{count_noun(group.count, 'key')}: {printable(group.reason)}", 2)
        times = " to ".join(dict.fromkeys((time_text(group.oldest_ms), time_text(group.newest_ms))))
        more = ", ..." if group.count > len(group.keys) else ""
        print_indented(f"{times}: {', '.join(map(printable_key, group.keys))}{more}", 6)
    where = f"--route {found.route.name} --destination {_quoted(destination)}"
    print_command(f"every key: s3s3 jobs --keys {where}", 2)
    if destination == DeadLetter.MESSAGES:
        print_command(f"after the producer is fixed: s3s3 jobs drop --all {where}", 2)
    else:
        print_command(f"after the cause is fixed: s3s3 jobs retry --all {where}, or --reason TEXT", 2)


def _print_letters(found: Found, destination: str) -> None:
    letters = found.letters[destination]
    if not letters:
        return
    print(f"\ndead letters of {destination}:")
    for letter in letters:
        attempts = f", {count_noun(letter.attempts, 'attempt')}" if letter.attempts > 1 else ""
        print_indented(printable_key(letter.key), 2)
        print_indented(f"{time_text(letter.dead_lettered_ms)}{attempts}: {printable(letter.reason)}", 6)
    _print_more(sum(group.count for group in found.groups[destination]) - len(letters))


def _print_more(count: int) -> None:
    if count > 0:
        print(f"  ... and {count:,} more; --limit 0 lists all")


def _quoted(name: str) -> str:
    return f"'{name}'" if name == DeadLetter.MESSAGES else name


def _state(name: str, stats: QueueStats) -> str:
    if name == DeadLetter.MESSAGES:
        return "unusable messages"
    reason = stats.circuits.get(name)
    if reason is None:
        return "dead letters" if stats.dead_letters.get(name) else "ok"
    return "paused" if reason == PAUSED else "down"
