"""Real servers for whoever asks for one: started once in each test process, when the first test wants it."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import hypothesis
import pytest
import redis

from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import Server, ServerMissing, StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.real.ceph_server import CephServer

# An example that takes long says something of the machine, nothing of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SomeServer = TypeVar("SomeServer", bound=Server)

SMALL_BYTES = 1024 * 1024


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")


def pytest_configure() -> None:
    # A shell starts what is to run in the background with SIGINT ignored, which every process here would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: --long runs it, as .ci/run does"))


def missing(reason: str) -> NoReturn:
    """Skip what needs a real part that this machine lacks; fail instead where S3S3_REQUIRE_REAL=1."""
    if os.environ.get("S3S3_REQUIRE_REAL") == "1":
        pytest.fail(f"S3S3_REQUIRE_REAL=1, and {reason}", pytrace=False)
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


def bring_up_again(servers: list[Server]) -> None:
    for server in servers:
        server.resume()
        if not server.is_running:
            server.start()


@pytest.fixture(scope="session")
def started_servers() -> list[Server]:
    return []


@pytest.fixture(autouse=True)
def servers_are_up_again(started_servers: list[Server]) -> Iterator[None]:
    """A test that ends between killing or pausing a server and starting it again harms only itself."""
    yield
    bring_up_again(started_servers)


@pytest.fixture(scope="session")
def redis_server(started_servers: list[Server]) -> Iterator[RedisServer]:
    """With an append-only file: what it answered for survives a kill."""
    with running(lambda: RedisServer(append_only=True), started_servers) as server:
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
    """SQS, and S3, as moto plays them."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  it takes a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's own chain finds them."""
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
    """`new_bucket(store, account=0)` makes an empty bucket and returns its name.

    The buckets stay until the servers go, but big objects are removed: all of it is kept in memory.
    """
    made: list[tuple[StoreServer, int, str]] = []

    def make(store: StoreServer, account: int = 0) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        store.boto3_client(account).create_bucket(Bucket=name)
        made.append((store, account, name))
        return name

    yield make
    bring_up_again(started_servers)
    for store, account, name in made:
        remove_big_objects(store, account, name)


def remove_big_objects(store: StoreServer, account: int, bucket_name: str) -> None:
    client = store.boto3_client(account)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket_name):
        for entry in page.get("Contents", []):
            if entry["Size"] > SMALL_BYTES:
                client.delete_object(Bucket=bucket_name, Key=entry["Key"])
