from __future__ import annotations

import asyncio
import doctest
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

import s3s3
from s3s3 import api, config
from s3s3.client import ListenClient
from s3s3.errors import RedisUnavailable, RouteConflict, TooLarge
from s3s3.model import Proof, Result, Route
from s3s3.scripts.demo.servers import HOST
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.tasks import LoopThread
from tests.scripts.command import config_file
from tests.waiting import eventually

NewBucket = Callable[..., str]
ROOT = Path(__file__).parents[1]


def arguments(store: SwiftServer, bucket_name: str, account: int = 0, **more: Any) -> dict[str, Any]:
    key_id, secret = store.accounts[account]
    return {"host": HOST, "port": store.port, "is_secure": False, "aws_access_key_id": key_id,
            "aws_secret_access_key": secret, "bucket_name": bucket_name, **more}  # fmt: skip


class Buckets:
    """Two buckets of a store, in two accounts, and a configuration with both."""

    def __init__(self, store: SwiftServer, new_bucket: NewBucket) -> None:
        self.store = store
        self.source, self.destination = new_bucket(store), new_bucket(store, 1)

    def put(self, key: str, body: bytes) -> None:
        self.store.boto3_client().put_object(Bucket=self.source, Key=key, Body=body)

    def copy(self, key: str) -> bytes:
        return self.store.boto3_client(1).get_object(Bucket=self.destination, Key=key)["Body"].read()

    @property
    def route(self) -> Route:
        return api.route_of(arguments(self.store, self.source), arguments(self.store, self.destination, 1))

    def config(self, folder: Path, redis_url: str, prefix: str = "") -> Path:
        endpoint = replace(self.store.endpoint(self.destination, "swift", account=1), prefix=prefix)
        return config_file(folder, redis_url, self.store.endpoint(self.source), [endpoint])


@pytest.fixture
def buckets(swift: SwiftServer, new_bucket: NewBucket) -> Buckets:
    return Buckets(swift, new_bucket)


@contextmanager
def listener(path: Path) -> Iterator[None]:
    client = ListenClient(path)
    thread = threading.Thread(target=client.listen)
    thread.start()
    try:
        yield
    finally:
        client.stop()
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def listening(tmp_path: Path, redis_url: str, buckets: Buckets) -> Iterator[Path]:
    """A running listener; yields the path of its configuration."""
    path = buckets.config(tmp_path, redis_url)
    with listener(path):
        yield path


def route_in(path: Path) -> Route:
    [route] = config.load(path).routes_named(None)
    return route


