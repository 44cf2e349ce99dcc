"""Route each notification to the queues of all matching routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..model import Lane, Notification, Route, matcher
from ..queue.base import JobRequest
from ..queue.redis_queue import RedisJobQueue
from .message import log_enqueued
from .s3_events import bucket_parts


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
        #: The bucket of each route.
        self.buckets = frozenset(queue.route.source.bucket_name for queue in queues)
        self._buckets_meant = lru_cache(maxsize=1000)(self._find_buckets)

    def buckets_meant(self, name: str | None) -> frozenset[str]:
        """Return the routes' buckets that a notification's bucket name means: the equal one, or else similar ones.

        Similar ones differ in case, as the host names of virtual hosts do, or in how they state a tenant: as an ARN, as
        "tenant:name", "tenant/name" or not at all. A notification too many costs a GET; one that is ignored, a copy.
        """
        return self.buckets if name is None else self._buckets_meant(name)

    def _find_buckets(self, name: str) -> frozenset[str]:
        return (
            frozenset({name})
            if name in self.buckets
            else frozenset(bucket for bucket in self.buckets if _are_similar(bucket, name))
        )

    async def dead_letter(self, message: str, reason: str, bucket: str | None = None) -> None:
        """Keep a message without a usable key as a dead letter of every route from this bucket, or else of all.

        Raises RedisUnavailable.
        """
        queues = [queue for queue, _ in self._queues]
        meant = self.buckets_meant(bucket)
        for queue in [queue for queue in queues if queue.route.source.bucket_name in meant] or queues:
            await queue.jobs.dead_letter_message(message, reason)

    async def deliver(
        self, notifications: Sequence[Notification], kind: str, lane: Lane = Lane.FRESH
    ) -> Sequence[Notification]:
        """Enqueue each notification's key on every matching route; return those that match no route.

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
                if route.source.bucket_name in self.buckets_meant(notification.bucket) and matches(notification.key)
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
        return [notifications[number] for number in sorted(unrouted)]


def _are_similar(one: str, other: str) -> bool:
    (tenant, name), (other_tenant, other_name) = bucket_parts(one.casefold()), bucket_parts(other.casefold())
    return name == other_name and (tenant == other_tenant or not tenant or not other_tenant)
