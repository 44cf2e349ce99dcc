from __future__ import annotations

import asyncio
import os
import pty
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from s3s3.errors import InvalidKey, StoreUnavailable
from s3s3.model import Endpoint, Job, Outcome, Result, Route
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts import publish
from s3s3.scripts.publish import PublishTracker, main
from s3s3.worker.worker import Worker
from tests.scripts.command import config_file, run
from tests.waiting import running, until

pytestmark = pytest.mark.real

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("dest-ceph", "ceph"), Endpoint("dest-swift", "swift")))


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    return config_file(tmp_path, redis_url)


def _outcome(key: str, destination: str) -> Outcome:
    if key.startswith("gone"):
        return Outcome(destination, key, Result.SOURCE_MISSING)
    if key.startswith("refused") and destination == "dest-ceph":
        return Outcome(destination, key, Result.FAILED, "no such names here", error=InvalidKey("no such names here"))
    if key.startswith("down") and destination == "dest-ceph":
        return Outcome(destination, key, Result.FAILED, "nothing listens", error=StoreUnavailable("nothing listens"))
    return Outcome(destination, key, Result.COPIED)


def new_worker(client: Redis, keys: list[str]) -> Worker:
    """A worker that copies nothing, and records the keys of its jobs."""

    async def copy(job: Job, destinations: Sequence[str], check_lease: object) -> list[Outcome]:
        keys.append(job.key)
        return [_outcome(job.key, name) for name in destinations]

    return Worker(ROUTE, RedisJobQueue(client, "default", ROUTE.destination_names), copy)


@contextmanager
def worker(url: str) -> Iterator[list[str]]:
    """Run a worker in a thread."""
    keys: list[str] = []
    ended = threading.Event()

    async def work() -> None:
        stop = asyncio.Event()
        async with connected(url) as client, running(new_worker(client, keys).run(stop, 0)):
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        yield keys
    finally:
        ended.set()
        thread.join()


def new_tracker(client: Redis, stop: asyncio.Event) -> PublishTracker:
    async def one_listener() -> int:
        return 1

    return PublishTracker(ROUTE, RedisJobQueue(client, "default", ROUTE.destination_names), one_listener, print, stop)


