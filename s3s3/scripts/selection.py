"""Select routes, destinations and queues by command-line options."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from .. import config
from ..config import Config
from ..errors import ConfigError, S3S3Error
from ..model import Route
from ..queue.connection import connected
from ..queue.redis_calls import translate_errors
from ..queue.redis_queue import RedisJobQueue

#: Keys that a shell is offered at most.
MAX_COMPLETIONS = 1000


def add_route_option(
    parser: argparse.ArgumentParser, help_text: str = "only this route", *, default: str | None = None
) -> None:
    """Add --route, which a shell completes from the configuration."""
    option = parser.add_argument("--route", metavar="R", default=default, help=help_text)
    _complete(option, lambda settings, arguments: [route.name for route in settings.routes_named(None)])


def add_selection(parser: argparse.ArgumentParser, *, is_action: bool) -> None:
    """Add --route and --destination, which a shell completes from the configuration.

    `is_action`: an action's option keeps the value that precedes the action.
    """
    default = argparse.SUPPRESS if is_action else None
    add_route_option(parser, default=default)
    option = parser.add_argument("--destination", metavar="D", default=default, help="only this destination")
    _complete(option, lambda settings, arguments: [
        name for route in settings.routes_named(arguments.route) for name in route.destination_names
    ])  # fmt: skip


def complete_dead_letters(keys: argparse.Action) -> None:
    """Complete keys of dead letters from the queue."""
    _complete(keys, lambda settings, arguments: asyncio.run(_dead_letter_keys(settings, arguments)))


async def _dead_letter_keys(settings: Config, arguments: argparse.Namespace) -> list[str]:
    routes = select_routes(settings, arguments.route, arguments.destination)
    async with connected_queues(settings, routes) as (_, queues):
        found: list[str] = []
        for route, jobs in queues:
            for destination in destinations_of(route, arguments.destination):
                async for keys in jobs.dead_letter_keys(destination):
                    found += keys
                    if len(found) >= MAX_COMPLETIONS:
                        return found
        return found


def _complete(option: argparse.Action, words: Callable[[Config, argparse.Namespace], Iterable[str]]) -> None:
    """Have a shell complete an argument with these words."""

    def completer(parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            return sorted(set(words(config.load(parsed_args.config, secrets_of=("pubsub",)), parsed_args)))
        except S3S3Error:  # a completion has no place for messages; the command itself reports it
            return []

    option.completer = completer  # type: ignore[attr-defined]  # read by argcomplete


def select_routes(settings: Config, route: str | None, destination: str | None = None, *extra: str) -> list[Route]:
    """Return the routes with this name that have this destination; None matches all. Raises ConfigError if none does.

    `extra` are further names that are valid for `destination`.
    """
    named = settings.routes_named(route)
    found = [each for each in named if destinations_of(each, destination, *extra)]
    if not found:
        known = ", ".join(sorted({name for each in named for name in destinations_of(each, None, *extra)}))
        raise ConfigError([f"--destination {destination}: unknown destination; the configuration has {known}"])
    return found


def destinations_of(route: Route, name: str | None, *extra: str) -> list[str]:
    """Return the route's destination with this name, or all for None; `extra` names count as destinations."""
    return [known for known in (*route.destination_names, *extra) if name in (None, known)]


@asynccontextmanager
async def connected_queues(
    settings: Config, routes: Sequence[Route]
) -> AsyncIterator[tuple[Redis, list[tuple[Route, RedisJobQueue]]]]:
    """Yield a Redis client, and each route with its queue.

    Raises ConfigError if no Redis is configured, RedisUnavailable if it cannot be reached.
    """
    if not settings.pubsub.url:
        raise ConfigError(['[pubsub] url = "": there is no queue without Redis; leave url out for redis://localhost'])
    async with connected(settings.pubsub.url) as client:
        yield client, [(route, RedisJobQueue.of(client, route, settings.worker.lease_s)) for route in routes]


async def count_subscribers(client: Redis, channel: str) -> int:
    """Return the number of connections that subscribe to the channel; each listener has one."""
    with translate_errors():
        counts = await client.pubsub_numsub(channel)
    return sum(int(count) for _, count in counts)
