"""The one place that knows which routes a notice is about, for every source of notices that serves all routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..model import Lane, Notification, Route, matcher
from ..queue.base import JobQueue, JobRequest
from .message import tell_noticed


def _uncounted(kind: str) -> None:
    """Nobody counts."""


async def _unburied(message: str, reason: str) -> None:
    """Nobody keeps it."""


@dataclass(frozen=True)
class RouteQueue:
    """A route and its queue.

    Attributes:
        count: called with the kind of source for each notice that went on this queue.
        bury: keeps a message that names no possible key, and why, as a dead letter.
    """

    route: Route
    jobs: JobQueue
    count: Callable[[str], None] = _uncounted
    bury: Callable[[str, str], Awaitable[None]] = _unburied


class Routing:
    """Gives each notice to every route that it is about."""

    def __init__(self, targets: Sequence[RouteQueue]) -> None:
        self._targets = [(target, _about(target.route)) for target in targets]

    def is_for_any(self, notice: Notification) -> bool:
        """Whether any route is about what the notice names."""
        return any(about(notice) for _, about in self._targets)

    async def bury(self, message: str, reason: str, bucket: str | None = None) -> None:
        """Keep a message that names no possible key, as a dead letter of every route of this bucket, or else of all.

        Raises:
            RedisUnavailable: send it again later.
        """
        targets = [target for target, _ in self._targets]
        for target in [one for one in targets if bucket == one.route.source.bucket_name] or targets:
            await target.bury(message, reason)

    async def deliver(self, notices: Sequence[Notification], kind: str, lane: Lane = Lane.FRESH) -> int:
        """Put each key on the queue of every route that its notice is about; return how many no route is about.

        Once this returns, nothing of it is lost: whoever sent the notices may forget them. When it raises, some may
        be on a queue already; to deliver all of them once more does no harm.

        Args:
            kind: of the source, as it is counted: "stream".

        Raises:
            RedisUnavailable: send them again later.
        """
        left = set(range(len(notices)))
        for target, about in self._targets:
            mine = [number for number, notice in enumerate(notices) if about(notice)]
            if mine:
                everywhere = target.route.destination_names
                puts = [JobRequest(notices[number].key, everywhere, notices[number].notified_ms) for number in mine]
                await target.jobs.enqueue(puts, lane)
                tell_noticed(target.route.name, [put.key for put in puts], kind)
            for _ in mine:
                target.count(kind)
            left.difference_update(mine)
        return len(left)


def _about(route: Route) -> Callable[[Notification], bool]:
    """Return whether a notice is about this route: what it does not say, it does not rule out."""
    matches = matcher(route)

    def about(notice: Notification) -> bool:
        return (
            notice.channel in (None, route.channel)
            and notice.bucket in (None, route.source.bucket_name)
            and matches(notice.key)
        )

    return about
