"""What a route means to the processes that share its Redis keys, on a real Redis."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from s3s3.errors import RouteConflict
from s3s3.model import Endpoint, Lane, Route
from s3s3.monitoring import heartbeat
from s3s3.monitoring.fingerprint import Fingerprint
from s3s3.monitoring.heartbeat import SILENT_AFTER_S, Heartbeat, ProcessState, claim_route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from tests.waiting import running, until

pytestmark = pytest.mark.real

CEPH, SWIFT = Endpoint("ceph", "copies", "ceph.example.org"), Endpoint("swift", "copies", "swift.example.org")
ROUTE = Route("images", Endpoint("source", "images", "ceph.example.org"), (CEPH, SWIFT), channel="backup")
OTHER_SOURCE = dataclasses.replace(ROUTE, source=Endpoint("source", "raw", "ceph.example.org"))
OTHER_CHANNEL = dataclasses.replace(ROUTE, channel="copy")
OTHER_BUCKET = dataclasses.replace(ROUTE, destinations=(CEPH, dataclasses.replace(SWIFT, bucket_name="raw")))
WITHOUT_SWIFT = dataclasses.replace(ROUTE, destinations=(CEPH,))
KEYS = "s3s3:{images}:"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


class Process:
    """A listener of a route, with its own queue."""

    def __init__(self, client: Redis, route: Route) -> None:
        self.jobs = RedisJobQueue.of(client, route, 60)
        self.heartbeat = Heartbeat(route, self.jobs, Metrics(), lambda: ProcessState(0, False, ""))

    async def started(self, *, take_over: bool = False) -> Process:
        await self.heartbeat.start(take_over)
        return self


async def is_silent(client: Redis, process: Process) -> None:
    """Let the last heartbeat of a process be too long ago."""
    await client.zincrby(f"{KEYS}processes", -(SILENT_AFTER_S + 1) * 1000, process.jobs.consumer)


async def put(jobs: RedisJobQueue, key: str = "k") -> None:
    await jobs.enqueue([JobRequest(key, jobs.destinations)], Lane.FRESH)


async def claimed(process: Process) -> list[str]:
    return [job.key for job in (await process.jobs.claim(10, 0, 10, 0)).jobs]


@pytest.mark.parametrize("other", [OTHER_SOURCE, OTHER_CHANNEL, OTHER_BUCKET])
async def test_another_meaning_is_refused_while_a_process_runs(client: Redis, other: Route) -> None:
    await Process(client, ROUTE).started()
    with pytest.raises(RouteConflict, match=r"route images: process \d+ on .* \(s3s3 listen, since 2.* UTC\)") as found:
        await Process(client, other).started()
    assert "[pubsub] namespace" in str(found.value) and "--take-over" in str(found.value)
    assert "this process (" in str(found.value)


@pytest.mark.parametrize("command", ["bucket", "publish", "jobs", "Queue"])
async def test_a_command_with_other_buckets_is_refused_and_one_with_another_channel_is_not(
    client: Redis, command: str
) -> None:
    await Process(client, ROUTE).started()
    for other in (OTHER_SOURCE, OTHER_BUCKET):
        with pytest.raises(RouteConflict):
            await claim_route(other, Process(client, other).jobs, command)
    await claim_route(OTHER_CHANNEL, Process(client, OTHER_CHANNEL).jobs, command)
    with pytest.raises(RouteConflict):
        await Process(client, OTHER_CHANNEL).started()


async def test_a_channel_is_recorded_by_the_first_listener(client: Redis) -> None:
    await claim_route(ROUTE, Process(client, ROUTE).jobs, "publish")
    first = await Process(client, OTHER_CHANNEL).started()
    await claim_route(ROUTE, first.jobs, "bucket")
    await first.heartbeat.send()
    assert first.heartbeat.conflict is None
    with pytest.raises(RouteConflict):
        await Process(client, ROUTE).started()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (OTHER_SOURCE, "its source is ceph.example.org:443/images/, here it is ceph.example.org:443/raw/"),
        (OTHER_CHANNEL, "its channel is backup, here it is copy"),
        (OTHER_BUCKET, "its swift is swift.example.org:443/copies/, here it is swift.example.org:443/raw/"),
    ],
)
async def test_the_message_says_what_differs(client: Redis, other: Route, difference: str) -> None:
    await Process(client, ROUTE).started()
    with pytest.raises(RouteConflict) as found:
        await Process(client, other).started()
    assert difference in str(found.value)


def variant(endpoint: Endpoint, **changes: Any) -> Route:
    return dataclasses.replace(ROUTE, destinations=(CEPH, dataclasses.replace(endpoint, **changes)))


@pytest.mark.parametrize(
    "same",
    [
        ROUTE,
        WITHOUT_SWIFT,
        variant(SWIFT, host="SWIFT.Example.org."),
        variant(SWIFT, port=443),
        variant(SWIFT, access_key_id="other", delete=True),
        dataclasses.replace(ROUTE, destinations=(*ROUTE.destinations, Endpoint("aws", "copies"))),
        dataclasses.replace(ROUTE, include=("*.fits",)),
    ],
)
async def test_the_same_buckets_and_channel_may_join(client: Redis, same: Route) -> None:
    first, second = await Process(client, ROUTE).started(), await Process(client, same).started()
    await first.heartbeat.send()
    await second.heartbeat.send()
    assert first.heartbeat.conflict is second.heartbeat.conflict is None


async def test_a_destination_may_be_replaced_once_no_process_knows_it(client: Redis) -> None:
    first = await Process(client, ROUTE).started()
    second = await Process(client, WITHOUT_SWIFT).started()
    with pytest.raises(RouteConflict):
        await Process(client, OTHER_BUCKET).started()
    await first.heartbeat.deregister()
    third = await Process(client, OTHER_BUCKET).started()
    for process in (second, third):
        await process.heartbeat.send()
        assert process.heartbeat.conflict is None


@pytest.mark.parametrize("other", [OTHER_SOURCE, OTHER_CHANNEL, OTHER_BUCKET])
@pytest.mark.parametrize("ends", ["deregisters", "falls silent"])
async def test_without_processes_and_jobs_another_meaning_replaces_the_old_one(
    client: Redis, other: Route, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = await Process(client, ROUTE).started()
    await (old.heartbeat.deregister() if ends == "deregisters" else is_silent(client, old))
    new = await Process(client, other).started()
    assert "replaced another" in caplog.text
    await new.heartbeat.send()
    assert new.heartbeat.conflict is None


async def test_a_renamed_channel_without_processes_leaves_a_gap(client: Redis) -> None:
    old = await Process(client, ROUTE).started()
    await client.set(f"{KEYS}watermark", 1)
    await put(old.jobs)
    await old.heartbeat.deregister()
    new = await Process(client, OTHER_CHANNEL).started()
    gap = await new.jobs.gap()
    assert gap is not None and gap.age_ms is None
    assert not await client.exists(f"{KEYS}watermark")


async def test_another_source_is_a_first_start(client: Redis) -> None:
    old = await Process(client, ROUTE).started()
    await client.set(f"{KEYS}watermark", 1)
    await client.set(f"{KEYS}reconcile", "{}")
    await client.hset(f"{KEYS}gap", mapping={"from_ms": 0, "generation": 3})
    await old.heartbeat.deregister()
    new = await Process(client, OTHER_SOURCE).started()
    assert await new.jobs.gap() is None
    assert not await client.exists(f"{KEYS}watermark", f"{KEYS}reconcile")


async def dead_letter(jobs: RedisJobQueue) -> None:
    await put(jobs)
    (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
    settled = Disposition(DispositionKind.DEAD_LETTER, reason="refused")
    await jobs.finish(job, dict.fromkeys(job.destinations, settled))


async def park(jobs: RedisJobQueue) -> None:
    await put(jobs)
    (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
    await jobs.finish(job, {"ceph": Disposition("done"), "swift": Disposition(DispositionKind.PARK, circuit="swift")})


@pytest.mark.parametrize("leave", [put, dead_letter, park])
@pytest.mark.parametrize("other", [OTHER_SOURCE, OTHER_BUCKET])
async def test_jobs_left_by_processes_with_other_buckets_are_not_reused(
    client: Redis, leave: Any, other: Route
) -> None:
    old = await Process(client, ROUTE).started()
    await leave(old.jobs)
    await old.heartbeat.deregister()
    with pytest.raises(RouteConflict, match=r"[12] unfinished jobs? in Redis, dead letters included") as found:
        await Process(client, other).started()
    assert not found.value.is_running
    await Process(client, ROUTE).started()


async def test_a_takeover_stops_the_processes_with_another_meaning(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    old = await Process(client, ROUTE).started()
    new = await Process(client, OTHER_SOURCE).started(take_over=True)
    await put(new.jobs)
    assert await claimed(old) == [], "although it has not noticed yet"
    assert await claimed(new) == ["k"]
    await old.heartbeat.send()
    assert old.heartbeat.superseded.is_set()
    assert "another process has taken over the route" in str(old.heartbeat.conflict)
    assert "its source is ceph.example.org:443/raw/, here it is ceph.example.org:443/images/" in caplog.text
    await new.heartbeat.send()
    assert new.heartbeat.conflict is None
    await Process(client, OTHER_SOURCE).started()


async def test_what_redis_delivers_to_a_superseded_process_is_left_to_the_others(client: Redis) -> None:
    old = await Process(client, ROUTE).started()
    async with running(old.jobs.claim(10, 0, 10, 5)) as waiting:
        await until(lambda: is_blocked(client))
        new = await Process(client, OTHER_SOURCE).started(take_over=True)
        await put(new.jobs)
        assert not (await waiting).jobs
    assert await claimed(new) == ["k"]


async def is_blocked(client: Redis) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) > 0


async def test_a_takeover_leaves_processes_that_agree_alone(client: Redis) -> None:
    neutral = await Process(client, WITHOUT_SWIFT).started()
    await Process(client, ROUTE).started()
    new = await Process(client, OTHER_BUCKET).started(take_over=True)
    await neutral.heartbeat.send()
    assert neutral.heartbeat.conflict is None
    await put(new.jobs)
    assert await claimed(neutral) == ["k"]


async def test_a_process_that_was_silent_claims_nothing_after_it_was_replaced(client: Redis) -> None:
    old = await Process(client, ROUTE).started()
    await is_silent(client, old)
    new = await Process(client, OTHER_SOURCE).started()
    await put(new.jobs)
    assert await claimed(old) == []


async def test_lost_data_is_registered_again(client: Redis) -> None:
    first, second = await Process(client, ROUTE).started(), await Process(client, ROUTE).started()
    await client.flushall()
    await put(first.jobs, "before")
    assert await claimed(first) == ["before"]
    for process in (first, second):
        await process.heartbeat.send()
        assert process.heartbeat.conflict is None
    await put(first.jobs, "after")
    assert await claimed(second) == ["after"]
    with pytest.raises(RouteConflict):
        await Process(client, OTHER_SOURCE).started()


async def test_another_namespace_is_independent(client: Redis) -> None:
    await Process(client, ROUTE).started()
    other = await Process(client, dataclasses.replace(OTHER_SOURCE, namespace="other")).started()
    await put(other.jobs)
    assert await claimed(other) == ["k"]


async def test_a_check_records_nothing(client: Redis) -> None:
    jobs = Process(client, ROUTE).jobs
    await claim_route(ROUTE, jobs, "jobs", verify=True)
    assert not await client.keys("*")


async def test_keys_put_on_the_queue_before_the_first_listener_have_the_meaning_of_the_publisher(
    client: Redis,
) -> None:
    jobs = Process(client, ROUTE).jobs
    await claim_route(ROUTE, jobs, "publish")
    await put(jobs)
    with pytest.raises(RouteConflict):
        await Process(client, OTHER_SOURCE).started()


async def test_processes_of_a_version_without_fingerprints_may_run_on(client: Redis) -> None:
    registry = heartbeat.ProcessRegistry(client, KEYS)
    await registry.register(heartbeat.ProcessInfo("a:1:ab", "a", 1, "0.9", "listen", 1_000))
    await Process(client, ROUTE).started()


def test_the_source_of_a_mirror_is_its_url() -> None:
    source = Endpoint("mirror.proxy.source", "", "https://origin.example.org/files/")
    route = Route("mirror.proxy", source, (CEPH,))
    assert Fingerprint.of(route, "mirror").source == "https://origin.example.org/files/"


async def recorded_destinations(client: Redis) -> set[str]:
    return set(json.loads(await client.hget(f"{KEYS}fingerprint", "fingerprint") or "")["destinations"])


async def test_a_start_forgets_destinations_that_no_process_has(client: Redis) -> None:
    first = await Process(client, ROUTE).started()
    second = await Process(client, WITHOUT_SWIFT).started()
    assert await recorded_destinations(client) == {"ceph", "swift"}
    await first.heartbeat.deregister()
    await second.heartbeat.send()
    await Process(client, WITHOUT_SWIFT).started()
    assert await recorded_destinations(client) == {"ceph"}


async def test_a_start_remembers_destinations_with_dead_letters(client: Redis) -> None:
    first = await Process(client, ROUTE).started()
    await dead_letter(first.jobs)
    await first.heartbeat.deregister()
    await Process(client, WITHOUT_SWIFT).started()
    assert await recorded_destinations(client) == {"ceph", "swift"}


async def test_in_a_rolling_restart_keys_for_a_new_destination_wait_for_a_process_that_has_it(client: Redis) -> None:
    old = await Process(client, WITHOUT_SWIFT).started()
    new = await Process(client, ROUTE).started()
    await put(new.jobs)
    (job,) = (await old.jobs.claim(1, 0, 1, 0)).jobs
    unknown = Disposition(DispositionKind.UNKNOWN)
    await old.jobs.finish(job, {"ceph": Disposition(DispositionKind.DONE), "swift": unknown})
    await old.jobs.promote_due()
    assert await claimed(old) == []
    await new.jobs.promote_due()
    (job,) = (await new.jobs.claim(1, 1, 1, 0)).jobs
    assert (job.key, job.destinations) == ("k", ("swift",))


async def test_keys_for_a_destination_that_no_process_has_are_done(client: Redis) -> None:
    new = await Process(client, ROUTE).started()
    await put(new.jobs)
    await new.heartbeat.deregister()
    old = await Process(client, WITHOUT_SWIFT).started()
    (job,) = (await old.jobs.claim(1, 0, 1, 0)).jobs
    unknown = Disposition(DispositionKind.UNKNOWN)
    await old.jobs.finish(job, {"ceph": Disposition(DispositionKind.DONE), "swift": unknown})
    assert not await client.exists(f"{KEYS}job:k")
