from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.config import load
from s3s3.model import Endpoint, Secret
from s3s3.queue.connection import connected
from s3s3.queue.store_checks import StoreChecks
from s3s3.scripts.check import main
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.tasks import run_sync
from tests.integration.commands import Listener
from tests.scripts.command import config_file, run

pytestmark = pytest.mark.real

NewBucket = Callable[..., str]


@pytest.fixture
def endpoints(swift: SwiftServer, new_bucket: NewBucket) -> tuple[Endpoint, Endpoint]:
    source = new_bucket(swift)
    swift.boto3_client().put_object(Bucket=source, Key="k", Body=b"content")
    return swift.endpoint(source), swift.endpoint(new_bucket(swift, 1), "swift", account=1)


def keys_in(swift: SwiftServer, bucket: str, account: int = 0) -> list[str]:
    listed = swift.boto3_client(account).list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_healthy_stores_are_shown_in_a_table_and_no_test_object_remains(
    tmp_path: Path, redis_url: str, swift: SwiftServer, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [destination]))
    assert done.status == 0, done.out
    rows = {line[:21].strip(): line[21:].split() for line in done.out.partition("\n\n")[0].splitlines()}
    assert rows["route default"] == ["source", "dest-swift"]
    for name in ("reachable", "V2 signatures", "V4 signatures", "ETag is MD5", "may read"):
        assert rows[name] == ["yes", "yes"], name
    for name in ("enforces Content-MD5", "verifies copies", "may write"):
        assert rows[name] == ["-", "yes"], name
    assert "no problems found" in done.out
    assert "no subscriber on channel 'backup'" in done.out
    assert keys_in(swift, source.bucket_name) == ["k"]
    assert keys_in(swift, destination.bucket_name, 1) == []


def test_read_only_writes_nothing_to_the_destinations(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [destination]), "--read-only", "--json")
    stores = done.json["routes"][0]["stores"]
    assert done.status == 0
    assert [store["may_write"] for store in stores] == [None, None]
    assert [store["may_read"] for store in stores] == [True, True]


def test_who_enforces_content_md5_is_recorded_for_the_copies(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
    [route] = load(config).routes

    def recorded() -> dict[str, bool]:
        async def read() -> dict[str, bool]:
            async with connected(redis_url) as client:
                return {name: check.enforced for name, check in (await StoreChecks(client, route).load()).items()}

        return run_sync(read())

    assert run(main, "--config", config, "--read-only").status == 0
    assert recorded() == {}
    assert run(main, "--config", config).status == 0
    assert recorded() == {"dest-swift": True}
    assert run(main, "--config", config, "--read-only").status == 0
    assert recorded() == {"dest-swift": True}, "what was not tried keeps its record"


def test_an_error_names_the_setting_that_fixes_it_and_no_secret(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    source = dataclasses.replace(source, secret_access_key=Secret("not-the-secret"))
    destination = dataclasses.replace(destination, bucket_name="nowhere")
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [destination]))
    assert done.status == 1
    errors = [line for line in done.out.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "aws_secret_access_key" in errors[0]
    assert "bucket_name in [dest-swift]" in errors[1]
    assert "not-the-secret" not in done.out + done.err


def test_an_unreachable_store_exits_with_3_and_the_others_are_still_checked(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    unreachable = dataclasses.replace(destination, name="away", port=9)
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [unreachable, destination]), "--json")
    assert done.status == 3
    assert [store["reachable"] for store in done.json["routes"][0]["stores"]] == [True, False, True]
    assert done.json["routes"][0]["stores"][2]["may_write"] is True


def test_an_unreachable_redis_exits_with_3(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, "redis://:sekret@127.0.0.1:9/0", source, [destination])
    done = run(main, "--config", config)
    assert done.status == 3
    assert "Redis cannot be reached" in done.out
    assert "sekret" not in done.out + done.err


def test_quiet_prints_only_problems(tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, destination = endpoints
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [destination]), "--quiet")
    assert (done.status, done.out) == (0, "")
    nowhere = dataclasses.replace(destination, bucket_name="nowhere")
    done = run(main, "--config", config_file(tmp_path, redis_url, source, [nowhere]), "--quiet")
    assert done.status == 1
    assert [line.partition(" ")[0] for line in done.out.splitlines()] == ["error:"]


