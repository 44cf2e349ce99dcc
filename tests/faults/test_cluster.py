"""A master of a Redis Cluster dies while the fleet is at work: a replica takes over, and nothing is lost.

All keys of a route are in one slot, so one master and its replica have all of its queue; the others have the channel's
messages, which a cluster gives to every node.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from redis.crc import key_slot

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import HOST, Server, StoreServer
from tests.conftest import running
from tests.faults.failover import Pair, failed_over, replication
from tests.integration.commands import eventually

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(300)]

MASTERS = 3
SLOTS = 16384
BUS_ABOVE = 10_000
"""How far above the port for clients nodes speak with each other (redis.conf, "cluster-port")."""

OPTIONS = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", "repl-diskless-sync-delay": "0",
           "cluster-replica-validity-factor": "0"}  # fmt: skip


class Cluster(NamedTuple):
    """The master that has the route's queue, the replica that follows it, and the others."""

    owner: RedisServer
    heir: RedisServer
    others: list[RedisServer]

    @property
    def url(self) -> str:
        """As the configuration wants it: any node will do."""
        return f"redis+cluster://{HOST}:{self.others[0].port}"


def new_node() -> RedisServer:
    while not has_bus_port(node := RedisServer(append_only=True, options=OPTIONS)):
        pass
    return node


def has_bus_port(node: RedisServer) -> bool:
    """Whether the port that it will speak with the other nodes on is free, too."""
    with socket.socket() as trial, suppress(OSError, OverflowError):
        trial.bind((HOST, node.port + BUS_ABOVE))
        return True
    return False


def ask(server: RedisServer, *words: str | int) -> object:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return client.execute_command(*words)


def is_ok(server: RedisServer, nodes: int) -> bool:
    info = ask(server, "CLUSTER INFO")
    assert isinstance(info, dict)
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


@pytest.fixture
def cluster(started_servers: list[Server]) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(new_node, started_servers)) for _ in range(MASTERS + 1)]
        masters, heir = nodes[:MASTERS], nodes[MASTERS]
        slots = [list(range(number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS)) for number in range(MASTERS)]
        for number, master in enumerate(masters):
            ask(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(master, "CLUSTER", "ADDSLOTS", *slots[number])
        for node in nodes[1:]:
            ask(node, "CLUSTER", "MEET", HOST, masters[0].port)
        eventually(lambda: all(is_ok(node, len(nodes)) for node in nodes), "the nodes know each other", every_s=0.1)
        ours = next(number for number, held in enumerate(slots) if key_slot(b"s3s3:{default}:fresh") in held)
        owner = masters.pop(ours)
        ask(heir, "CLUSTER", "REPLICATE", str(ask(owner, "CLUSTER", "MYID")))
        eventually(lambda: replication(heir).get("master_link_status") == "up", "the replica follows")
        yield Cluster(owner, heir, masters)


@pytest.mark.parametrize("death", ["killed", "silent"])
def test_a_failover_loses_nothing_that_the_replica_knew(
    tmp_path: Path, cluster: Cluster, gateway: StoreServer, death: str
) -> None:
    def is_whole() -> bool:
        return is_ok(cluster.heir, MASTERS + 1)

    pair = Pair(cluster.owner, cluster.heir, cluster.url)
    with failed_over("cluster failover", death, pair, tmp_path, gateway, is_whole) as (fleet, source):
        source.put("published", b"published")
        for member in fleet.members:
            member.wait_subscribed()

        def received() -> bytes | None:
            fleet.publish("published")
            return fleet.destinations["destination"].content("published")

        eventually(received,
                   "messages are received again", 60, every_s=1.0)  # fmt: skip
