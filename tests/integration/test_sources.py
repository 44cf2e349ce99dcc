"""Every notification source except pub/sub, from the sender to the copied object."""

from __future__ import annotations

import dataclasses
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest
import redis
from botocore.config import Config

from s3s3.model import Secret
from s3s3.scripts.demo.servers import Account, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, run
from tests.integration.test_listen import Place, dead_letters
from tests.notifications.senders import SqsSender, event
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notifications.md"
TOKEN = "webhook-token"
WITHOUT_CHANNEL: dict[str, object] = {"channel": ""}


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(swift, new_bucket, redis_url, tmp_path)


@pytest.fixture
def webhook_port() -> int:
    return free_ports(1)[0]


def with_tables(config: Path, *tables: str) -> Path:
    config.write_text("\n".join([config.read_text(), *tables]))
    return config


def webhook_table(port: int) -> str:
    return f'[webhook]\nbind = "127.0.0.1:{port}"\ntoken = "{TOKEN}"\n'


def takes(listener: Listener, *sources: str) -> None:
    eventually(
        lambda: all(f"{name}: receiving notifications" in listener.log.read_text() for name in sources),
        "it takes notifications",
    )


@pytest.mark.long
def test_a_stream_works_without_a_channel(place: Place) -> None:
    config = with_tables(place.config(pubsub=WITHOUT_CHANNEL), "[stream]\n")
    for key in ("before the listener", "while one listens"):
        place.put(key)
    with redis.Redis.from_url(place.redis_url) as client:
        client.xadd("s3s3:notifications", {"key": "before the listener"})
        with Listener(config).started() as listener:
            place.arrives("before the listener")
            client.xadd("s3s3:notifications", {"key": "while one listens", "bucket": place.source.bucket_name})
            client.xadd("s3s3:notifications", {"key": "of another bucket", "bucket": "other"})
            client.xadd("s3s3:notifications", {"nokey": "x"})
            place.arrives("while one listens")
            eventually(lambda: dead_letters(place), "a dead letter")
            assert place.http("/healthz") == (200, "ok\n")
            assert place.http("/readyz") == (200, "ok\n")
            metrics = place.http("/metrics")[1]
            assert listener.stop() == 0
        assert client.pubsub_numsub("backup") == [(b"backup", 0)]
        assert client.xlen("s3s3:notifications") == 4
        assert client.xinfo_consumers("s3s3:notifications", "s3s3") == []
    assert "subscribed" not in listener.log.read_text()
    counted = dict(re.findall(r's3s3_notifications_total\{kind="([^"]*)",route="[^"]*"\} (.*)', metrics))
    assert counted == {"stream": "2.0", "no_route": "1.0", "no_key": "1.0"}


@pytest.mark.long
def test_the_notifications_of_a_killed_listener_are_taken_over(place: Place) -> None:
    """However much of them it had read."""
    config = with_tables(place.config(worker={"lease_s": 2}, pubsub=WITHOUT_CHANNEL), "[stream]\n")
    keys = [f"key {number}" for number in range(20)]
    for key in keys:
        place.put(key)
    with redis.Redis.from_url(place.redis_url) as client, Listener(config).started() as first:
        takes(first, "stream s3s3:notifications")
        for key in keys:
            client.xadd("s3s3:notifications", {"key": key})
        first.kill()
        with Listener(config).started():
            for key in keys:
                place.arrives(key)


