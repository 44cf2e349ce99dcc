"""Real servers as fixtures: each is started once per test process, by the first test that needs it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import hypothesis
import pytest
import redis

from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import Server, ServerMissing, StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.real.ceph_server import CephServer

# A slow example is due to the machine, not the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SomeServer = TypeVar("SomeServer", bound=Server)

SMALL_BYTES = 1024 * 1024

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent

#: Tests with real servers in these folders count as long.
LONG_FOLDERS = (TESTS / "faults", TESTS / "field")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take long")


def pytest_configure() -> None:
    # A shell starts background commands with SIGINT ignored, which every process here would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if leaves_out_long(config):
        left_out = {item for item in items if is_long(item)}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def leaves_out_long(config: pytest.Config) -> bool:
    """Whether neither --long was given, nor a file, a folder or a part of a test's name."""
    is_named = config.option.keyword or any(Path(argument).resolve() != TESTS for argument in config.args)
    return not config.getoption("--long") and not is_named


def is_long(item: pytest.Item) -> bool:
    is_in_folder = any(item.path.is_relative_to(folder) for folder in LONG_FOLDERS)
    return item.get_closest_marker("long") is not None or (is_in_folder and item.get_closest_marker("real") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leaves_out_long(config):
        terminalreporter.write_line("without the tests that take long: add --long (make test ARGS=--long)")


def pytest_collection_finish() -> None:
    # What the collection of thousands of tests leaves lives to the end: no garbage collection need go through it.
    gc.collect()
    gc.freeze()


def missing(reason: str) -> NoReturn:
    """Skip the test, as its server is not installed; with S3S3_REQUIRE_REAL=1, fail it."""
    if os.environ.get("S3S3_REQUIRE_REAL") == "1":
        pytest.fail(f"S3S3_REQUIRE_REAL=1: {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def running(new_server: Callable[[], SomeServer], started: list[Server]) -> Iterator[SomeServer]:
    try:
        server = new_server()
    except ServerMissing as error:
        missing(str(error))
    with server:
        started.append(server)
        try:
            yield server
        finally:
            started.remove(server)


def restart_all(servers: list[Server]) -> None:
    for server in servers:
        server.resume()
        if not server.is_running:
            server.start()


@pytest.fixture(autouse=True)
def no_internal_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which s3s3 logged an internal error, unless it is marked `internal_errors`.

    They become outcomes of one destination, so a test could pass in spite of them.
    """
    yield
    if not request.node.get_closest_marker("internal_errors"):
        records = caplog.get_records("call")
        errors = [record for record in records if record.exc_info and "internal error" in record.getMessage()]
        assert not errors, errors[0].exc_text or repr(errors[0].exc_info)


@pytest.fixture(scope="session")
def started_servers() -> list[Server]:
    return []


@pytest.fixture(autouse=True)
def servers_are_running(started_servers: list[Server]) -> Iterator[None]:
    """Restart the servers that a failed test left killed or paused."""
    yield
    restart_all(started_servers)


@pytest.fixture(scope="session")
def redis_server(started_servers: list[Server]) -> Iterator[RedisServer]:
    """With an append-only file: acknowledged writes survive a kill. A test has up to 64 databases."""
    with running(lambda: RedisServer(append_only=True, options={"databases": "64"}), started_servers) as server:
        yield server


@pytest.fixture(scope="session")
def swift(started_servers: list[Server]) -> Iterator[SwiftServer]:
    with running(SwiftServer, started_servers) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(started_servers: list[Server]) -> Iterator[CephServer]:
    with running(CephServer, started_servers) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_store(started_servers: list[Server]) -> Iterator[RcloneServer]:
    with running(RcloneServer, started_servers) as server:
        yield server


@pytest.fixture(scope="session")
def sqs_url() -> Iterator[str]:
    """SQS and S3, simulated by moto."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  a slow import

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for boto3's credential chain."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def new_bucket(started_servers: list[Server]) -> Iterator[Callable[..., str]]:
    """`new_bucket(store, account=0)` creates an empty bucket and returns its name.

    The buckets are kept, but large objects are deleted: the servers keep them in memory.
    """
    created: list[tuple[StoreServer, int, str]] = []

    def make(store: StoreServer, account: int = 0) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        store.boto3_client(account).create_bucket(Bucket=name)
        created.append((store, account, name))
        return name

    yield make
    restart_all(started_servers)
    for store, account, name in created:
        delete_large_objects(store, account, name)


def delete_large_objects(store: StoreServer, account: int, bucket_name: str) -> None:
    client = store.boto3_client(account)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket_name):
        for entry in page.get("Contents", []):
            if entry["Size"] > SMALL_BYTES:
                client.delete_object(Bucket=bucket_name, Key=entry["Key"])


@pytest.fixture
def fresh_copy(tmp_path: Path) -> Path:
    """The repository's files, as a clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (tmp_path / "s3s3" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tmp_path / "s3s3" / name)
    return tmp_path / "s3s3"
