"""A fault injector raises in each task of the daemon: the route or source is unhealthy and retried, others go on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest

from s3s3 import config
from s3s3.listener import RouteListener, listen, route_listeners, sources_for
from s3s3.model import Lane
from s3s3.monitoring.heartbeat import Heartbeat
from s3s3.monitoring.metrics import Metrics
from s3s3.notifications.leader_election import LeaderElection
from s3s3.notifications.redis_stream import RedisStreamSource
from s3s3.notifications.routing import Routing
from s3s3.notifications.source import NotificationSource
from s3s3.notifications.sqs import SqsSource
from s3s3.notifications.subscription import MessageBuffer, Subscription
from s3s3.notifications.watermark import Watermark
from s3s3.queue.base import JobRequest
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.periodic import PeriodicReconcile, Schedule
from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.servers import free_ports
from tests.integration.commands import endpoint_table, write_config
from tests.integration.objects import keys_of
from tests.notifications.senders import event
from tests.waiting import running, until

pytestmark = [pytest.mark.real, pytest.mark.internal_errors, pytest.mark.usefixtures("own_keys")]

WORKER_SETTINGS: dict[str, object] = {"lease_s": 2}
PATIENCE_S = 30.0
TOKEN = "webhook-token"


@dataclasses.dataclass
class Daemon:
    """A daemon with two routes, `hit` and `other`, and every kind of source; each route has a bucket and a channel."""

    listeners: Sequence[RouteListener]
    sources: Sequence[NotificationSource]
    task: asyncio.Task[None]
    store: RcloneServer
    buckets: dict[str, tuple[str, str]]
    webhook: str
    sqs: Any
    sqs_url: str

    async def problems(self) -> str:
        checks: list[RouteListener | NotificationSource] = [*self.listeners, *self.sources]
        found = await asyncio.gather(*(check.readiness_problems() for check in checks))
        unhealthy = filter(None, (check.health_problem() for check in checks))
        return "; ".join([*unhealthy, *(problem for problems in found for problem in problems)])

    async def copies(self, route: str, *senders: str, key: str) -> None:
        """Wait until a new object of a route is copied, announced in each of these ways."""
        client, (source, destination) = self.store.boto3_client(), self.buckets[route]
        keys = {f"{key} by {sender}" for sender in senders}
        for name in keys:
            await asyncio.to_thread(client.put_object, Bucket=source, Key=name, Body=name.encode())
        for sender in senders:
            await getattr(self, f"by_{sender}")(route, f"{key} by {sender}")

        async def are_copied() -> bool:
            assert not self.task.done(), "the daemon has ended"
            return keys <= await asyncio.to_thread(keys_of, client, destination)

        await until(are_copied, PATIENCE_S)

    async def by_channel(self, route: str, key: str) -> None:
        await self.listeners[0].jobs.client.publish(route, key)

    async def by_queue(self, route: str, key: str) -> None:
        jobs = next(each.jobs for each in self.listeners if each.route.name == route)
        await RedisJobQueue.enqueue(jobs, [JobRequest(key, jobs.destinations)], Lane.FRESH)

    async def by_stream(self, route: str, key: str) -> None:
        await self.listeners[0].jobs.client.xadd("s3s3:notifications", {"key": key, "bucket": self.buckets[route][0]})

    async def by_sqs(self, route: str, key: str) -> None:
        body = event(key, bucket=self.buckets[route][0])
        await asyncio.to_thread(self.sqs.send_message, QueueUrl=self.sqs_url, MessageBody=body)

    async def by_webhook(self, route: str, key: str) -> None:
        async def accepted() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with (
                    aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
                    session.post(self.webhook, data=event(key, bucket=self.buckets[route][0])) as response,
                ):
                    return response.status == 200
            return False

        await until(accepted, PATIENCE_S)


@pytest.fixture
async def daemon(
    request: pytest.FixtureRequest, rclone_store: RcloneServer, new_bucket: Callable[..., str], redis_url: str,
    sqs_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Daemon]:  # fmt: skip
    monkeypatch.setattr("s3s3.tasks.INITIAL_RESTART_S", 0.05)
    monkeypatch.setattr("s3s3.tasks.MAX_RESTART_S", 0.2)
    monkeypatch.setattr("s3s3.tasks.RECOVERED_AFTER_S", 0.5)
    monkeypatch.setattr("s3s3.monitoring.heartbeat.HEARTBEAT_INTERVAL_S", 0.2)
    monkeypatch.setattr("s3s3.notifications.leader_election.LEASE_S", 1.0)
    monkeypatch.setattr("s3s3.notifications.subscription.PING_INTERVAL_S", 0.2)
    monkeypatch.setattr("s3s3.notifications.gap_backfill.CHECK_INTERVAL_S", 0.2)
    monkeypatch.setattr("s3s3.reconcile.periodic.INITIAL_RETRY_S", 0.2)
    monkeypatch.setattr("s3s3.notifications.sqs.MAX_BACKOFF_S", 0.2)
    monkeypatch.setattr("s3s3.notifications.sqs.POLL_S", 1)
    monkeypatch.setattr("s3s3.notifications.webhook.BIND_RETRY_S", 0.1)
    buckets = {name: (new_bucket(rclone_store), new_bucket(rclone_store)) for name in ("hit", "other")}
    sqs = boto3.client("sqs", region_name="us-west-2", endpoint_url=sqs_url)
    queue_url = (await asyncio.to_thread(sqs.create_queue, QueueName=f"q-{id(buckets)}"))["QueueUrl"]
    (port,) = free_ports(1)
    tables = [f'[webhook]\nbind = "127.0.0.1:{port}"\ntoken = "{TOKEN}"\n', "[stream]\n",
              f'[sqs]\nurl = "{queue_url}"\nregion = "us-west-2"\nendpoint_url = "{sqs_url}"\n']  # fmt: skip
    for name, (source, destination) in buckets.items():
        ends = rclone_store.endpoint(source), rclone_store.endpoint(destination, "destination")
        tables.append(f'[routes.{name}]\nchannel = "{name}"\n')
        tables += [endpoint_table(dataclasses.replace(end, parent_table=f"routes.{name}")) for end in ends]
    path = write_config(tmp_path, None, [], redis_url, routes=tables, worker=WORKER_SETTINGS)
    settings, metrics, stop = config.load(path), Metrics(), asyncio.Event()
    async with route_listeners(settings, metrics, getattr(request, "param", Schedule())) as listeners:
        sources = sources_for(listeners, settings, metrics)
        async with running(listen(listeners, sources, stop, 5.0)) as task:
            daemon = Daemon(listeners, sources, task, rclone_store, buckets, f"http://127.0.0.1:{port}/notify",
                            sqs, queue_url)  # fmt: skip

            async def works() -> bool:
                return not await daemon.problems()

            await until(works, PATIENCE_S)
            yield daemon
            stop.set()
            await asyncio.wait_for(task, PATIENCE_S)


@asynccontextmanager
async def failing(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, is_hit: Callable[[Any], bool]
) -> AsyncIterator[list[bool]]:
    """Let a method raise for the objects that are hit; yield a list that grows with each exception."""
    method, raised = getattr(owner, name), []

    def call(self: Any, *args: Any, **options: Any) -> Any:
        if not is_hit(self):
            return method(self, *args, **options)
        raised.append(True)
        raise ZeroDivisionError(f"injected into {owner.__name__}.{name}")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield raised


@pytest.mark.parametrize(
    ("owner", "name", "sender"),
    [
        (RedisJobQueue, "claim", "queue"),
        (RedisJobQueue, "renew", "queue"),
        (RedisJobQueue, "promote_due", "queue"),
        (RedisJobQueue, "gap", "queue"),
        (RedisJobQueue, "enqueue", "channel"),
        (Heartbeat, "send", "queue"),
        (MessageBuffer, "on_message", "channel"),
        (Subscription, "ping", "channel"),
        (LeaderElection, "_elect", "channel"),
        (Watermark, "advance", "channel"),
    ],
)
async def test_an_internal_error_in_a_task_of_a_route_is_a_problem_of_that_route(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, sender: str
) -> None:
    async def is_a_problem() -> bool:
        problems = await daemon.problems()
        assert "route other" not in problems
        return "route hit: internal error while" in problems and f"injected into {owner.__name__}.{name}" in problems

    async with failing(monkeypatch, owner, name, is_hit_for(owner)) as raised:

        async def has_failed_twice() -> bool:
            await daemon.by_channel("hit", "announced during the fault")
            await asyncio.sleep(0.1)
            return len(raised) >= 2

        await until(has_failed_twice, PATIENCE_S)
        await daemon.copies("other", "channel", key="during the fault")
        await until(is_a_problem, PATIENCE_S)
    await works_again(daemon, sender)


@pytest.mark.parametrize("daemon", [Schedule(1.0)], indirect=True)
async def test_an_internal_error_of_a_scheduled_comparison_is_a_problem_of_its_route(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_a_problem() -> bool:
        return "route hit: internal error while comparing on schedule" in await daemon.problems()

    async with failing(monkeypatch, PeriodicReconcile, "run", is_hit_for(PeriodicReconcile)) as raised:
        await until(lambda: len(raised) >= 2, PATIENCE_S)
        await until(is_a_problem, PATIENCE_S)
    await works_again(daemon, "queue")


def is_hit_for(owner: type) -> Callable[[Any], bool]:
    if owner is RedisJobQueue:
        return lambda jobs: jobs.prefix.endswith("{hit}:")
    if owner is Heartbeat:
        return lambda heartbeat: heartbeat._route.name == "hit"
    if owner is PeriodicReconcile:
        return lambda periodic: periodic._route == "hit"
    return lambda part: part._channel == "hit"


async def works_again(daemon: Daemon, *senders: str) -> None:
    await daemon.copies("hit", *senders, key="after the fault")

    async def is_well() -> bool:
        return not await daemon.problems()

    await until(is_well, PATIENCE_S)


@pytest.mark.parametrize(
    ("owner", "name", "sender", "reason"),
    [
        (RedisStreamSource, "_read", "stream", "stream s3s3:notifications"),
        (SqsSource, "_receive", "sqs", "SQS queue"),
        (Routing, "deliver", "stream", "stream s3s3:notifications"),
        (Routing, "deliver", "webhook", "webhook 127.0.0.1"),
    ],
)
async def test_an_internal_error_in_a_source_is_a_problem_of_that_source(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, sender: str, reason: str
) -> None:
    async def is_a_problem() -> bool:
        return reason in await daemon.problems()

    async with failing(monkeypatch, owner, name, lambda _: True) as raised:
        sending = asyncio.create_task(daemon.copies("hit", sender, key="during the fault"))
        await until(lambda: raised, PATIENCE_S)
        await until(is_a_problem, PATIENCE_S)
        await daemon.copies("hit", "channel", key="not by this source")
    await sending
    await works_again(daemon, sender)


async def test_an_exception_raised_anywhere_in_each_task_of_the_daemon_ends_neither_it_nor_a_route(
    daemon: Daemon,
) -> None:
    """An exception is raised wherever a task that lasts is waiting."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await daemon.copies("other", "channel", key="before")  # By then a task for one command or one request has ended.
    names = sorted({name_of(task) for task in tasks if not task.done()} - WAITS)
    assert {"Worker._promote_loop", "LeaderElection.run", "RedisStreamSource.run", "Heartbeat.run"} <= set(names), names
    for name in names:
        await until(partial(raise_in_one, name), PATIENCE_S)
        await asyncio.sleep(0)
        assert not daemon.task.done()
    await works_again(daemon, "channel", "queue", "stream", "sqs", "webhook")


#: Tasks that only wait for an event or another task.
WAITS = {"Event.wait", "listen", "RouteListener.run", ""}
WRAPPERS = {"Restarts.run", "NotificationSource.run_until", "run_with_background"}


def name_of(task: asyncio.Task[Any] | None) -> str:
    """Return the name of the coroutine that a task was made for, without what restarts it."""
    coroutine: Any = task.get_coro() if task else None
    while getattr(coroutine, "__qualname__", "") in WRAPPERS:
        coroutine = coroutine.cr_await
    return str(getattr(coroutine, "__qualname__", ""))


def raise_in_one(name: str) -> bool:
    """Let what one of these tasks waits for raise an exception, if it is not another task."""
    for task in asyncio.all_tasks():
        waiter = getattr(task, "_fut_waiter", None)
        if name_of(task) == name and waiter is not None and not isinstance(waiter, asyncio.Task) and not waiter.done():
            with contextlib.suppress(RuntimeError):
                waiter.set_exception(ZeroDivisionError(f"injected into {name}"))
                return True
    return False