@pytest.mark.long
def test_stream_queue_webhook_and_channel_serve_one_listener(
    place: Place,
    webhook_port: int,
    sqs_url: str,
    own_keys: None,
) -> None:
    queue = SqsSender(sqs_url)
    config = with_tables(
        place.config(), "[stream]\n", webhook_table(webhook_port),
        f'[sqs]\nurl = "{queue.url}"\nendpoint_url = "{sqs_url}"\nregion = "us-west-2"\n',
    )  # fmt: skip
    ways = ("channel", "stream", "a queue", "web+hook")
    for key in ways:
        place.put(key)
    bucket = place.source.bucket_name
    with Listener(config) as listener, redis.Redis.from_url(place.redis_url) as client:
        takes(listener, "stream s3s3:notifications", f"webhook 127.0.0.1:{webhook_port}")
        place.publish("channel")
        client.xadd("s3s3:notifications", {"key": "stream"})
        queue.client.send_message(QueueUrl=queue.url, MessageBody=event("a queue", bucket=bucket))
        request = urllib.request.Request(
            f"http://127.0.0.1:{webhook_port}/notify", event("web+hook", bucket=bucket).encode(),
            {"Authorization": f"Bearer {TOKEN}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() == b"queued: 1\n"
        for key in ways:
            place.arrives(key)
        assert place.http("/healthz") == (200, "ok\n")
        assert listener.stop() == 0
    assert TOKEN not in listener.log.read_text()


# -- Ceph pushes its own notifications


def client_of(ceph: CephServer, service: Literal["s3", "sns"], account: Account | None = None) -> Any:
    account = account or ceph.accounts[0]
    return boto3.client(
        service, endpoint_url=f"http://127.0.0.1:{ceph.port}", region_name="default",
        aws_access_key_id=account.access_key_id, aws_secret_access_key=account.secret_access_key,
        config=Config(signature_version="s3v4" if service == "s3" else "v4", s3={"addressing_style": "path"},
                      request_checksum_calculation="when_required", retries={"total_max_attempts": 1}),
    )  # fmt: skip


def over_https(params: dict[str, Any], **_: object) -> None:
    """As sent by a TLS proxy: Ceph accepts a password for a topic only then."""
    params["headers"]["X-Forwarded-Proto"] = "https"


@pytest.fixture
def pushing(ceph: CephServer, webhook_port: int, new_bucket: Callable[..., str]) -> str:
    """A Ceph bucket with notifications to the webhook."""
    bucket = new_bucket(ceph)
    push(ceph, bucket, webhook_port)
    return bucket


def push(ceph: CephServer, bucket: str, webhook_port: int, account: Account | None = None) -> None:
    """Configure notifications of a bucket to the webhook, as the page does, but not persistent: that takes 30 s."""
    topics, s3 = client_of(ceph, "sns", account), client_of(ceph, "s3", account)
    topics.meta.events.register("before-call.sns.CreateTopic", over_https)
    (block,) = re.findall(r"^```python\ntopics = [^\n]*\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for written, meant in {
        "TOKEN@s3s3.example.org:9181": f"{TOKEN}@127.0.0.1:{webhook_port}",
        ', "persistent": "true"': "",
        'Bucket="images"': f"Bucket={bucket!r}",
    }.items():
        assert written in block
        block = block.replace(written, meant)
    exec(block, {"topics": topics, "s3": s3})


def test_an_object_in_a_tenants_bucket_is_copied_by_its_notification(
    place: Place, ceph: CephServer, webhook_port: int
) -> None:
    """Ceph's event has the bucket's name without the tenant, which only its ARN has."""
    bucket, account = f"images-{time.monotonic_ns()}", ceph.add_tenant("acme")
    source = client_of(ceph, "s3", account)
    source.create_bucket(Bucket=bucket)
    push(ceph, bucket, webhook_port, account)
    place.source = dataclasses.replace(
        ceph.endpoint(f"acme:{bucket}"), access_key_id=account.access_key_id,
        secret_access_key=Secret(account.secret_access_key),
    )  # fmt: skip
    config = with_tables(place.config(pubsub=WITHOUT_CHANNEL), webhook_table(webhook_port))
    with Listener(config).started() as listener:
        takes(listener, f"webhook 127.0.0.1:{webhook_port}")
        source.put_object(Bucket=bucket, Key="k", Body=b"k")
        place.arrives("k", b"k")
        assert listener.stop() == 0


@pytest.mark.long
def test_an_object_put_into_ceph_is_copied_by_its_notification(
    place: Place, ceph: CephServer, pushing: str, webhook_port: int
) -> None:
    place.source = ceph.endpoint(pushing)
    config = with_tables(place.config(pubsub=WITHOUT_CHANNEL), webhook_table(webhook_port))
    source = ceph.boto3_client()
    with Listener(config).started() as listener:
        takes(listener, f"webhook 127.0.0.1:{webhook_port}")
        for key in ("plain", "a+b%20c", "a b/ü.fits", "100%"):
            source.put_object(Bucket=pushing, Key=key, Body=key.encode())
            place.arrives(key, key.encode())
        source.put_object(Bucket=pushing, Key="plain", Body=b"changed")
        place.arrives("plain", b"changed")
        source.delete_object(Bucket=pushing, Key="plain")
        gone = 's3s3_copies_total{destination="destination",outcome="source_missing",route="default"} 1.0'
        eventually(lambda: gone in place.http("/metrics")[1], "one more look for the key that was removed")
        assert 's3s3_notifications_total{kind="webhook",route="default"} 6.0' in place.http("/metrics")[1]
        assert listener.stop() == 0
    run("bucket", "--config", config, "--dry-run")
