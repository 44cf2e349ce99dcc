"""`make screenshots`: write docs/images/status-*.png, the page of a real fleet that is idle, busy and failing."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import redis

from s3s3.model import Endpoint
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.browser.chromium import launched
from tests.integration.commands import Listener, eventually, run, write_config
from tests.real.ceph_server import CephServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"
TOKEN = "a token"
KEYS = 1500
REFUSED = 44


class Fleet:
    """A listener between real stores, and pictures of its page."""

    def __init__(self, folder: Path, images: Path, browser: Browser, redis_url: str) -> None:
        self.folder, self.images, self.browser = folder, images, browser
        self.redis_url = redis_url
        (self.port,) = free_ports(1)

    @contextmanager
    def listening(self, source: Endpoint, destinations: list[Endpoint], extra: str = "") -> Iterator[Path]:
        config = write_config(
            self.folder, source, destinations, self.redis_url, worker={"max_attempts": 1},
            bind=f"127.0.0.1:{self.port}",
        )  # fmt: skip
        text = config.read_text() + f'token = "{TOKEN}"\n'
        config.write_text(text.replace("[destination-archive]\n", f"[destination-archive]\n{extra}"))
        with Listener(config):
            yield config

    def publish(self, keys: list[str]) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for key in keys:
                client.publish("backup", key)

    def picture(self, name: str, text: str, width: int = 1280, scheme: str = "light") -> None:
        """Write the page's picture once it shows a text."""
        context = self.browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{self.port}/")
        page.locator("#live.on").wait_for()
        page.locator("main", has_text=text).wait_for(timeout=60_000)
        page.screenshot(path=self.images / f"status-{name}.png", full_page=True)
        context.close()


def write_images(images: Path, views: dict[str, tuple[int, str]]) -> None:
    """Write the pictures; `views`: width and colour scheme of those of the failing fleet, by the end of their names."""
    with (
        CephServer() as ceph,
        SwiftServer() as swift,
        RedisServer(append_only=True) as server,
        launched() as browser,
        TemporaryDirectory() as folder,
    ):
        client = ceph.boto3_client()
        client.create_bucket(Bucket="images")
        for number, bucket in enumerate(("images-backup", "images-archive")):
            swift.boto3_client(number).create_bucket(Bucket=bucket)
        source = ceph.endpoint("images")
        there = swift.endpoint("images-backup", "destination-swift")
        archive = swift.endpoint("images-archive", "destination-archive", account=1)
        (unused,) = free_ports(1)
        tape = dataclasses.replace(there, name="destination-tape", port=unused, bucket_name="images-tape")
        keys = [f"2026-03-{number % 28 + 1:02}/exposure-{number:06}.fits" for number in range(KEYS)]
        for key in keys:
            client.put_object(Bucket="images", Key=key, Body=key.encode() * 100)
        fleet = Fleet(Path(folder), images, browser, server.url)
        with fleet.listening(source, [there, archive]) as config:
            run("bucket", "--config", config)
            an_hour_before(server.url, ("destination-swift", "destination-archive"))
            fleet.picture("idle", "No problems")
            for key in keys:
                client.put_object(Bucket="images", Key=key, Body=key.encode() * 120)
            fleet.publish(keys)
            eventually(lambda: depth(server.url) > KEYS / 3, "keys are on the queue")
            fleet.picture("busy", "No problems")
            eventually(lambda: depth(server.url) == 0, "all are copied", 300)
        with fleet.listening(source, [there, archive, tape], 'storage_class = "COLD"\n'):
            for key in keys[:REFUSED]:
                client.put_object(Bucket="images", Key=key, Body=key.encode() * 140)
            fleet.publish(keys[:REFUSED])
            for name, (width, scheme) in views.items():
                fleet.picture(f"problems{name}", f"{REFUSED} keys failed permanently", width, scheme)


def depth(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return sum(client.xlen(f"s3s3:{{default}}:{lane}") for lane in ("fresh", "bulk"))


def an_hour_before(redis_url: str, destinations: tuple[str, ...]) -> None:
    """Write statistics of the hours before, which no run can wait for."""
    now = int(time.time())
    with redis.Redis.from_url(redis_url) as client:
        for seconds, name, count in ((60, "minute", 60), (900, "quarter", 96)):
            for period in range(now // seconds - count, now // seconds):
                wave = 1 + (period * seconds // 60) % 23 + 4 * (period % 3)
                fields = {"(queue) depth": wave // 3}
                for destination in destinations:
                    copied = wave * seconds // 10
                    fields |= {
                        f"{destination} copied": copied,
                        f"{destination} bytes": copied * 4096,
                        f"{destination} lag 1": copied,
                        f"{destination} lag {2 + wave // 12}": copied // 40,
                    }
                client.hset(f"s3s3:{{default}}:{name}:{period}", mapping=fields)


if __name__ == "__main__":
    write_images(IMAGES, {"": (1280, "light"), "-phone": (360, "light")})
    sys.exit(0)
