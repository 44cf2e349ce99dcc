"""Mixed work for half of a long run: nothing grows with time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer
from tests.faults.duration import duration_s, minutes
from tests.faults.fleet import Bucket, Fleet, differing
from tests.faults.kinds import Flip, Latency, Reset, putting
from tests.faults.messages import Towards
from tests.faults.results import report

pytestmark = pytest.mark.real

WARM_S = 60.0
PAUSE_S = 0.1
SIZES_BYTES = {100: 60, 4096: 25, 200_000: 10, 1_000_000: 4, 6_000_000: 1}
"""And how often each, of a hundred."""

FAULTS = (Reset(share=0.05), Latency(late_s=0.2, share=0.3), Flip(of=putting, towards=Towards.SERVER, share=0.05))


@pytest.mark.skipif(not minutes(), reason="takes half of FAULT_MINUTES")
def test_memory_and_descriptors_are_flat(tmp_path: Path, own_redis: RedisServer, gateway: StoreServer) -> None:
    source = Bucket.new(gateway)
    destinations = {name: Bucket.new(gateway) for name in ("dest-one", "dest-two")}
    with Fleet(tmp_path, own_redis.url, source, destinations, size=2, worker={"lease_s": 10}) as fleet:
        wanted: dict[str, bytes] = {}
        began_s, notifications = time.monotonic(), 0
        _load(fleet, wanted, until_s=began_s + WARM_S)
        after_a_minute = [_held(fleet)]
        while time.monotonic() < began_s + max(duration_s(0, share=1 / 2), 2 * WARM_S):
            notifications += _load(fleet, wanted, until_s=time.monotonic() + WARM_S)
            after_a_minute.append(_held(fleet))
        for proxy in fleet.proxies.values():
            proxy.inject()
        fleet.settle_published()
        at_the_end = _held(fleet)
        report(
            "soak",
            minutes=round((time.monotonic() - began_s) / 60, 1),
            notifications=notifications,
            injected={name: dict(proxy.injected) for name, proxy in fleet.proxies.items()},
            rss_mib_each_minute=[[round(rss / 2**20, 1) for rss, _ in held] for held in (*after_a_minute, at_the_end)],
            descriptors_each_minute=[
                [descriptors for _, descriptors in held] for held in (*after_a_minute, at_the_end)
            ],
        )
        assert not differing(destinations, wanted)
        for (rss, descriptors), (rss_before, descriptors_before) in zip(at_the_end, after_a_minute[0], strict=True):
            assert rss < 1.1 * rss_before
            assert descriptors < 1.1 * descriptors_before


def _held(fleet: Fleet) -> list[tuple[int, int]]:
    return [(member.rss_bytes, member.descriptors) for member in fleet.members]


def _any_size_bytes() -> int:
    (size_bytes,) = random.choices(list(SIZES_BYTES), list(SIZES_BYTES.values()))
    return size_bytes


def _load(fleet: Fleet, wanted: dict[str, bytes], until_s: float) -> int:
    """Write, overwrite and notify, also of missing keys; return the number of notifications."""
    notifications = 0
    while time.monotonic() < until_s:
        if random.random() < 0.02:
            for proxy in fleet.proxies.values():
                proxy.inject(*random.choices([(), (random.choice(FAULTS),)])[0])
        key = f"key {random.randrange(200)}"
        wanted[key] = f"{key} {time.monotonic_ns()} ".encode() + random.randbytes(_any_size_bytes())
        fleet.source.put(key, wanted[key])
        keys = [key, *random.choices([key, f"gone {random.random()}", "", "k" * 2000], k=random.randrange(3))]
        fleet.publish(*keys)
        notifications += len(keys)
        time.sleep(PAUSE_S)
    return notifications
