"""Which routes a notice is about, and that it is on their queues once it is delivered."""

from __future__ import annotations

from typing import Any, cast

import pytest

from s3s3.errors import RedisUnavailable
from s3s3.model import Endpoint, Lane, Notification, Route
from s3s3.notifications.chaining import DownstreamRoutes, following
from s3s3.notifications.routing import RouteQueue, Routing
from tests.queue.factories import claim, recording_queue

RAW = Route("raw", Endpoint("source", "images", prefix="raw/"), (Endpoint("dest", "a"),), channel="one")
PICTURES = Route("pictures", Endpoint("source", "images"), (Endpoint("dest", "b"), Endpoint("dest-2", "c")),
                 include=("*.jpg",), exclude=("tmp/*",), channel="two")  # fmt: skip
OTHER = Route("other", Endpoint("source", "logs"), (Endpoint("dest", "d"),), channel="one")
ROUTES = (RAW, PICTURES, OTHER)


class Queues:
    def __init__(self) -> None:
        self.jobs = {route.name: recording_queue() for route in ROUTES}
        self.counted: list[tuple[str, str]] = []
        self.routing = Routing([RouteQueue(route, self.jobs[route.name], self.counter(route.name)) for route in ROUTES])

    def counter(self, route: str):  # type: ignore[no-untyped-def]
        return lambda kind: self.counted.append((route, kind))

    async def queued(self) -> dict[str, list[str]]:
        return {name: [job.key for job in found] for name, jobs in self.jobs.items() if (found := await claim(jobs))}


@pytest.mark.parametrize(
    ("notice", "routes"),
    [
        (Notification("raw/a.jpg", "images"), {"raw", "pictures"}),
        (Notification("raw/a.fits", "images"), {"raw"}),
        (Notification("a.jpg", "images"), {"pictures"}),
        (Notification("tmp/a.jpg", "images"), set()),
        (Notification("raw/a.jpg", "logs"), {"other"}),
        (Notification("raw/a.jpg", "elsewhere"), set()),
        (Notification("raw/a.jpg"), {"raw", "pictures", "other"}),
        (Notification("a.fits"), {"other"}),
        (Notification("raw/a.jpg", channel="one"), {"raw", "other"}),
        (Notification("raw/a.jpg", channel="two"), {"pictures"}),
        (Notification("raw/a.jpg", channel="three"), set()),
        (Notification("raw/a.jpg", "images", "one"), {"raw"}),
    ],
)
async def test_a_notice_goes_to_every_route_whose_channel_bucket_and_keys_match(
    notice: Notification, routes: set[str]
) -> None:
    queues = Queues()
    assert await queues.routing.deliver([notice], "stream") == (not routes)
    assert queues.routing.is_for_any(notice) == bool(routes)
    assert await queues.queued() == {name: [notice.key] for name in routes}
    assert sorted(queues.counted) == sorted((name, "stream") for name in routes)


async def test_many_notices_keep_their_order_and_those_for_nobody_are_told() -> None:
    queues = Queues()
    notices = [
        Notification("raw/2", "images"),
        Notification("x", "elsewhere"),
        Notification("raw/1.jpg", "images"),
        Notification("y", "images"),
    ]
    assert await queues.routing.deliver(notices, "sqs") == 2
    assert await queues.queued() == {"raw": ["raw/2", "raw/1.jpg"], "pictures": ["raw/1.jpg"]}


@pytest.mark.parametrize(
    ("bucket", "routes"),
    [("logs", {"other"}), ("images", {"raw", "pictures"}), (None, {"raw", "pictures", "other"}),
     ("elsewhere", {"raw", "pictures", "other"})],
)  # fmt: skip
async def test_what_names_no_key_is_kept_by_the_routes_of_its_bucket_or_else_by_all(
    bucket: str | None, routes: set[str]
) -> None:
    kept: list[str] = []

    def keeping(name: str) -> RouteQueue:
        async def bury(message: str, reason: str) -> None:
            kept.append(name)

        return RouteQueue(next(route for route in ROUTES if route.name == name), recording_queue(), bury=bury)

    await Routing([keeping(route.name) for route in ROUTES]).bury("?", "no key", bucket)
    assert set(kept) == routes


async def test_a_job_is_about_every_destination_and_knows_when_it_was_noticed() -> None:
    queues = Queues()
    await queues.routing.deliver([Notification("a.jpg", "images", notified_ms=1234)], "stream")
    (job,) = await claim(queues.jobs["pictures"])
    assert (job.destinations, job.notified_ms, job.unconditional) == (("dest", "dest-2"), 1234, True)


async def test_what_a_queue_does_not_take_is_told_to_the_sender_and_not_counted() -> None:
    class Away:
        async def enqueue(self, *_: object, **__: object) -> None:
            raise RedisUnavailable("away")

    queues = Queues()
    routing = Routing([RouteQueue(RAW, cast("Any", Away()), queues.counter("raw"))])
    with pytest.raises(RedisUnavailable):
        await routing.deliver([Notification("raw/a")], "webhook")
    assert queues.counted == []


# -- a route that copies on what another writes

FIRST = Route("first", Endpoint("source", "a", "ceph", prefix="in/"),
              (Endpoint("dest", "b", "swift", prefix="x/"), Endpoint("dest-2", "c", "swift")))  # fmt: skip
SECOND = Route("second", Endpoint("source", "b", "swift", prefix="x/raw/"), (Endpoint("dest", "d", "swift"),))
ELSEWHERE = Route("elsewhere", Endpoint("source", "b", "ceph", prefix="x/"), (Endpoint("dest", "e", "swift"),))


def test_a_route_follows_one_that_writes_its_source_in_the_same_store() -> None:
    routes = [FIRST, SECOND, ELSEWHERE]
    assert [following(route, routes) for route in routes] == [[SECOND], [], []]


async def test_a_copied_key_goes_on_by_the_name_that_it_has_at_the_destination() -> None:
    jobs = recording_queue()
    counted: list[str] = []
    onward = DownstreamRoutes(FIRST, [RouteQueue(SECOND, jobs, counted.append)])
    for key in ("in/raw/k", "in/other/k"):
        await onward.tell(key)
    assert [job.key for job in await claim(jobs)] == ["x/raw/k"]
    assert counted == ["route"]
    await onward.tell("in/raw/known", Lane.BULK)
    assert [(job.key, job.unconditional) for job in await claim(jobs)] == [("x/raw/known", False)]
