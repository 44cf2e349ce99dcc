"""The page that alerts, dashboard and log lead to, and its example, which is run against real stores."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import yaml

from s3s3.events import EVENTS
from s3s3.scripts.demo.swift_server import SwiftServer
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
    named = re.findall(r"\[`([a-z -]+)`\]\(\.\./reference/events\.md#([a-z-]+)\)", text)
    assert len(named) > 5
    for name, anchor in named:
        assert name in EVENTS
        assert anchor == name.replace(" ", "-")
    for anchor, section in sections().items():
        assert not anchor.startswith("s3s3") or "s3s3 " in section, f"{anchor} names no command"


# -- the example


def example() -> list[tuple[str, str]]:
    """The commands of the example, each with its output."""
    text = RUNBOOKS.read_text().partition(EXAMPLE)[2]
    blocks = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 4
    return blocks


#: What differs from run to run.
VARYING = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC|[+-]\d\d:\d\d)?", "TIME"),
    (r"TIME to TIME", "TIME"),
    (r"request_id=\S+", "request_id=ID"),
    (r"127\.0\.0\.1:\d+|\w+\.example\.org:\d+", "HOST"),
    (r"duration_s=[\d.]+", "duration_s=N"),
    (r"\b[\d.]+ (ms|s|μs)\b", "DURATION"),
    (r"HOST/(bucket-\w+|images(-backup)?)", "HOST/BUCKET"),
    (r"(m\d\d\.fits, )+m\d\d\.fits", "KEYS"),
    (r"/\S*/s3s3\.toml", "FILE"),
    (r" +", " "),
)


def normal(text: str) -> list[str]:
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return [line.strip() for line in text.splitlines()]


@pytest.mark.real
def test_the_example_shows_what_the_commands_print(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "dest-swift", account=1)
    config = write_config(tmp_path, source, [there], redis_url)
    good = config.read_text()
    client = swift.boto3_client()
    for key in KEYS:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content of " + key.encode())
    config.write_text(good.replace("[dest-swift]", '[dest-swift]\nstorage_class = "COLD"'))
    done = iter(example())
    with Listener(config) as listener:
        with redis.Redis.from_url(redis_url) as producer:
            for key in KEYS:
                producer.publish("backup", key)
        eventually(lambda: listener.log.read_text().count("dead-lettered") == len(KEYS), "a line for each key")
        for command, output in done:
            check(command, output, config, listener.log)
            if command == "s3s3 jobs":
                break
    config.write_text(good)
    with Listener(config) as listener:
        for command, output in done:
            check(command, output, config, listener.log)
            if command.startswith("s3s3 jobs retry"):
                eventually(lambda: copied(swift, there.bucket_name) == set(KEYS), "all are copied")


def check(command: str, output: str, config: Path, log: Path) -> None:
    (config.parent / "s3s3").write_text(f'#!/bin/sh\nexec {sys.executable} -m s3s3 "$@"\n')
    (config.parent / "s3s3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{config.parent}:{os.environ['PATH']}", "S3S3_CONFIG": str(config)}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = command.replace("/var/log/s3s3/listen.log", str(log))
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    shown, expected = normal(done.stdout + done.stderr), normal(output)
    assert shown == expected, f"{command}\n{done.stdout}{done.stderr}\n" + "\n".join(difflib.ndiff(expected, shown))


def copied(swift: SwiftServer, bucket: str) -> set[str]:
    return {found["Key"] for found in swift.boto3_client(1).list_objects_v2(Bucket=bucket).get("Contents", ())}
