"""Several routes between a real Ceph and a real Swift: a failing route does not affect the others."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from s3s3.model import Endpoint
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, command, eventually, report_lines, route_tables, run, write_config
from tests.integration.objects import keys_of
from tests.real.ceph_server import CephServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.real


class Two:
    """Route raw goes from Ceph to Swift, route back from Swift, by other credentials, to Ceph; prefixes differ."""

    def __init__(
        self, ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path
    ) -> None:
        self.ceph, self.swift = ceph.boto3_client(), swift.boto3_client(1)
        self.images, self.logs = new_bucket(ceph), new_bucket(swift, 1)
        self.raw = [ceph.endpoint(self.images, prefix="srcfolder/"),
                    swift.endpoint(self.logs, "dest-swift", account=1, prefix="destfolder/")]  # fmt: skip
        self.back = [swift.endpoint(self.logs, account=1, prefix="logs/"),
                     ceph.endpoint(self.images, "dest-ceph", prefix="from-swift/")]  # fmt: skip
        self.redis_url = redis_url
        self.folder = folder

    def config(self, **settings: object) -> Path:
        routes = [route_tables("raw", *self.raw, channel="one"), route_tables("back", *self.back, channel="two")]
        return write_config(self.folder, None, [], self.redis_url, routes=routes, **settings)  # type: ignore[arg-type]

    def publish(self, channel: str, key: str) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.publish(channel, key)


def put(client: S3Client, bucket: str, *keys: str) -> None:
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=f"content of {key}".encode())


@pytest.fixture
def two(ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Two:
    return Two(ceph, swift, new_bucket, redis_url, tmp_path)


def test_two_routes_with_other_prefixes_copy_all_of_theirs_and_the_second_time_nothing(two: Two) -> None:
    put(two.ceph, two.images, "srcfolder/a", "srcfolder/b/c", "srcfolder", "other/d")
    put(two.swift, two.logs, "logs/e", "elsewhere/f", "destfolder/stays")
    config, report = two.config(), two.folder / "report.jsonl"
    output = run("bucket", "--config", config).stdout
    assert [line.split()[:2] for line in output.splitlines()[1:3]] == [["raw", "dest-swift"], ["back", "dest-ceph"]]
    assert {key for key in keys_of(two.swift, two.logs) if key.startswith("dest")} == {
        "destfolder/a", "destfolder/b/c", "destfolder/stays"
    }  # fmt: skip
    assert {key for key in keys_of(two.ceph, two.images) if key.startswith("from")} == {"from-swift/e"}
    assert two.ceph.get_object(Bucket=two.images, Key="from-swift/e")["Body"].read() == b"content of logs/e"
    before = keys_of(two.swift, two.logs) | keys_of(two.ceph, two.images)

    run("bucket", "--config", config, "--report", report)
    lines, summary = report_lines(report)
    summaries = {one["summary"]["route"]: one["summary"] for one in [*lines, {"summary": summary}] if "summary" in one}
    assert summaries["raw"]["destinations"] == {"dest-swift": {"extraneous": 1, "same": 2}}
    assert summaries["back"]["destinations"] == {"dest-ceph": {"same": 1}}
    assert {(one["route"], one["key"]) for one in lines if "key" in one and one["outcome"] == "same"} == {
        ("raw", "srcfolder/a"), ("raw", "srcfolder/b/c"), ("back", "logs/e")
    }  # fmt: skip
    assert keys_of(two.swift, two.logs) | keys_of(two.ceph, two.images) == before


def test_one_route_can_be_chosen_and_another_bucket_be_named_for_one_only(
    two: Two, ceph: CephServer, new_bucket: Callable[..., str]
) -> None:
    put(two.ceph, two.images, "srcfolder/a")
    put(two.swift, two.logs, "logs/e")
    config, other = two.config(), new_bucket(ceph)
    assert "choose one with --route" in run("bucket", "--config", config, "--dest-bucket", other, status=2).stderr
    assert "configuration has raw, back" in run("bucket", "--config", config, "--route", "x", status=2).stderr
    output = run("bucket", "--config", config, "--route", "back", "--dest-bucket", other)
    assert "route raw" not in output.stdout + output.stderr
    assert keys_of(two.ceph, other) == {"from-swift/e"}
    assert keys_of(two.swift, two.logs) == {"logs/e"}


@pytest.mark.long
def test_a_notification_goes_to_routes_with_its_channel_and_prefix(two: Two) -> None:
    put(two.ceph, two.images, "srcfolder/a", "srcfolder/b", "logs/c")
    put(two.swift, two.logs, "srcfolder/b", "logs/c")
    (port,) = free_ports(1)
    with Listener(two.config(bind=f"127.0.0.1:{port}")) as listener:
        eventually(lambda: listener.log.read_text().count(": subscribed") == 2, "it subscribes to both channels")
        for channel, key in (("two", "srcfolder/a"), ("one", "logs/c"), ("one", "srcfolder/b"), ("two", "logs/c")):
            two.publish(channel, key)
        eventually(lambda: "destfolder/b" in keys_of(two.swift, two.logs), "b arrives in Swift", every_s=0.1)
        eventually(lambda: "from-swift/c" in keys_of(two.ceph, two.images), "c arrives in Ceph", every_s=0.1)
        output = run("jobs", "--config", two.folder / "s3s3.toml").stdout
        assert "route raw: 0 pending" in output
        assert "route back: 0 pending" in output
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
            metrics = answer.read().decode()
        with urllib.request.urlopen(f"{url}/readyz", timeout=20) as answer:
            assert answer.read() == b"ok\n"
        assert two.ceph.get_object(Bucket=two.images, Key="from-swift/c")["Body"].read() == b"content of logs/c"
    for route, destination in (("raw", "dest-swift"), ("back", "dest-ceph")):
        assert f's3s3_notifications_total{{kind="pubsub",route="{route}"}} 1.0' in metrics
        assert f's3s3_copies_total{{destination="{destination}",outcome="copied",route="{route}"}} 1.0' in metrics
    assert {key for key in keys_of(two.swift, two.logs) if key.startswith("dest")} == {"destfolder/b"}
    assert {key for key in keys_of(two.ceph, two.images) if key.startswith("from")} == {"from-swift/c"}


@pytest.mark.long
def test_publish_puts_a_key_on_the_queue_or_the_channel_of_every_route_that_is_about_it(two: Two) -> None:
    put(two.ceph, two.images, "srcfolder/a")
    put(two.swift, two.logs, "logs/e")
    config = two.config()
    with Listener(config) as listener:
        eventually(lambda: listener.log.read_text().count(": subscribed") == 2, "it subscribes to both channels")
        run("publish", "--config", config, "--wait", "srcfolder/a", "logs/e")
        assert {"destfolder/a", "logs/e"} == keys_of(two.swift, two.logs)
        assert {"srcfolder/a", "from-swift/e"} == keys_of(two.ceph, two.images)
        put(two.swift, two.logs, "logs/f")
        output = run("publish", "--config", config, "--pubsub", "logs/f").stdout
        assert output == "0 keys published on channel 'one'\n1 key published on channel 'two'\n"
        eventually(lambda: "from-swift/f" in keys_of(two.ceph, two.images), "f arrives", every_s=0.1)
    output = run("publish", "--config", config, "--route", "raw", "logs/e", status=2).stderr
    assert "no route matches 'logs/e'" in output


def test_check_reports_every_route_and_names_its_tables(two: Two) -> None:
    two.back[1] = dataclasses.replace(two.back[1], bucket_name="nowhere")
    output = run("check", "--config", two.config(), status=1).stdout
    assert "bucket_name in [routes.back.dest-ceph]" in " ".join(output.split())
    assert {"route raw", "route back"} <= {line[:10].strip() for line in output.splitlines()}
    assert "subscribers of one" in output
    assert "subscribers of two" in output


# -- one that is failing harms only itself


@pytest.mark.long
def test_a_route_that_cannot_be_compared_harms_no_other_and_no_later_run(two: Two) -> None:
    put(two.swift, two.logs, "logs/e")
    two.raw[0] = dataclasses.replace(two.raw[0], bucket_name="nowhere")
    config = two.config()
    done = run("bucket", "--config", config, status=3)
    assert "s3s3: route raw: " in done.stderr
    assert "check bucket_name in [routes.raw.source]" in done.stderr
    assert keys_of(two.ceph, two.images) == {"from-swift/e"}

    arguments = command("bucket", "--config", config, "--interval", "0.5", "--report", two.folder / "report.jsonl")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        for number in range(2):
            put(two.swift, two.logs, f"logs/{number}")
            eventually(
                partial(lambda n: f"from-swift/{n}" in keys_of(two.ceph, two.images), number), "it goes on", every_s=0.2
            )
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=30)
    assert process.returncode in (0, 1, 3)  # between two runs, or in the middle of one
    assert output.count("nowhere") >= 2
    assert "next attempt in" in output


@pytest.mark.long
def test_a_source_that_refuses_leaves_the_other_routes_working(two: Two) -> None:
    put(two.swift, two.logs, "logs/e")
    two.raw[0] = dataclasses.replace(two.raw[0], bucket_name="nowhere")
    with Listener(two.config()) as listener:
        eventually(lambda: listener.log.read_text().count(": subscribed") == 2, "it subscribes to both channels")
        assert re.search("route not ready: .* route=raw", listener.log.read_text())
        two.publish("two", "logs/e")
        eventually(lambda: "from-swift/e" in keys_of(two.ceph, two.images), "e arrives", every_s=0.1)
    two.back[0] = dataclasses.replace(two.back[0], bucket_name="nowhere")
    assert "nowhere" in run("listen", "--config", two.config(), status=3).stderr


@pytest.mark.long
def test_a_listener_compares_every_route_from_time_to_time_though_one_cannot_be(two: Two) -> None:
    two.raw[0] = dataclasses.replace(two.raw[0], port=free_ports(1)[0])
    put(two.swift, two.logs, "logs/e")
    with Listener(two.config(), "--reconcile-interval", "1", "--no-initial") as listener:
        for number in range(2):
            put(two.swift, two.logs, f"logs/{number}")
            eventually(
                partial(lambda n: f"from-swift/{n}" in keys_of(two.ceph, two.images), number), "compared", every_s=0.2
            )
        eventually(lambda: re.search("reconcile failed: .* route=raw", listener.log.read_text()), "it is logged")


# -- a chain


@pytest.fixture
def chain(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> tuple[Path, list[str]]:
    """Three buckets; the file has the second route first. The last bucket's name has a suffix. Deletions go along."""
    buckets = [new_bucket(swift) for _ in range(3)]
    last = buckets[2]

    def there(bucket: str, name: str = "source", prefix: str = "") -> Endpoint:
        return swift.endpoint(bucket, name, prefix=prefix)

    second = route_tables("second", there(buckets[1], prefix="in/"), there(last[:-3], "destination"))
    second += f'bucket_suffix = "{last[-3:]}"\ndelete = true\n'
    first = route_tables("first", there(buckets[0]), there(buckets[1], "destination", "in/")) + "delete = true\n"
    return write_config(tmp_path, None, [], redis_url, routes=[second, first]), buckets


