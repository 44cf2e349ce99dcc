"""A disk of the source returns other bytes than were written: the copy is the last good one, and must survive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3.scripts import bucket, jobs
from s3s3.scripts.demo.servers import StoreServer
from tests.integration.commands import Listener, endpoint_table, eventually
from tests.integration.objects import file_in_swift
from tests.real.ceph_server import CephServer
from tests.scripts.command import run

pytestmark = pytest.mark.real


class Place:
    """An object whose content the source's disk has damaged, and its copy, with `delete = true`.

    Ceph (without checksums, as here) serves the damaged bytes under the old ETag. Swift does so once, and then
    quarantines the object: neither GET nor HEAD finds it any more, and only the listing has it.
    """

    def __init__(self, store: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        self.key = f"{folder.name}.txt"
        self.content = b"the only good copy of " + self.key.encode()
        damaged = self.content.replace(b"good", b"g\0\0d")
        source, destination = (
            store.endpoint(new_bucket(store)),
            store.endpoint(new_bucket(store, 1), "destination", account=1),
        )
        self.client, self.bucket = store.boto3_client(1), destination.bucket_name
        self.redis_url = redis_url
        self.report = folder / "report.jsonl"
        self.config = folder / "s3s3.toml"
        self.config.write_text(
            f"{endpoint_table(source)}\n{endpoint_table(destination)}delete = true\nmax_delete = 1\n"
            f'[pubsub]\nurl = "{redis_url}"\n[worker]\nmax_attempts = 1\n[http]\nbind = ""\n'
        )
        self.config.chmod(0o600)
        store.boto3_client().put_object(Bucket=source.bucket_name, Key=self.key, Body=self.content)
        self.client.put_object(Bucket=self.bucket, Key=self.key, Body=self.content)
        if isinstance(store, CephServer):
            store.damage(self.key, source.bucket_name, damaged)
        else:
            file_in_swift(store, source.bucket_name, self.key).write_bytes(damaged)

    def copy(self) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=self.key)["Body"].read()


@pytest.fixture(params=["ceph", "swift"])
def place(request: pytest.FixtureRequest, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(request.getfixturevalue(request.param), new_bucket, redis_url, tmp_path)


def test_a_notification_of_a_damaged_object_leaves_its_copy_and_ends_as_a_dead_letter(place: Place) -> None:
    with Listener(place.config), redis.Redis.from_url(place.redis_url) as client:
        client.publish("backup", place.key)
        eventually(lambda: place.key in run(jobs.main, "list", "--config", place.config).out, "a dead letter")

    assert place.copy() == place.content


def test_a_forced_run_reports_a_damaged_object_and_leaves_its_copy(place: Place) -> None:
    done = run(bucket.main, "--config", place.config, "--report", place.report, "--force", "--without-redis")

    assert done.status == 1, done
    lines: list[dict[str, Any]] = [json.loads(line) for line in place.report.read_text().splitlines()]
    assert (lines[0]["outcome"], lines[-1]["summary"]["proven"]) == ("failed", False)
    assert place.copy() == place.content
