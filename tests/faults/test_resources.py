"""A machine that runs out of something: a clear message, back to work when it ends, and nothing lost."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import missing
from tests.faults.results import report
from tests.integration.commands import Listener, eventually
from tests.integration.objects import MIB
from tests.integration.test_listen import Place, dead_letters

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedMultipartUploadTypeDef

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

QUICK: dict[str, object] = {"lease_s": 5, "concurrency": 16}
COUNT = 40


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(swift, new_bucket, redis_url, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        missing("no mount command")
    if done.returncode:
        missing(f"a small file system needs root and the right to mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_for_log(listener: Listener, *words: str, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Wait for a line of the log that has all these words, and do something again and again until then."""

    def line() -> str | None:
        meanwhile()
        lines = listener.log.read_text().splitlines()
        return next((line for line in lines if all(word in line for word in words)), None)

    found: str = eventually(line, f"a line with {words}", every_s=0.2)
    return found


def put_in_parts(place: Place, key: str) -> bytes:
    """Its ETag is not an MD5, so it has to be spooled."""
    content = b"p" * 6 * MIB
    client, bucket = place.source_client, place.source.bucket_name
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=content)
    parts: CompletedMultipartUploadTypeDef = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)
    return content


def test_a_full_disk_in_spool_dir_delays_only_objects_that_must_be_spooled(place: Place, small_disk: Path) -> None:
    content = put_in_parts(place, "in parts")
    place.put("small")
    with Listener(place.config(worker={**QUICK, "spool_dir": str(small_disk)})) as listener:
        place.publish("in parts")
        output = wait_for_log(listener, "No space left on device")
        assert "in parts" in output
        assert str(small_disk) in output
        assert "spool_dir" in output
        place.publish("small")
        place.arrives("small")
        assert place.content("in parts") is None
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        place.arrives("in parts", content)
    assert dead_letters(place) == {}
    assert list(small_disk.iterdir()) == []
    report("full disk", seen=output)


def test_a_process_without_file_descriptors_reports_it_and_copies_everything_later(place: Place) -> None:
    keys = [f"key-{number}" for number in range(COUNT)]
    for key in keys:
        place.put(key)
    with Listener(place.config(worker=QUICK)) as listener:
        pid = listener.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(("stdin", "stdout", "stderr")), before[1]))

        def publish_together() -> None:
            """One by one, or once only, they might all go over the connections that are open."""
            with redis.Redis.from_url(place.redis_url) as client, client.pipeline() as together:
                for key in keys:
                    together.publish("backup", key)
                together.execute()

        output = wait_for_log(listener, "Too many open files", meanwhile=publish_together)
        assert "LimitNOFILE" in output
        assert "host" not in output
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for key in keys:
            place.arrives(key)
    assert dead_letters(place) == {}
    report("no file descriptors", seen=output)


def test_a_full_redis_is_reported_and_nothing_published_meanwhile_is_lost(place: Place) -> None:
    keys = [f"key-{number}" for number in range(COUNT)]
    for key in keys:
        place.put(key)
    with Listener(place.config(worker=QUICK)) as listener, redis.Redis.from_url(place.redis_url) as client:
        place.publish(*keys[: COUNT // 2])
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            place.publish(*keys[COUNT // 2 :])
            output = wait_for_log(listener, "Redis is out of memory")
            assert "maxmemory" in output
        finally:
            client.config_set("maxmemory", 0)
        wait_for_log(listener, "Redis available")
        for key in keys:
            place.arrives(key)
        eventually(lambda: not list(client.scan_iter("s3s3:{default}:job:*")), "an empty queue")
    assert dead_letters(place) == {}
    report("Redis at maxmemory", seen=output)
