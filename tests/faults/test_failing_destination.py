"""One destination of three fails: the others are not affected, and it gets every object once it works again.

`test_long_outage` measures at which rates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer
from tests.faults.fleet import Bucket, Fleet, differing, one_listener
from tests.faults.kinds import SLOW_DOWN, Fault, Hang, Latency, Reset, Respond
from tests.faults.lies import Drip, Page
from tests.faults.messages import Part
from tests.faults.results import report
from tests.integration.commands import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HEALTHY = ("dest-one", "dest-two")
FAILING = "dest-three"
WITHIN = "hangs, and the source's own store copies to the others"
DESTINATION_FAULTS: dict[str, Fault] = {
    "hangs": Hang(),
    WITHIN: Hang(),
    "resets every connection": Reset(),
    "answers late": Latency(late_s=2),
    "answers 503": Respond(SLOW_DOWN),
    "answers with pages": Page(),
    "drips": Drip(Part.HEAD, every_s=10),
}
A_BATCH = 150
WELL_WITHIN_S = 20.0
"""Limit for a batch at the healthy destinations: well below a timeout of the failing one (the lease, one minute)."""


class Batch(NamedTuple):
    """Objects that are notified together."""

    prefix: str
    contents: dict[str, bytes]


def batch_of(source: Bucket, name: str) -> Batch:
    contents = {f"{name}/{number:05}": f"{name} {number} ".encode() * 100 for number in range(A_BATCH)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: source.put(*item), contents.items()))
    return Batch(f"{name}/", contents)


def object_count(bucket: Bucket, prefix: str) -> int:
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
    return sum(page["KeyCount"] for page in pages)


def _has_all(bucket: Bucket, batch: Batch) -> bool:
    return object_count(bucket, batch.prefix) == len(batch.contents)


def rate(fleet: Fleet, batch: Batch, timeout_s: float) -> float:
    """Have a batch copied; return how many objects a second the slower one of the healthy destinations got."""
    began_s = time.monotonic()
    fleet.put(batch.contents)
    for name in HEALTHY:
        has_all = partial(_has_all, fleet.destinations[name], batch)
        eventually(has_all, f"all of a batch in {name}", timeout_s, every_s=0.2)
    return A_BATCH / (time.monotonic() - began_s)


@pytest.fixture
def fleet(
    request: pytest.FixtureRequest, tmp_path: Path, own_redis: RedisServer, gateway: StoreServer
) -> Iterator[Fleet]:
    within = request.node.callspec.params["fault"] == WITHIN
    destinations, direct = (*HEALTHY, FAILING), ("source", *HEALTHY)
    with one_listener(tmp_path, own_redis.url, gateway, destinations, direct=direct, within=within) as fleet:
        yield fleet


@pytest.mark.parametrize(
    "fault",
    [
        "hangs",
        "answers late",
        pytest.param("resets every connection", marks=pytest.mark.long),
        pytest.param("answers 503", marks=pytest.mark.long),
        pytest.param("answers with pages", marks=pytest.mark.long),
        pytest.param("drips", marks=pytest.mark.long),
        pytest.param(WITHIN, marks=pytest.mark.long),
    ],
)
def test_the_healthy_destinations_go_on_as_if_nothing_were(fleet: Fleet, fault: str) -> None:
    batches = [batch_of(fleet.source, name) for name in ("healthy", "failing")]
    healthy_rate = rate(fleet, batches[0], WELL_WITHIN_S * 3)
    with fleet.proxies[FAILING].injecting(DESTINATION_FAULTS[fault]):
        sick_rate = rate(fleet, batches[1], WELL_WITHIN_S)
    well_s = time.monotonic()
    eventually(lambda: not fleet.counts().pending, "the queue drains", 300, every_s=0.2)
    drained_s = time.monotonic() - well_s
    wanted = {key: content for batch in batches for key, content in batch.contents.items()}
    sent = {name: round(fleet.copies(name)) for name in HEALTHY}
    report(
        "a failing destination",
        fault=fault,
        objects=len(wanted),
        healthy_per_s=round(healthy_rate),
        while_sick_per_s=round(sick_rate),
        drained_after_s=round(drained_s, 1),
    )
    assert not differing(fleet.destinations, dict(list(wanted.items())[:: len(wanted) // 50]))
    assert [object_count(bucket, "") for bucket in fleet.destinations.values()] == [len(wanted)] * 3
    assert sent == dict.fromkeys(HEALTHY, len(wanted)), "nothing is sent to a healthy one twice"
