"""`s3s3 bucket` in progress as other processes see it, and its end after a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import TIMEOUT_S, bucket_started, eventually, limit_destination, run
from tests.integration.objects import MIB
from tests.integration.test_listen import QUICK, Place

pytestmark = pytest.mark.real

PROCESSES_INFO = "s3s3:{default}:processes:info"


class SlowPlace(Place):
    """A set-up with a rate limit, so that a run is still in progress when the test checks it."""

    limit = "max_requests_per_s = 5"

    @property
    def limited(self) -> Path:
        path = self.config(worker={**QUICK, "concurrency": 8})
        limit_destination(path, self.limit)
        return path

    def started(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return bucket_started(self.limited, *arguments)

    def processes(self) -> list[dict[str, object]]:
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            return [json.loads(text) for text in client.hvals(PROCESSES_INFO)]


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> SlowPlace:
    one = SlowPlace(swift, new_bucket, redis_url, tmp_path)
    for number in range(12):
        one.put(f"key {number:02}")
    return one


@pytest.mark.long
@pytest.mark.parametrize("together", [[], ["--distributed"]])
def test_the_fleet_sees_a_run_and_what_it_copies_until_it_has_ended(place: SlowPlace, together: list[str]) -> None:
    with place.started(*together) as process:
        (seen,) = eventually(place.processes, "a heartbeat")
        assert (seen["command"], seen["pid"], seen["is_leader"]) == ("bucket", process.pid, False)
        assert process.wait(TIMEOUT_S) == 0
    assert not place.processes()
    with redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        minutes = [client.hgetall(name) for name in client.scan_iter("s3s3:{default}:minute:*")]
        assert sum(int(minute.get("destination copied", 0)) for minute in minutes) == 12
        assert not client.xinfo_consumers("s3s3:{default}:bulk", "s3s3"), "an ended process is not a consumer any more"


def test_a_dry_run_leaves_the_queue_alone(place: SlowPlace) -> None:
    run("publish", "--config", place.config(), "key 00")
    for together in ([], ["--distributed"]):
        run("bucket", "--config", place.config(), "--dry-run", *together, status=1)
    assert place.content("key 00") is None
    assert not place.processes()


@pytest.mark.long
def test_an_interrupted_run_reports_what_it_waits_for_and_does_not_wait_for_limits(place: SlowPlace) -> None:
    place.limit = "max_requests_per_s = 1"
    with place.started() as process:
        eventually(lambda: place.content("key 00"), "it copies", every_s=0.1)
        process.send_signal(signal.SIGINT)
        told_s = time.monotonic()
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert time.monotonic() - told_s < 6, "others would wait as long for their turns"
    assert process.returncode == 1
    assert "interrupted: not everything was compared" in output
    assert "12 objects compared in 0 ms" not in output
    assert "stopping; waiting up to " in errors
    assert "failed" not in errors
    run("bucket", "--config", place.config())
    assert place.content("key 11") == b"content"


@pytest.mark.long
def test_a_second_interrupt_ends_it_immediately_and_releases_its_jobs(place: SlowPlace) -> None:
    place.limit = 'max_bytes_per_s = "200 KiB"'
    place.put("big", b"x" * 8 * MIB)
    with place.started() as process, redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        eventually(lambda: place.content("key 11"), "all but the large one is there", every_s=0.1)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # as `timeout` does: the same signal twice
        time.sleep(2)
        assert process.poll() is None, "what is under way has a minute to end"
        process.send_signal(signal.SIGTERM)
        told_s = time.monotonic()
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert time.monotonic() - told_s < 3
        assert process.returncode == 1
        assert "stopping; waiting up to " in errors
        assert "aborted by a second signal" in errors
        assert "Traceback" not in errors
        assert not client.exists("s3s3:{default}:reconcile-lock")
        assert not client.exists("s3s3:{default}:processes")
        assert "big" in json.dumps(client.xrange("s3s3:{default}:bulk"))
    assert place.content("big") is None
    run("bucket", "--config", place.config())
    assert place.content("big") == b"x" * 8 * MIB
