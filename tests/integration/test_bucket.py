"""`s3s3 bucket` as a person runs it, on a real Swift."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import (
    TIMEOUT_S,
    Listener,
    bucket_started,
    command,
    eventually,
    limit_destination,
    report_lines,
    run,
)
from tests.integration.test_listen import Place

pytestmark = pytest.mark.real


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Place:
    one = Place(swift, new_bucket, redis_url, tmp_path)
    for number in range(20):
        one.put(f"key {number:02}")
    return one


def test_it_copies_what_is_missing_and_the_second_time_nothing(place: Place) -> None:
    config = place.config()
    assert "20" in run("bucket", "--config", config).stdout
    output = run("bucket", "--config", config).stdout
    assert "copied" not in output
    assert "20 objects compared" in output


@pytest.mark.long
def test_a_dry_run_copies_nothing_reports_what_it_would_and_exits_with_1(place: Place) -> None:
    report = place.folder / "report.jsonl"
    run("bucket", "--config", place.config(), "--dry-run", "--report", report, status=1)
    lines, summary = report_lines(report)
    assert {line["outcome"] for line in lines} == {"would_copy"}
    assert {line["reason"] for line in lines} == {"missing"}
    assert summary["destinations"] == {"destination": {"would_copy": 20}}
    assert place.content("key 00") is None
    run("bucket", "--config", place.config())
    run("bucket", "--config", place.config(), "--dry-run")


@pytest.mark.long
def test_a_report_has_a_line_for_each_object_with_both_sizes_both_md5s_and_the_proof(place: Place) -> None:
    run("bucket", "--config", place.config())
    output = run("bucket", "--config", place.config(), "--report", "-")
    *lines, last = [json.loads(line) for line in output.stdout.splitlines()]
    assert len(lines) == 20
    assert last["summary"]["destinations"] == {"destination": {"same": 20}}
    assert lines[0] == {
        "route": "default", "destination": "destination", "key": "key 00", "outcome": "same", "reason": "same",
        "source_size_bytes": 7, "destination_size_bytes": 7, "source_md5": "9a0364b9e99bb480dd25e1f0284c8555",
        "destination_md5": "9a0364b9e99bb480dd25e1f0284c8555", "proof": "etag",
    }  # fmt: skip


@pytest.mark.long
def test_force_copies_what_is_the_same_too(place: Place) -> None:
    run("bucket", "--config", place.config())
    report = place.folder / "report.jsonl"
    run("bucket", "--config", place.config(), "--force", "--report", report)
    assert report_lines(report)[1]["destinations"] == {"destination": {"copied": 20}}


@pytest.mark.long
def test_since_looks_only_at_what_the_source_changed_since_then(place: Place) -> None:
    report = place.folder / "report.jsonl"
    output = run("bucket", "--config", place.config(), "--since", "2099-01-01", "--report", report).stdout
    assert re.fullmatch(r"route default: 0 objects compared in [0-9.]+ m?s; 20 not changed since then\n", output)
    assert report_lines(report)[0] == []
    run("bucket", "--config", place.config(), "--since", "1h")
    assert place.content("key 19") == b"content"
    assert (
        "must be a time such as" in run("bucket", "--config", place.config(), "--since", "yesterday", status=2).stderr
    )


def test_without_redis_a_failure_is_reported_with_its_reason(place: Place) -> None:
    place.redis_url = ""
    config = place.config()
    config.write_text(config.read_text().replace("[destination]", '[destination]\nstorage_class = "NO_SUCH_CLASS"'))
    output = run("bucket", "--config", config, status=1).stderr
    assert re.search(
        r'WARNING copy failed: PUT of an object: \d+ .* key="key \d\d" route=default destination=d', output
    )


@pytest.mark.long
def test_the_summary_says_what_to_do_next(place: Place) -> None:
    config = place.config()
    done = run("bucket", "--config", config, "--dry-run", status=1)
    assert "route default: next: run it without --dry-run to make the destinations equal" in done.stdout
    config.write_text(config.read_text().replace("[destination]", '[destination]\nstorage_class = "NO_SUCH_CLASS"'))
    done = run("bucket", "--config", config, status=1)
    advice = "s3s3 jobs --route default shows the 20 failed copies by reason; fix it, then: s3s3 jobs retry --all"
    assert f"route default: next: {advice} --route default" in done.stdout
    assert (
        "20 keys: PUT of an object: 400 InvalidStorageClass"
        in run("jobs", "--config", config, "--route", "default").stdout
    )
    alone = run("bucket", "--config", config, "--without-redis", status=1)
    assert "next: the log has the reasons of the 20 failed copies" in alone.stdout
    config.write_text(config.read_text().replace('"NO_SUCH_CLASS"', '"STANDARD"'))
    assert "next" not in run("bucket", "--config", config).stdout


@pytest.mark.long
def test_json_has_the_summary_and_what_to_do_next(place: Place) -> None:
    config = place.config()
    done = json.loads(run("bucket", "--config", config, "--json", "--dry-run", status=1).stdout)
    (route,) = done["routes"]
    assert (done["exit_status"], route["proven"]) == (1, False)
    assert route["destinations"] == {"destination": {"would_copy": 20}}
    assert "--dry-run" in route["next"][0]
    run("bucket", "--config", config)
    (route,) = json.loads(run("bucket", "--config", config, "--json").stdout)["routes"]
    assert (route["proven"], route["destinations"], route["next"]) == (True, {"destination": {"same": 20}}, [])
    place.there = dataclasses.replace(place.there, port=free_ports(1)[0])
    (route,) = json.loads(run("bucket", "--config", place.config(), "--json", status=3).stdout)["routes"]
    assert "s3s3 check" in route["next"][0]
    assert "both write to standard output" in run("bucket", "--json", "--report", "-", status=2).stderr


@pytest.mark.long
def test_quiet_prints_only_problems(place: Place) -> None:
    config = place.config()
    done = run("bucket", "--config", config, "--quiet")
    assert (done.stdout, done.stderr) == ("", "")
    place.put("new")
    assert "would_copy" in run("bucket", "--config", config, "--quiet", "--dry-run", status=1).stdout
    assert run("bucket", "--config", config, "--quiet", "--json").stdout.startswith("{")


@pytest.mark.long
def test_a_terminal_shows_the_progress_of_each_destination(place: Place) -> None:
    """Through a real pseudo-terminal; the second run has the number of objects of the first one."""
    config = place.config()
    limit_destination(config, "max_requests_per_s = 10")
    run("bucket", "--config", config)
    output = on_terminal("bucket", "--config", config, "--force")
    assert re.search(r"route default: \d+ of about 20 compared|route default: 20 compared", output)
    assert re.search(r"\ndestination +done +copied +failed +bytes copied +rate", output)
    assert re.search(r"\ndestination +\d+ +\d+ +0 +\d+ B +", output)


def on_terminal(verb: str, *arguments: str | Path) -> str:
    """What a command writes to a terminal, without control sequences."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command(verb, *arguments), stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    assert process.returncode == 0, output.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", output.decode())


