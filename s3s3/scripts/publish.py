"""`s3s3 publish`: put keys on the queue, or publish them on the channel."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis, RedisCluster

from .. import config
from ..errors import ConfigError, RedisUnavailable
from ..model import Lane, Result, Route, matcher
from ..monitoring.formatting import count_noun
from ..monitoring.heartbeat import claim_route
from ..queue.base import PAUSED, JobRequest
from ..queue.redis_calls import RedisRetry, translate_errors
from ..queue.redis_queue import RedisJobQueue
from ..queue.tracker import OutcomeTracker
from ..tasks import run_with_background, wait_first
from . import cli, command
from .key_input import keys_from_arguments, keys_from_descriptor, validate_keys
from .selection import add_route_option, connected_queues, count_subscribers, select_routes

MAX_PROBLEMS_SHOWN = 20

#: Failures that the JSON result lists; the counts have all.
MAX_FAILURES_KEPT = 1000

_FAILURES = frozenset({Result.FAILED.value, Result.SOURCE_MISSING.value})

#: When no outcome has arrived for QUIET_S, the reason is logged, and again every QUIET_INTERVAL_S.
QUIET_S = 5.0
QUIET_INTERVAL_S = 30.0

#: Keys tracked at a time; each takes about 100 bytes of memory.
MAX_OUTSTANDING = 100_000

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Publish; return the exit status."""
    parser = command_line()
    arguments = cli.parse_with_keys(parser, argv)
    if arguments.pubsub and (arguments.wait or arguments.route):
        parser.error("--pubsub reaches the listeners of every route: it cannot be combined with --wait or --route")
    if arguments.timeout_s is not None and not arguments.wait:
        parser.error("--timeout limits --wait, which is missing")
    if "-" in arguments.keys and arguments.keys != ["-"]:
        parser.error("either keys or - (standard input)")
    command.start_log(arguments)
    return command.run(lambda stop: _publish(arguments, stop))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser("publish", "Put keys on the queue, ahead of what s3s3 bucket enqueued.", {
        cli.OK: "all keys are on the queue; with --wait: every destination has them",
        cli.SOME_FAILED: "some lines are not keys; with --wait: some keys failed or have no source object, or the wait "
        "ended early",
        cli.OUT_OF_REACH: "Redis is unreachable",
    })  # fmt: skip
    parser.add_argument(
        "keys", metavar="KEY", nargs="*",
        help="objects in the source bucket (default, or -: read them from standard input, one per line)",
    )  # fmt: skip
    add_route_option(parser, "only this route (default: every route that the key matches)")
    parser.add_argument("--wait", action="store_true", help="wait for the outcome of every key at every destination")
    parser.add_argument(
        "--timeout", dest="timeout_s", type=cli.positive_duration_s, metavar="T",
        help="with --wait: stop waiting after T (90s, 5m); what is not done yet stays on the queue",
    )  # fmt: skip
    parser.add_argument(
        "--pubsub", action="store_true", help="PUBLISH the keys on the Redis channel, as producers do; queue nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    cli.add_take_over(parser)
    parser.add_argument("-0", "--null", action="store_true", help="keys on standard input end with NUL")
    return parser


def _print_nothing(line: str) -> None:
    """Print nothing: the JSON result has the failures."""


class Publisher(ABC):
    """Publishes keys."""

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Return the tasks to run while keys are published."""
        return []

    @abstractmethod
    async def publish(self, keys: Sequence[str]) -> None:
        """Publish keys that at least one route matches."""

    @abstractmethod
    async def finish(self) -> bool:
        """Wait for outcomes if requested; return whether all succeeded."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return the result, for people."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return the result, for JSON."""


async def _publish(arguments: argparse.Namespace, stop: asyncio.Event) -> int:
    settings = config.load(arguments.config, secrets_of=("pubsub",))
    routes = select_routes(settings, arguments.route)
    async with connected_queues(settings, routes) as (client, queues):
        for route, jobs in queues if not arguments.pubsub else ():
            await claim_route(route, jobs, "publish", take_over=arguments.take_over)
        publisher: Publisher = QueuePublisher(queues)
        if arguments.pubsub:
            publisher = ChannelPublisher(client, routes)
        elif arguments.wait:
            publisher = WaitingPublisher(queues, client, stop, print_failures=not arguments.json)
        work = _publish_all(arguments, publisher, _any_matches(routes), stop)
        timer = asyncio.get_running_loop().call_later(arguments.timeout_s, stop.set) if arguments.timeout_s else None
        try:
            refused, succeeded = await run_with_background(work, *publisher.background())
        finally:
            if timer is not None:
                timer.cancel()
    status = cli.OK if succeeded and not refused and not stop.is_set() else cli.SOME_FAILED
    if arguments.json:
        print(json.dumps({"exit_status": status, "refused_lines": refused, **publisher.result()}, indent=2))
    elif not (arguments.quiet and status == cli.OK):
        print(*publisher.lines(), sep="\n")
    return status


def _any_matches(routes: Sequence[Route]) -> Callable[[str], bool]:
    matchers = [matcher(route) for route in routes]
    return lambda key: any(matches(key) for matches in matchers)


async def _publish_all(
    arguments: argparse.Namespace, publisher: Publisher, is_routed: Callable[[str], bool], stop: asyncio.Event
) -> tuple[int, bool]:
    """Publish all keys; return the number of refused lines and the result of `finish`.

    Raises ConfigError if an argument is not a valid key; then nothing was published.
    """
    if arguments.keys not in ([], ["-"]):
        keys, problems = validate_keys(keys_from_arguments(arguments.keys), is_routed)
        if problems:
            raise ConfigError(problems)
        await publisher.publish(keys)
        return 0, await publisher.finish()
    if sys.stdin.isatty():
        print("s3s3: enter one key per line, Ctrl-D after the last", file=sys.stderr)
    refused = 0
    async for inputs in keys_from_descriptor(sys.stdin.fileno(), b"\0" if arguments.null else b"\n", stop):
        keys, problems = validate_keys(inputs, is_routed)
        for problem in problems[: max(MAX_PROBLEMS_SHOWN - refused, 0)]:
            print(problem, file=sys.stderr)
        refused += len(problems)
        try:
            await publisher.publish(keys)
        except RedisUnavailable:
            print(f"all lines before {inputs[0].place} were published", file=sys.stderr)
            raise
    if refused:
        print(f"{count_noun(refused, 'line')} refused; the others were published", file=sys.stderr)
    return refused, await publisher.finish()


class QueuePublisher(Publisher):
    """Puts keys on the queues of all matching routes."""

    def __init__(self, queues: Sequence[tuple[Route, RedisJobQueue]]) -> None:
        self._queues = [(route, matcher(route), jobs) for route, jobs in queues]
        self._counts = {route.name: 0 for route, _ in queues}

    async def publish(self, keys: Sequence[str]) -> None:
        for route, matches, jobs in self._queues:
            requests = [JobRequest(key, route.destination_names) for key in keys if matches(key)]
            await jobs.enqueue(requests, Lane.FRESH)
            self._counts[route.name] += len(requests)

    async def finish(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [f"route {name}: {count_noun(count, 'key')} put on the queue" for name, count in self._counts.items()]

    def result(self) -> dict[str, Any]:
        return {"routes": [{"route": name, "keys": count} for name, count in self._counts.items()]}


class WaitingPublisher(Publisher):
    """Puts keys on the queues of all matching routes, and waits for their outcomes."""

    def __init__(
        self, queues: Sequence[tuple[Route, RedisJobQueue]], client: Redis, stop: asyncio.Event, *, print_failures: bool
    ) -> None:
        on_failure = print if print_failures else _print_nothing
        self._trackers = [
            (matcher(route),
             PublishTracker(route, jobs, partial(count_subscribers, client, route.channel), on_failure, stop))
            for route, jobs in queues
        ]  # fmt: skip

    def background(self) -> list[Coroutine[Any, Any, None]]:
        return [tracker.run() for _, tracker in self._trackers]

    async def publish(self, keys: Sequence[str]) -> None:
        for matches, tracker in self._trackers:
            await tracker.enqueue([key for key in keys if matches(key)])

    async def finish(self) -> bool:
        for _, tracker in self._trackers:
            await tracker.wait_for_fewer_than(1)
        return not any(tracker.failed or tracker.outstanding for _, tracker in self._trackers)

    def lines(self) -> list[str]:
        return [line for _, tracker in self._trackers for line in tracker.summary()]

    def result(self) -> dict[str, Any]:
        return {"routes": [tracker.result() for _, tracker in self._trackers]}


class ChannelPublisher(Publisher):
    """Publishes each key once on every channel with a matching route."""

    def __init__(self, client: Redis, routes: Sequence[Route]) -> None:
        self._client = client
        by_channel: dict[str, list[Route]] = {}
        for route in routes:
            by_channel.setdefault(route.channel, []).append(route)
        self._channels = {channel: _any_matches(listening) for channel, listening in by_channel.items()}
        self._published, self._unreceived = dict.fromkeys(by_channel, 0), dict.fromkeys(by_channel, 0)

    async def publish(self, keys: Sequence[str]) -> None:
        for key in keys:
            for channel, matches in self._channels.items():
                if not matches(key):
                    continue
                with translate_errors():
                    receivers = await self._client.publish(channel, key)
                self._published[channel] += 1
                self._unreceived[channel] += not receivers

    def lines(self) -> list[str]:
        return [f"{count_noun(count, 'key')} published on channel {name!r}" for name, count in self._published.items()]

    def result(self) -> dict[str, Any]:
        return {"channels": [{"channel": name, "keys": count} for name, count in self._published.items()]}

    async def finish(self) -> bool:
        if isinstance(self._client, RedisCluster):  # a node counts only its own subscribers
            return True
        for channel, count in self._unreceived.items():
            if count:
                print(f"channel {channel!r}: no subscriber received {count_noun(count, 'key')}: start s3s3 listen, or "
                      "publish without --pubsub, which keeps keys until a listener runs", file=sys.stderr)  # fmt: skip
        return not any(self._unreceived.values())


class PublishTracker:
    """Keys put on one route's queue, and their outcomes as they arrive.

    Args:
        count_listeners: returns how many listeners the route has.
        print_line: called with a line for each permanent failure.
        stop: ends all waiting.
    """

    def __init__(
        self,
        route: Route,
        jobs: RedisJobQueue,
        count_listeners: Callable[[], Awaitable[int]],
        print_line: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        self._route = route
        self._count = 0
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in route.destination_names}
        self._failures: list[dict[str, Any]] = []
        self._jobs = jobs
        self._count_listeners = count_listeners
        self._print_line = print_line
        self._stop = stop
        self._tracker = OutcomeTracker(jobs, self._on_outcome, on_retry=self._on_retry, lane=Lane.FRESH, resubmit=False)
        self._retry = RedisRetry()
        self._progressed = asyncio.Event()
        self._retries: dict[str, str] = {}
        self._last_warning = ""
        # Where deletions are propagated, a missing source object is a deletion, not a failure.
        self._keeps_copies = [destination.name for destination in route.destinations if not destination.delete]

    @property
    def outstanding(self) -> int:
        """How many keys have no final outcome at some destination."""
        return len(self._tracker)

    @property
    def failed(self) -> int:
        """How many copies failed permanently, or have no source object."""
        missing = sum(self._counts[name][Result.SOURCE_MISSING.value] for name in self._keeps_copies)
        return missing + sum(counts[Result.FAILED.value] for counts in self._counts.values())

    async def enqueue(self, keys: Iterable[str]) -> None:
        """Enqueue keys; first wait while too many are outstanding. Raises RedisUnavailable."""
        await self.wait_for_fewer_than(MAX_OUTSTANDING)
        requests = [JobRequest(key, self._route.destination_names) for key in keys]
        await self._tracker.enqueue(requests)
        self._count += len(requests)

    async def wait_for_fewer_than(self, limit: int) -> None:
        """Wait until fewer keys than that are outstanding, or the stop is requested."""
        while self.outstanding >= limit and not self._stop.is_set():
            self._progressed.clear()
            await wait_first(self._progressed, self._stop)

    async def run(self) -> None:
        """Receive outcomes, and log why when none arrive; never returns."""
        warn_after_s = QUIET_S
        while True:
            await self._retry.run(self._tracker.poll)
            if self._tracker.quiet_s > warn_after_s:
                warn_after_s += QUIET_INTERVAL_S
                await self._retry.run(self._on_quiet)
            elif self._tracker.quiet_s < QUIET_S:
                warn_after_s = QUIET_S

    def _on_outcome(self, fields: dict[str, Any]) -> None:
        self._counts[fields["destination"]][fields["outcome"]] += 1
        if fields["outcome"] in _FAILURES and len(self._failures) < MAX_FAILURES_KEPT:
            self._failures.append({name: fields[name] for name in ("destination", "key", "outcome", "reason")})
        if fields["outcome"] == Result.FAILED.value:
            self._print_line(f"failed: {fields['destination']}: {fields['key']!r}: {fields['reason']}")
        elif fields["outcome"] == Result.SOURCE_MISSING.value and fields["destination"] in self._keeps_copies[:1]:
            self._print_line(f"source_missing: {fields['key']!r}: the source has no such object")
        self._progressed.set()

    def _on_retry(self, fields: dict[str, Any]) -> None:
        self._retries[fields["destination"]] = f"{fields['key']!r} will be retried: {fields['reason']}"

    async def _on_quiet(self) -> None:
        stats = await self._jobs.stats()
        if not stats.pending:
            await self._tracker.poll(0)
            if self._tracker.quiet_s > QUIET_S:  # else an outcome has just arrived
                await self._tracker.enqueue_again(Lane.BULK)
                log.warning("route %s: Redis has lost jobs; enqueued again: %s",
                            self._route.name, count_noun(self.outstanding, "key"))  # fmt: skip
            return
        resume = f"resume it with s3s3 jobs resume --route {self._route.name}"
        if stats.paused:
            warning = f"route {self._route.name} is paused; {resume}"
        elif stats.circuits:
            warning = "; ".join(
                f"{store} is paused; {resume} --destination {store}" if reason == PAUSED else f"{store}: down: {reason}"
                for store, reason in stats.circuits.items()
            )
        elif not await self._count_listeners():
            warning = f"route {self._route.name}: waiting, but no listener seems to be running; start `s3s3 listen`"
        else:
            warning = "; ".join(f"{destination}: {retry}" for destination, retry in self._retries.items())
        if warning and warning != self._last_warning:
            log.warning("%s", warning)
        self._last_warning = warning

    def summary(self) -> list[str]:
        """Return the number of outcomes, a line for each destination."""
        lines = [f"route {self._route.name}: {count_noun(self._count, 'key')}"]
        for destination, counts in self._counts.items():
            parts = [f"{count:,} {outcome}" for outcome, count in sorted(counts.items())]
            if left := self._left(destination):
                parts.append(f"{left:,} not done yet, still on the queue")
            lines.append(f"  {destination}: {', '.join(parts) or 'nothing'}")
        return lines

    def result(self) -> dict[str, Any]:
        """Return the number of outcomes, and of keys that are still on the queue, by destination; and the failures."""
        return {
            "route": self._route.name,
            "keys": self._count,
            "destinations": {name: dict(sorted(counts.items())) for name, counts in self._counts.items()},
            "outstanding": {name: self._left(name) for name in self._counts},
            "failures": self._failures,
        }

    def _left(self, destination: str) -> int:
        return sum(destination in names for names in self._tracker.pending.values())
