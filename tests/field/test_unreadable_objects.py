"""A source lists objects that it can no longer read: the copies elsewhere are the last ones, and must survive."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3.scripts import bucket, jobs
from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, endpoint_table, eventually, report_lines
from tests.integration.objects import MIB, file_in_swift
from tests.real.ceph_server import CephServer
from tests.scripts.command import run

pytestmark = pytest.mark.real

KEY = "archive.tar"
CONTENT = [b"a" * 5 * MIB, b"b" * MIB]
MESSAGE = "listed, but its content cannot be read"


class Place:
    """An object whose content is lost, and its copy in another bucket, with `delete = true`.

    A multipart object in Ceph that has lost its parts: HEAD and LIST show it. An object in Swift whose file is gone, as
    after a quarantine: only LIST shows it.
    """

    def __init__(self, store: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        self.source = store.endpoint(new_bucket(store))
        self.destination = store.endpoint(new_bucket(store, 1), "destination", account=1)
        self.source_client, self.client = store.boto3_client(), store.boto3_client(1)
        self.redis_url = redis_url
        self.report = folder / "report.jsonl"
        self.config = folder / "s3s3.toml"
        self.write_config()
        if isinstance(store, CephServer):
            self.upload()
            store.remove_tail(KEY)
            assert self.source_client.head_object(Bucket=self.source.bucket_name, Key=KEY)["ContentLength"] == 6 * MIB
        else:
            self.source_client.put_object(Bucket=self.source.bucket_name, Key=KEY, Body=b"".join(CONTENT))
            file_in_swift(store, self.source.bucket_name, KEY).unlink()
        self.client.put_object(Bucket=self.destination.bucket_name, Key=KEY, Body=b"".join(CONTENT))
        assert self.source_client.list_objects_v2(Bucket=self.source.bucket_name)["Contents"][0]["Size"] == 6 * MIB
        with pytest.raises(self.source_client.exceptions.NoSuchKey):
            self.source_client.get_object(Bucket=self.source.bucket_name, Key=KEY)

    def write_config(self) -> None:
        self.config.write_text(
            f"{endpoint_table(self.source)}\n{endpoint_table(self.destination)}delete = true\n"
            f'max_delete = 1\n[pubsub]\nurl = "{self.redis_url}"\n[worker]\nmax_attempts = 1\n[http]\nbind = ""\n'
        )
        self.config.chmod(0o600)

    def upload(self) -> None:
        where: Any = {"Bucket": self.source.bucket_name, "Key": KEY}
        upload_id = self.source_client.create_multipart_upload(**where)["UploadId"]
        parts = [
            self.source_client.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=content)["ETag"]
            for number, content in enumerate(CONTENT, 1)
        ]
        listed: Any = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(parts, 1)]
        self.source_client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": listed})

    def copy(self) -> bytes:
        return self.client.get_object(Bucket=self.destination.bucket_name, Key=KEY)["Body"].read()

    def compare(self, *arguments: str) -> str:
        """Run `s3s3 bucket`, which has to fail; return the reason in its report."""
        done = run(bucket.main, "--config", self.config, "--report", self.report, *arguments)
        assert done.status == 1, done
        [line], summary = report_lines(self.report)
        assert (line["outcome"], summary["proven"]) == ("failed", False)
        assert isinstance(line["reason"], str)
        return line["reason"]


@pytest.fixture(params=["ceph", "swift"])
def place(request: pytest.FixtureRequest, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(request.getfixturevalue(request.param), new_bucket, redis_url, tmp_path)


def test_a_notification_for_an_unreadable_object_leaves_its_copy_and_ends_as_a_dead_letter(place: Place) -> None:
    with Listener(place.config), redis.Redis.from_url(place.redis_url) as client:
        client.publish("backup", KEY)
        listed = eventually(lambda: MESSAGE in run(jobs.main, "list", "--config", place.config).out, "a dead letter")

    assert listed
    assert place.copy() == b"".join(CONTENT)


def test_an_object_that_cannot_be_read_for_some_time_is_copied_then(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source, client = swift.endpoint(new_bucket(swift)), swift.boto3_client()
    destination, config = swift.endpoint(new_bucket(swift), "destination"), tmp_path / "s3s3.toml"
    config.write_text(
        f"{endpoint_table(source)}\n{endpoint_table(destination)}server_side_copy = false\n"
        f'[pubsub]\nurl = "{redis_url}"\n[http]\nbind = ""\n'
    )
    config.chmod(0o600)
    client.put_object(Bucket=source.bucket_name, Key=KEY, Body=CONTENT[1])
    file = file_in_swift(swift, source.bucket_name, KEY)
    hidden = file.rename(swift.folder / "hidden")
    with Listener(config) as listener, redis.Redis.from_url(redis_url) as publisher:
        publisher.publish("backup", KEY)
        eventually(lambda: MESSAGE in listener.log.read_text(), "a failed attempt")
        file.parent.mkdir(parents=True, exist_ok=True)
        hidden.rename(file)
        eventually(lambda: client.list_objects_v2(Bucket=destination.bucket_name)["KeyCount"] == 1, "a copy")
    assert client.get_object(Bucket=destination.bucket_name, Key=KEY)["Body"].read() == CONTENT[1]


@pytest.mark.parametrize("arguments", [["--force"], ["--force", "--without-redis"]])
def test_a_forced_run_reports_an_unreadable_object_and_leaves_its_copy(place: Place, arguments: list[str]) -> None:
    reason = place.compare(*arguments)

    assert re.search(f"{MESSAGE}.*operators", reason)
    assert place.copy() == b"".join(CONTENT)


@pytest.mark.parametrize("place", ["ceph"], indirect=True)  # of Swift's object, the ETag is the MD5
def test_a_run_that_compares_contents_leaves_the_copy_of_an_unreadable_object(place: Place) -> None:
    place.source = dataclasses.replace(place.source, verify_md5=True)
    place.write_config()

    assert MESSAGE in place.compare()
    assert place.copy() == b"".join(CONTENT)
