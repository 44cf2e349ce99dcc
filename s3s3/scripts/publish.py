"""`s3s3 publish`: put keys on the queue, or on the channel as other producers do."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster

from .. import config
from ..errors import ConfigError, RedisUnavailable
from ..model import Lane, Route, matcher
from ..queue.base import JobRequest
from ..queue.redis_errors import translate_errors
from ..queue.redis_queue import RedisJobQueue
from ..tasks import run_with_background
from . import command
from .key_input import checked, of_arguments, of_input, parsed
from .output import count_noun
from .publish_tracker import PublishTracker
from .selection import add_route_option, connected_queues, count_subscribers, select_routes

MAX_FAULTS_SHOWN = 20


def main(argv: list[str] | None = None) -> int:
    """Publish; return the exit status."""
    parser = command_line()
    arguments = parsed(parser, argv)
    if arguments.pubsub and (arguments.wait or arguments.route):
        parser.error("--pubsub goes to whoever listens, on every route: neither --wait nor --route is possible with it")
    if "-" in arguments.keys and arguments.keys != ["-"]:
        parser.error("either keys or -, which is standard input")
    command.start_log(arguments)
    return command.run(lambda stop: _publish(arguments, stop))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("publish", "Have keys copied: put them on the queue, in front of what `s3s3 bucket` found.")
    parser.add_argument(
        "keys", metavar="KEY", nargs="*",
        help="names of objects in the source's bucket; none, or -: from standard input, one a line",
    )  # fmt: skip
    add_route_option(parser, "only this route (default: every route that the key matches)")
    parser.add_argument("--wait", action="store_true", help="until every key has its outcome at every destination")
    parser.add_argument(
        "--pubsub", action="store_true", help="PUBLISH them on the channel, as other producers do, and queue nothing"
    )
    parser.add_argument("-0", "--null", action="store_true", help="on standard input, keys end with a NUL")
    return parser


class Publisher(Protocol):
    """Where keys go."""

    def keepers(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run beside the publishing."""

    async def publish(self, keys: Sequence[str]) -> None:
        """Publish keys that at least one route is about."""

    async def finish(self) -> bool:
        """Wait where that is asked for, say what became of the keys; return whether all is well."""


async def _publish(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config)
    routes = select_routes(settings, arguments.route)
    async with connected_queues(settings, routes) as (client, queues):
        publisher: Publisher = _Queues(queues)
        if arguments.pubsub:
            publisher = _Channels(client, routes)
        elif arguments.wait:
            publisher = _Awaited(queues, client, stop)
        work = _publish_all(arguments, publisher, _any_of(routes), stop)
        refused, well = await run_with_background(work, *publisher.keepers())
    return command.OK if well and not refused and not stop.is_set() else command.SOME_FAILED


def _any_of(routes: Sequence[Route]) -> Callable[[str], bool]:
    about = [matcher(route) for route in routes]
    return lambda key: any(matches(key) for matches in about)


async def _publish_all(
    arguments: argparse.Namespace, publisher: Publisher, wanted: Callable[[str], bool], stop: asyncio.Event
) -> tuple[int, bool]:
    """Publish everything that is named; return how many lines were refused, and what `finish` says.

    Raises:
        ConfigError: an argument is no possible key. Nothing was published.
    """
    if arguments.keys not in ([], ["-"]):
        keys, faults = checked(of_arguments(arguments.keys), wanted)
        if faults:
            raise ConfigError(faults)
        await publisher.publish(keys)
        return 0, await publisher.finish()
    if sys.stdin.isatty():
        print("s3s3: a key on each line, Ctrl-D after the last", file=sys.stderr)
    refused = 0
    async for named in of_input(sys.stdin.fileno(), b"\0" if arguments.null else b"\n", stop):
        keys, faults = checked(named, wanted)
        for fault in faults[: max(MAX_FAULTS_SHOWN - refused, 0)]:
            print(fault, file=sys.stderr)
        refused += len(faults)
        try:
            await publisher.publish(keys)
        except RedisUnavailable:
            print(f"what stands before {named[0].place} was published", file=sys.stderr)
            raise
    if refused:
        print(f"{count_noun(refused, 'line')} refused; the others were published", file=sys.stderr)
    return refused, await publisher.finish()


class _Queues:
    """The queues of routes, and nobody waits."""

    def __init__(self, queues: Sequence[tuple[Route, RedisJobQueue]]) -> None:
        self._queues = [(route, matcher(route), jobs) for route, jobs in queues]
        self._counts = {route.name: 0 for route, _ in queues}

    def keepers(self) -> list[Coroutine[Any, Any, None]]:
        return []

    async def publish(self, keys: Sequence[str]) -> None:
        for route, matches, jobs in self._queues:
            puts = [JobRequest(key, route.destination_names) for key in keys if matches(key)]
            await jobs.enqueue(puts, Lane.FRESH)
            self._counts[route.name] += len(puts)

    async def finish(self) -> bool:
        for name, count in self._counts.items():
            print(f"route {name}: {count_noun(count, 'key')} put on the queue")
        return True


class _Awaited:
    """The queues of routes, and their outcomes are waited for."""

    def __init__(self, queues: Sequence[tuple[Route, RedisJobQueue]], client: Redis, stop: asyncio.Event) -> None:
        self._queues = [
            (
                matcher(route),
                PublishTracker(route, jobs, partial(count_subscribers, client, route.channel), print, stop),
            )
            for route, jobs in queues
        ]

    def keepers(self) -> list[Coroutine[Any, Any, None]]:
        return [awaited.keep_hearing() for _, awaited in self._queues]

    async def publish(self, keys: Sequence[str]) -> None:
        for matches, awaited in self._queues:
            await awaited.put([key for key in keys if matches(key)])

    async def finish(self) -> bool:
        for _, awaited in self._queues:
            await awaited.fewer_than(1)
        for _, awaited in self._queues:
            print(*awaited.summary(), sep="\n")
        return not any(awaited.failed or awaited.outstanding for _, awaited in self._queues)


class _Channels:
    """The channels of the routes, as producers use them: once on each that a route about the key listens to."""

    def __init__(self, client: Redis, routes: Sequence[Route]) -> None:
        self._client = client
        about = {channel: [one for one in routes if one.channel == channel] for channel in (r.channel for r in routes)}
        self._wanted = {channel: _any_of(those) for channel, those in about.items()}
        self._published, self._unheard = dict.fromkeys(about, 0), dict.fromkeys(about, 0)

    def keepers(self) -> list[Coroutine[Any, Any, None]]:
        return []

    async def publish(self, keys: Sequence[str]) -> None:
        for key in keys:
            for channel in [name for name, wanted in self._wanted.items() if wanted(key)]:
                with translate_errors():
                    heard = await self._client.publish(channel, key)
                self._published[channel] += 1
                self._unheard[channel] += not heard

    async def finish(self) -> bool:
        for channel, number in self._published.items():
            print(f"{count_noun(number, 'key')} published on channel {channel!r}")
        if isinstance(self._client, RedisCluster):  # a node counts its own subscribers only
            return True
        for channel, number in self._unheard.items():
            if number:
                print(
                    f"nobody was subscribed to channel {channel!r} for {number:,} of them, which nobody copies now: "
                    "start `s3s3 listen`, or publish without --pubsub, which keeps them until somebody does",
                    file=sys.stderr,
                )
        return not any(self._unheard.values())
