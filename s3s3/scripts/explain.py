"""`s3s3 explain`: show what became of a key, what would be done now, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json

from .. import config
from ..errors import ConfigError
from ..monitoring.formatting import count_noun, size_text, time_text
from ..notifications.message import BadMessage, parse_message
from ..operations.explain import DestinationExplanation, Explanation, ObjectState, RouteExplanation, explain
from ..queue.connection import connect
from ..tasks import run_async
from . import cli, command
from .key_input import keys_from_arguments
from .output import print_command, print_indented, printable, printable_key
from .selection import add_route_option, select_routes


def main(argv: list[str] | None = None) -> int:
    """Explain a key; return the exit status."""
    parser = command_line()
    arguments = cli.parse_with_keys(parser, argv)
    if len(arguments.keys) != 1:
        parser.error(f"one key, not {len(arguments.keys)}")
    command.start_log(arguments)
    return command.exit_status(lambda: run_async(_explain(arguments)))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser(
        "explain",
        "Show what became of a key: the routes that match, what the source and each destination have, what a "
        "comparison would do now and why, what the queue knows, and the dead letter. Nothing is changed.",
        {
            cli.OK: "the key is explained",
            cli.SOME_FAILED: "no route matches the key",
            cli.OUT_OF_REACH: "a store or Redis could not be asked",
        },
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="the object's full name in the source bucket")
    add_route_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


async def _explain(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    routes = select_routes(settings, arguments.route)
    ((_, message),) = keys_from_arguments(arguments.keys)
    try:
        key = parse_message(message)
    except BadMessage as bad:
        raise ConfigError([f"s3s3 explain: {bad}"]) from None
    # Not `connected`: without Redis, what the stores have is shown nevertheless.
    client = connect(settings.pubsub.url) if settings.pubsub.url else None
    try:
        found = await explain(key, routes, settings.worker, client)
    finally:
        if client is not None:
            await client.aclose()
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        _print(found)
    if any(route.errors for route in found.routes):
        return cli.OUT_OF_REACH
    return cli.OK if found.is_matched else cli.SOME_FAILED


def _print(found: Explanation) -> None:
    print(f"key {printable_key(found.key)}")
    for route in found.routes:
        print()
        if route.mismatch:
            print(f"route {route.route}: does not match: {printable(route.mismatch)}")
            if route.hint:
                print_indented(f"it matches {printable(route.hint)}: is that the key?", 2)
        else:
            _print_route(route)


def _print_route(route: RouteExplanation) -> None:
    print(f"route {route.route}: matches")
    if route.source:
        _print_object("source", route.source)
    for each in route.destinations:
        _print_object("destination", each.object)
        print_indented(each.text, 4)
        _print_failures(each)
    print_indented(f"queue: {printable(route.queue.text if route.queue else route.queue_error or '')}", 2)
    print_indented(f"log: grep {route.log_id} shows every line about this object", 2)
    for step in route.next_steps:
        print_command(f"next: {step}", 2)


def _print_object(role: str, state: ObjectState) -> None:
    if state.exists:
        parts = [size_text(state.size_bytes or 0), f"ETag {state.etag or 'none'}"]
        if state.modified_ms:
            parts.append(f"{'written' if role == 'destination' else 'modified'} {time_text(state.modified_ms)}")
        if state.recorded_etag:
            parts.append(f"records the source's ETag {state.recorded_etag}")
        text = ", ".join(parts)
    else:
        text = "does not have it" if state.exists is False else "unknown"
    if state.error:
        text = f"{text}: {_plain(state.error, state.store)}"
    print_indented(f"{role} {state.store} ({state.address}): {printable(text)}", 2)


def _plain(reason: str, store: str) -> str:
    """Return a reason without the store's name at its beginning, which the line has already."""
    return printable(reason.removeprefix(f"{store}: "))


def _print_failures(each: DestinationExplanation) -> None:
    store = each.object.store
    if each.circuit is not None:
        state = "paused by an operator" if each.circuit == "paused" else f"down: {_plain(each.circuit, store)}"
        print_indented(f"store: {state}", 4)
    for title, failure in (("dead letter since", each.dead_letter), ("last failure", each.last_failure)):
        if failure is not None:
            attempts = f", {count_noun(failure.attempts, 'attempt')}" if failure.attempts else ""
            print_indented(f"{title} {time_text(failure.at_ms)}{attempts}: {_plain(failure.reason, store)}", 4)
            for earlier in failure.earlier:
                print_indented(f"earlier failure {time_text(earlier.at_ms)}: {_plain(earlier.reason, store)}", 6)
