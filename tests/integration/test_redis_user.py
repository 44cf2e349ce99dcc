"""The commands with a Redis user that has the documented rights only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3 import config
from s3s3.programs import SyncQueue
from s3s3.scripts import bucket, check, jobs
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.queue.test_redis_urls import documented_user
from tests.scripts.command import run
from tests.test_programs import Buckets, listener
from tests.waiting import eventually

pytestmark = pytest.mark.real


@pytest.mark.parametrize("without", ["", "+info"])
def test_every_command_works_with_the_documented_user(
    without: str, tmp_path: Path, swift: SwiftServer, new_bucket: Callable[..., str]
) -> None:
    buckets = Buckets(swift, new_bucket)
    with RedisServer(append_only=True) as server:
        url = documented_user(server, without=without)
        path = buckets.config(tmp_path, url)
        buckets.put("before", b"0")
        assert run(bucket.main, "--config", path).status == 0
        assert run(bucket.main, "--config", path, "--distributed").status == 0
        with listener(path), redis.Redis.from_url(url) as producer:
            buckets.put("published", b"1")
            eventually(lambda: producer.publish("backup", "published") == 1)
            eventually(lambda: buckets.copy("published") == b"1" if exists(buckets, "published") else False)
            buckets.put("queued", b"2")
            [route] = config.load(path).routes_named(None)
            with SyncQueue(url, route) as queue:
                queue.put("queued", wait=True, timeout_s=60)
            assert buckets.copy("queued") == b"2"
            assert run(jobs.main, "--config", path).status == 0
            found = run(check.main, "--config", path, "--json")
        assert found.json["redis"]["reachable"] is True
        assert ("may not run INFO" in found.out) is bool(without)
        with redis.Redis.from_url(server.url) as admin:
            log: Any = admin.acl_log()
        assert {entry["object"] for entry in log} == ({"info"} if without else set()), "no other command was refused"


def exists(buckets: Buckets, key: str) -> bool:
    listed = buckets.store.boto3_client(1).list_objects_v2(Bucket=buckets.destination, Prefix=key)
    return "Contents" in listed
