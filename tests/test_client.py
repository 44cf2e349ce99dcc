from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3 import api, config
from s3s3.client import BucketClient, ListenClient, StopSignal, on_notify
from s3s3.errors import ConfigError
from s3s3.scripts.demo.servers import HOST, StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.tasks import run_sync
from tests.integration.commands import route_tables
from tests.scripts.command import config_file
from tests.waiting import eventually

NewBucket = Callable[..., str]


class Buckets:
    """A source bucket with the objects `a` and `b`, and a destination bucket in another account."""

    def __init__(self, store: StoreServer, new_bucket: NewBucket) -> None:
        self.store = store
        self.source, self.destination = new_bucket(store), new_bucket(store, 1)
        for key in ("a", "b"):
            self.put(key, key.encode())

    def put(self, key: str, body: bytes) -> None:
        self.store.boto3_client().put_object(Bucket=self.source, Key=key, Body=body)

    def copies(self, bucket: str | None = None) -> dict[str, bytes]:
        client, name = self.store.boto3_client(1), bucket or self.destination
        entries = client.list_objects_v2(Bucket=name).get("Contents", [])
        return {entry["Key"]: client.get_object(Bucket=name, Key=entry["Key"])["Body"].read() for entry in entries}

    def config(self, folder: Path, redis_url: str) -> Path:
        destination = self.store.endpoint(self.destination, "swift", account=1)
        return config_file(folder, redis_url, self.store.endpoint(self.source), [destination])

    def arguments(self, account: int = 0, **more: Any) -> dict[str, Any]:
        key_id, secret = self.store.accounts[account]
        return {"host": HOST, "port": self.store.port, "is_secure": False, "aws_access_key_id": key_id,
                "aws_secret_access_key": secret, **more}  # fmt: skip


@pytest.fixture
def buckets(swift: SwiftServer, new_bucket: NewBucket) -> Buckets:
    return Buckets(swift, new_bucket)


