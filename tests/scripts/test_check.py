from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.model import Endpoint, Secret
from s3s3.scripts.check import main
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.scripts.command import config_file, run

pytestmark = pytest.mark.real

NewBucket = Callable[..., str]


@pytest.fixture
def endpoints(swift: SwiftServer, new_bucket: NewBucket) -> tuple[Endpoint, Endpoint]:
    source = new_bucket(swift)
    swift.boto3_client().put_object(Bucket=source, Key="k", Body=b"content")
    return swift.endpoint(source), swift.endpoint(new_bucket(swift, 1), "swift", account=1)


def held(swift: SwiftServer, bucket: str, account: int = 0) -> list[str]:
    listed = swift.boto3_client(account).list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_all_well_is_said_in_a_table_and_nothing_is_left_behind(
    tmp_path: Path, redis_url: str, swift: SwiftServer, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, there = endpoints
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [there]))
    assert done.status == 0, done.out
    rows = {line[:20].strip(): line[20:].split() for line in done.out.partition("\n\n")[0].splitlines()}
    assert rows["route default"] == ["source", "dest-swift"]
    for name in ("reachable", "V2 signatures", "V4 signatures", "ETag is MD5", "may read"):
        assert rows[name] == ["yes", "yes"], name
    assert (rows["Content-MD5 enforced"], rows["may write"]) == (["-", "yes"], ["-", "yes"])
    assert "nothing is wrong" in done.out
    assert "nobody is subscribed to channel 'backup'" in done.out
    assert held(swift, source.bucket_name) == ["k"]
    assert held(swift, there.bucket_name, 1) == []


def test_read_only_leaves_the_destinations_alone(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, there = endpoints
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [there]), "--read-only", "--json")
    stores = done.json["routes"][0]["stores"]
    assert done.status == 0
    assert [store["may_write"] for store in stores] == [None, None]
    assert [store["may_read"] for store in stores] == [True, True]


def test_what_is_wrong_names_the_setting_that_cures_it_and_no_secret(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, there = endpoints
    source = dataclasses.replace(source, secret_access_key=Secret("not-the-secret"))
    there = dataclasses.replace(there, bucket_name="nowhere")
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [there]))
    assert done.status == 1
    wrong = [line for line in done.out.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert "aws_secret_access_key" in wrong[0]
    assert "bucket_name in [dest-swift]" in wrong[1]
    assert "not-the-secret" not in done.out + done.err


def test_a_store_that_is_away_is_out_of_reach_and_the_others_are_still_tried(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, there = endpoints
    away = dataclasses.replace(there, name="away", port=9)
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [away, there]), "--json")
    assert done.status == 3
    assert [store["reachable"] for store in done.json["routes"][0]["stores"]] == [True, False, True]
    assert done.json["routes"][0]["stores"][2]["may_write"] is True


def test_a_redis_that_is_away_is_out_of_reach(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, there = endpoints
    config = config_file(tmp_path, "redis://:sekret@127.0.0.1:9/0", source, [there])
    done = run(main, "--config", config)
    assert done.status == 3
    assert "Redis cannot be reached" in done.out
    assert "sekret" not in done.out + done.err


def test_no_redis_is_enough(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, there = endpoints
    done = run(main, "--config", config_file(tmp_path, "", source, [there]))
    assert done.status == 0
    assert "no Redis is configured" in done.out


def test_a_redis_that_forgets_is_told_with_the_command_that_cures_it(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, there = endpoints
    config = config_file(tmp_path, redis_url, source, [there])
    settings = {"appendonly": "no", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}
    with redis.Redis.from_url(redis_url) as client:
        before = {name: client.config_get(name)[name] for name in settings}
        try:
            for name, value in settings.items():
                client.config_set(name, value)
            done = run(main, "--config", config)
        finally:
            for name, value in before.items():
                client.config_set(name, value)
    assert done.status == 1
    assert "wrong: Redis throws queued keys away" in done.out
    assert "CONFIG SET maxmemory-policy noeviction" in done.out
    assert "CONFIG SET appendonly yes" in done.out


def test_a_subscriber_is_counted(tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, there = endpoints
    config = config_file(tmp_path, redis_url, source, [there])
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe("backup")
        assert channel.get_message(timeout=5) is not None
        found = run(main, "--config", config, "--json").json["redis"]
    assert (found["subscribers"], found["append_only_file"], found["notes"]) == ({"backup": 1}, True, [])
