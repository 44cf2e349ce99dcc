"""Notify downstream routes, and set the done marker, after a copy."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..config import Config, overlap
from ..model import Lane, Notification, Result, Route
from ..queue.redis_calls import translate_errors
from ..queue.redis_queue import RedisJobQueue
from ..worker.job_runner import OnCopied
from .routing import RouteQueue, Routing


def on_copied_for(route: Route, config: Config, jobs: RedisJobQueue | None) -> OnCopied | None:
    """Return what a route's workers call after a copy; None if there is nothing to do.

    They call it before they settle the job. If a worker dies in between, the next one finds an equal copy and calls it
    again: a copy is announced at least once. `jobs` is None in a reconcile without Redis, which announces nothing.
    """
    routes = downstream_routes(route, config.routes)
    if jobs is None or not (routes or config.pubsub.mark_done):
        return None
    client = jobs.client
    queues = [RouteQueue(other, RedisJobQueue.of(client, other, config.worker.lease_s)) for other in routes]
    downstream = DownstreamRoutes(route, queues)

    async def on_copied(key: str, results: Collection[Result]) -> None:
        has_changed = Result.COPIED in results or Result.DELETED in results
        await downstream.notify(key, Lane.FRESH if has_changed else Lane.BULK)
        if config.pubsub.mark_done and (Result.COPIED in results or Result.SAME in results):
            with translate_errors():
                await client.set(f"{route.channel}=>{key}", "True")

    return on_copied


class DownstreamRoutes:
    """Notifies the routes whose source holds a route's destinations."""

    def __init__(self, route: Route, queues: Sequence[RouteQueue]) -> None:
        self._prefix = route.source.prefix
        self._links = [
            (destination.prefix, Routing([queue]))
            for destination in route.destinations
            for queue in queues
            if overlap(destination, queue.route.source)
        ]

    async def notify(self, key: str, lane: Lane = Lane.FRESH) -> None:
        """Enqueue the name that a key of the source has at each destination.

        Args:
            lane: the bulk lane, where copies are compared first, if the key may be unchanged.

        Raises:
            RedisUnavailable: retry later.
        """
        for prefix, routing in self._links:
            await routing.deliver([Notification(f"{prefix}{key[len(self._prefix) :]}")], "route", lane)


def downstream_routes(route: Route, routes: Sequence[Route]) -> list[Route]:
    """Return the routes whose source overlaps a destination of this route."""
    return [
        other
        for other in routes
        if other.name != route.name and any(overlap(destination, other.source) for destination in route.destinations)
    ]
