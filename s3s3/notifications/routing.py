"""Route each notification to the queues of all matching routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..model import Lane, Notification, Route, matcher
from ..queue.base import JobRequest
from ..queue.redis_queue import RedisJobQueue
from .message import log_enqueued


@dataclass(frozen=True)
class RouteQueue:
    """A route and its queue. `count` is called with the source's kind for each notification enqueued."""

    route: Route
    jobs: RedisJobQueue
    count: Callable[[str], None] = lambda kind: None


class Routing:
    """Delivers notifications to all matching routes, for every source that serves all routes."""

    def __init__(self, queues: Sequence[RouteQueue]) -> None:
        self._queues = [(queue, matcher(queue.route)) for queue in queues]

    async def dead_letter(self, message: str, reason: str, bucket: str | None = None) -> None:
        """Keep a message without a usable key as a dead letter of every route from this bucket, or else of all.

        Raises RedisUnavailable.
        """
        queues = [queue for queue, _ in self._queues]
        for queue in [queue for queue in queues if bucket == queue.route.source.bucket_name] or queues:
            await queue.jobs.dead_letter_message(message, reason)

    async def deliver(self, notifications: Sequence[Notification], kind: str, lane: Lane = Lane.FRESH) -> int:
        """Enqueue each notification's key on every matching route; return how many match no route.

        Once this returns, the sender may forget them. If it raises, some may be enqueued already; delivering all of
        them again does no harm.

        Args:
            kind: of the source, in metrics and logs: "stream".

        Raises:
            RedisUnavailable: retry later.
        """
        unrouted = set(range(len(notifications)))
        for queue, matches in self._queues:
            route = queue.route
            matching = [
                number
                for number, notification in enumerate(notifications)
                if notification.bucket in (None, route.source.bucket_name) and matches(notification.key)
            ]
            if not matching:
                continue
            requests = [
                JobRequest(notifications[number].key, route.destination_names, notifications[number].notified_ms)
                for number in matching
            ]
            await queue.jobs.enqueue(requests, lane)
            log_enqueued(route.name, [request.key for request in requests], kind)
            for _ in matching:
                queue.count(kind)
            unrouted.difference_update(matching)
        return len(unrouted)
