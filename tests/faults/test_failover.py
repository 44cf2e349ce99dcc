"""Sentinel makes a replica the master while the fleet is at work: what was accepted, and replicated, is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from s3s3.demo.process import Process
from s3s3.demo.redis_server import RedisServer, find_redis_server
from s3s3.demo.servers import HOST, Server, StoreServer, free_ports
from tests.conftest import running
from tests.integration.commands import eventually

from .fleet import Bucket, Fleet
from .kinds import Latency
from .results import report

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

KEYS = 60
AT_ONCE = {"repl-diskless-sync-delay": "0"}


class Pair(NamedTuple):
    """A master, its replica, and how to ask a sentinel for whichever is master."""

    master: RedisServer
    replica: RedisServer
    url: str


def replication(server: RedisServer) -> dict[str, str]:
    with redis.Redis.from_url(server.url) as client:
        found: dict[str, str] = client.info("replication")
        return found


def is_master(server: RedisServer) -> bool:
    try:
        return replication(server)["role"] == "master"
    except redis.ConnectionError:  # it drops its clients when it becomes one
        return False


@pytest.fixture
def pair(started_servers: list[Server], tmp_path: Path) -> Iterator[Pair]:
    with (
        running(lambda: RedisServer(append_only=True, options=AT_ONCE), started_servers) as master,
        running(lambda: RedisServer(append_only=True, options=AT_ONCE), started_servers) as replica,
    ):
        with redis.Redis.from_url(replica.url) as client:
            client.replicaof(HOST, str(master.port))
        eventually(lambda: replication(replica)["master_link_status"] == "up", "the replica follows", every_s=0.1)
        (port,) = free_ports(1)
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"bind {HOST}\nport {port}\ndir {tmp_path}\nsentinel monitor mymaster {HOST} {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n"
        )

        def ready() -> bool:
            """It has found the replica, and would have somebody to make the master."""
            try:
                with redis.Redis(port=port) as sentinel:
                    return bool(sentinel.sentinel_slaves("mymaster"))
            except redis.RedisError:
                return False

        command: list[str | Path] = [find_redis_server(), configuration, "--sentinel"]
        sentinel = Process("sentinel", command, log=tmp_path / "sentinel.log", ready=ready)
        sentinel.start()
        try:
            sentinel.wait_ready()
            yield Pair(master, replica, f"redis+sentinel://{HOST}:{port}/mymaster/0")
        finally:
            sentinel.kill()


@pytest.mark.parametrize("death", ["killed", pytest.param("silent", marks=pytest.mark.long)])
def test_a_failover_loses_nothing_that_the_replica_knew(
    tmp_path: Path, pair: Pair, gateway: StoreServer, death: str
) -> None:
    source, destinations = Bucket.new(gateway), {"destination": Bucket.new(gateway)}
    contents = {f"key {number}": f"content {number}".encode() for number in range(KEYS)}
    for key, content in contents.items():
        source.put(key, content)
    with Fleet(
        tmp_path,
        pair.master.url,
        source,
        destinations,
        size=2,
        worker={"concurrency": 2},
        pubsub={"heal": False},
        listeners_redis_url=pair.url,
    ) as fleet:
        fleet.proxies["destination"].inject(Latency(late_s=0.1))  # so that it dies in the middle of the work
        fleet.put(contents)
        accepted = int(replication(pair.master)["master_repl_offset"])
        eventually(lambda: int(replication(pair.replica)["master_repl_offset"]) >= accepted, "it is replicated")
        fleet.arrives("key 0", contents["key 0"])
        if death == "killed":
            pair.master.kill()
        else:
            pair.master.pause()
        fleet.redis_url = pair.replica.url
        eventually(partial(is_master, pair.replica), "the failover", 60, every_s=0.1)
        left = fleet.counts().pending
        if death == "silent":
            pair.master.resume()
        fleet.settle()
        for key, content in contents.items():
            assert destinations["destination"].content(key) == content
        report("failover", death=death, keys=KEYS, left_at_the_failover=left)
        source.put("later", b"later")
        fleet.put(["later"])
        fleet.arrives("later", b"later")
