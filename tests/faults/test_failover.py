"""Sentinel makes a replica the master while the fleet is at work: what was accepted, and replicated, is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.process import Process
from s3s3.scripts.demo.redis_server import RedisServer, find_redis_server
from s3s3.scripts.demo.servers import HOST, Server, StoreServer, free_ports
from tests.conftest import running
from tests.faults.failover import Pair, failed_over, replication
from tests.integration.commands import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

AT_ONCE = {"repl-diskless-sync-delay": "0"}


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
            """The sentinel knows the replica, so that it can promote it."""
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
    with failed_over("failover", death, pair, tmp_path, gateway):
        pass
