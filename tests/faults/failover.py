"""Kill the Redis master while the fleet is working, with Sentinel or Cluster promoting the replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import redis

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer
from tests.faults.fleet import Bucket, Fleet
from tests.faults.kinds import Latency
from tests.faults.results import report
from tests.integration.commands import eventually

KEYS = 60


class Pair(NamedTuple):
    """A master, its replica, and the URL by which listeners find whichever is master."""

    master: RedisServer
    replica: RedisServer
    url: str


def replication(server: RedisServer) -> dict[str, str]:
    with redis.Redis.from_url(server.url) as client:
        found: dict[str, str] = client.info("replication")
        return found


def replicated_to(server: RedisServer) -> int:
    return int(replication(server)["master_repl_offset"])


def is_master(server: RedisServer) -> bool:
    try:
        return replication(server)["role"] == "master"
    except redis.ConnectionError:  # it drops its clients when it becomes one
        return False


@contextmanager
def failed_over(
    what: str, death: str, pair: Pair, folder: Path, gateway: StoreServer, is_whole: Callable[[], bool] = lambda: True
) -> Iterator[tuple[Fleet, Bucket]]:
    """A fleet, and its source, after a failover in the middle of its work: nothing is lost that the replica knew.

    Args:
        what: how the report calls it.
        death: of the master: "killed" or "silent".
        is_whole: whether Redis takes everything again, once the replica is the master.
    """
    source, there = Bucket.new(gateway), Bucket.new(gateway)
    contents = {f"key {number}": f"content {number}".encode() for number in range(KEYS)}
    for key, content in contents.items():
        source.put(key, content)
    with Fleet(
        folder,
        pair.master.url,
        source,
        {"destination": there},
        size=2,
        worker={"concurrency": 2},
        pubsub={"backfill": False},
        listeners_redis_url=pair.url,
    ) as fleet:
        fleet.proxies["destination"].inject(Latency(late_s=0.1))  # so that it dies in the middle of the work
        fleet.put(contents)
        accepted = replicated_to(pair.master)
        eventually(lambda: replicated_to(pair.replica) >= accepted, "it is replicated")
        fleet.arrives("key 0", contents["key 0"])
        if death == "killed":
            pair.master.kill()
        else:
            pair.master.pause()
        fleet.redis_url = pair.replica.url
        eventually(partial(is_master, pair.replica), "the failover", 60, every_s=0.1)
        eventually(is_whole, "Redis takes everything again", 60, every_s=0.1)
        left = fleet.counts().pending
        if death == "silent":
            pair.master.resume()
        fleet.settle()
        for key, content in contents.items():
            assert there.content(key) == content
        report(what, death=death, keys=KEYS, left_at_the_failover=left)
        source.put("later", b"later")
        fleet.put(["later"])
        fleet.arrives("later", b"later")
        yield fleet, source