def test_redis_is_optional(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, destination = endpoints
    done = run(main, "--config", config_file(tmp_path, "", source, [destination]))
    assert done.status == 0
    assert "no Redis configured" in done.out


def test_a_redis_that_loses_data_is_reported_with_the_commands_that_fix_it(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
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
    assert "error: Redis evicts queued keys" in done.out
    assert "CONFIG SET maxmemory-policy noeviction" in done.out
    assert "CONFIG SET appendonly yes" in done.out


def test_subscribers_are_counted(tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe("backup")
        assert channel.get_message(timeout=5) is not None
        found = run(main, "--config", config, "--json").json["redis"]
    assert (found["subscribers"], found["append_only_file"], found["notes"]) == ({"backup": 1}, True, [])


def test_a_route_without_a_channel_needs_no_subscriber(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
    config.write_text(config.read_text().replace("[pubsub]\n", '[pubsub]\nchannel = ""\n'))
    done = run(main, "--config", config)
    assert done.status == 0, done.out
    assert "subscriber" not in done.out


def mirror_file(folder: Path, swift: SwiftServer, bucket: str, tables: str) -> Path:
    access_key_id, secret = swift.accounts[0]
    bucket_keys = f'host = "127.0.0.1"\nport = {swift.port}\nis_secure = false\nbucket_name = "{bucket}"\n'
    keys = f'aws_access_key_id = "{access_key_id}"\naws_secret_access_key = "{secret}"\n'
    path = folder / "s3s3.toml"
    path.write_text(f'[http]\nbind = ""\n{tables}\n{bucket_keys}{keys}')
    return path


def test_a_file_with_only_a_copy_proxy_is_checked(
    tmp_path: Path, redis_url: str, swift: SwiftServer, new_bucket: NewBucket
) -> None:
    path = mirror_file(
        tmp_path, swift, new_bucket(swift),
        f'[pubsub]\nurl = "{redis_url}"\n[mirror.proxy]\nsource = "https://example.org/"\n[mirror.proxy.destination]',
    )  # fmt: skip
    done = run(main, "--config", path, "--json")
    assert done.status == 0, done.out + done.err
    [route] = done.json["routes"]
    [store] = route["stores"]
    assert (route["route"], store["name"], store["may_write"]) == ("mirror.proxy", "mirror.proxy.destination", True)
    assert done.json["redis"]["reachable"] is True
    assert run(main, "--config", path, "--route", "mirror.proxy").status == 0


def test_a_file_with_only_a_cache_is_checked_without_redis_and_nothing_is_written(
    tmp_path: Path, swift: SwiftServer, new_bucket: NewBucket
) -> None:
    tables = f'[pubsub]\nurl = "redis://127.0.0.1:9"\n[mirror.cache]\ndirectory = "{tmp_path}"\n[mirror.cache.store]'
    path = mirror_file(tmp_path, swift, new_bucket(swift), tables)
    done = run(main, "--config", path, "--json")
    assert done.status == 0, done.out + done.err
    [store] = done.json["routes"][0]["stores"]
    assert (store["name"], store["may_read"], store["may_write"]) == ("mirror.cache.store", True, None)
    assert done.json["redis"] is None
    path.write_text(path.read_text().replace("bucket_name = ", 'bucket_name = "nowhere" #'))
    assert "bucket_name in [mirror.cache.store]" in run(main, "--config", path, "--quiet").out


def test_a_cache_is_checked_beside_the_routes(
    tmp_path: Path, redis_url: str, swift: SwiftServer, new_bucket: NewBucket, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
    (tmp_path / "mirror").mkdir()
    table = f'[mirror.cache]\ndirectory = "{tmp_path}"\n[mirror.cache.store]'
    cache = mirror_file(tmp_path / "mirror", swift, new_bucket(swift), table).read_text()
    config.write_text(config.read_text() + cache[cache.index(table) :])
    done = run(main, "--config", config, "--json")
    assert done.status == 0, done.out + done.err
    assert [route["route"] for route in done.json["routes"]] == ["default", "mirror.cache"]


@pytest.mark.long
def test_an_address_of_the_status_page_that_another_program_has_is_an_error(
    tmp_path: Path, redis_url: str, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    source, destination = endpoints
    config = config_file(tmp_path, redis_url, source, [destination])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config.write_text(config.read_text().replace('bind = ""', f'bind = "127.0.0.1:{port}"'))
        done = run(main, "--config", config, "--quiet")
    assert done.status == 1
    assert f"error: [http] bind: cannot listen on 127.0.0.1:{port} (Address already in use), and no s3s3" in done.out
    done = run(main, "--config", config, "--json")
    assert (done.status, done.json["http"]["available"]) == (0, True), "it is free"
    with Listener(config):
        done = run(main, "--config", config, "--json")
    assert (done.status, done.json["http"]["available"]) == (0, True), done.out