def test_it_works_without_redis_and_warns(place: Place) -> None:
    place.redis_url = ""
    output = run("bucket", "--config", place.config())
    assert "without Redis" in output.stderr
    assert place.content("key 00") == b"content"


@pytest.mark.long
def test_a_redis_that_is_configured_and_away_is_3_unless_it_is_to_be_done_without(place: Place) -> None:
    place.redis_url = f"redis://:hunter2@127.0.0.1:{free_ports(1)[0]}/0"
    output = run("bucket", "--config", place.config(), status=3).stderr
    assert "Redis cannot be reached" in output
    assert "hunter2" not in output
    run("bucket", "--config", place.config(), "--without-redis")
    assert place.content("key 00") == b"content"


def test_a_destination_that_is_away_is_3_and_names_it(place: Place) -> None:
    place.there = dataclasses.replace(place.there, port=free_ports(1)[0])
    output = run("bucket", "--config", place.config(), status=3)
    assert output.stdout.startswith("route default: could not compare destination: LIST: nothing listens on")
    assert "(check host and port in [destination])" in output.stdout


def test_a_source_that_is_away_is_3_and_names_it(place: Place) -> None:
    place.source = dataclasses.replace(place.source, port=free_ports(1)[0])
    assert (
        f"nothing listens on 127.0.0.1:{place.source.port}"
        in run("bucket", "--config", place.config(), status=3).stderr
    )


def test_a_destination_without_the_bucket_is_3_and_names_it(place: Place) -> None:
    place.there = dataclasses.replace(place.there, bucket_name="nowhere")
    assert "nowhere" in run("bucket", "--config", place.config(), status=3).stdout


def test_other_buckets_can_be_named_but_not_the_source_itself(
    place: Place, swift: SwiftServer, new_bucket: Callable[..., str]
) -> None:
    other = new_bucket(swift, 1)
    run("bucket", "--config", place.config(), "--dest-bucket", other)
    assert place.client.get_object(Bucket=other, Key="key 00")["Body"].read() == b"content"
    place.there = dataclasses.replace(place.source, name="destination", bucket_name=place.there.bucket_name)
    output = run("bucket", "--config", place.config(), "--dest-bucket", place.source.bucket_name, status=2).stderr
    assert "is the source itself" in output


