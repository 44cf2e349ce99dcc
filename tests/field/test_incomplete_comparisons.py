"""A destination that cannot be compared is neither healed nor counted as compared, and gets what it lacks later."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.servers import StoreServer, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Respond, listing
from tests.faults.proxy import Proxy
from tests.integration.commands import Listener, eventually, write_config
from tests.integration.objects import keys_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KEYS = [f"key-{number:02}" for number in range(20)]
FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: 64\r\n\r\n"
    b"<Error><Code>AccessDenied</Code><Message>no list</Message></Error>"[:-2]
)


class Place:
    """A source, a destination that works, and one behind a proxy, in one Swift."""

    def __init__(self, store: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        source, good, away = (new_bucket(store) for _ in range(3))
        self.client = store.boto3_client()
        self.good, self.away = good, away
        self.redis_url = redis_url
        self.proxy = Proxy(store.port)
        (self.port,) = free_ports(1)
        self._config = folder, store, source
        for key in KEYS:
            self.client.put_object(Bucket=source, Key=key, Body=key.encode())

    def write_config(self) -> Path:
        folder, store, source = self._config
        destinations = [
            store.endpoint(self.good, "dest-good", server_side_copy=False),
            self.proxy.through(store.endpoint(self.away, "dest-away", server_side_copy=False)),
        ]
        return write_config(folder, store.endpoint(source), destinations, self.redis_url, bind=f"127.0.0.1:{self.port}")

    def keys(self, bucket: str) -> list[str]:
        return sorted(keys_of(self.client, bucket))

    def metric(self, name: str, destination: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        start = f's3s3_{name}{{destination="{destination}",route="default"}} '
        found = [
            line
            for line in lines
            if line.startswith((start, f's3s3_{name}{{route="default",destination="{destination}"}} '))
        ]
        return float(found[0].rpartition(" ")[2]) if found else None


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    return Place(swift, new_bucket, redis_url, tmp_path)


def test_redis_loses_its_data_while_one_destination_is_down(place: Place) -> None:
    with place.proxy, redis.Redis.from_url(place.redis_url) as client:
        config = place.write_config()
        with Listener(config) as listener:
            eventually(lambda: client.exists("s3s3:{default}:watermark"), "the first watermark")
            with place.proxy.injecting(Respond()):
                for key in KEYS:
                    client.publish("backup", key)
                eventually(lambda: place.keys(place.good) == KEYS, "the other destination has everything", every_s=0.3)
                client.flushall()
                eventually(lambda: "the gap stays open" in listener.log.read_text(), "a backfill that could not look")
                assert place.metric("gap_open", "dest-away") == 1
                assert place.metric("gap_open", "dest-good") == 0
                assert place.keys(place.away) == []
            eventually(lambda: place.keys(place.away) == KEYS, "everything is there", every_s=0.3)
            eventually(lambda: place.metric("gap_open", "dest-away") == 0, "the gap is healed")
        log = listener.log.read_text()
        assert "could not compare dest-away: " in log
        everything = [line for line in log.splitlines() if "comparing everything" in line]
        assert [line for line in everything if not line.endswith("destination=dest-away")] == everything[:1]


def test_a_destination_that_forbids_listing_is_never_counted_as_compared(place: Place) -> None:
    with place.proxy:
        config = place.write_config()
        with (
            place.proxy.injecting(Respond(of=listing, answer=FORBIDDEN)),
            Listener(config, "--reconcile-interval", "2") as listener,
        ):
            eventually(lambda: place.metric("last_reconcile_timestamp_seconds", "dest-good"), "a comparison")
            assert place.metric("last_reconcile_timestamp_seconds", "dest-away") == 0
            eventually(lambda: listener.log.read_text().count("could not compare dest-away") > 1, "it is tried again")
            place.proxy.inject()
            eventually(lambda: place.metric("last_reconcile_timestamp_seconds", "dest-away"), "it can be compared now")
            eventually(lambda: place.keys(place.away) == KEYS, "everything is there", every_s=0.3)
        for line in listener.log.read_text().splitlines():
            if "could not compare" in line:
                assert "WARNING" in line and "dest-away" in line and "403" in line
