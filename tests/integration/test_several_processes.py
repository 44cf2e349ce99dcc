"""`s3s3 listen --processes 2` as a person runs it."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, run, write_config
from tests.integration.objects import differences, put, things

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.real

COUNT = 60


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]  # fmt: skip


def copied(page: str) -> float:
    return sum(float(line.split()[-1]) for line in page.splitlines()
               if line.startswith("s3s3_copies_total{") and 'outcome="copied"' in line)  # fmt: skip


@pytest.mark.long
def test_one_is_killed_and_nothing_is_lost_and_one_port_tells_of_both(
    swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
    wanted = things(2 * COUNT, 0)
    put(swift.boto3_client(), source.bucket_name, wanted)
    (port,) = free_ports(1)
    config = write_config(
        tmp_path, source, [there], redis_url, worker={"lease_s": 2}, bind=f"127.0.0.1:{port}"
    )  # fmt: skip

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def publish(keys: list[str]) -> None:
        with redis.Redis.from_url(redis_url) as client:
            for key in keys:
                client.publish("backup", key)

    with Listener(config, "--processes", "2") as listener:
        eventually(lambda: listener.log.read_text().count(": subscribed") == 2, "both are subscribed")
        publish([thing.key for thing in wanted[:COUNT]])
        eventually(lambda: copied(page("/metrics")) >= COUNT, "both together copied the first half", every_s=0.2)
        assert page("/healthz") == page("/readyz") == "ok\n"
        first, second = children_of(listener.process.pid)
        publish([thing.key for thing in wanted[COUNT:]])
        os.kill(first, signal.SIGKILL)
        eventually(lambda: len(children_of(listener.process.pid)) == 2, "the killed one is replaced")
        assert second in children_of(listener.process.pid)
        assert copied(page("/metrics")) >= COUNT, "what the dead one had counted is not forgotten"
        eventually(
            lambda: not differences(swift.boto3_client(1), there.bucket_name, wanted), "all of it is there", every_s=0.5
        )
        eventually(lambda: listener.log.read_text().count(": subscribed") == 3, "the new one is subscribed")
        listener.process.send_signal(signal.SIGINT)
        assert listener.process.wait(30) == 0
        assert listener.log.read_text().count(" stopped") == 3, "each of two, and the one that kept them"
    assert run("jobs", "--config", config).returncode == 0


def test_a_source_that_refuses_ends_all_with_the_status_that_says_so(
    swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    there = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
    config = write_config(tmp_path, swift.endpoint("no-such-bucket"), [there], redis_url)
    said = run("listen", "--config", config, "--processes", "2", status=3).stderr
    assert "no-such-bucket" in said
    run("listen", "--config", tmp_path / "none.toml", "--processes", "2", status=2)
    run("listen", "--config", config, "--processes", "0", status=2)


def test_they_end_when_the_one_that_keeps_them_is_killed(
    swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    there = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
    config = write_config(tmp_path, swift.endpoint(new_bucket(swift)), [there], redis_url)
    with Listener(config, "--processes", "2") as listener:
        pids = children_of(listener.process.pid)
        listener.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}/fd").exists() for pid in pids), "they have ended")
