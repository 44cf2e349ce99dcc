"""The daemon among real servers, some of which are away, wrong, or killed under it."""

from __future__ import annotations

import dataclasses
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import redis

from s3s3.model import Secret
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Hang
from tests.faults.proxy import Proxy
from tests.integration.commands import TIMEOUT_S, Listener, eventually, limited_destination, run, write_config
from tests.integration.objects import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from s3s3.model import Endpoint

pytestmark = pytest.mark.real

QUICK: dict[str, object] = {"lease_s": 2}


class Place:
    """A source and a destination in one Swift, and a configuration between them."""

    def __init__(self, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        self.source = swift.endpoint(new_bucket(swift))
        self.there = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
        self.redis_url = redis_url
        self.folder = folder
        self.source_client, self.client = swift.boto3_client(), swift.boto3_client(1)
        (self.port,) = free_ports(1)

    def config(self, others: Sequence[Endpoint] = (), **settings: Any) -> Path:
        bind = f"127.0.0.1:{self.port}"
        return write_config(self.folder, self.source, [self.there, *others], self.redis_url, bind=bind, **settings)

    def put(self, key: str, content: bytes = b"content") -> None:
        self.source_client.put_object(Bucket=self.source.bucket_name, Key=key, Body=content)

    def publish(self, *messages: str | bytes) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for message in messages:
                client.publish("backup", message)

    def content(self, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.there.bucket_name, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def arrives(self, key: str, content: bytes = b"content", timeout_s: float = TIMEOUT_S) -> None:
        eventually(lambda: self.content(key) == content, f"{key!r} at the destination", timeout_s, every_s=0.1)

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(swift, new_bucket, redis_url, tmp_path)


def dead_letters(place: Place) -> dict[str, str]:
    with redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        return {
            key: text
            for name in client.scan_iter("s3s3:{default}:dead-letters:*")
            for key, text in client.hgetall(name).items()
        }


# -- the source refuses


def test_a_source_without_the_bucket_ends_the_listener_with_3_and_names_the_setting(place: Place) -> None:
    place.source = dataclasses.replace(place.source, bucket_name="nowhere")
    output = run("listen", "--config", place.config(), status=3).stderr
    assert "source" in output
    assert "bucket_name" in output
    assert "nowhere" in output


def test_a_source_that_refuses_the_secret_ends_the_listener_with_3_and_names_the_setting(place: Place) -> None:
    place.source = dataclasses.replace(place.source, secret_access_key=Secret("not-the-secret"))
    output = run("listen", "--config", place.config(), status=3).stderr
    assert "[source]" in output
    assert "aws_secret_access_key" in output
    assert "not-the-secret" not in output


@pytest.mark.long
def test_a_rewritten_secret_lets_all_parked_keys_go_on_without_a_restart(place: Place, tmp_path: Path) -> None:
    assert place.there.secret_access_key is not None
    secret = place.there.secret_access_key.get_secret_value()
    config = place.config()
    before, table, keys_of_destination = config.read_text().partition("[destination]")
    by_file = keys_of_destination.replace(
        f'aws_secret_access_key = "{secret}"', 'aws_secret_access_key_file = "secret"'
    )
    config.write_text(before + table + by_file)
    (tmp_path / "secret").write_text("revoked")
    keys = [f"key-{number}" for number in range(20)]
    for key in keys:
        place.put(key)
    with Listener(config) as listener:
        place.publish(*keys)
        eventually(lambda: "circuit opened" in listener.log.read_text(), "parked keys")
        (tmp_path / "new").write_text(f"{secret}\n")
        (tmp_path / "new").rename(tmp_path / "secret")
        for key in keys:
            place.arrives(key)


def test_a_configuration_fault_ends_the_listener_with_2(place: Place) -> None:
    path = place.config()
    path.write_text(path.read_text().replace("bucket_name", "buket_name", 1))
    output = run("listen", "--config", path, status=2).stderr
    assert "buket_name" in output
    assert "bucket_name" in output


# -- a server is unavailable: the listener runs and is not ready


@pytest.mark.long
def test_a_destination_that_is_away_at_the_start_leaves_the_listener_running_and_not_ready(
    place: Place, swift: SwiftServer
) -> None:
    port = place.there.port
    place.there = dataclasses.replace(place.there, port=free_ports(1)[0])
    with Listener(place.config()) as listener:
        assert place.http("/healthz") == (200, "ok\n")
        status, output = place.http("/readyz")
        assert status == 503
        assert "destination" in output
        assert f":{place.there.port}" in output
        assert "not ready" in listener.log.read_text()
    place.there = dataclasses.replace(place.there, port=port)
    with Listener(place.config()):
        assert place.http("/readyz") == (200, "ok\n")


@pytest.mark.long
def test_a_destination_that_does_not_answer_at_the_start_does_not_delay_the_subscription(
    place: Place, swift: SwiftServer
) -> None:
    with Proxy(swift.port) as proxy:
        place.there = proxy.through(place.there)
        with proxy.injecting(Hang()), Listener(place.config()).started() as listener:
            eventually(lambda: ": subscribed" in listener.log.read_text(), "it subscribes", 30)
            assert "destination: LIST: it has not listed the start of its bucket" in listener.log.read_text()


def test_the_listener_waits_for_a_redis_that_is_unavailable_at_the_start(
    place: Place, redis_server: RedisServer
) -> None:
    place.put("late")
    redis_server.stop()
    listener = Listener(place.config())
    with listener.started():
        eventually(
            lambda: "Redis cannot be reached" in listener.log.read_text(), "it reports that Redis is unavailable"
        )
        assert place.http("/healthz") == (200, "ok\n"), "a restart would not help"
        assert place.http("/readyz")[0] == 503
        redis_server.start()
        eventually(lambda: ": subscribed" in listener.log.read_text(), "it subscribes")
        place.publish("late")
        place.arrives("late")
        assert place.http("/healthz") == (200, "ok\n")


@pytest.mark.long
def test_an_outage_of_redis_fails_readiness_and_never_liveness(place: Place, redis_server: RedisServer) -> None:
    with Listener(place.config()):
        eventually(lambda: place.http("/readyz") == (200, "ok\n"), "it is ready")
        redis_server.pause()
        try:
            eventually(lambda: "not subscribed" in place.http("/readyz")[1], "it finds its subscription dead")
            assert place.http("/healthz") == (200, "ok\n")
        finally:
            redis_server.resume()
        eventually(lambda: place.http("/readyz") == (200, "ok\n"), "it is ready again")
        assert place.http("/healthz") == (200, "ok\n")


@pytest.mark.long
def test_a_port_that_is_taken_is_a_warning(place: Place) -> None:
    place.put("a")
    with Listener(place.config()), Listener(place.config()) as second:
        assert f"cannot listen on 127.0.0.1:{place.port} (Address already in use)" in second.log.read_text()
        place.publish("a")
        place.arrives("a")


def test_systemd_is_notified_of_start_health_and_stop(place: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with Listener(place.config(), environment=environment) as listener:
            assert manager.recv(1000).startswith(b"READY=1")
            while not (output := manager.recv(1000)).startswith(b"WATCHDOG=1"):
                assert output == b"STATUS=route default: not subscribed", "it has just started"
            listener.stop()
        while not (output := manager.recv(1000)).startswith(b"STOPPING=1"):
            assert output.startswith(b"WATCHDOG=1")


# -- bad input


def test_missing_keys_and_unusable_messages_do_not_disturb_the_rest(place: Place) -> None:
    place.put("good")
    with Listener(place.config()) as listener:
        place.publish("gone", b"\xff\xfe", b"", b"k" * 1025, "good")
        place.arrives("good")
        eventually(lambda: len(dead_letters(place)) == 3, "three dead letters")
        metrics = place.http("/metrics")[1]
        assert 's3s3_copies_total{destination="destination",outcome="source_missing",route="default"} 1.0' in metrics
        assert 's3s3_notifications_total{kind="not_utf8",route="default"} 1.0' in metrics
        assert listener.process.poll() is None
    assert "gone" not in dead_letters(place)


# -- nothing is lost


@pytest.mark.long
def test_a_listener_that_is_killed_in_the_middle_of_a_copy_is_taken_over_from(place: Place) -> None:
    content = b"x" * 16 * MIB
    place.put("big", content)
    config = place.config(worker=QUICK)
    with limited_destination(config, 'max_bytes_per_s = "1 MiB"'), Listener(config) as first:
        place.publish("big")
        eventually(lambda: running(place, "big"), "it is claimed")
        first.kill()
    with Listener(config):
        place.arrives("big", content)


def running(place: Place, key: str) -> bool:
    with redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        return bool(client.hget(f"s3s3:{{default}}:job:{key}", "phase") == "running")


@pytest.mark.long
def test_keys_published_without_a_listener_are_backfilled(place: Place) -> None:
    config = place.config()
    with Listener(config):
        place.put("before")
        place.publish("before")
        place.arrives("before")
        eventually(lambda: watermark(place), "the watermark")
    place.put("meanwhile")
    place.publish("meanwhile")  # no subscriber
    with Listener(config):
        place.arrives("meanwhile")


def watermark(place: Place) -> str | None:
    with redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        answer: str | None = client.get("s3s3:{default}:watermark")
        return answer


@pytest.mark.long
@pytest.mark.parametrize("checksum", ["client", "store"])  # store: the kernel moves the body
def test_a_stopping_listener_finishes_its_copies_and_exits_with_0(
    place: Place, swift: SwiftServer, checksum: Literal["client", "store"]
) -> None:
    place.there = dataclasses.replace(place.there, checksum=checksum)
    content = b"x" * 16 * MIB
    place.put("big", content)
    with Listener(place.config()) as listener:
        swift.pause()
        place.publish("big")
        eventually(lambda: running(place, "big"), "it is claimed")
        listener.process.terminate()
        time.sleep(0.5)
        assert listener.process.poll() is None, "it waits for what it copies"
        swift.resume()
        assert listener.process.wait(TIMEOUT_S) == 0
        assert place.content("big") == content


@pytest.mark.long
def test_a_changed_object_replaces_its_copy(place: Place) -> None:
    with Listener(place.config()):
        for content in (b"one", b"two", b"three"):
            place.put("key", content)
            place.publish("key")
            place.arrives("key", content)


# -- what the predecessor's users rely on


@pytest.mark.long
def test_mark_done_leaves_the_predecessor_s_mark_in_redis(place: Place) -> None:
    place.put("a/b")
    with Listener(place.config(pubsub={"mark_done": True})):
        place.publish("a/b")
        place.arrives("a/b")
        with redis.Redis.from_url(place.redis_url) as client:
            eventually(lambda: client.get("backup=>a/b") == b"True", "the mark")


def test_mark_done_tells_of_what_a_run_of_bucket_copies(place: Place) -> None:
    config = place.config(pubsub={"mark_done": True})
    place.put("a/b")
    run("publish", "--config", config, "a/b")
    run("bucket", "--config", config)
    with redis.Redis.from_url(place.redis_url) as client:
        assert client.get("backup=>a/b") == b"True"


def test_a_prefix_is_replaced_and_what_is_outside_it_is_left_alone(place: Place) -> None:
    place.source = dataclasses.replace(place.source, prefix="raw/")
    place.there = dataclasses.replace(place.there, prefix="copies/2026/")
    for key in ("raw/a", "other/b"):
        place.put(key)
    config = place.config()
    with Listener(config):
        place.publish("other/b", "raw/a")
        place.arrives("copies/2026/a")
    run("bucket", "--config", config)
    listed = place.client.list_objects_v2(Bucket=place.there.bucket_name)["Contents"]
    assert [entry["Key"] for entry in listed] == ["copies/2026/a"]


def test_a_store_that_takes_v4_only_says_which_setting_cures_it(
    place: Place, rclone_store: StoreServer, new_bucket: Callable[..., str]
) -> None:
    place.source = rclone_store.endpoint(new_bucket(rclone_store), signature_version="s3")
    output = run("listen", "--config", place.config(), status=3).stderr
    assert 'signature_version = "s3v4"' in output