@pytest.mark.long
def test_a_chain_of_routes_needs_one_run(chain: tuple[Path, list[str]], swift: SwiftServer) -> None:
    config, buckets = chain
    put(swift.boto3_client(), buckets[0], "a", "b")
    run("bucket", "--config", config)
    assert keys_of(swift.boto3_client(), buckets[2]) == {"a", "b"}
    assert "copied" not in run("bucket", "--config", config).stdout


@pytest.mark.long
def test_a_notification_is_passed_along_a_chain_of_routes(chain: tuple[Path, list[str]], swift: SwiftServer) -> None:
    config, buckets = chain
    client = swift.boto3_client()
    with Listener(config):
        run("publish", "--config", config, "--wait", "--route", "first", "none-yet")
        for content in (b"one", b"two"):
            client.put_object(Bucket=buckets[0], Key="k", Body=content)
            run("publish", "--config", config, "--route", "first", "k")
            eventually(partial(lambda c: content_of(client, buckets[2], "k") == c, content), "it goes on", every_s=0.1)
        client.delete_object(Bucket=buckets[0], Key="k")
        run("publish", "--config", config, "--route", "first", "k")
        eventually(lambda: content_of(client, buckets[2], "k") is None, "so does its end", every_s=0.1)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["", "--distributed"])
def test_a_copy_by_bucket_is_passed_along_a_chain_of_routes(
    chain: tuple[Path, list[str]], swift: SwiftServer, kind: str
) -> None:
    config, buckets = chain
    if kind:
        config.write_text(config.read_text().replace("delete = true", "delete = false"))
    client = swift.boto3_client()
    client.put_object(Bucket=buckets[0], Key="k", Body=b"one")
    run("publish", "--config", config, "--route", "first", "k")
    run("bucket", "--config", config, "--route", "first", *filter(None, [kind]))
    assert content_of(client, buckets[1], "in/k") == b"one"
    with Listener(config):
        eventually(lambda: content_of(client, buckets[2], "k") == b"one", "it goes on", every_s=0.1)


def content_of(client: S3Client, bucket: str, key: str) -> bytes | None:
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None