def queued(url: str) -> dict[str, dict[str, str]]:
    """The records of the queue, by key."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {name.partition("job:")[2]: client.hgetall(name) for name in client.scan_iter("s3s3:{default}:job:*")}


def test_keys_are_enqueued_for_every_destination_in_the_fresh_lane(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, "a", "b c")
    assert (done.status, done.out) == (0, "route default: 2 keys put on the queue\n")
    records = queued(redis_url)
    assert set(records) == {"a", "b c"}
    assert {(record["lane"], record["destinations"]) for record in records.values()} == {
        ("fresh", "dest-ceph dest-swift")
    }


def test_keys_are_accepted_between_options_and_after_two_dashes(config: Path, redis_url: str) -> None:
    assert run(main, "a", "--config", config, "b", "--", "--wait", "-c").status == 0
    assert set(queued(redis_url)) == {"a", "b", "--wait", "-c"}


@pytest.mark.parametrize(("key", "why"), [("", "empty"), ("x" * 1025, "1,025 bytes"), (os.fsdecode(b"\xff"), "UTF-8")])
def test_one_invalid_argument_prevents_all_from_being_enqueued(
    config: Path, redis_url: str, key: str, why: str
) -> None:
    done = run(main, "--config", config, "good", key)
    assert done.status == 2
    assert done.err.startswith("argument 2: ")
    assert why in done.err
    assert not queued(redis_url)


def test_invalid_lines_are_reported_and_the_others_are_enqueued(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, stdin=b"a\n\n" + b"x" * 200_000 + b"\n\xff\nb")
    assert done.status == 1
    assert [line.split(":")[0] for line in done.err.splitlines()[:3]] == ["line 2", "line 3", "line 4"]
    assert "3 lines refused" in done.err
    assert set(queued(redis_url)) == {"a", "b"}


def test_null_separates_keys_that_contain_line_breaks(config: Path, redis_url: str) -> None:
    assert run(main, "--config", config, "--null", "-", stdin=b"a\nb\0 c\0").status == 0
    assert set(queued(redis_url)) == {"a\nb", " c"}


def test_a_prompt_is_shown_when_standard_input_is_a_terminal(config: Path, redis_url: str) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"key\n\x04")
    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        done = run(main, "--config", config, stdin=terminal)
    os.close(ours)
    assert "enter one key per line, Ctrl-D after the last" in done.err
    assert set(queued(redis_url)) == {"key"}


def test_keys_of_an_endless_producer_are_enqueued_line_by_line(config: Path, redis_url: str) -> None:
    reading, writing = os.pipe()

    def produce() -> None:
        try:
            for key in ("first", "second"):
                os.write(writing, f"{key}\n".encode())
                deadline_s = time.monotonic() + 10
                while key not in queued(redis_url) and time.monotonic() < deadline_s:
                    time.sleep(0.01)
                seen.append(key in queued(redis_url))
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            ended.wait(10)
            os.close(writing)

    seen: list[bool] = []
    ended = threading.Event()
    thread = threading.Thread(target=produce)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        done = run(main, "--config", config, stdin=pipe)
    ended.set()
    thread.join()
    assert seen == [True, True]
    assert done.status == 1  # interrupted


def test_keys_that_match_no_route_are_refused(tmp_path: Path, redis_url: str) -> None:
    config = config_file(tmp_path, redis_url, Endpoint("source", "images", host="127.0.0.1", prefix="raw/"))
    done = run(main, "--config", config, "other/a")
    assert done.status == 2
    assert "no route matches 'other/a'" in done.err
    assert run(main, "--config", config, "raw/a").status == 0
    assert set(queued(redis_url)) == {"raw/a"}


def test_pubsub_reports_a_channel_without_subscribers(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, "--pubsub", "a")
    assert done.status == 1
    assert "channel 'backup': no subscriber received 1 key" in done.err
    assert not queued(redis_url)


def test_pubsub_publishes_the_bare_key(config: Path, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as channel:
        channel.subscribe("backup")
        assert channel.get_message(timeout=5) is not None
        done = run(main, "--config", config, "--pubsub", "schlüssel 1")
        message = channel.get_message(timeout=5)
    assert (done.status, done.err) == (0, "")
    assert message is not None
    assert message["data"] == "schlüssel 1".encode()


@pytest.mark.parametrize("option", [["--wait"], ["--route", "default"]])
def test_pubsub_cannot_be_combined_with_wait_or_route(config: Path, option: list[str]) -> None:
    assert run(main, "--config", config, "--pubsub", *option, "a").status == 2


def test_wait_ends_when_every_key_has_its_outcome_everywhere(config: Path, redis_url: str) -> None:
    with worker(redis_url) as keys:
        done = run(main, "--config", config, "--wait", stdin=b"".join(b"key %d\n" % n for n in range(300)))
    assert done.status == 0
    assert len(keys) == 300
    assert done.out.splitlines() == [
        "route default: 300 keys",
        "  dest-ceph: 300 copied",
        "  dest-swift: 300 copied",
    ]


def test_wait_for_a_key_without_a_source_object_names_it_once_and_exits_with_1(config: Path, redis_url: str) -> None:
    with worker(redis_url):
        done = run(main, "--config", config, "--wait", "a", "gone.txt")
    assert done.status == 1
    assert done.out.splitlines() == [
        "source_missing: 'gone.txt': the source has no such object",
        "route default: 2 keys",
        "  dest-ceph: 1 copied, 1 source_missing",
        "  dest-swift: 1 copied, 1 source_missing",
    ]


def test_a_missing_source_object_is_no_failure_where_deletions_are_propagated(config: Path, redis_url: str) -> None:
    text = config.read_text()
    config.write_text(text.replace("[dest-ceph]", "[dest-ceph]\ndelete = true")
                      .replace("[dest-swift]", "[dest-swift]\ndelete = true"))  # fmt: skip
    with worker(redis_url):
        done = run(main, "--config", config, "--wait", "gone.txt")
    assert (done.status, "the source has no such object" in done.out) == (0, False)


def test_wait_ends_after_its_timeout_and_the_keys_stay_on_the_queue(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, "--wait", "--timeout", "0.2", "a")
    assert done.status == 1
    assert "dest-ceph: 1 not done yet, still on the queue" in done.out
    assert set(queued(redis_url)) == {"a"}
    refused = run(main, "--config", config, "--timeout", "1", "a")
    assert (refused.status, "--timeout limits --wait, which is missing" in refused.err) == (2, True)


def test_wait_reports_every_failure_and_exits_with_1(config: Path, redis_url: str) -> None:
    with worker(redis_url):
        done = run(main, "--config", config, "--wait", "a", "refused 1")
    assert done.status == 1
    assert done.out.splitlines() == [
        "failed: dest-ceph: 'refused 1': no such names here",
        "route default: 2 keys",
        "  dest-ceph: 1 copied, 1 failed",
        "  dest-swift: 2 copied",
    ]


def test_json_has_the_counts_and_the_failures(config: Path, redis_url: str) -> None:
    with worker(redis_url):
        done = run(main, "--config", config, "--wait", "--json", "a", "refused 1", "gone.txt")
    assert done.status == 1
    assert {key: done.json[key] for key in ("exit_status", "refused_lines")} == {"exit_status": 1, "refused_lines": 0}
    (route,) = done.json["routes"]
    assert route["destinations"]["dest-ceph"] == {"copied": 1, "failed": 1, "source_missing": 1}
    assert route["outstanding"] == {"dest-ceph": 0, "dest-swift": 0}
    failures = {(each["destination"], each["key"], each["outcome"], each["reason"]) for each in route["failures"]}
    assert ("dest-ceph", "refused 1", "failed", "no such names here") in failures
    assert ("dest-swift", "gone.txt", "source_missing") in {failure[:3] for failure in failures}


def test_json_without_wait_has_the_number_of_keys(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, "--json", stdin=b"a\nb\n\xff\n")
    assert (done.status, done.json["refused_lines"], done.json["routes"]) == (1, 1, [{"route": "default", "keys": 2}])
    done = run(main, "--config", config, "--json", "--pubsub", "a")
    assert done.json["channels"] == [{"channel": "backup", "keys": 1}]


def test_quiet_prints_only_failures(config: Path, redis_url: str) -> None:
    assert run(main, "--config", config, "--quiet", "a").out == ""
    with worker(redis_url):
        done = run(main, "--config", config, "--quiet", "--wait", "a")
        assert (done.status, done.out, done.err) == (0, "", "")
        done = run(main, "--config", config, "--quiet", "--wait", "refused 1")
    assert done.out.startswith("failed: dest-ceph: 'refused 1'")


def interrupt_when(condition: threading.Event) -> threading.Thread:
    def interrupt() -> None:
        condition.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def test_wait_warns_if_no_listener_runs_and_can_be_interrupted(
    config: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = threading.Event()
    monkeypatch.setattr(publish, "QUIET_S", 0.1)
    warnings: list[str] = []

    def warning(text: str, *args: object) -> None:
        warnings.append(text % args)
        warned.set()

    monkeypatch.setattr(publish.log, "warning", warning)
    thread = interrupt_when(warned)
    done = run(main, "--config", config, "--wait", "a")
    thread.join()
    assert done.status == 1
    assert "no listener seems to be running" in warnings[0]
    assert "dest-ceph: 1 not done yet, still on the queue" in done.out
    assert set(queued(redis_url)) == {"a"}


@pytest.mark.parametrize(
    ("destination", "text"), [(None, "route default is paused"), ("dest-ceph", "--destination dest-ceph")]
)
async def test_wait_warns_about_a_paused_route_or_destination(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    destination: str | None,
    text: str,
) -> None:
    monkeypatch.setattr(publish, "QUIET_S", 0.1)
    async with connected(redis_url) as client:
        await RedisJobQueue(client, "default", ROUTE.destination_names).pause(destination)
        tracker = new_tracker(client, asyncio.Event())
        await tracker.enqueue(["a"])
        async with running(tracker.run()):
            await until(lambda: text in caplog.text)


async def test_wait_warns_about_retries_and_their_reason(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "QUIET_S", 0.1)
    async with connected(redis_url) as client:
        tracker = new_tracker(client, asyncio.Event())
        await tracker.enqueue(["down"])
        async with running(tracker.run()), running(new_worker(client, []).run(asyncio.Event(), 0)):
            await until(lambda: "dest-ceph: 'down' will be retried: nothing listens" in caplog.text)
    assert tracker.summary()[1:] == ["  dest-ceph: 1 not done yet, still on the queue", "  dest-swift: 1 copied"]


async def test_keys_that_redis_lost_are_enqueued_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "QUIET_S", 0.1)
    keys: list[str] = []
    async with connected(redis_url) as client:
        tracker = new_tracker(client, asyncio.Event())
        await tracker.enqueue(["a"])
        await client.flushall()
        async with running(tracker.run()), running(new_worker(client, keys).run(asyncio.Event(), 0)):
            await asyncio.wait_for(tracker.wait_for_fewer_than(1), 20)
    assert keys == ["a"]
    assert tracker.summary()[1:] == ["  dest-ceph: 1 copied", "  dest-swift: 1 copied"]


async def test_the_number_of_tracked_keys_is_bounded(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_OUTSTANDING", 10)
    stop = asyncio.Event()
    async with connected(redis_url) as client:
        tracker = new_tracker(client, stop)
        await tracker.enqueue(map(str, range(10)))
        more = asyncio.create_task(tracker.enqueue(["more"]))
        await asyncio.sleep(0.2)
        assert not more.done()
        stop.set()
        await asyncio.wait_for(more, 5)


def test_an_unknown_route_or_no_redis_exits_with_2(tmp_path: Path, redis_url: str) -> None:
    done = run(main, "--config", config_file(tmp_path, redis_url), "--route", "raw", "a")
    assert (done.status, done.err) == (2, "--route raw: no such route; the configuration has default\n")
    done = run(main, "--config", config_file(tmp_path, ""), "a")
    assert done.status == 2
    assert "without Redis" in done.err


def test_an_unreachable_redis_exits_with_3(tmp_path: Path) -> None:
    done = run(main, "--config", config_file(tmp_path, "redis://:sekret@127.0.0.1:9/0"), "a")
    assert done.status == 3
    assert "sekret" not in done.err
