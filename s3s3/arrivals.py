"""What is told once a key is at a destination: the routes that copy on from there, and whoever waits for its mark.

Every worker of a route tells it, a listener's and that of a run over a bucket, for either may have the job; and before
the queue is told, so that a worker that is killed has told it, or leaves the job to another. That one finds an equal
copy, which is told of just the same: nobody knows who made it.
"""

from __future__ import annotations

from collections.abc import Collection

from .broker import translated
from .config import Config
from .jobs import Jobs
from .jobs.redis import RedisJobs
from .model import Lane, Result, Route
from .notices.routing import Onward, Target, following
from .worker import Arrived


def arrived_at(route: Route, config: Config, jobs: Jobs) -> Arrived | None:
    """Return what tells of a route's arrivals; None where nobody wants to know.

    Nobody does of a queue in memory, which takes no notices.
    """
    followers = following(route, config.routes)
    if not isinstance(jobs, RedisJobs) or not (followers or config.pubsub.mark_done):
        return None
    client = jobs.client
    lease_s = config.worker.lease_s
    onward = Onward(route, [Target(other, RedisJobs.of(client, other, lease_s)) for other in followers])

    async def arrived(key: str, results: Collection[Result]) -> None:
        is_new = Result.COPIED in results or Result.DELETED in results
        await onward.tell(key, Lane.FRESH if is_new else Lane.BULK)
        if config.pubsub.mark_done and (Result.COPIED in results or Result.SAME in results):
            with translated():
                await client.set(f"{route.channel}=>{key}", "True")

    return arrived
