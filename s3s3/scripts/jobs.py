"""`s3s3 jobs`: the queue and its dead letters, for those who look after it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import uvloop

from .. import config
from ..model import Route
from ..queue.base import DeadLetter, QueueStats
from ..queue.redis_queue import RedisJobQueue
from . import command
from .key_input import parsed
from .output import count_noun, print_indented, print_table, printable
from .progress import span_text
from .selection import (
    PAUSED,
    add_destination_option,
    add_route_option,
    connected_queues,
    destinations_of,
    select_routes,
)

KEYS_AT_ONCE = 500

Queue = tuple[Route, RedisJobQueue]
Move = Callable[[str, Sequence[str]], Awaitable[int]]


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    parser = command_line()
    arguments = parsed(parser, argv)
    if arguments.action in ("retry", "drop"):
        if bool(arguments.keys) == arguments.all:
            parser.error(f"{arguments.action}: which dead letters? Name their keys, or say --all")
    elif arguments.keys or arguments.all:
        parser.error(f"{arguments.action} takes no keys and no --all; it is about --route and --destination")
    command.start_log(arguments)
    return command.exit_status(lambda: uvloop.run(_jobs(arguments)))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("jobs", "Look at the queue and its dead letters, and look after them.")
    parser.add_argument(
        "action", nargs="?", default="list", choices=("list", "retry", "drop", "pause", "resume"),
        help="list (the default): what waits, what is down, what failed for good; retry, drop: put dead letters back "
        "to work, or throw them away; pause, resume: hold a route or a destination, and let it go on",
    )  # fmt: skip
    parser.add_argument("keys", metavar="KEY", nargs="*", help="dead letters to retry or drop")
    parser.add_argument("--all", action="store_true", help="retry or drop all dead letters")
    add_route_option(parser)
    add_destination_option(parser)
    parser.add_argument(
        "--limit", type=_limit, default=20, metavar="N",
        help="list at most N dead letters of each destination (default: 20; 0 for all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="list as JSON, for programs")
    return parser


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} should be a number, 0 or more")
    return int(text)


async def _jobs(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    settings = dataclasses.replace(settings, routes=(*settings.routes, *settings.mirror.routes))
    # A message that names no key is a dead letter as well, but it cannot be tried again, and goes nowhere.
    others = (DeadLetter.MESSAGES,) if arguments.action in ("list", "drop") else ()
    routes = select_routes(settings, arguments.route, arguments.destination, *others)
    async with connected_queues(settings, routes) as (_, queues):
        if arguments.action == "list":
            return await _list(arguments, queues)
        if arguments.action in ("pause", "resume"):
            return await _hold(arguments, queues)
        return await _move(arguments, queues)


# -- retry and drop


async def _move(arguments: argparse.Namespace, queues: Sequence[Queue]) -> int:
    """Retry or drop dead letters. Keys that are none are told of, and make it fail."""
    missed = set(arguments.keys)
    for route, jobs in queues:
        retry = arguments.action == "retry"
        others = () if retry else (DeadLetter.MESSAGES,)
        for destination in destinations_of(route, arguments.destination, *others):
            move: Move = jobs.redrive if retry else jobs.drop
            moved = 0
            async for keys in _keys(arguments, jobs, destination):
                count = await move(destination, keys)
                moved += count
                missed -= set(keys) if count else set()
            if moved or arguments.all:
                done = "put back to work" if retry else "dropped"
                print(f"route {route.name}: {destination}: {count_noun(moved, 'dead letter')} {done}")
    for key in sorted(missed):
        print(f"no dead letter: {printable(key)}")
    return command.SOME_FAILED if missed else command.OK


async def _keys(arguments: argparse.Namespace, jobs: RedisJobQueue, destination: str) -> AsyncIterator[list[str]]:
    """Yield the keys to move: those named one by one, so that it is known which were there; else all, many at once."""
    for key in arguments.keys:
        yield [key]
    if arguments.all:
        keys = []
        async for letter in jobs.dead_letters(destination):
            keys.append(letter.key)
            if len(keys) == KEYS_AT_ONCE:
                yield keys
                keys = []
        if keys:
            yield keys


# -- pause and resume


async def _hold(arguments: argparse.Namespace, queues: Sequence[Queue]) -> int:
    pauses = arguments.action == "pause"
    for route, jobs in queues:
        change = jobs.pause if pauses else jobs.resume
        held = f"route {route.name}"
        if arguments.destination is None:
            await change()
        else:
            await change(arguments.destination)
            held += f": {arguments.destination}"
        print(f"{held}: {'paused; notices are kept, nothing is copied' if pauses else 'goes on'}")
        if not pauses:
            await _tell_still_held(route, jobs, arguments.destination)
    return command.OK


async def _tell_still_held(route: Route, jobs: RedisJobQueue, resumed: str | None) -> None:
    """Tell what keeps something back that was just told to go on: the other one of the two pauses."""
    counts = await jobs.stats()
    if counts.paused:
        print(f"route {route.name} is still paused, all of it: s3s3 jobs resume --route {route.name}")
    for name, reason in counts.circuits.items():
        if reason == PAUSED and resumed is None:
            print(f"route {route.name}: {name} is still paused: "
                  f"s3s3 jobs resume --route {route.name} --destination {name}")  # fmt: skip


# -- list


async def _list(arguments: argparse.Namespace, queues: Sequence[Queue]) -> int:
    found = []
    for route, jobs in queues:
        destinations = destinations_of(route, arguments.destination, DeadLetter.MESSAGES)
        letters = {name: await _letters(jobs, name, arguments.limit) for name in destinations}
        found.append((route, await jobs.stats(), letters))
    if arguments.json:
        print(json.dumps({"routes": [_as_fields(*one) for one in found]}, indent=2))
        return command.OK
    for number, (route, counts, letters) in enumerate(found):
        if number:
            print()
        _show(route, counts, letters)
    return command.OK


async def _letters(jobs: RedisJobQueue, destination: str, limit: int) -> list[DeadLetter]:
    letters = []
    async for letter in jobs.dead_letters(destination):
        letters.append(letter)
        if limit and len(letters) == limit:
            break
    return sorted(letters, key=lambda letter: letter.dead_lettered_ms)


def _as_fields(route: Route, counts: QueueStats, letters: dict[str, list[DeadLetter]]) -> dict[str, Any]:
    fields = {**dataclasses.asdict(counts), "pending": counts.pending}
    listed = {name: [dataclasses.asdict(letter) for letter in some] for name, some in letters.items()}
    return {"route": route.name, **fields, "letters": listed}


def _show(route: Route, counts: QueueStats, letters: dict[str, list[DeadLetter]]) -> None:
    print(f"route {route.name}: {'PAUSED; ' if counts.paused else ''}{counts.pending:,} pending"
          + (f", the oldest for {span_text(counts.oldest_s)}" if counts.oldest_s else ""))  # fmt: skip
    lanes = f"{counts.fresh:,} from notices, {counts.bulk:,} from comparisons and retries"
    print_indented(f"{lanes}, {counts.retrying:,} wait for another try, {counts.rechecks:,} for a later look", 2)
    names = dict.fromkeys((*counts.parked, *counts.dead_letters))
    rows = [
        (name, f"{counts.parked.get(name, 0):,}", f"{counts.dead_letters.get(name, 0):,}", _state(name, counts))
        for name in names
        if name in (route.source.name, *letters)
    ]
    print()
    print_table(("store", "parked", "dead letters", "state"), rows)
    for name, some in letters.items():
        if some:
            _show_letters(name, some, more=counts.dead_letters.get(name, 0) - len(some))


def _show_letters(destination: str, letters: Sequence[DeadLetter], more: int) -> None:
    print(f"\ndead letters of {destination}:")
    for letter in letters:
        attempts = f", {letter.attempts:,} tries" if letter.attempts > 1 else ""
        print_indented(printable(letter.key), 2)
        print_indented(f"{_time_text(letter.dead_lettered_ms)}{attempts}: {printable(letter.reason)}", 6)
    if more > 0:
        print(f"  ... and {more:,} more; --limit 0 lists all")


def _state(name: str, counts: QueueStats) -> str:
    if name == DeadLetter.MESSAGES:
        return "messages that name no key"
    reason = counts.circuits.get(name)
    if reason is None:
        return "in use"
    return "paused by hand" if reason == PAUSED else f"down: {printable(reason)}"


def _time_text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