@pytest.mark.long
def test_an_interval_repeats_the_run_until_it_is_stopped(place: Place) -> None:
    arguments = command("bucket", "--config", place.config(), "--interval", "3")
    with subprocess.Popen(arguments) as process, redis.Redis.from_url(place.redis_url) as client:
        place.arrives("key 19")
        place.put("later")
        place.arrives("later")
        eventually(lambda: not client.exists("s3s3:{default}:reconcile-lock"), "it waits for the next time")
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("with_redis", [True, False])
def test_an_interrupted_run_ends_soon_reports_it_and_exits_with_1(place: Place, with_redis: bool) -> None:
    if not with_redis:
        place.redis_url = ""
    config = place.config(worker={"concurrency": 2})
    limit_destination(config, "max_requests_per_s = 2")
    with bucket_started(config) as process:
        eventually(lambda: place.client.list_objects_v2(Bucket=place.there.bucket_name)["KeyCount"], "it copies")
        process.send_signal(signal.SIGINT)
        stopped_s = time.monotonic()
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in output) == (1, True), output
    assert time.monotonic() - stopped_s < 50
    titles, row = (re.split(r"\s{2,}", line) for line in output.splitlines() if re.match("route  |default  ", line))
    counts = dict(zip(titles[2:], map(int, row[2:]), strict=True))
    copied = place.client.list_objects_v2(Bucket=place.there.bucket_name)["KeyCount"]
    assert counts == {"copied": copied, "unfinished": 20 - copied, "by etag": copied}, output
    assert "route default: 20 objects compared" in output
    assert ("left on the queue" in output) is with_redis
    if with_redis:
        assert f"route default: {20 - copied} keys left on the queue, for listeners or the next s3s3 bucket" in output
        assert f"{20 - copied} pending" in run("jobs", "--config", config).stdout


@pytest.mark.long
def test_the_summary_of_an_interrupted_run_in_json_has_the_keys_on_the_queue(place: Place) -> None:
    config = place.config(worker={"concurrency": 2})
    limit_destination(config, "max_requests_per_s = 2")
    arguments = command("bucket", "--config", config, "--json", "--distributed")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        eventually(lambda: place.client.list_objects_v2(Bucket=place.there.bucket_name)["KeyCount"], "it copies")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    [summary] = json.loads(output)["routes"]
    pending = int(re.findall(r"(\d+) pending", run("jobs", "--config", config).stdout)[0])
    assert (summary["ended"], summary["queued_keys"]) == (False, pending)
    assert pending > 0


def another_runs(place: Place, lease_ms: int) -> None:
    with redis.Redis.from_url(place.redis_url) as client:
        client.hset("s3s3:{default}:reconcile-lock", mapping={"id": "x", "host": "elsewhere", "pid": 7, "since_ms": 1})
        client.pexpire("s3s3:{default}:reconcile-lock", lease_ms)


def the_other_ends(place: Place) -> None:
    with redis.Redis.from_url(place.redis_url) as client:
        client.delete("s3s3:{default}:reconcile-lock")


@pytest.mark.long
def test_a_run_beside_another_one_exits_with_1_at_once_and_names_it_but_a_dry_run_goes_on(place: Place) -> None:
    another_runs(place, 60_000)
    output = run("bucket", "--config", place.config(), status=1).stderr
    assert "route default is being reconciled by process 7 on elsewhere since 1970" in output
    assert "--wait-for-lock" in output
    assert place.content("key 00") is None
    assert "would_copy" in run("bucket", "--config", place.config(), "--dry-run", status=1).stdout
    run("bucket", "--config", place.config(), "--without-redis")
    assert place.content("key 00") == b"content"


@pytest.mark.long
def test_wait_for_lock_starts_the_run_after_the_other_one(place: Place) -> None:
    another_runs(place, 300_000)
    log = place.folder / "bucket.log"
    arguments = command("bucket", "--config", place.config(), "--wait-for-lock")
    with log.open("wb") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as process:
        eventually(lambda: "waiting for its end" in log.read_text(), "it logs that it waits")
        time.sleep(1)
        assert place.content("key 00") is None
        the_other_ends(place)
        assert process.wait(60) == 0
    assert place.content("key 00") == b"content"


@pytest.mark.long
def test_a_run_between_other_buckets_leaves_the_queue_that_listeners_work_on_alone(
    place: Place, swift: SwiftServer, new_bucket: Callable[..., str]
) -> None:
    other = new_bucket(swift, 1)
    with Listener(place.config()):
        run("bucket", "--config", place.config(), "--dest-bucket", other)
    assert len(place.client.list_objects_v2(Bucket=other)["Contents"]) == 20
    assert place.content("key 00") is None


@pytest.mark.long
def test_a_listener_skips_its_reconcile_while_another_process_reconciles(place: Place) -> None:
    another_runs(place, 300_000)
    with Listener(place.config(), "--reconcile-interval", "1") as listener:
        eventually(lambda: "skipping this one" in listener.log.read_text(), "the listener logs why it waits")
        assert place.content("key 00") is None
        the_other_ends(place)
        place.arrives("key 00")
