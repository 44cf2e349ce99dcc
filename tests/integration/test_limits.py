"""Rate limits are shared by all processes and do not slow down other destinations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from s3s3.model import Endpoint
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, report_lines, run
from tests.integration.objects import MIB
from tests.integration.test_listen import QUICK, Place

pytestmark = pytest.mark.real

KEYS = 60


class TwoPlaces(Place):
    """A destination with a limit, and one without."""

    limit = ""

    def __init__(self, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        super().__init__(swift, new_bucket, redis_url, folder)
        self.free = swift.endpoint(new_bucket(swift, 1), "destination-free", account=1)

    def config(self, others: Sequence[Endpoint] = (), **settings: Any) -> Path:
        path = super().config([*others, self.free], **settings)
        path.write_text(path.read_text().replace("[destination]\n", f"[destination]\n{self.limit}\n"))
        return path

    def held(self, bucket_name: str) -> dict[str, int]:
        page = self.client.list_objects_v2(Bucket=bucket_name)
        return {entry["Key"]: entry["Size"] for entry in page.get("Contents", [])}


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> TwoPlaces:
    return TwoPlaces(swift, new_bucket, redis_url, tmp_path)


@pytest.mark.long
def test_two_listeners_keep_a_limit_together_and_another_destination_is_not_slowed(place: TwoPlaces) -> None:
    place.limit = "max_requests_per_s = 2"
    keys = [f"key {number:03}" for number in range(KEYS)]
    for key in keys:
        place.put(key)
    config = place.config(worker={"concurrency": 8})
    with Listener(config), Listener(config):
        began_s = time.monotonic()
        place.publish(*keys)
        eventually(lambda: len(place.held(place.free.bucket_name)) == KEYS, "all where no limit is", every_s=0.2)
        limited, took_s = len(place.held(place.there.bucket_name)), time.monotonic() - began_s
        assert 0 < limited <= 2 * (took_s + 2), "a second's burst, and what was reserved"
        assert limited < KEYS, "a destination without a limit did not wait"


@pytest.mark.long
def test_a_stream_slower_than_its_lease_is_neither_failed_nor_in_the_way(place: TwoPlaces) -> None:
    place.limit = 'max_bytes_per_s = "2 MiB"'
    place.put("big", b"x" * (12 * MIB))
    with Listener(place.config(worker=QUICK)) as listener:
        began_s = time.monotonic()
        place.publish("big")
        eventually(lambda: "big" in place.held(place.free.bucket_name), "where no limit is", every_s=0.2)
        eventually(lambda: "big" in place.held(place.there.bucket_name), "where the limit is", every_s=0.2)
        assert time.monotonic() - began_s > 4.5
        assert "failed" not in listener.log.read_text()


@pytest.mark.long
def test_what_waits_for_a_limit_has_not_failed_for_a_run(place: TwoPlaces) -> None:
    place.limit = "max_requests_per_s = 20"
    for number in range(30):
        place.put(f"key {number}")
    report = place.folder / "report.jsonl"
    run("bucket", "--config", place.config(worker={"concurrency": 4}), "--report", report)
    assert report_lines(report)[1]["destinations"] == {
        "destination": {"copied": 30},
        "destination-free": {"copied": 30},
    }
