"""Keys published without a subscriber are copied without an operator or cron."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import Server, StoreServer
from tests.conftest import running
from tests.faults.fleet import Bucket, Fleet, new_redis
from tests.faults.kinds import HalfOpen, Reset
from tests.faults.proxy import Proxy
from tests.faults.results import report
from tests.integration.commands import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HEALED_WITHIN_S = 30
"""After the fault's end; a connection that has died in silence is found out within this, too."""


class Place:
    """A listener that reaches Redis through a proxy. The producers do not use the proxy."""

    def __init__(self, fleet: Fleet, redis_server: RedisServer, to_redis: Proxy) -> None:
        self.fleet, self.redis_server, self.to_redis = fleet, redis_server, to_redis
        self.keys: list[str] = []

    def change_and_publish(self, what: str) -> None:
        """Publish keys that no listener receives."""
        self.keys = [f"{what} {number} at {time.monotonic_ns()}" for number in range(3)]
        for key in self.keys:
            self.fleet.source.put(key, key.encode())
        self.fleet.publish(*self.keys)

    def arrives(self, what: str) -> None:
        began_s = time.monotonic()
        for key in self.keys:
            self.fleet.arrives(key, key.encode(), HEALED_WITHIN_S)
        report("gap backfill", after=what, backfilled_after_s=round(time.monotonic() - began_s, 1))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, gateway: StoreServer, started_servers: list[Server]
) -> Iterator[Place]:
    with running(new_redis, started_servers) as server, Proxy(server.port, http=False) as proxy:
        source, there = Bucket.new(gateway), Bucket.new(gateway)
        url = f"redis://127.0.0.1:{proxy.port}/0"
        folder: Path = tmp_path_factory.mktemp("gap")
        with Fleet(folder, server.url, source, {"destination": there}, size=1, listeners_redis_url=url) as fleet:
            yield Place(fleet, server, proxy)


@pytest.mark.long
def test_while_the_only_listener_was_down(place: Place) -> None:
    place.fleet.members[0].kill()
    place.change_and_publish("listener down")
    place.fleet.gather()
    place.arrives("the listener was killed and started again")


def test_while_redis_was_cut_off_from_the_listener(place: Place) -> None:
    with place.to_redis.injecting(Reset()):
        place.change_and_publish("cut off")
        time.sleep(2)
    place.arrives("Redis was cut off")


def test_while_redis_itself_was_down(place: Place) -> None:
    place.redis_server.kill()
    key = "changed without a word"
    place.fleet.source.put(key, key.encode())
    place.keys = [key]
    place.redis_server.start()
    place.arrives("Redis was killed and started again")


@pytest.mark.long
def test_while_every_connection_to_redis_was_half_open(place: Place) -> None:
    with place.to_redis.injecting(HalfOpen()):
        place.change_and_publish("half-open")
    place.arrives("every connection had died in silence")
    assert place.to_redis.injected["HalfOpen"]


@pytest.mark.long
def test_while_only_the_subscription_was_half_open(place: Place) -> None:
    def port_of_subscription() -> int | None:
        clients: list[Any] = place.fleet.ask_redis(lambda client: client.client_list())
        subscribed = [client for client in clients if client["sub"] == "3"]
        youngest = max(subscribed, key=lambda client: int(client["id"]), default=None)
        return int(youngest["addr"].rpartition(":")[2]) if youngest else None

    # Redis still counts the connections that died before.
    port = eventually(port_of_subscription, "the listener is subscribed")
    (link,) = [link for link in place.to_redis.links if link.server_port == port]
    link.dead = True
    place.change_and_publish("subscription dead")
    place.arrives("the subscription had died in silence")
