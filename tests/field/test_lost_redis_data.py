"""Redis loses its data while listeners without a channel run: everything is compared, by one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Respond
from tests.faults.proxy import Proxy
from tests.integration.commands import Listener, eventually, run, write_config
from tests.integration.objects import keys_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KEYS = [f"key-{number:02}" for number in range(20)]
WATERMARK = "s3s3:{default}:watermark"


@pytest.fixture
def volatile_redis() -> Iterator[RedisServer]:
    """A Redis without persistence."""
    with RedisServer() as server:
        yield server


class Place:
    """A bucket, and one behind a proxy, of a route without a channel; `folders` configurations of it."""

    def __init__(self, store: SwiftServer, new_bucket: Callable[..., str], server: RedisServer, folder: Path) -> None:
        self.source, self.bucket = new_bucket(store), new_bucket(store)
        self.client, self.server = store.boto3_client(), server
        self.proxy = Proxy(store.port)
        self._store, self._folder = store, folder
        for key in KEYS:
            self.client.put_object(Bucket=self.source, Key=key, Body=key.encode())

    def write_config(self, **pubsub: object) -> Path:
        destination = self.proxy.through(self._store.endpoint(self.bucket, "destination", server_side_copy=False))
        source = self._store.endpoint(self.source)
        return write_config(self._folder, source, [destination], self.server.url, pubsub={"channel": "", **pubsub})

    def has_all(self) -> bool:
        return sorted(keys_of(self.client, self.bucket)) == KEYS

    def is_healed(self) -> bool:
        return not self.redis().hexists("s3s3:{default}:gap", "from_ms")

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, decode_responses=True)


@pytest.fixture
def place(
    swift: SwiftServer, new_bucket: Callable[..., str], volatile_redis: RedisServer, tmp_path: Path
) -> Iterator[Place]:
    found = Place(swift, new_bucket, volatile_redis, tmp_path)
    with found.proxy:
        yield found


@pytest.mark.parametrize("how", ["FLUSHALL", "restart"])
def test_everything_is_compared_once_until_it_is_complete(place: Place, how: str) -> None:
    config = place.write_config()
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(config).started()) for _ in range(2)]
        eventually(lambda: place.redis().exists(WATERMARK), "one watches")
        leaders: set[str] = set()
        eventually(lambda: count_leaders(place.redis(), leaders) == 2, "both know the data", every_s=0.3)
        with place.proxy.injecting(Respond()):
            run("publish", "--config", config, *KEYS)
            if how == "FLUSHALL":
                place.redis().flushall()
            else:
                place.server.kill()
                place.server.start()
            eventually(lambda: "the gap stays open" in logs(listeners), "a comparison that could not look")
        eventually(place.is_healed, "the gap is closed", every_s=0.3)  # before one leaves, and the other takes over
    assert place.has_all()
    text = logs(listeners)
    assert text.count("first start: what the source holds already is not copied") == 1
    assert text.count("Redis has lost data; some objects may not be copied yet") == 1
    comparing = [listener for listener in listeners if "comparing everything" in listener.log.read_text()]
    assert len(comparing) == 1, "one of them compares"


def count_leaders(client: redis.Redis, leaders: set[str]) -> int:
    """Add the leader to those seen so far, and have another one elected; return how many were seen."""
    if leader := client.getdel("s3s3:{default}:leader"):
        leaders.add(str(leader))
    return len(leaders)


@pytest.mark.parametrize("channel", ["", "backup"])
def test_a_listener_that_starts_right_after_the_loss_does_not_hide_it(place: Place, channel: str) -> None:
    config = place.write_config(channel=channel)
    with ExitStack() as stack:
        old = stack.enter_context(Listener(config).started())
        eventually(lambda: place.redis().exists(WATERMARK), "it watches")
        old.process.send_signal(signal.SIGSTOP)
        place.server.kill()
        place.server.start()
        new = stack.enter_context(Listener(config).started())
        eventually(lambda: "first start" in new.log.read_text(), "the new one takes the route for a new one")
        old.process.send_signal(signal.SIGCONT)
        eventually(place.has_all, "everything is compared")
        eventually(place.is_healed, "the gap is closed", every_s=0.3)
    assert old.log.read_text().count("gap detected: Redis has lost data") == 1


def logs(listeners: list[Listener]) -> str:
    return "".join(listener.log.read_text() for listener in listeners)


def test_with_backfill_off_the_gap_stays_open_until_a_comparison(place: Place) -> None:
    config = place.write_config(backfill=False)
    with Listener(config).started() as listener:
        eventually(lambda: place.redis().exists(WATERMARK), "it watches")
        place.redis().flushall()
        eventually(lambda: place.redis().hexists("s3s3:{default}:gap", "from_ms"), "the gap is recorded")
        assert "comparing everything" not in listener.log.read_text()
        run("bucket", "--config", config)
        assert place.is_healed()
    assert place.has_all()
