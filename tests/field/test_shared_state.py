"""Two services that share a Redis: they agree on what a route means, or the second one does not start."""

from __future__ import annotations

import dataclasses
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError

import pytest
import redis

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, run, write_config
from tests.integration.objects import keys_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

KEYS = [f"key-{number:02}" for number in range(20)]


class Service:
    """A configuration with a route "default" between buckets of its own, and the same channel as all others."""

    def __init__(self, store: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path) -> None:
        folder.mkdir()
        self.store, self.folder, self.redis_url = store, folder, redis_url
        self.source, self.bucket = new_bucket(store), new_bucket(store)
        self.client = store.boto3_client()
        (self.port,) = free_ports(1)
        for key in KEYS:
            self.client.put_object(Bucket=self.source, Key=key, Body=key.encode())
        self.config = self.write_config()

    def write_config(self, **pubsub: object) -> Path:
        endpoint = dataclasses.replace(self.store.endpoint(self.bucket, "destination"), server_side_copy=False)
        self.config = write_config(
            self.folder, self.store.endpoint(self.source), [endpoint], self.redis_url,
            pubsub=pubsub, bind=f"127.0.0.1:{self.port}",
        )  # fmt: skip
        return self.config

    def publish(self, channel: str = "backup") -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for key in KEYS:
                client.publish(channel, key)

    def has_all(self) -> bool:
        return sorted(keys_of(self.client, self.bucket)) == KEYS

    def health(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10) as answer:
                return str(answer.read().decode())
        except HTTPError as error:
            return error.read().decode()


@pytest.fixture
def services(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> tuple[Service, Service]:
    return tuple(Service(swift, new_bucket, redis_url, tmp_path / name) for name in ("one", "two"))  # type: ignore[return-value]


def test_a_second_service_with_other_buckets_is_refused(services: tuple[Service, Service]) -> None:
    one, two = services
    with Listener(one.config) as listener:
        refused = run("listen", "--config", two.config, status=2).stderr
        assert f"process {listener.process.pid} on {socket.gethostname()} (s3s3 listen, since " in refused
        assert "this process (" in refused and "[pubsub] namespace" in refused and "--take-over" in refused
        assert f"/{one.source}/" in refused and f"/{two.source}/" in refused
        assert "Traceback" not in refused
        for verb, arguments in (("bucket", []), ("publish", [KEYS[0]])):
            assert "with another meaning" in run(verb, "--config", two.config, *arguments, status=2).stderr
        assert "with another meaning" in run("jobs", "pause", "--config", two.config, status=2).stderr
        assert "with another meaning" in run("jobs", "--config", two.config).stderr
        one.publish()
        eventually(one.has_all, "the first one copies everything", every_s=0.3)
        assert one.health() == "ok\n"
    assert not keys_of(two.client, two.bucket)


def test_two_services_with_their_own_namespaces_both_copy_everything(services: tuple[Service, Service]) -> None:
    one, two = services
    two.write_config(namespace="two")
    with Listener(one.config), Listener(two.config):
        one.publish()  # on the channel of both
        eventually(one.has_all, "the first one copies everything", every_s=0.3)
        eventually(two.has_all, "the second one copies everything", every_s=0.3)
        with redis.Redis.from_url(one.redis_url, decode_responses=True) as client:
            prefixes = {name.partition("{")[0] for name in client.scan_iter()}
        assert prefixes == {"s3s3:", "two:"}


def test_a_channel_renamed_while_listeners_run_is_refused_and_after_their_end_everything_is_compared(
    services: tuple[Service, Service],
) -> None:
    one, _ = services
    with Listener(one.config):
        one.write_config(channel="renamed")
        assert "its channel is backup, here it is renamed" in run("listen", "--config", one.config, status=2).stderr
    one.publish("renamed")  # missed
    with Listener(one.config) as listener:
        eventually(one.has_all, "what was missed is copied", every_s=0.3)
        assert "replaced another channel of this route in Redis, everything is compared" in listener.log.read_text()


def test_a_takeover_makes_the_old_listener_unhealthy_and_the_new_one_copies_everything(
    services: tuple[Service, Service],
) -> None:
    one, two = services
    with Listener(one.config) as old, Listener(two.config, "--take-over") as new:
        two.publish()
        eventually(two.has_all, "the new one copies everything", every_s=0.3)
        eventually(lambda: "another process has taken over the route" in one.health(), "the old one is unhealthy")
        assert two.health() == "ok\n"
        assert "replaced another source of this route in Redis" in new.log.read_text()
        assert old.stop() == 0
    assert not keys_of(one.client, one.bucket)


def test_jobs_left_in_redis_are_not_copied_between_other_buckets(services: tuple[Service, Service]) -> None:
    one, two = services
    run("publish", "--config", one.config, *KEYS)
    refused = run("listen", "--config", two.config, status=2).stderr
    assert "20 unfinished jobs in Redis, dead letters included, had another meaning" in refused
    with Listener(one.config):
        eventually(one.has_all, "their own listener copies them", every_s=0.3)


def test_a_destination_may_be_added_and_removed_in_a_rolling_restart(
    services: tuple[Service, Service], new_bucket: Callable[..., str]
) -> None:
    one, _ = services
    added = new_bucket(one.store)
    with Listener(one.config):
        text = one.config.read_text()
        destinations = [
            one.store.endpoint(one.bucket, "destination", server_side_copy=False),
            one.store.endpoint(added, "dest-new", server_side_copy=False),
        ]
        config = write_config(one.folder, one.store.endpoint(one.source), destinations, one.redis_url)
        with Listener(config):
            run("publish", "--config", config, *KEYS)  # the old listener claims some of them
            eventually(one.has_all, "the destination of both has everything", every_s=0.3)
            eventually(lambda: sorted(keys_of(one.client, added)) == KEYS, "the new one, too", every_s=0.3)
            config.write_text(text)
            with Listener(config):
                pass


def test_a_refused_process_leaves_nothing_behind(
    services: tuple[Service, Service],
) -> None:
    one, two = services
    with Listener(one.config), redis.Redis.from_url(one.redis_url, decode_responses=True) as client:
        run("listen", "--config", two.config, status=2)
        (info,) = client.hvals("s3s3:{default}:processes:info")
        assert f"/{one.source}/" in info
