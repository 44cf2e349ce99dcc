"""The main job between real stores: published keys are copied; a comparison finds unpublished ones."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from s3s3.scripts.demo.servers import StoreServer
from tests.integration.commands import Listener, eventually, report_lines, run, write_config
from tests.integration.objects import MIB, Thing, content_differences, differences, keys_of, put, things

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]

FEW = 150, 20 * MIB
MANY = 1100, 200 * MIB
"""More than a page of a listing; what comes in hundreds of chunks."""


@pytest.mark.parametrize(
    ("source_name", "destination_names", "count", "biggest_bytes"),
    [
        pytest.param("swift", ["ceph"], *MANY, id="Swift to Ceph", marks=pytest.mark.long),
        pytest.param("ceph", ["ceph", "swift"], *MANY, id="Ceph to Ceph and Swift", marks=pytest.mark.long),
        pytest.param("ceph", ["ceph", "swift"], *FEW, id="a few from Ceph to Ceph and Swift"),
    ],
)
def test_what_is_published_is_copied_and_what_is_not_is_found(
    source_name: str,
    destination_names: Sequence[str],
    count: int,
    biggest_bytes: int,
    request: pytest.FixtureRequest,
    redis_url: str,
    new_bucket: Callable[..., str],
    tmp_path: Path,
) -> None:
    source: StoreServer = request.getfixturevalue(source_name)
    stores: list[StoreServer] = [request.getfixturevalue(name) for name in destination_names]
    source_bucket, buckets = new_bucket(source), [new_bucket(store, account=1) for store in stores]
    endpoints = [
        store.endpoint(bucket, name=f"destination-{number}", account=1)
        for number, (store, bucket) in enumerate(zip(stores, buckets, strict=True))
    ]
    config = write_config(tmp_path, source.endpoint(source_bucket), endpoints, redis_url)
    wanted = things(count, biggest_bytes)
    put(source.boto3_client(), source_bucket, wanted)

    with Listener(config) as listener:
        publish(redis_url, [thing.key for thing in wanted])
        eventually(lambda: pending(redis_url) == 0, "the queue is empty", 200, every_s=0.5)
        for store, bucket in zip(stores, buckets, strict=True):
            client = store.boto3_client(account=1)
            eventually(
                partial(lambda c, b: len(keys_of(c, b)) == count, client, bucket), f"{count} objects there", every_s=0.5
            )
        assert listener.stop() == 0
    for store, bucket in zip(stores, buckets, strict=True):
        assert differences(store.boto3_client(account=1), bucket, wanted) == []

    assert outcomes(config, tmp_path) == [{"same": count}] * len(stores)

    wanted = change_without_notification(source, source_bucket, stores[0], buckets[0], wanted)
    found = outcomes(config, tmp_path)
    assert found[0] == {"same": count - 15, "copied": 20}
    assert found[1:] == [{"same": count - 10, "copied": 15}] * len(found[1:])
    touched = wanted[20:30] + wanted[40:45] + wanted[-5:]
    for store, bucket in zip(stores, buckets, strict=True):
        client = store.boto3_client(account=1)
        assert keys_of(client, bucket) == {thing.key for thing in wanted}
        assert content_differences(client, bucket, touched) == []

    client = source.boto3_client()
    for thing in wanted[100:105]:
        client.delete_object(Bucket=source_bucket, Key=thing.key)
    assert outcomes(config, tmp_path) == [{"same": count, "extraneous": 5}] * len(stores)


def publish(redis_url: str, keys: list[str]) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for key in keys:
            assert client.publish("backup", key.encode()) == 1


def pending(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return sum(1 for _ in client.scan_iter("s3s3:{default}:job:*", count=1000))


def outcomes(config: Path, folder: Path) -> list[dict[str, Any]]:
    """Run `s3s3 bucket` and return the counts of its report for each destination, held against its lines."""
    report = folder / "report.jsonl"
    run("bucket", "--config", config, "--report", report)
    lines, summary = report_lines(report)
    counts: dict[str, dict[str, int]] = summary["destinations"]
    assert sum(sum(count.values()) for count in counts.values()) == len(lines)
    return [counts[name] for name in sorted(counts)]


def change_without_notification(
    source: StoreServer, source_bucket: str, store: StoreServer, bucket: str, wanted: list[Thing]
) -> list[Thing]:
    """Change 10 objects at the source and add 5, remove 5 at the destination. Return what is wanted now."""
    changed = [
        dataclasses.replace(thing, seed=thing.seed + len(wanted), size_bytes=thing.size_bytes + 1)
        for thing in wanted[20:30]
    ]
    added = [Thing(f"added/{number}", 1000 + number, number) for number in range(5)]
    put(source.boto3_client(), source_bucket, [*changed, *added])
    client = store.boto3_client(account=1)
    for thing in wanted[40:45]:
        client.delete_object(Bucket=bucket, Key=thing.key)
    return [*wanted[:20], *changed, *wanted[30:], *added]
