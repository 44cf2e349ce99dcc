"""Keys that are overwritten faster than anybody can copy them, while every listener hears of each change."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s3s3.demo.redis_server import RedisServer
from s3s3.demo.servers import StoreServer

from .extent import minutes
from .fleet import Bucket, Fleet, differing
from .kinds import Latency
from .results import report

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

WRITERS = 4
LATE_S = 0.5
"""Each answer of the destinations: so a key changes several times while it is copied. Less than a lease, which is as
long as a PUT may take."""


def test_a_storm_of_overwrites_ends_with_the_last_contents_and_few_copies(
    tmp_path: Path, own_redis: RedisServer, gateway: StoreServer
) -> None:
    keys, times = (50, 200) if minutes() else (10, 30)
    source = Bucket.new(gateway)
    destinations = {name: Bucket.new(gateway) for name in ("dest-one", "dest-two")}
    with Fleet(tmp_path, own_redis.url, source, destinations, pubsub={"heal": False}) as fleet:

        def overwrite(writer: int) -> dict[str, bytes]:
            """Overwrite keys of one's own, each as often, in any order; say so after each."""
            mine = [f"key-{number}" for number in range(writer, keys, WRITERS)]
            order = mine * times
            random.shuffle(order)
            last = {}
            for number, key in enumerate(order):
                last[key] = f"{key} {number}".encode()
                source.put(key, last[key])
                fleet.publish(key)
            return last

        for proxy in fleet.proxies.values():
            proxy.inject(Latency(late_s=LATE_S))
        with ThreadPoolExecutor(WRITERS) as pool:
            wanted = {key: content for part in pool.map(overwrite, range(WRITERS)) for key, content in part.items()}
        fleet.settle_heard()
        assert not differing(destinations, wanted)
        notices = keys * times
        copies = {name: round(fleet.copies(name)) for name in destinations}
        report("overwrite storm", keys=keys, notices=notices, listeners=len(fleet.members), **copies)
        # What is noticed while it is copied, or waits, is copied once for all of that.
        assert all(keys <= count < notices / 2 for count in copies.values())
