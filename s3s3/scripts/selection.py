"""Select routes, destinations and queues by command-line options."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from .. import config
from ..config import Config
from ..errors import ConfigError
from ..model import Route
from ..queue.connection import connected
from ..queue.redis_calls import translate_errors
from ..queue.redis_queue import RedisJobQueue


def add_route_option(parser: argparse.ArgumentParser, help_text: str = "only this route") -> None:
    """Add --route, which a shell completes from the configuration."""
    option = parser.add_argument("--route", metavar="R", help=help_text)
    option.completer = _completer(lambda route: [route.name])  # type: ignore[attr-defined]  # read by argcomplete


def add_destination_option(parser: argparse.ArgumentParser) -> None:
    """Add --destination, which a shell completes from the configuration."""
    option = parser.add_argument("--destination", metavar="D", help="only this destination")
    option.completer = _completer(lambda route: route.destination_names)  # type: ignore[attr-defined]  # read by argcomplete


def _completer(names_of: Callable[[Route], Iterable[str]]) -> Callable[..., list[str]]:
    def complete(parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            routes = config.load(parsed_args.config).routes_named(parsed_args.route)
        except ConfigError:
            return []
        return sorted({name for route in routes for name in names_of(route)})

    return complete


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
