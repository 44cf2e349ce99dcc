"""A route's worker with its heartbeat, health and metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from s3s3.errors import RedisUnavailable, RouteConflict, TooLarge
from s3s3.model import Job, Outcome
from s3s3.monitoring import heartbeat
from s3s3.monitoring.heartbeat import ProcessRegistry, claim_route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.queue.store_checks import StoreChecks
from s3s3.worker.route_worker import RouteWorker, register_all
from s3s3.worker.worker import Worker
from tests.waiting import running, until
from tests.worker.copies import BOTH, ROUTE, A, B, Copies, dead_letters_of, enqueue_fresh, fails_at, until_done

pytestmark = pytest.mark.real

OPTIONS = SimpleNamespace(concurrency=4, max_attempts=2, lease_s=10.0)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connected(redis_url) as client:
        yield client


@pytest.fixture
def jobs(client: Redis) -> RedisJobQueue:
    return RedisJobQueue(client, ROUTE.name, BOTH)


def route_worker(jobs: RedisJobQueue, metrics: Metrics | None = None, **options: Any) -> RouteWorker:
    return RouteWorker(ROUTE, jobs, Copies(), OPTIONS, metrics or Metrics(), "bucket", **options)


async def test_its_copies_know_from_the_start_which_destinations_enforce_content_md5(
    client: Redis, jobs: RedisJobQueue
) -> None:
    destination = next(each for each in ROUTE.destinations if each.name == A)
    await StoreChecks(client, ROUTE).record(destination, enforced=True)
    known, seen, copies = SimpleNamespace(enforcing=set(), refuted=set()), [], Copies()

    async def copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        seen.append(set(known.enforcing))
        return await copies(job, destinations, check_lease)

    await enqueue_fresh(jobs, "k")
    worker = RouteWorker(ROUTE, jobs, copy, OPTIONS, Metrics(), "bucket", checksums=known)
    async with running(worker.run(asyncio.Event(), 5.0)):
        await until(lambda: seen)
    assert A in seen[0]


async def test_a_run_that_ends_soon_takes_back_what_its_copies_have_refuted(client: Redis, jobs: RedisJobQueue) -> None:
    destination = next(each for each in ROUTE.destinations if each.name == A)
    checks = StoreChecks(client, ROUTE)
    await checks.record(destination, enforced=True)
    known, copies, stop = SimpleNamespace(enforcing=set(), refuted=set()), Copies(), asyncio.Event()

    async def copy(job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        known.refuted.add(A)
        return await copies(job, destinations, check_lease)

    await enqueue_fresh(jobs, "k")
    worker = RouteWorker(ROUTE, jobs, copy, OPTIONS, Metrics(), "bucket", checksums=known)
    async with running(worker.run(stop, 5.0)) as task:
        await until_done(jobs)
        stop.set()
        await asyncio.wait_for(task, 10)
    assert not (await checks.load())[A].enforced


async def test_it_copies_counts_sends_heartbeats_and_deregisters(client: Redis, jobs: RedisJobQueue) -> None:
    metrics, ended = Metrics(), []
    worker = route_worker(jobs, metrics, is_leader=lambda: True, on_job_end=lambda job, *_: ended.append(job.key))
    registry = ProcessRegistry(client, jobs.prefix)
    stop = asyncio.Event()
    async with running(worker.run(stop, 5.0)) as task:
        await until(registry.processes)
        (process,) = await registry.processes()
        assert (process.command, process.is_leader, process.health_problem) == ("bucket", True, "")
        await enqueue_fresh(jobs, "k")
        await until_done(jobs)
        await until(lambda: ended == ["k"])
        stop.set()
        await asyncio.wait_for(task, 10)
    assert metrics.copies[ROUTE.name, A, "copied"] == 1
    assert await registry.processes() == []
    await worker.measure()
    assert metrics.running_jobs[ROUTE.name] == 0


async def test_the_log_says_that_a_key_became_a_dead_letter_where_and_why(
    jobs: RedisJobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    error = TooLarge("its bytes exceed the limit", store=B, operation="PUT", key="k", status=400, request_id="tx0001")
    worker = RouteWorker(ROUTE, jobs, Copies(fails_at(B, error)), OPTIONS, Metrics(), "listen")
    stop = asyncio.Event()
    async with running(worker.run(stop, 5.0)) as task:
        await enqueue_fresh(jobs, "k")
        await until(lambda: "dead-lettered" in caplog.text)
        stop.set()
        await asyncio.wait_for(task, 10)
    assert [letter.key for letter in await dead_letters_of(jobs, B)] == ["k"]
    (line,) = (record for record in caplog.records if record.message.startswith("dead-lettered"))
    assert line.message == "dead-lettered: PUT of an object: 400: its bytes exceed the limit"
    fields = vars(line)["fields"]
    assert (fields["route"], fields["destination"], fields["key"], fields["attempt"], fields["request_id"]) == (
        ROUTE.name, B, "k", 1, "tx0001",
    )  # fmt: skip


async def test_a_key_that_another_worker_has_taken_over_is_not_logged_as_a_dead_letter(
    client: Redis, jobs: RedisJobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    copies = Copies(fails_at(B, TooLarge("its bytes exceed the limit", store=B)))
    copies.may_continue.clear()
    worker = RouteWorker(ROUTE, jobs, copies, OPTIONS, Metrics(), "listen")
    stop = asyncio.Event()
    async with running(worker.run(stop, 5.0)) as task:
        await enqueue_fresh(jobs, "k")
        await until(lambda: copies.running)
        await client.hset(f"{jobs.prefix}job:k", "token", "another")
        copies.may_continue.set()
        await until(lambda: "copy failed" in caplog.text)
        stop.set()
        await asyncio.wait_for(task, 10)
    assert "dead-lettered" not in caplog.text


async def test_a_queue_without_responses_is_a_health_problem(
    jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = route_worker(jobs, source_problem=lambda: "route default: not subscribed")
    assert worker.health_problem() == "route default: not subscribed"
    monkeypatch.setattr(Worker, "silent_s", 61.0)
    assert worker.health_problem() == "route default: the queue has not answered for 1 min"


@pytest.mark.parametrize("ending", [lambda task, stop: stop.set(), lambda task, stop: task.cancel()])
async def test_a_failed_deregistration_is_logged(
    jobs: RedisJobQueue, caplog: pytest.LogCaptureFixture, ending: Callable[[asyncio.Task[None], asyncio.Event], object]
) -> None:
    async def fail() -> None:
        raise RedisUnavailable("no connection")

    jobs.remove_consumer = fail  # type: ignore[method-assign]
    stop = asyncio.Event()
    task = asyncio.create_task(route_worker(jobs).run(stop, 5.0))
    await asyncio.sleep(0.1)
    ending(task, stop)
    await asyncio.wait([task], timeout=10)
    assert task.done()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "route default: could not deregister this process: no connection"
    ]


async def test_an_unreachable_queue_is_reported(jobs: RedisJobQueue) -> None:
    worker = route_worker(jobs)
    assert await worker.queue_problems() == []

    async def fail() -> None:
        raise RedisUnavailable("no connection")

    jobs.check = fail  # type: ignore[method-assign]
    assert await worker.queue_problems() == ["no connection"]


OTHER = dataclasses.replace(ROUTE, source=dataclasses.replace(ROUTE.source, bucket_name="other"))


async def test_a_worker_whose_route_is_taken_over_drains_and_ends_with_the_reason(
    client: Redis, jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.1)
    worker = route_worker(jobs)
    await worker.register()
    task = asyncio.create_task(worker.run(asyncio.Event(), 5.0))
    other_jobs = RedisJobQueue.of(client, OTHER, 10)
    await claim_route(OTHER, other_jobs, "listen", take_over=True)
    with pytest.raises(RouteConflict, match="another process has taken over the route"):
        await asyncio.wait_for(task, 10)
    assert "another process has taken over the route" in worker.health_problem()
    assert await ProcessRegistry(client, jobs.prefix).processes() == []


async def test_if_one_route_is_refused_none_stays_registered_and_all_problems_are_named(client: Redis) -> None:
    routes = [dataclasses.replace(OTHER, name=name) for name in ("free", "taken", "taken-too")]
    for route in routes[1:]:
        mine = dataclasses.replace(ROUTE, name=route.name)
        await RouteWorker(mine, RedisJobQueue.of(client, mine, 10), Copies(), OPTIONS, Metrics(), "listen").register()
    queues = [RedisJobQueue.of(client, route, 10) for route in routes]
    workers = [
        RouteWorker(route, jobs, Copies(), OPTIONS, Metrics(), "listen")
        for route, jobs in zip(routes, queues, strict=True)
    ]
    with pytest.raises(RouteConflict) as refused:
        await register_all(workers, False, asyncio.Event())
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["route taken", "route taken-too"]
    assert await ProcessRegistry(client, queues[0].prefix).processes() == []
