"""Keys that are overwritten faster than they can be copied, with a notification for each change."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import HOST, StoreServer
from tests.faults.duration import amount
from tests.faults.fleet import CHANNEL, Bucket, Fleet, differing
from tests.faults.results import report

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

WRITERS = 8
AT_ONCE = 1
"""Slots of each listener: far fewer than writers, or the stores that both share would
let them keep pace."""


def test_a_storm_of_overwrites_ends_with_the_last_contents_and_few_copies(
    tmp_path: Path, own_redis: RedisServer, gateway: StoreServer
) -> None:
    keys, times = amount(10, per_minute=10, largest=50), amount(50, per_minute=40, largest=200)
    source = Bucket.new(gateway)
    destinations = {name: Bucket.new(gateway) for name in ("dest-one", "dest-two")}
    with Fleet(
        tmp_path,
        own_redis.url,
        source,
        destinations,
        worker={"lease_s": 10, "concurrency": AT_ONCE},
        pubsub={"backfill": False},
        direct=("source", *destinations),
    ) as fleet:
        began_s = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            shares = [[f"key-{number}" for number in range(writer, keys, WRITERS)] for writer in range(WRITERS)]
            parts = list(pool.map(lambda mine: overwrite(fleet, mine, times), shares))
        stormed_s = time.monotonic() - began_s
        fleet.settle_published()
        assert not differing(destinations, {key: content for part in parts for key, content in part.items()})
        notifications = keys * times
        copies = {name: round(fleet.copies(name)) for name in destinations}
        report(
            "overwrite storm",
            keys=keys,
            notifications=notifications,
            in_s=round(stormed_s, 1),
            listeners=len(fleet.members),
            **copies,
        )
        # What is notified while it is copied, or waits, is copied once for all of that.
        assert all(keys <= count < notifications / 3 for count in copies.values())


def overwrite(fleet: Fleet, keys: Iterable[str], times: int) -> dict[str, bytes]:
    """Overwrite each key this number of times in any order, notify each time; return the last contents.

    Over plain HTTP, with URLs signed beforehand: an S3 library would take longer than s3s3 takes for the copy.
    """
    source = fleet.source
    urls = {
        key: source.client.generate_presigned_url("put_object", {"Bucket": source.name, "Key": key}, 3600)
        for key in keys
    }
    order = [*urls] * times
    random.shuffle(order)
    last = {}
    connection = HTTPConnection(HOST, source.server.port)
    with redis.Redis.from_url(fleet.redis_url) as client:
        for number, key in enumerate(order):
            last[key] = f"{key} {number}".encode()
            connection.request("PUT", urls[key], last[key])
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.reason
            client.publish(CHANNEL, key)
    connection.close()
    return last
