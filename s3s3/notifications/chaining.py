"""Notify downstream routes, and set the done marker, after a copy."""

from __future__ import annotations

from collections.abc import Collection

from ..config import Config, overlap
from ..model import Lane, Notification, Result, Route
from ..monitoring.heartbeat import claim_route
from ..queue.redis_calls import translate_errors
from ..queue.redis_queue import RedisJobQueue
from ..worker.worker import OnCopied
from .routing import RouteQueue, Routing


async def claim_downstream(
    route: Route, config: Config, jobs: RedisJobQueue | None, *, take_over: bool = False
) -> None:
    """Claim each downstream route, whose queue gets the keys of copies; see `claim_route`."""
    if jobs is not None:
        for other in {other.name: other for _, other in _links(route, config)}.values():
            queue = RedisJobQueue.of(jobs.client, other, config.worker.lease_s)
            await claim_route(other, queue, "bucket", take_over=take_over)


def _links(route: Route, config: Config) -> list[tuple[str, Route]]:
    """Return each downstream route, after the prefix of the destination that overlaps its source."""
    return [
        (destination.prefix, other)
        for destination in route.destinations
        for other in config.routes
        if other.name != route.name and overlap(destination, other.source)
    ]


def on_copied_for(route: Route, config: Config, jobs: RedisJobQueue | None) -> OnCopied | None:
    """Return what a route's workers call after a copy; None if there is nothing to do.

    It enqueues the copy's key on each downstream route, whose source overlaps a destination of this route.

    Workers call it before they settle the job. If a worker dies in between, the next one finds an equal copy and calls
    it again: a copy is announced at least once. `jobs` is None in a reconcile without Redis, which announces nothing.
    """
    links = _links(route, config)
    if jobs is None or not (links or config.pubsub.mark_done):
        return None
    client, lease_s = jobs.client, config.worker.lease_s
    downstream = [
        (prefix, Routing([RouteQueue(other, RedisJobQueue.of(client, other, lease_s))])) for prefix, other in links
    ]

    async def on_copied(key: str, results: Collection[Result]) -> None:
        has_changed = Result.COPIED in results or Result.DELETED in results
        lane = Lane.FRESH if has_changed else Lane.BULK  # jobs of the bulk lane compare before they copy
        for prefix, routing in downstream:
            name = f"{prefix}{key[len(route.source.prefix) :]}"
            await routing.deliver([Notification(name)], "route", lane)
        if config.pubsub.mark_done and (Result.COPIED in results or Result.SAME in results):
            with translate_errors():
                await client.set(f"{route.channel}=>{key}", "True")

    return on_copied