@pytest.mark.real
class TestCopier:
    async def test_the_outcome_of_each_destination_has_sizes_md5s_and_proof(
        self, swift: SwiftServer, new_bucket: NewBucket, buckets: Buckets
    ) -> None:
        buckets.put("k", b"12345")
        second = new_bucket(swift, 1)
        route = api.route_of(
            arguments(swift, buckets.source),
            [arguments(swift, buckets.destination, 1), arguments(swift, second, 1)],
        )
        async with s3s3.Copier(route) as copier:
            outcomes = await copier.copy("k")
        assert list(outcomes) == ["destination", "destination-2"]
        for outcome in outcomes.values():
            assert (outcome.result, outcome.reason, outcome.proof) == (Result.COPIED, "missing", Proof.ETAG)
            assert outcome.source_md5 == outcome.destination_md5 == "827ccb0eea8a706c4c34a16891f84e7b"
            assert outcome.source_size_bytes == outcome.destination_size_bytes == 5

    async def test_connections_stay_open_between_copies(
        self, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connected = []
        create_connection = asyncio.BaseEventLoop.create_connection

        async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            connected.append(args)
            return await create_connection(self, *args, **kwargs)

        monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", counted)
        for number in range(5):
            buckets.put(str(number), b"x")
        async with s3s3.Copier(buckets.route) as copier:
            for number in range(5):
                assert (await copier.copy(str(number), force=True))["destination"].result is Result.COPIED
        assert len(connected) == 2

    async def test_a_failure_is_an_outcome_with_the_error(self, swift: SwiftServer, buckets: Buckets) -> None:
        buckets.put("k", b"1")
        route = api.route_of(arguments(swift, buckets.source), arguments(swift, "nowhere-" + buckets.source, 1))
        async with s3s3.Copier(route) as copier:
            outcome = (await copier.copy("k", force=True))["destination"]
        assert outcome.result is Result.FAILED
        assert not isinstance(outcome.error, TooLarge)
        assert "NoSuchBucket" in outcome.reason
        assert "NoSuchBucket" in str(outcome.error)

    async def test_a_copier_that_is_not_open_says_how_to_open_it(self, buckets: Buckets) -> None:
        with pytest.raises(RuntimeError, match="use it in `async with`"):
            await s3s3.Copier(buckets.route).copy("k")
        with pytest.raises(RuntimeError, match="use it in `with`"):
            s3s3.SyncCopier(buckets.route).copy("k")

    def test_threads_can_share_a_synchronous_copier(self, buckets: Buckets) -> None:
        for number in range(20):
            buckets.put(str(number), str(number).encode())
        with s3s3.SyncCopier(buckets.route) as copier, ThreadPoolExecutor(5) as threads:
            outcomes = list(threads.map(copier.copy, map(str, range(20))))
        assert {outcome["destination"].result for outcome in outcomes} == {Result.COPIED}
        assert buckets.copy("17") == b"17"

    async def test_the_synchronous_copier_works_in_a_notebook(self, buckets: Buckets) -> None:
        buckets.put("k", b"1")
        with s3s3.SyncCopier(buckets.route) as copier:
            assert copier.copy("k")["destination"].result is Result.COPIED


@pytest.mark.real
class TestQueue:
    async def test_keys_are_copied_by_a_listener_and_waited_for(self, listening: Path, buckets: Buckets) -> None:
        keys = [f"k{number}" for number in range(30)]
        for key in keys:
            buckets.put(key, key.encode())
        async with s3s3.Queue(config.load(listening).pubsub.url, route_in(listening)) as queue:
            outcomes = await queue.put(keys, wait=True, timeout_s=60)
        assert sorted(outcome.key for outcome in outcomes) == sorted(keys)
        assert {(outcome.destination, outcome.result, outcome.proof) for outcome in outcomes} == {
            ("dest-swift", Result.COPIED, Proof.ETAG)
        }
        assert buckets.copy("k7") == b"k7"

    def test_a_route_with_other_buckets_than_that_of_the_listener_is_refused(
        self, listening: Path, redis_url: str
    ) -> None:
        route = route_in(listening)
        other = replace(route, source=replace(route.source, bucket_name="other"))
        with redis.Redis.from_url(redis_url) as client:
            eventually(lambda: client.exists("s3s3:{default}:processes"))
        with s3s3.SyncQueue(redis_url, other) as queue, pytest.raises(RouteConflict, match=r"\(s3s3 listen, since "):
            queue.put("k")

    def test_without_a_listener_the_keys_remain_on_the_queue(
        self, tmp_path: Path, redis_url: str, buckets: Buckets
    ) -> None:
        route = route_in(buckets.config(tmp_path, redis_url))
        with s3s3.SyncQueue(redis_url, route) as queue:
            assert queue.put(["a", "b"]) == []
            assert queue.stats().pending == 2
            with pytest.raises(TimeoutError, match="1 of 1 keys have no outcome after"):
                queue.put("c", wait=True, timeout_s=0.1)
            assert queue.stats().pending == 3

    def test_dead_letters_are_listed_and_put_back(self, tmp_path: Path, redis_url: str, buckets: Buckets) -> None:
        path = buckets.config(tmp_path, redis_url, prefix="p" * 1000)  # too long together with the key
        route, key = route_in(path), "k" * 30
        buckets.put(key, b"1")
        with listener(path), s3s3.SyncQueue(redis_url, route) as queue:
            [outcome] = queue.put(key, wait=True, timeout_s=60)
            assert outcome.result is Result.FAILED
            [letter] = queue.dead_letters()
            assert (letter.destination, letter.key) == ("dest-swift", key)
            assert "1030 bytes" in letter.reason
            assert queue.dead_letters("dest-swift") == [letter]
            assert queue.retry("another") == 0
            assert queue.retry(key) == 1
            eventually(
                lambda: [each.dead_lettered_ms > letter.dead_lettered_ms for each in queue.dead_letters()] == [True]
            )
            assert queue.retry() == 1
            with pytest.raises(ValueError, match="no such destination: swift; route default has dest-swift"):
                queue.dead_letters("swift")

    def test_a_key_that_the_route_does_not_include_is_refused_and_nothing_is_queued(
        self, tmp_path: Path, redis_url: str, buckets: Buckets
    ) -> None:
        path = buckets.config(tmp_path, redis_url)
        path.write_text(re.sub('prefix = ".*"', 'prefix = "in/"', path.read_text(), count=1))
        with s3s3.SyncQueue(redis_url, route_in(path)) as queue:
            for refused, reason in (("out/k", "does not include 'out/k'"), ("", "empty"), ("\ud800", "UTF-8")):
                with pytest.raises(ValueError, match=reason):
                    queue.put(["in/k", refused])
            assert queue.stats().pending == 0

    def test_a_redis_that_is_down_raises_redis_unavailable(self, buckets: Buckets) -> None:
        with s3s3.SyncQueue("redis://127.0.0.1:1/0", buckets.route) as queue, pytest.raises(RedisUnavailable):
            queue.put("k")


@pytest.mark.long
@pytest.mark.real
def test_the_examples_of_the_documentation_work(
    listening: Path, buckets: Buckets, swift: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(listening.parent)
    assert listening.name == "s3s3.toml"
    buckets.put("a.fits", b"12345")
    buckets.put("b.fits", b"678")
    text = (ROOT / "docs/reference/python.md").read_text()
    text = text.replace('"bucket_name": "images"', f'"bucket_name": {buckets.source!r}')
    text = text.replace('"bucket_name": "images-copy"', f'"bucket_name": {buckets.destination!r}').replace("```", "")
    names = {"ceph_args": arguments(swift, ""), "swift_args": arguments(swift, "", 1)}
    examples = doctest.DocTestParser().get_doctest(text, names, "python.md", None, 0)
    reports: list[str] = []
    doctest.DocTestRunner().run(examples, out=reports.append)
    assert len(examples.examples) > 10
    assert "".join(reports) == ""


def test_the_package_has_the_classes_for_programs_without_importing_them_first() -> None:
    script = "import s3s3, sys; print('s3s3.programs' in sys.modules, s3s3.Copier.__name__, s3s3.SyncQueue.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "Copier", "SyncQueue"]
    with pytest.raises(AttributeError, match="no attribute 'Kopier'"):
        _ = s3s3.Kopier


class TestLoopThread:
    def test_stopping_cancels_what_runs(self) -> None:
        thread, cancelled = LoopThread(), threading.Event()

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        thread.start()
        with ThreadPoolExecutor(1) as caller:
            started = threading.Event()

            async def main() -> None:
                started.set()
                await wait()

            running = caller.submit(thread.run, main())
            assert started.wait(10)
            thread.stop()
            assert cancelled.wait(10)
            assert running.exception(10) is not None

    def test_it_can_be_started_again(self) -> None:
        thread = LoopThread()
        for _ in range(2):
            thread.start()
            assert thread.run(asyncio.sleep(0, "done")) == "done"
            thread.stop()
