"""Deletions carried over between real stores, and everything that must not be deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from s3s3.model import Endpoint, Job, Lane, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.s3 import Store
from s3s3.scripts import bucket, publish
from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.transfer.budget import CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.worker.worker import Worker
from tests.integration.commands import Listener, endpoint_table, eventually, report_lines
from tests.integration.objects import ODD_KEYS, keys_of
from tests.scripts.command import run
from tests.waiting import running, until

pytestmark = pytest.mark.real

NewBucket = Callable[..., str]


@dataclass
class Place:
    """A source under one prefix and a destination under another, with deletions carried over, in one server."""

    server: StoreServer
    source: Endpoint
    there: Endpoint
    redis_url: str
    folder: Path
    about_source: str = ""
    max_delete: float = 0.5
    report: Path = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.server.boto3_client()
        self.there_client = self.server.boto3_client(1)
        self.report = self.folder / "report.jsonl"

    def put(self, *keys: str) -> None:
        for key in keys:
            self.client.put_object(Bucket=self.source.bucket_name, Key=f"{self.source.prefix}{key}", Body=b"content")

    def put_there(self, *keys: str) -> None:
        for key in keys:
            self.there_client.put_object(Bucket=self.there.bucket_name, Key=key, Body=b"content")

    def remove(self, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=self.source.bucket_name, Key=f"{self.source.prefix}{key}")

    def keys_there(self) -> set[str]:
        return keys_of(self.there_client, self.there.bucket_name)

    def config(self) -> Path:
        path = self.folder / "s3s3.toml"
        path.write_text(
            f"{endpoint_table(self.source)}{self.about_source}\n"
            f"{endpoint_table(self.there)}delete = true\nmax_delete = {self.max_delete}\n"
            f'[pubsub]\nurl = "{self.redis_url}"\nbackfill_margin_s = 0\n[http]\nbind = ""\n'
        )
        path.chmod(0o600)
        return path

    def run(self, *arguments: str, status: int = 0) -> tuple[dict[str, int], str]:
        """Run `s3s3 bucket`; return the outcomes by kind, and its output."""
        done = run(bucket.main, "--config", self.config(), "--report", self.report, *arguments)
        assert done.status == status, done.err
        return report_lines(self.report)[1]["destinations"]["destination"], " ".join(done.out.split())


@pytest.fixture
def place(swift: SwiftServer, new_bucket: NewBucket, redis_url: str, tmp_path: Path) -> Place:
    source = swift.endpoint(new_bucket(swift), prefix="from/")
    there = swift.endpoint(new_bucket(swift, 1), "destination", account=1, prefix="to/")
    return Place(swift, source, there, redis_url, tmp_path)


def test_a_run_deletes_what_the_source_has_no_more_and_nothing_else(place: Place) -> None:
    place.about_source = 'exclude = ["kept/*"]'
    place.put(*ODD_KEYS[:8], "stays")
    assert place.run()[0] == {"copied": 9}
    place.put_there("to/kept/by exclude", "another prefix", "to", "to/only there")
    place.remove(*ODD_KEYS[:3])
    before = place.keys_there()

    assert place.run("--dry-run", status=1)[0] == {"same": 6, "would_delete": 4}
    assert place.keys_there() == before
    assert place.run("--since", "2099-01-01")[0] == {"extraneous": 4}
    assert place.run()[0] == {"same": 6, "deleted": 4}
    assert place.keys_there() == before - {f"to/{key}" for key in [*ODD_KEYS[:3], "only there"]}
    assert place.run()[0] == {"same": 6}


def test_a_run_that_would_delete_too_much_deletes_nothing_and_names_the_setting(place: Place) -> None:
    place.max_delete = 0.25
    place.put(*"abcdefgh")
    place.run()
    place.remove(*"abc")
    place.put("new")

    counts, output = place.run(status=1)

    assert counts == {"same": 5, "extraneous": 3, "copied": 1}
    assert "3 of its 8 objects" in output
    assert "max_delete = 0.25" in output
    assert len(place.keys_there()) == 9
    place.put("a")
    assert place.run()[0] == {"same": 7, "deleted": 2}


def test_an_empty_source_deletes_nothing_without_allow_empty(place: Place) -> None:
    place.max_delete = 1
    place.put(*"abc")
    place.run()
    place.remove(*"abc")

    counts, output = place.run(status=1)

    assert counts == {"extraneous": 3}
    assert "--allow-empty" in output
    assert len(place.keys_there()) == 3
    place.max_delete = 0.1
    assert place.run("--allow-empty")[0] == {"deleted": 3}
    assert place.keys_there() == set()


def test_a_source_that_cannot_be_listed_deletes_nothing_even_where_empty_is_allowed(place: Place) -> None:
    place.max_delete = 1
    place.put_there("to/a")
    place.source = replace(place.source, bucket_name="nowhere")
    assert run(bucket.main, "--config", place.config(), "--allow-empty").status == 3
    assert place.keys_there() == {"to/a"}


@pytest.mark.long
def test_a_notification_of_a_deleted_object_deletes_its_copies_and_a_gap_is_backfilled(place: Place) -> None:
    place.put(*"abcd")
    place.run()
    with Listener(place.config()):
        place.remove("a")
        run(publish.main, "--config", place.config(), "--pubsub", "from/a")
        eventually(lambda: place.keys_there() == {"to/b", "to/c", "to/d"}, "a is deleted", every_s=0.2)
    place.remove("b")  # without a listener
    with Listener(place.config()):
        eventually(lambda: place.keys_there() == {"to/c", "to/d"}, "b is deleted", every_s=0.2)


# -- one key, without the commands


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


class Pair:
    """A source and a destination of one server, and what copies between them."""

    def __init__(self, source: Store, there: Store) -> None:
        self.source, self.there = source, there
        self.transfer = Copier(source, CopyBudget(), metrics=Metrics(), route="default")

    async def copy(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        return await self.transfer.copy(job.key, [self.there], check_lease=check_lease, compare=not job.unconditional)


async def pair(stack: AsyncExitStack, source: Endpoint, there: Endpoint) -> Pair:
    return Pair(*[await stack.enter_async_context(Store(endpoint)) for endpoint in (source, there)])


@pytest.mark.parametrize("look", [False, True])
async def test_a_source_whose_bucket_is_missing_deletes_nothing(
    server: StoreServer, new_bucket: NewBucket, look: bool
) -> None:
    there = server.endpoint(new_bucket(server), "destination", delete=True)
    server.boto3_client().put_object(Bucket=there.bucket_name, Key="key", Body=b"content")
    async with AsyncExitStack() as stack:
        nowhere = await pair(stack, server.endpoint("no-such-bucket"), there)
        (failed,) = await nowhere.transfer.copy("key", [nowhere.there], check_lease=lambda: None, compare=look)
        empty = await pair(stack, server.endpoint(new_bucket(server)), there)
        (deleted,) = await empty.transfer.copy("key", [empty.there], check_lease=lambda: None, compare=look)
    assert failed.result is Result.FAILED
    assert deleted.result is Result.DELETED


async def test_an_object_made_again_between_get_and_delete_is_there_in_the_end(
    server: StoreServer, new_bucket: NewBucket, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = server.endpoint(new_bucket(server))
    there = server.endpoint(new_bucket(server), "destination", delete=True)
    client = server.boto3_client()
    client.put_object(Bucket=there.bucket_name, Key="key", Body=b"old")
    delete = Store.delete

    async def delete_late(store: Store, key: str, **named: object) -> bool:
        """The source gets the object again, with its notification, when the DELETE is decided on and not sent yet."""
        if store.name == "destination":
            client.put_object(Bucket=source.bucket_name, Key="key", Body=b"new")
            await jobs.enqueue([JobRequest("key", ("destination",))], Lane.FRESH)
        return await delete(store, key, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "delete", delete_late)
    results: list[Result] = []
    async with AsyncExitStack() as stack:
        jobs = RedisJobQueue(await stack.enter_async_context(connected(redis_url)), "default", ("destination",))
        copies = await pair(stack, source, there)
        worker = Worker(
            Route("default", source, (there,)), jobs, copies.copy,
            on_job_end=lambda _, outcomes, *__: results.extend(outcome.result for outcome in outcomes),
        )  # fmt: skip
        await jobs.enqueue([JobRequest("key", ("destination",))], Lane.FRESH)
        stop = asyncio.Event()
        async with running(worker.run(stop)):
            await until(lambda: len(results) == 2)
            stop.set()
    assert results == [Result.DELETED, Result.COPIED]
    assert client.get_object(Bucket=there.bucket_name, Key="key")["Body"].read() == b"new"
