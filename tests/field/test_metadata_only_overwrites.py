"""An object that gets other metadata and the same bytes has that metadata at every destination, after any fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from s3s3.model import Lane
from s3s3.queue.base import JobRequest
from s3s3.s3 import request
from s3s3.scripts.demo.servers import Server
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import running
from tests.faults.fleet import Bucket, Fleet, new_redis
from tests.faults.kinds import Hang, Respond, putting
from tests.integration.commands import eventually
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

CONTENT = b"the same bytes"


def put(bucket: Bucket, key: str, version: int) -> None:
    """Write the same bytes with the metadata of a version."""
    bucket.client.put_object(
        Bucket=bucket.name, Key=key, Body=CONTENT, ContentType=f"image/{version}", CacheControl="no-cache",
        Metadata={"version": str(version)},
    )  # fmt: skip


def version_at(bucket: Bucket, key: str) -> str:
    try:
        found: Any = bucket.client.head_object(Bucket=bucket.name, Key=key)
    except bucket.client.exceptions.ClientError:
        return ""
    assert found["ContentType"] == f"image/{found['Metadata']['version']}"
    return str(found["Metadata"]["version"])


@pytest.fixture(scope="module")
def fleet(
    ceph: CephServer, swift: SwiftServer, started_servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    destinations = {"destination-ceph": Bucket.new(ceph), "destination-swift": Bucket.new(swift)}
    folder = tmp_path_factory.mktemp("metadata")
    with (
        running(new_redis, started_servers) as server,
        Fleet(folder, server.url, Bucket.new(ceph), destinations, size=1) as fleet,
    ):
        yield fleet


def arrives(fleet: Fleet, key: str, version: int) -> None:
    fleet.settle_published()
    assert {name: version_at(bucket, key) for name, bucket in fleet.destinations.items()} == dict.fromkeys(
        fleet.destinations, str(version)
    )


def copied_first(fleet: Fleet, key: str) -> None:
    put(fleet.source, key, 1)
    fleet.publish(key)
    arrives(fleet, key, 1)
    put(fleet.source, key, 2)


def test_it_arrives_after_a_first_attempt_that_failed(fleet: Fleet) -> None:
    copied_first(fleet, "503")
    proxies = fleet.proxies.values()
    busy = [Respond(of=putting) for _ in proxies]
    for proxy, fault in zip(proxies, busy, strict=True):
        proxy.inject(fault)
    fleet.publish("503")
    all_sent = "the stores have answered 503 to all requests of one attempt"
    eventually(lambda: all(proxy.injected["Respond"] >= request.ATTEMPTS for proxy in proxies), all_sent)
    for proxy in proxies:
        proxy.inject()
    arrives(fleet, "503", 2)


@pytest.mark.long
def test_it_arrives_after_the_listener_was_killed(fleet: Fleet) -> None:
    copied_first(fleet, "killed")
    proxies = fleet.proxies.values()
    for proxy in proxies:
        proxy.inject(Hang(of=putting))
    fleet.publish("killed")
    eventually(lambda: all(proxy.injected["Hang"] for proxy in proxies), "the listener writes")
    fleet.members[0].kill()
    for proxy in proxies:
        for link in proxy.links:
            link.reset()
        proxy.inject()
    fleet.gather()
    arrives(fleet, "killed", 2)


def test_it_arrives_with_a_backfill(fleet: Fleet) -> None:
    """As for a key that was changed during a gap: it is enqueued in the bulk lane."""
    copied_first(fleet, "bulk")
    jobs = [JobRequest("bulk", tuple(fleet.destinations))]
    fleet.queue(lambda queue: queue.enqueue(jobs, Lane.BULK))
    arrives(fleet, "bulk", 2)


@pytest.mark.long
def test_it_arrives_after_a_gap(fleet: Fleet) -> None:
    copied_first(fleet, "gap")
    fleet.members[0].kill()
    fleet.publish("gap")
    fleet.gather()
    arrives(fleet, "gap", 2)