@pytest.mark.real
class TestBucketClient:
    @pytest.mark.parametrize("with_redis", [True, False])
    def test_everything_is_copied(self, tmp_path: Path, redis_url: str, buckets: Buckets, with_redis: bool) -> None:
        path = buckets.config(tmp_path, redis_url if with_redis else "")
        assert BucketClient(path).duplicate() is True
        assert buckets.copies() == {"a": b"a", "b": b"b"}
        assert BucketClient(config.load(path)).duplicate() is True

    def test_another_destination_bucket_can_be_given(
        self, tmp_path: Path, buckets: Buckets, swift: SwiftServer, new_bucket: NewBucket
    ) -> None:
        other = new_bucket(swift, 1)
        client = BucketClient(buckets.config(tmp_path, ""), dest_bucket=other)
        assert client.duplicate() is True
        assert (buckets.copies(), buckets.copies(other)) == ({}, {"a": b"a", "b": b"b"})

    def test_one_route_of_several_can_be_selected(
        self, tmp_path: Path, buckets: Buckets, swift: SwiftServer, new_bucket: NewBucket
    ) -> None:
        path, other, third = buckets.config(tmp_path, ""), new_bucket(swift, 1), new_bucket(swift, 1)
        destination = swift.endpoint(other, "dest", account=1)
        path.write_text(path.read_text() + route_tables("raw", swift.endpoint(buckets.source), destination))
        assert BucketClient(path, route="raw").duplicate() is True
        assert (buckets.copies(), buckets.copies(other)) == ({}, {"a": b"a", "b": b"b"})
        assert BucketClient(path, route="raw", dest_bucket=third).duplicate() is True
        assert buckets.copies(third) == {"a": b"a", "b": b"b"}
        with pytest.raises(ConfigError, match="no such route; the configuration has default, raw"):
            BucketClient(path, route="rwa")

    def test_a_failed_copy_returns_false(self, tmp_path: Path, buckets: Buckets) -> None:
        assert BucketClient(buckets.config(tmp_path, ""), dest_bucket="nowhere").duplicate() is False

    def test_a_missing_configuration_raises_at_construction(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            BucketClient(tmp_path / "nothing.toml")


@pytest.mark.real
class TestListenClient:
    def test_it_copies_published_keys_until_another_thread_stops_it(
        self, tmp_path: Path, redis_url: str, buckets: Buckets
    ) -> None:
        client = ListenClient(buckets.config(tmp_path, redis_url))
        thread = threading.Thread(target=client.listen)
        thread.start()
        try:
            with redis.Redis.from_url(redis_url) as producer:
                eventually(lambda: producer.pubsub_numsub("backup")[0][1] == 1)
                producer.publish("backup", "a")
                eventually(lambda: "a" in buckets.copies())
        finally:
            client.stop()
            thread.join(20)
        assert not thread.is_alive()
        assert buckets.copies() == {"a": b"a"}

    def test_a_stop_before_the_start_takes_effect(self, tmp_path: Path, redis_url: str, buckets: Buckets) -> None:
        client = ListenClient(buckets.config(tmp_path, redis_url))
        client.stop()
        thread = threading.Thread(target=client.listen, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    def test_sigterm_ends_a_script_cleanly(self, tmp_path: Path, redis_url: str, buckets: Buckets) -> None:
        path = buckets.config(tmp_path, redis_url)
        script = f"from s3s3.client import ListenClient; ListenClient({str(path)!r}).listen(); print('ended')"
        with (
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process,
            redis.Redis.from_url(redis_url) as client,
        ):
            try:
                eventually(lambda: client.pubsub_numsub("backup")[0][1] == 1)
                process.send_signal(signal.SIGTERM)
                out, _ = process.communicate(timeout=20)
            finally:
                process.kill()
        assert (process.returncode, out) == (0, "ended\n")

    def test_listening_needs_redis(self, tmp_path: Path, buckets: Buckets) -> None:
        with pytest.raises(ConfigError, match="needs Redis"):
            ListenClient(buckets.config(tmp_path, "")).listen()


@pytest.mark.real
class TestOnNotify:
    def test_every_kind_of_connection_is_accepted(
        self, buckets: Buckets, swift: SwiftServer, new_bucket: NewBucket
    ) -> None:
        source = buckets.arguments(bucket_name=buckets.source)
        names = [new_bucket(swift, 1) for _ in range(3)]
        resource = api.create_connection(buckets.arguments(1, bucket_name=names[1]))
        connections: list[Any] = [buckets.arguments(1, bucket_name=names[0]), resource, resource.Bucket(names[2])]
        assert on_notify(source, connections, "a") is True
        assert [buckets.copies(name) for name in names] == [{"a": b"a"}] * 3

    def test_one_connection_need_not_be_a_list(self, buckets: Buckets) -> None:
        destination = api.create_connection(buckets.arguments(1)).Bucket(buckets.destination)
        assert on_notify(api.create_connection(buckets.arguments(bucket_name=buckets.source)), destination, "b") is True
        assert buckets.copies() == {"b": b"b"}

    def test_the_destination_prefix_replaces_the_source_prefix(self, buckets: Buckets) -> None:
        buckets.put("raw/k", b"1")
        destination = buckets.arguments(1, bucket_name=buckets.destination, prefix="copy/")
        assert on_notify(buckets.arguments(bucket_name=buckets.source, prefix="raw/"), destination, "raw/k") is True
        assert buckets.copies() == {"copy/k": b"1"}

    def test_a_missing_key_returns_false(self, buckets: Buckets) -> None:
        destination = buckets.arguments(1, bucket_name=buckets.destination)
        assert on_notify(buckets.arguments(bucket_name=buckets.source), destination, "gone") is False

    def test_a_connection_without_a_bucket_is_refused(self, buckets: Buckets) -> None:
        destination = buckets.arguments(1, bucket_name=buckets.destination)
        with pytest.raises(ConfigError, match="source: no bucket"):
            on_notify(buckets.arguments(), destination, "a")
        with pytest.raises(ConfigError, match="destination-2: no bucket"):
            on_notify(destination, [destination, api.create_connection(buckets.arguments())], "a")


async def wait_for_stop(stop: StopSignal) -> None:
    with stop.attached() as event:
        await asyncio.wait_for(event.wait(), 10)


class TestStopSignal:
    def test_it_can_be_set_in_another_thread(self) -> None:
        stop = StopSignal()
        thread = threading.Thread(target=lambda: run_sync(wait_for_stop(stop)))
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        stop.set()
        thread.join(5)
        assert not thread.is_alive()

    def test_it_can_be_set_before_and_is_reset_afterwards(self) -> None:
        stop = StopSignal()
        stop.set()
        run_sync(wait_for_stop(stop))

        async def is_set() -> bool:
            with stop.attached() as event:
                return event.is_set()

        assert run_sync(is_set()) is False

    def test_signals_set_it_in_the_main_thread_and_handlers_are_restored(self) -> None:
        stop, handler = StopSignal(), signal.getsignal(signal.SIGTERM)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        with stop.on_signals():
            run_sync(wait_for_stop(stop))
        assert signal.getsignal(signal.SIGTERM) is handler

    def test_another_thread_leaves_signal_handlers_unchanged(self) -> None:
        handlers: list[object] = []

        def read_handler() -> None:
            with StopSignal().on_signals():
                handlers.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=read_handler)
        thread.start()
        thread.join()
        assert handlers == [signal.getsignal(signal.SIGTERM)]
