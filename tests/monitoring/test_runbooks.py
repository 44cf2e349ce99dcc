"""The page that alerts, dashboard and log lead to, and its example, which is run against real stores."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import yaml

from s3s3.events import EVENTS
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import missing
from tests.console_blocks import check_block, console_blocks
from tests.integration.commands import Listener, eventually, write_config
from tests.monitoring.prometheus import ALERTS

REPOSITORY = Path(__file__).parents[2]
RUNBOOKS = REPOSITORY / "docs" / "how-to" / "runbooks.md"
DASHBOARD = REPOSITORY / "conf" / "grafana" / "s3s3.json"
URL = "https://github.com/lsst-sqre/s3s3/blob/main/docs/how-to/runbooks.md"
EXAMPLE, THE_SAME = "## Example: from the alert to the proof", "## The same with the API alone"

KEYS = ("m31.fits", "m33.fits", "m51.fits")


def sections() -> dict[str, str]:
    """The text of each section of the page, by the anchor of its heading."""
    parts = re.split(r"^## (.*)\n", RUNBOOKS.read_text(), flags=re.MULTILINE)
    return {title.lower().replace(" ", "-"): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    links = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules}
    assert links == {name: f"{URL}#{name.lower()}" for name in links}
    runbooks = {anchor for anchor in sections() if anchor.startswith("s3s3")}
    assert runbooks == {name.lower() for name in links}


def test_the_dashboard_links_to_runbooks() -> None:
    found = re.findall(re.escape(URL) + r"(?:#([a-z0-9-]+))?", DASHBOARD.read_text())
    assert "" in found
    assert len(set(found)) > 3
    assert set(found) - {""} <= sections().keys()


def test_the_events_and_commands_that_a_runbook_names_exist() -> None:
    text = RUNBOOKS.read_text()
    named = re.findall(r"\[`([A-Za-z -]+)`\]\(\.\./reference/events\.md#([a-z-]+)\)", text)
    assert len(named) > 5
    for name, anchor in named:
        assert name in EVENTS
        assert anchor == name.lower().replace(" ", "-")
    for anchor, section in sections().items():
        assert not anchor.startswith("s3s3") or "s3s3 " in section, f"{anchor} names no command"


# -- the example


@dataclass
class Night:
    """Three objects are refused because of a setting of the destination, until the setting is corrected."""

    swift: SwiftServer
    new_bucket: Callable[..., str]
    redis_url: str
    config: Path
    bind: str = ""

    def __post_init__(self) -> None:
        source = self.swift.endpoint(self.new_bucket(self.swift))
        there = self.swift.endpoint(self.new_bucket(self.swift, 1), "dest-swift", account=1)
        self.bucket = there.bucket_name
        # Without a backfill, which would copy objects that are as new as these after the restart of the listener.
        write_config(self.config.parent, source, [there], self.redis_url, pubsub={"backfill": False}, bind=self.bind)
        self.right = self.config.read_text() + 'token = "secret"\n'
        client = self.swift.boto3_client()
        for key in KEYS:
            client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content of " + key.encode())

    @contextmanager
    def failing(self) -> Iterator[Listener]:
        self.config.write_text(self.right.replace("[dest-swift]", '[dest-swift]\nstorage_class = "COLD"'))
        with Listener(self.config) as listener:
            with redis.Redis.from_url(self.redis_url) as producer:
                for key in KEYS:
                    producer.publish("backup", key)
                dead_letters = "s3s3:{default}:dead-letters:dest-swift"
                eventually(lambda: producer.hlen(dead_letters) == len(KEYS), "all are dead letters")
            eventually(lambda: listener.log.read_text().count("dead-lettered") == len(KEYS), "a line for each key")
            yield listener

    @contextmanager
    def fixed(self) -> Iterator[Listener]:
        self.config.write_text(self.right)
        with Listener(self.config) as listener:
            yield listener

    def wait_for_copies(self) -> None:
        client = self.swift.boto3_client(1)
        eventually(lambda: client.list_objects_v2(Bucket=self.bucket)["KeyCount"] == len(KEYS), "all are copied")


@pytest.mark.long
@pytest.mark.real
def test_the_example_shows_what_the_commands_print(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    night = Night(swift, new_bucket, redis_url, tmp_path / "s3s3.toml")
    blocks = iter(console_blocks(RUNBOOKS, EXAMPLE, THE_SAME))
    with night.failing() as listener:
        for command, output in blocks:
            check_block(command, output, night.config, {"/var/log/s3s3/listen.log": str(listener.log)})
            if command == "s3s3 jobs":
                break
    with night.fixed():
        for command, output in blocks:
            check_block(command, output, night.config)
            if command.startswith("s3s3 jobs retry"):
                night.wait_for_copies()


def has_ended(port: int) -> bool:
    """Whether the status has a reconcile, and no problem is left."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=30) as response:
        status = json.load(response)
    return status["routes"][0]["last_reconcile"] is not None and status["problems"] == []


@pytest.mark.long
@pytest.mark.real
def test_the_example_with_the_api_alone_shows_what_the_api_answers(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("curl", "jq"):
        if shutil.which(name) is None:
            missing(f"{name} is not installed (apt-get install {name})")
    (port,) = free_ports(1)
    monkeypatch.setenv("API", f"http://127.0.0.1:{port}/api/v1")
    monkeypatch.setenv("TOKEN", "secret")
    night = Night(swift, new_bucket, redis_url, tmp_path / "s3s3.toml", f"127.0.0.1:{port}")
    blocks = iter(console_blocks(RUNBOOKS, THE_SAME))
    with night.failing():
        for command, output in blocks:
            check_block(command, output, night.config)
            if "dead-letters/groups" in command:
                break
    with night.fixed() as listener:
        for command, output in blocks:
            check_block(command, output, night.config)
            if command.endswith("/retry"):
                night.wait_for_copies()
            if command.endswith("/reconcile"):
                eventually(lambda: has_ended(port), "the reconcile ends, and the status shows it", every_s=0.5)
        log = listener.log.read_text()
    for action in ("retry", "reconcile"):
        assert f"WARNING operator action: {action} route=default" in log
        assert f"WARNING operator action: {action} route=default" in RUNBOOKS.read_text()
