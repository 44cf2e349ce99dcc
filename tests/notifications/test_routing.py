"""The routes that match a notification, and delivery to their queues."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from s3s3.errors import RedisUnavailable
from s3s3.model import Endpoint, Notification, Route
from s3s3.notifications.routing import RouteQueue, Routing
from s3s3.notifications.source import SourceHealth
from tests.queue.factories import claim, recording_queue

RAW = Route("raw", Endpoint("source", "images", prefix="raw/"), (Endpoint("dest", "a"),))
PICTURES = Route("pictures", Endpoint("source", "images"), (Endpoint("dest", "b"), Endpoint("dest-2", "c")),
                 include=("*.jpg",), exclude=("tmp/*",))  # fmt: skip
OTHER = Route("other", Endpoint("source", "logs"), (Endpoint("dest", "d"),))
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
    ("notification", "routes"),
    [
        (Notification("raw/a.jpg", "images"), {"raw", "pictures"}),
        (Notification("raw/a.fits", "images"), {"raw"}),
        (Notification("a.jpg", "images"), {"pictures"}),
        (Notification("tmp/a.jpg", "images"), set()),
        (Notification("raw/a.jpg", "logs"), {"other"}),
        (Notification("raw/a.jpg", "elsewhere"), set()),
        (Notification("raw/a.jpg"), {"raw", "pictures", "other"}),
        (Notification("a.fits"), {"other"}),
    ],
)
async def test_a_notification_is_delivered_to_every_route_with_its_bucket_and_key(
    notification: Notification, routes: set[str]
) -> None:
    queues = Queues()
    assert await queues.routing.deliver([notification], "stream") == ([] if routes else [notification])
    assert await queues.queued() == {name: [notification.key] for name in routes}
    assert sorted(queues.counted) == sorted((name, "stream") for name in routes)


async def test_the_order_is_kept_and_unrouted_notifications_are_counted() -> None:
    queues = Queues()
    notifications = [
        Notification("raw/2", "images"),
        Notification("x", "elsewhere"),
        Notification("raw/1.jpg", "images"),
        Notification("y", "images"),
    ]
    assert [one.key for one in await queues.routing.deliver(notifications, "sqs")] == ["x", "y"]
    assert await queues.queued() == {"raw": ["raw/2", "raw/1.jpg"], "pictures": ["raw/1.jpg"]}


@pytest.mark.parametrize(
    ("bucket", "routes"),
    [("logs", {"other"}), ("images", {"raw", "pictures"}), (None, {"raw", "pictures", "other"}),
     ("elsewhere", {"raw", "pictures", "other"})],
)  # fmt: skip
async def test_an_unusable_message_is_dead_lettered_by_the_routes_of_its_bucket_or_by_all(
    bucket: str | None, routes: set[str]
) -> None:
    dead_lettered: list[str] = []

    def route_queue(route: Route) -> RouteQueue:
        async def dead_letter_message(message: str, reason: str) -> None:
            dead_lettered.append(route.name)

        return RouteQueue(route, cast("Any", SimpleNamespace(dead_letter_message=dead_letter_message)))

    await Routing([route_queue(route) for route in ROUTES]).dead_letter("?", "no key", bucket)
    assert set(dead_lettered) == routes


@pytest.mark.parametrize(
    ("route_bucket", "notified"),
    [
        ("acme:images", "images"),
        ("acme:images", "acme/images"),
        ("acme:images", "arn:aws:s3::acme:images"),
        ("acme:images", "arn:aws:s3:default:acme:images"),
        ("images", "arn:aws:s3:::images"),
        ("images", "acme:images"),
        ("Images", "images"),
        ("images.Example.org", "images.example.org"),
    ],
)
async def test_a_bucket_that_is_spelled_in_another_way_matches(route_bucket: str, notified: str) -> None:
    jobs = recording_queue()
    routing = Routing([RouteQueue(Route("raw", Endpoint("source", route_bucket), (Endpoint("dest", "a"),)), jobs)])
    assert await routing.deliver([Notification("k", notified)], "webhook") == []
    assert [job.key for job in await claim(jobs)] == ["k"]


@pytest.mark.parametrize(
    ("notified", "taken"),
    [
        ("images", {"images"}),
        ("acme:images", {"acme:images"}),
        ("other:images", {"images", "IMAGES"}),
        ("arn:aws:s3::acme:Images", {"images", "IMAGES", "acme:images"}),
        ("logs", {"acme:logs"}),
        ("umbrella:logs", set()),
        ("image", set()),
        ("arn:aws:s3", set()),
    ],
)
async def test_an_equal_name_is_preferred_and_another_tenant_does_not_match(notified: str, taken: set[str]) -> None:
    names = ("images", "IMAGES", "acme:images", "acme:logs")
    jobs = {name: recording_queue() for name in names}
    routes = [Route(name, Endpoint("source", name), (Endpoint("dest", "a"),)) for name in names]
    routing = Routing([RouteQueue(route, jobs[route.name]) for route in routes])
    unrouted = await routing.deliver([Notification("k", notified)], "webhook")
    assert {name for name in names if await claim(jobs[name])} == taken
    assert bool(unrouted) == (not taken)


async def test_a_job_has_every_destination_and_the_time_of_its_notification() -> None:
    queues = Queues()
    await queues.routing.deliver([Notification("a.jpg", "images", notified_ms=1234)], "stream")
    (job,) = await claim(queues.jobs["pictures"])
    assert (job.destinations, job.notified_ms, job.unconditional) == (("dest", "dest-2"), 1234, True)


async def test_a_failure_of_the_queue_is_raised_and_not_counted() -> None:
    class UnavailableQueue:
        async def enqueue(self, *_: object, **__: object) -> None:
            raise RedisUnavailable("unavailable")

    queues = Queues()
    routing = Routing([RouteQueue(RAW, cast("Any", UnavailableQueue()), queues.counter("raw"))])
    with pytest.raises(RedisUnavailable):
        await routing.deliver([Notification("raw/a")], "webhook")
    assert queues.counted == []


async def test_the_first_notification_of_each_bucket_without_a_route_is_logged_with_the_buckets_of_the_routes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    routes = [Route(name, Endpoint("source", name, prefix="raw/"), (Endpoint("dest", "a"),)) for name in ("b", "a")]
    routing = Routing([RouteQueue(route, recording_queue()) for route in routes])
    counted: list[str] = []
    health = SourceHealth("webhook", 0, counted.append)
    for bucket in ("imagse", "imagse", "log", "a"):
        health.count_unrouted(await routing.deliver([Notification("k", bucket)], "webhook"), routing)
    assert counted == ["no_route"] * 4
    start = "webhook: ignored a notification; others like it are only counted, as no_route: bucket"
    assert [record.getMessage() for record in caplog.records] == [
        f"{start} 'imagse': no route has this source bucket, but: a, b",
        f"{start} 'log': no route has this source bucket, but: a, b",
        f"{start} 'a': no route takes the key 'k', see prefix, include and exclude",
    ]
