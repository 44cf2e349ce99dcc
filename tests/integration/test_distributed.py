"""`s3s3 bucket --distributed`: one run by several processes, any of which may be killed."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import bucket_started, eventually, limited_destination, report_lines, run, write_config
from tests.integration.objects import ODD_KEYS
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

RUN = "s3s3:{default}:distributed"
ONE_BY_ONE = "max_requests_per_s = 1"
"""A run of some objects is then at work for as long as a test may want, on any machine."""


class Place:
    """A source and a destination in one server, and a configuration between them."""

    def __init__(self, server: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        self.folder = folder
        self.redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self.source, self.there = (server.endpoint(new_bucket(server), name=name) for name in ("source", "destination"))
        self.client = server.boto3_client()
        self.config = write_config(
            folder, self.source, [self.there], redis_url, worker={"lease_s": 3.0, "concurrency": 8}
        )

    def put(self, keys: list[str], bucket: str = "", content: str = "") -> None:
        def put(key: str) -> None:
            self.client.put_object(Bucket=bucket or self.source.bucket_name, Key=key, Body=(content or key).encode())

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(put, keys))

    def held(self, bucket: str) -> dict[str, str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}

    @property
    def is_equal(self) -> bool:
        return self.held(self.source.bucket_name) == self.held(self.there.bucket_name)

    def started(self, *arguments: str | Path) -> AbstractContextManager[subprocess.Popen[str]]:
        return bucket_started(self.config, "--distributed", *arguments)

    def counted(self) -> dict[str, str]:
        identity: Any = self.redis.get(RUN)
        counted: Any = self.redis.hgetall(f"{RUN}:{identity}") if identity else {}
        return dict(counted)


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Iterator[Place]:
    one = Place(swift, new_bucket, redis_url, tmp_path)
    with one.redis:
        yield one


def odd_keys(count: int) -> list[str]:
    """Keys of every kind, most of them under one prefix that is long."""
    chance = random.Random(count)
    keys = [key for key in ODD_KEYS if "\x01" not in key]
    keys += [f"{'deep/' * 60}{number:05}" for number in range(count // 2)]
    keys += [f"{chance.getrandbits(64):016x}" for _ in range(count // 4)]
    keys += [f"\u65e5\u672c/{chr(0x4E00 + number % 300)}/{number}" for number in range(count // 4)]
    return keys


def status(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output + errors


@pytest.mark.long
def test_alone_it_does_what_the_plain_run_does(place: Place) -> None:
    place.put([f"key {number}" for number in range(30)])
    place.put(["extraneous"], place.there.bucket_name)
    place.put(["key 7"], place.there.bucket_name, content="stale")
    report = place.folder / "report.jsonl"
    run("bucket", "--config", place.config, "--distributed", "--dry-run", "--report", report, status=1)
    lines, summary = report_lines(report)
    assert summary["destinations"] == {"destination": {"would_copy": 30, "extraneous": 1}}
    assert len(lines) == 31
    output = run("bucket", "--config", place.config, "--distributed").stdout
    assert "30 objects compared" in output
    assert set(place.held(place.there.bucket_name)) == {*place.held(place.source.bucket_name), "extraneous"}
    run("bucket", "--config", place.config, "--distributed", "--report", report)
    assert report_lines(report)[1]["destinations"] == {"destination": {"same": 30, "extraneous": 1}}
    run("bucket", "--config", place.config)
    assert not place.redis.exists("s3s3:{default}:reconcile-lock")


@pytest.mark.long
def test_it_needs_a_redis_and_refuses_to_delete(place: Place) -> None:
    output = run("bucket", "--config", place.config, "--distributed", "--without-redis", status=2).stderr
    assert "--distributed needs the configured Redis" in output
    text = place.config.read_text()
    place.config.write_text(text.replace("[destination]\n", "[destination]\ndelete = true\n"))
    output = run("bucket", "--config", place.config, "--distributed", status=2).stderr
    assert "[destination] has delete = true" in output
    place.put(["key"])
    run("bucket", "--config", place.config, "--distributed", "--since", "1h")
    assert place.is_equal


@pytest.mark.long
def test_a_plain_run_keeps_it_away_and_is_kept_away_by_it(place: Place) -> None:
    place.redis.hset("s3s3:{default}:reconcile-lock", mapping={"id": "x", "host": "elsewhere", "pid": 7, "since_ms": 1})
    assert "process 7 on elsewhere" in run("bucket", "--config", place.config, "--distributed", status=1).stderr
    assert not place.counted(), "what was not begun is not gone on with"
    place.redis.delete("s3s3:{default}:reconcile-lock")
    place.put([f"{number:04}" for number in range(60)])
    with limited_destination(place.config, ONE_BY_ONE), place.started() as process:
        eventually(lambda: place.redis.exists("s3s3:{default}:reconcile-lock"), "it runs", every_s=0.01)
        assert "is being reconciled by" in run("bucket", "--config", place.config, status=1).stderr
        assert process.poll() is None


@pytest.mark.long
def test_a_run_with_other_options_or_stores_is_not_gone_on_with_unless_it_is_forgotten(place: Place) -> None:
    place.put([f"{number:04}" for number in range(60)])
    with limited_destination(place.config, ONE_BY_ONE), place.started() as process:
        eventually(lambda: place.redis.keys(RUN + ":*:workers"), "it runs", every_s=0.01)
        process.kill()
        process.wait()
    output = run("bucket", "--config", place.config, "--distributed", "--force", status=1).stderr
    assert "an unfinished distributed reconcile, started at" in output
    workers = place.redis.keys(RUN + ":*:workers")
    assert workers
    place.redis.delete(*workers)  # as if it were long ago
    place.redis.delete("s3s3:{default}:reconcile-lock")
    assert "60" in run("bucket", "--config", place.config, "--distributed", "--force", "--restart").stdout


@pytest.mark.long
def test_interrupted_it_hands_its_range_back_at_once(place: Place) -> None:
    place.put([f"{number:04}" for number in range(60)])
    with limited_destination(place.config, ONE_BY_ONE), place.started() as process:
        eventually(lambda: place.redis.exists("s3s3:{default}:reconcile-lock"), "it runs", every_s=0.01)
        process.send_signal(signal.SIGTERM)
        code, output = status(process)
    assert (code, "interrupted" in output) == (1, True), output
    began_s = time.monotonic()
    run("bucket", "--config", place.config, "--distributed")
    assert place.is_equal
    assert time.monotonic() - began_s < 30


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("store", "count"), [("swift", 500), ("ceph", 1500)])
def test_three_processes_one_of_them_killed_copy_everything_and_say_the_same(
    store: str,
    count: int,
    request: pytest.FixtureRequest,
    new_bucket: Callable[..., str],
    redis_url: str,
    tmp_path: Path,
) -> None:
    place = Place(request.getfixturevalue(store), new_bucket, redis_url, tmp_path)
    keys = odd_keys(count)
    place.put(keys)
    place.put(keys[::3], place.there.bucket_name)
    place.put(keys[5::9], place.there.bucket_name, content="stale")
    with ExitStack() as stack:
        first, *others = [stack.enter_context(place.started()) for _ in range(3)]
        half = len(keys) // 2
        eventually(lambda: len(place.held(place.there.bucket_name)) > half, "half of it is there", every_s=0.3)
        first.kill()
        first.wait()
        ends = [status(process) for process in others]
    assert [code for code, _ in ends] == [0, 0], ends
    assert place.is_equal
    assert all(f"{len(set(keys)):,} objects compared" in output for _, output in ends), ends
    again: Any = run("bucket", "--config", place.config, "--report", "-").stdout.splitlines()[-1]
    assert f'"same": {len(set(keys))}' in again


@pytest.mark.long
@pytest.mark.timeout(300)
def test_killed_all_the_next_start_goes_on_where_they_were(
    ceph: CephServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    place = Place(ceph, new_bucket, redis_url, tmp_path)
    keys = odd_keys(1200)
    place.put(keys)
    with limited_destination(place.config, "max_requests_per_s = 200"), ExitStack() as stack:
        processes = [stack.enter_context(place.started()) for _ in range(2)]
        # Small ranges end first; some of what was compared has to be on record.
        eventually(lambda: int(place.counted().get("source_entries", 0)) > 200, "some ranges have ended")
        for process in processes:
            process.kill()
            process.wait()
    before = place.counted()
    assert "ended_ms" not in before
    report = place.folder / "report.jsonl"
    output = run("bucket", "--config", place.config, "--distributed", "--report", report)
    assert "joining the distributed reconcile started at" in output.stderr
    lines, summary = report_lines(report)
    assert summary["source_entries"] == len(set(keys))
    assert len(lines) <= len(set(keys)) - int(before["source_entries"]), "what had been compared is not compared again"
    assert place.is_equal
