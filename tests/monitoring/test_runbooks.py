"""The page that alerts, dashboard and log lead to, and its example, which is run against real stores."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import yaml

from s3s3.events import EVENTS
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.console_blocks import check_block, console_blocks
from tests.integration.commands import Listener, eventually, write_config
from tests.monitoring.prometheus import ALERTS

REPOSITORY = Path(__file__).parents[2]
RUNBOOKS = REPOSITORY / "docs" / "how-to" / "runbooks.md"
DASHBOARD = REPOSITORY / "conf" / "grafana" / "s3s3.json"
URL = "https://github.com/lsst-sqre/s3s3/blob/main/docs/how-to/runbooks.md"
EXAMPLE = "## Example: from the alert to the proof"

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


@pytest.mark.real
def test_the_example_shows_what_the_commands_print(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "dest-swift", account=1)
    # Without a backfill, which would copy objects that are as new as these after the restart of the listener.
    config = write_config(tmp_path, source, [there], redis_url, pubsub={"backfill": False})
    good = config.read_text()
    client = swift.boto3_client()
    for key in KEYS:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content of " + key.encode())
    config.write_text(good.replace("[dest-swift]", '[dest-swift]\nstorage_class = "COLD"'))
    blocks = iter(console_blocks(RUNBOOKS, EXAMPLE))
    with Listener(config) as listener:
        with redis.Redis.from_url(redis_url) as producer:
            for key in KEYS:
                producer.publish("backup", key)
        eventually(lambda: listener.log.read_text().count("dead-lettered") == len(KEYS), "a line for each key")
        for command, output in blocks:
            check_block(command, output, config, {"/var/log/s3s3/listen.log": str(listener.log)})
            if command == "s3s3 jobs":
                break
    config.write_text(good)
    with Listener(config):
        for command, output in blocks:
            check_block(command, output, config)
            if command.startswith("s3s3 jobs retry"):
                eventually(lambda: copied(swift, there.bucket_name) == set(KEYS), "all are copied")


def copied(swift: SwiftServer, bucket: str) -> set[str]:
    return {found["Key"] for found in swift.boto3_client(1).list_objects_v2(Bucket=bucket).get("Contents", ())}
