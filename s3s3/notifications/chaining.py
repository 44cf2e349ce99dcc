"""What is told once a key is at a destination: the routes that copy on from there, and whoever waits for its mark.

Every worker of a route tells it, a listener's and that of a run over a bucket, for either may have the job; and before
the queue is told, so that a worker that is killed has told it, or leaves the job to another. That one finds an equal
copy, which is told of just the same: nobody knows who made it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..config import Config, overlap
from ..model import Lane, Notification, Result, Route
from ..queue.redis_errors import translate_errors
from ..queue.redis_queue import RedisJobQueue
from ..worker.job_runner import OnCopied
from .routing import RouteQueue, Routing


def on_copied_for(route: Route, config: Config, jobs: RedisJobQueue | None) -> OnCopied | None:
    """Return what tells of a route's arrivals; None where nobody wants to know.

    `jobs` None: a reconcile without a queue, which notifies nothing.
    """
    followers = following(route, config.routes)
    if jobs is None or not (followers or config.pubsub.mark_done):
        return None
    client = jobs.client
    lease_s = config.worker.lease_s
    onward = DownstreamRoutes(
        route, [RouteQueue(other, RedisJobQueue.of(client, other, lease_s)) for other in followers]
    )

    async def on_copied(key: str, results: Collection[Result]) -> None:
        is_new = Result.COPIED in results or Result.DELETED in results
        await onward.tell(key, Lane.FRESH if is_new else Lane.BULK)
        if config.pubsub.mark_done and (Result.COPIED in results or Result.SAME in results):
            with translate_errors():
                await client.set(f"{route.channel}=>{key}", "True")

    return on_copied


class DownstreamRoutes:
    """Tells the routes whose source a route's destinations are in that a key is there now, or is gone."""

    def __init__(self, route: Route, targets: Sequence[RouteQueue]) -> None:
        self._prefix = route.source.prefix
        self._links = [
            (there.prefix, Routing([target]))
            for there in route.destinations
            for target in targets
            if overlap(there, target.route.source)
        ]

    async def tell(self, key: str, lane: Lane = Lane.FRESH) -> None:
        """Put on their queues the name that a key of the source has at each destination. Raises RedisUnavailable.

        Args:
            lane: the bulk lane, in which copies are compared first, where it may be no news.
        """
        for prefix, routing in self._links:
            await routing.deliver([Notification(f"{prefix}{key[len(self._prefix) :]}")], "route", lane)


def following(route: Route, routes: Sequence[Route]) -> list[Route]:
    """Return the other routes that copy on what this one writes."""
    return [
        other
        for other in routes
        if other.name != route.name and any(overlap(there, other.source) for there in route.destinations)
    ]
