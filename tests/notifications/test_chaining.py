"""What happens after a copy: downstream routes and done markers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s3s3.config import Config
from s3s3.model import Endpoint, Lane, Result, Route
from s3s3.notifications.chaining import on_copied_for
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from tests.config.configurations import loaded
from tests.queue.factories import claim, claim_one

CHAIN = """
[pubsub]
mark_done = {mark_done}
[source]
host = "ceph.example.org"
bucket_name = "a"
[destination]
host = "swift.example.org"
bucket_name = "b"
prefix = "in/"
[routes.last]
channel = "last"
[routes.last.source]
host = "swift.example.org"
bucket_name = "b"
[routes.last.destination]
host = "swift.example.org"
bucket_name = "c"
"""


def chain(mark_done: str) -> Config:
    return loaded(CHAIN.format(mark_done=mark_done))


@pytest.mark.real
@pytest.mark.parametrize(
    ("results", "lane", "is_marked"),
    [
        ({Result.COPIED, Result.SAME}, Lane.FRESH, True),
        ({Result.SAME}, Lane.BULK, True),
        ({Result.DELETED}, Lane.FRESH, False),
    ],
)
async def test_a_copy_enqueues_a_job_downstream_and_sets_the_done_marker(
    results: set[Result], lane: Lane, is_marked: bool, redis_url: str
) -> None:
    config = chain("true")
    first, last = config.routes
    async with connected(redis_url) as client:
        on_copied = on_copied_for(first, config, RedisJobQueue(client, first.name, first.destination_names))
        assert on_copied
        await on_copied("k", results)
        job = await claim_one(RedisJobQueue(client, last.name, last.destination_names))
        assert (job.key, job.lane, job.unconditional) == ("in/k", lane, lane is Lane.FRESH)
        assert (await client.get("backup=>k") == "True") is is_marked


@pytest.mark.real
async def test_there_is_no_callback_without_downstream_routes_markers_or_redis(redis_url: str) -> None:
    config = chain("false")
    first, last = config.routes
    async with connected(redis_url) as client:
        assert on_copied_for(last, config, RedisJobQueue(client, last.name, last.destination_names)) is None
    assert on_copied_for(first, config, None) is None


FIRST = Route("first", Endpoint("source", "a", "ceph", prefix="in/"),
              (Endpoint("dest", "b", "swift", prefix="x/"), Endpoint("dest-2", "c", "swift")))  # fmt: skip
SECOND = Route("second", Endpoint("source", "b", "swift", prefix="x/raw/"), (Endpoint("dest", "d", "swift"),))
ELSEWHERE = Route("elsewhere", Endpoint("source", "b", "ceph", prefix="x/"), (Endpoint("dest", "e", "swift"),))


@pytest.mark.real
async def test_a_downstream_route_has_its_source_where_another_route_writes(redis_url: str) -> None:
    config = replace(chain("false"), routes=(FIRST, SECOND, ELSEWHERE))
    async with connected(redis_url) as client:
        queues = [RedisJobQueue(client, route.name, route.destination_names) for route in config.routes]
        callbacks = [on_copied_for(route, config, jobs) for route, jobs in zip(config.routes, queues, strict=True)]
        assert [on_copied is not None for on_copied in callbacks] == [True, False, False]
        assert callbacks[0]
        await callbacks[0]("in/raw/k", {Result.COPIED})
        assert [[job.key for job in await claim(jobs)] for jobs in queues] == [[], ["x/raw/k"], []]


@pytest.mark.real
async def test_a_downstream_route_is_notified_of_the_key_at_the_destination(redis_url: str) -> None:
    config = replace(chain("false"), routes=(FIRST, SECOND))
    async with connected(redis_url) as client:
        jobs = RedisJobQueue(client, SECOND.name, SECOND.destination_names)
        on_copied = on_copied_for(FIRST, config, RedisJobQueue(client, FIRST.name, FIRST.destination_names))
        assert on_copied
        for key in ("in/raw/k", "in/other/k"):
            await on_copied(key, {Result.COPIED})
        assert [job.key for job in await claim(jobs)] == ["x/raw/k"]
        await on_copied("in/raw/known", {Result.SAME})
        assert [(job.key, job.unconditional) for job in await claim(jobs)] == [("x/raw/known", False)]
