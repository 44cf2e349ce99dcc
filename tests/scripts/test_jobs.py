from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3.model import Lane
from s3s3.monitoring.history import Failure, History
from s3s3.queue.base import DeadLetter, Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.jobs import main
from tests.scripts.command import config_file, run

pytestmark = pytest.mark.real

DESTINATIONS = ("dest-ceph", "dest-swift")
LONG_KEY = "x" * 300


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    return config_file(tmp_path, redis_url)


def with_jobs(url: str, do: Callable[[RedisJobQueue], Awaitable[Any]]) -> Any:
    async def work() -> Any:
        async with connected(url) as client:
            return await do(RedisJobQueue(client, "default", DESTINATIONS))

    return asyncio.run(work())


def dead_letter(url: str, *keys: str, destination: str = "dest-ceph", reason: str = "403 AccessDenied") -> None:
    """Make keys dead letters of a destination, as a worker does."""

    async def do(jobs: RedisJobQueue) -> None:
        await jobs.enqueue([JobRequest(key, (destination,)) for key in keys], Lane.FRESH)
        for job in (await jobs.claim(len(keys), 0, 0, 0)).jobs:
            await jobs.finish(job, {destination: Disposition(DispositionKind.DEAD_LETTER, reason=reason)})

    with_jobs(url, do)


def letters(url: str, destination: str = "dest-ceph") -> set[str]:
    async def do(jobs: RedisJobQueue) -> set[str]:
        return {letter.key async for letter in jobs.dead_letters(destination)}

    found: set[str] = with_jobs(url, do)
    return found


def dead_letter_message(url: str) -> None:
    with_jobs(url, lambda jobs: jobs.dead_letter_message("\\xff", "no UTF-8"))


def queued(url: str) -> dict[str, dict[str, str]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {name.partition("job:")[2]: client.hgetall(name) for name in client.scan_iter("s3s3:{default}:job:*")}


def test_an_idle_queue_is_listed(config: Path) -> None:
    done = run(main, "--config", config)
    assert done.status == 0
    assert done.out.startswith("route default: 0 pending\n")
    assert [line.split()[0] for line in done.out.splitlines()[4:]] == ["source", *DESTINATIONS, "(message)"]


def test_the_list_shows_full_keys_and_reasons_of_dead_letters(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, LONG_KEY, "a b", reason="403 AccessDenied: the owner must permit it (see [dest-ceph])")
    dead_letter_message(redis_url)
    done = run(main, "--config", config, "list", "--keys")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[lines.index("dead letters of dest-ceph:") + 1 :][0] in (f"  {LONG_KEY}", "  a b")
    reasons = [line for line in lines if "AccessDenied" in line]
    assert len(reasons) == 2
    assert all(line.endswith("UTC: 403 AccessDenied: the owner must permit it (see [dest-ceph])") for line in reasons)
    assert lines[lines.index("dead letters of (message):") + 1] == r"  \xff"
    assert lines[-1].endswith(": no UTF-8")


def test_control_characters_in_a_key_are_escaped(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a\x1b[2Jb\n", reason="odd\x1b[2J")
    done = run(main, "--config", config)
    assert "\x1b" not in done.out
    assert r"a\x1b[2Jb\n" in done.out


def test_the_list_shows_paused_and_unavailable_stores(config: Path, redis_url: str) -> None:
    async def do(jobs: RedisJobQueue) -> None:
        await jobs.pause()
        await jobs.pause("dest-swift")
        await jobs.trip_circuit("dest-ceph", "nothing listens on 127.0.0.1:9", "a")

    with_jobs(redis_url, do)
    done = run(main, "--config", config)
    assert done.out.startswith("route default: PAUSED; 0 pending")
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.startswith("dest-")}
    assert rows["dest-ceph"].endswith("  down")
    reason = "0 keys parked until dest-ceph works again, down since .*: nothing listens on 127.0.0.1:9, next probe at"
    assert re.search(reason, done.out)
    assert "0 keys parked since dest-swift is paused:" in done.out
    assert rows["dest-swift"].endswith("  paused")


def test_json_has_counts_and_dead_letters(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a", "b", "c")
    with_jobs(redis_url, lambda jobs: jobs.enqueue([JobRequest("d", DESTINATIONS)], Lane.BULK))
    (route,) = run(main, "--config", config, "--json", "--limit", "2").json["routes"]
    assert (route["route"], route["pending"], route["bulk"], route["paused"]) == ("default", 1, 1, False)
    assert route["dead_letter_counts"]["dest-ceph"] == 3
    assert len(route["dead_letters"]["dest-ceph"]) == 2
    assert route["dead_letters"]["dest-ceph"][0]["reason"] == "403 AccessDenied"
    (route,) = run(main, "--config", config, "--json", "--limit", "0").json["routes"]
    assert {letter["key"] for letter in route["dead_letters"]["dest-ceph"]} == {"a", "b", "c"}


def test_dead_letters_are_grouped_by_reason(config: Path, redis_url: str) -> None:
    for number in range(1, 6):
        reason = f"after {number} attempts: dest-ceph: PUT of 'k{number}': 403 AccessDenied: no"
        dead_letter(redis_url, f"k{number}", reason=reason)
    dead_letter(redis_url, "big", reason="PUT of 'big': 400 EntityTooLarge: 6,000,000,000 bytes")
    dead_letter_message(redis_url)
    lines = run(main, "--config", config).out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("dest-")}
    assert rows["dest-ceph"].endswith("  dead letters")
    assert rows["dest-swift"].endswith("  ok")
    first = lines.index("dead letters of dest-ceph by reason:")
    assert lines[first + 1] == "  5 keys: PUT of an object: 403 AccessDenied: no"
    assert re.fullmatch(r"      \S+ \S+ UTC( to \S+ \S+ UTC)?: (k\d, ){3}\.\.\.", lines[first + 2])
    assert lines[first + 3] == "  1 key: PUT of an object: 400 EntityTooLarge: N bytes"
    assert lines[first + 5 : first + 7] == [
        "  every key: s3s3 jobs --keys --route default --destination dest-ceph",
        "  after the cause is fixed: s3s3 jobs retry --all --route default --destination dest-ceph, or --reason TEXT",
    ]
    assert "s3s3 jobs drop --all --route default --destination '(message)'" in lines[-1]
    (route,) = run(main, "--config", config, "--json").json["routes"]
    groups = [(group["destination"], group["reason"], group["count"]) for group in route["dead_letter_groups"]]
    assert groups == [
        ("dest-ceph", "PUT of an object: 403 AccessDenied: no", 5),
        ("dest-ceph", "PUT of an object: 400 EntityTooLarge: N bytes", 1),
        ("(message)", "no UTF-8", 1),
    ]


@pytest.mark.parametrize("action", ["retry", "drop"])
@pytest.mark.parametrize("reason", ["AccessDenied", "403 AccessDenied: an object", "'b'"])
def test_dead_letters_are_selected_by_reason(config: Path, redis_url: str, action: str, reason: str) -> None:
    dead_letter(redis_url, "a", reason="503 SlowDown")
    dead_letter(redis_url, "b", reason="403 AccessDenied: 'b'")
    listed = run(main, "--config", config, "--keys", "--reason", reason)
    assert ("SlowDown" in listed.out, "AccessDenied" in listed.out) == (False, True)
    done = run(main, "--config", config, action, "--reason", reason)
    assert done.status == 0
    assert "dest-ceph: 1 dead letter " in done.out
    assert letters(redis_url) == {"a"}
    assert set(queued(redis_url)) == ({"b"} if action == "retry" else set())


def test_a_key_that_waits_is_listed_with_why_and_until_when(config: Path, redis_url: str) -> None:
    async def do(jobs: RedisJobQueue) -> None:
        requests = [JobRequest("later", DESTINATIONS[:1]), JobRequest("parked", DESTINATIONS[1:]),
                    JobRequest("no slot", DESTINATIONS[:1]), JobRequest("paused", DESTINATIONS[:1])]  # fmt: skip
        await jobs.enqueue(requests, Lane.FRESH)
        ends = {
            "later": Disposition(DispositionKind.RETRY, delay_s=90.0),
            "parked": Disposition(DispositionKind.PARK, circuit="dest-swift", has_failed=True),
            "no slot": Disposition(DispositionKind.PARK, circuit="dest-ceph"),
            "paused": Disposition(DispositionKind.PARK, circuit="source"),
        }
        for job in (await jobs.claim(4, 0, 0, 0)).jobs:
            await jobs.finish(job, {job.destinations[0]: ends[job.key]})
        await jobs.trip_circuit("dest-swift", "nothing listens on 127.0.0.1:9", "k")
        await jobs.pause("source")

    with_jobs(redis_url, do)
    text = run(main, "--config", config).out
    at = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    down = rf"1 key parked until dest-swift works again, down since {at} \([^)]+ ago\): nothing listens on 127.0.0.1:9"
    assert re.search(rf"^{down}, next probe at {at} \(in [^)]+\):\n  parked$", text, re.MULTILINE)
    assert re.search(r"^1 key parked until dest-ceph has a free slot:\n  no slot$", text, re.MULTILINE)
    assert (
        "1 key parked since source is paused:\n  resume: s3s3 jobs resume --route default --destination source" in text
    )
    retry = rf"waiting for dest-ceph: next attempt at {at} \(in [^)]+\); dest-ceph: failed 1 time; last failure at"
    assert re.search(rf"^1 key with a retry:\n  later\n      {retry}", text, re.MULTILINE)
    (route,) = run(main, "--config", config, "--json").json["routes"]
    waiting = {record["key"]: record for record in route["waiting"]}
    assert set(waiting) == {"later", "parked", "no slot", "paused"}
    assert (waiting["later"]["attempts"], waiting["parked"]["parked"]) == ({"dest-ceph": 1}, ["dest-swift"])
    assert waiting["later"]["retry_at_ms"] > 0
    assert waiting["parked"]["text"].endswith(")")
    assert {circuit["store"] for circuit in route["open_circuits"]} == {"dest-swift", "source"}


def test_a_retry_is_listed_with_the_last_failure_at_its_destination(config: Path, redis_url: str) -> None:
    async def do(jobs: RedisJobQueue) -> None:
        await jobs.enqueue([JobRequest("later", DESTINATIONS[:1])], Lane.FRESH)
        (job,) = (await jobs.claim(1, 0, 0, 0)).jobs
        await jobs.finish(job, {"dest-ceph": Disposition(DispositionKind.RETRY, delay_s=90.0)})
        history = History(jobs.client, jobs.prefix)
        await history.add({}, [Failure("dest-ceph", "an earlier reason", "a")])
        await history.add(
            {}, [Failure("dest-ceph", "PUT of an object: 500", "later", 3), Failure("dest-swift", "x", "b")]
        )

    with_jobs(redis_url, do)
    text = run(main, "--config", config).out
    (line,) = (line for line in text.splitlines() if "last failure at dest" in line)
    assert re.fullmatch(r"  last failure at dest-ceph, [\d.]+ [mμ]?s ago: PUT of an object: 500", line)
    (route,) = run(main, "--config", config, "--destination", "dest-ceph", "--json").json["routes"]
    assert [failure["reason"] for failure in route["recent_failures"]] == ["PUT of an object: 500", "an earlier reason"]


def test_lists_of_waiting_keys_are_limited(config: Path, redis_url: str) -> None:
    async def do(jobs: RedisJobQueue) -> None:
        await jobs.enqueue([JobRequest(f"key {number}", DESTINATIONS[:1]) for number in range(30)], Lane.FRESH)
        for job in (await jobs.claim(30, 0, 0, 0)).jobs:
            await jobs.finish(job, {"dest-ceph": Disposition(DispositionKind.RETRY, delay_s=90.0)})

    with_jobs(redis_url, do)
    text = run(main, "--config", config, "--limit", "3").out
    assert (text.count("  key "), "  ... and 27 more; --limit 0 lists all" in text) == (3, True)
    assert run(main, "--config", config, "--limit", "0").out.count("  key ") == 30
    assert "retry" not in run(main, "--config", config, "--destination", "dest-swift").out.partition("state")[2]


def test_quiet_prints_only_what_is_missing(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a", "b")
    for arguments in (["pause"], ["resume"], ["retry", "a"]):
        assert run(main, "--config", config, "--quiet", *arguments).out == ""
    assert run(main, "--config", config, "--quiet", "drop", "b", "c").out == "not a dead letter: c\n"


def test_a_limited_list_shows_how_many_are_omitted(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a", "b", "c")
    assert "  ... and 1 more; --limit 0" in run(main, "--config", config, "--keys", "--limit", "2").out
    assert "more;" not in run(main, "--config", config, "--keys").out


def test_retry_puts_a_dead_letter_back_on_the_queue(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a", "b")
    done = run(main, "--config", config, "retry", "a")
    assert (done.status, done.out) == (0, "route default: dest-ceph: 1 dead letter put back on the queue\n")
    assert letters(redis_url) == {"b"}
    assert queued(redis_url)["a"]["destinations"] == "dest-ceph"


def test_retry_reports_a_key_that_is_not_a_dead_letter(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a")
    done = run(main, "--config", config, "retry", "b", "--destination", "dest-ceph", "a")
    assert done.status == 1
    assert "not a dead letter: b\n" in done.out
    assert letters(redis_url) == set()


@pytest.mark.long
def test_retry_all_covers_every_destination_but_not_messages(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, *map(str, range(600)))
    dead_letter(redis_url, "a", destination="dest-swift")
    dead_letter_message(redis_url)
    done = run(main, "--config", config, "retry", "--all")
    assert done.status == 0
    assert "dest-ceph: 600 dead letters put back" in done.out
    assert len(queued(redis_url)) == 601
    assert letters(redis_url, DeadLetter.MESSAGES) == {"\\xff"}


@pytest.mark.parametrize(
    "arguments",
    [["drop"], ["retry"], ["drop", "a", "--all"], ["retry", "a", "--reason", "x"], ["list", "a"], ["pause", "--all"]],
)
def test_incomplete_or_conflicting_arguments_change_nothing(config: Path, redis_url: str, arguments: list[str]) -> None:
    dead_letter(redis_url, "a")
    assert run(main, "--config", config, *arguments).status == 2
    assert letters(redis_url) == {"a"}
    assert not queued(redis_url)


def test_drop_deletes_only_the_selected_dead_letters(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "a", "b")
    dead_letter(redis_url, "a", destination="dest-swift")
    dead_letter_message(redis_url)
    assert run(main, "--config", config, "drop", "a", "--destination", "dest-ceph").status == 0
    assert (letters(redis_url), letters(redis_url, "dest-swift")) == ({"b"}, {"a"})
    assert run(main, "--config", config, "drop", "--all", "--destination", DeadLetter.MESSAGES).status == 0
    assert letters(redis_url, DeadLetter.MESSAGES) == set()
    assert run(main, "--config", config, "drop", "--all").status == 0
    assert (letters(redis_url), letters(redis_url, "dest-swift")) == (set(), set())
    assert not queued(redis_url)


def test_a_route_is_paused_and_resumed(config: Path, redis_url: str) -> None:
    done = run(main, "--config", config, "pause")
    assert (done.status, done.out) == (0, "route default: paused; notifications are kept, nothing is copied\n")
    with_jobs(redis_url, lambda jobs: jobs.enqueue([JobRequest("a", DESTINATIONS)], Lane.FRESH))
    assert with_jobs(redis_url, lambda jobs: jobs.claim(1, 0, 0, 0)).paused
    assert run(main, "--config", config, "resume").out == "route default: resumed\n"
    assert [job.key for job in with_jobs(redis_url, lambda jobs: jobs.claim(1, 0, 0, 0)).jobs] == ["a"]


def test_a_destination_is_paused_separately(config: Path, redis_url: str) -> None:
    assert run(main, "--config", config, "pause", "--destination", "dest-ceph").status == 0
    claims = with_jobs(redis_url, lambda jobs: jobs.claim(1, 0, 0, 0))
    assert (claims.paused, set(claims.circuits)) == (False, {"dest-ceph"})
    assert run(main, "--config", config, "resume", "--destination", "dest-ceph").status == 0
    assert not with_jobs(redis_url, lambda jobs: jobs.claim(1, 0, 0, 0)).circuits


def test_resuming_a_route_reports_destinations_that_are_still_paused(config: Path) -> None:
    run(main, "--config", config, "pause", "--destination", "dest-ceph")
    done = run(main, "--config", config, "resume")
    assert done.out.splitlines() == [
        "route default: resumed",
        "route default: dest-ceph is still paused: s3s3 jobs resume --route default --destination dest-ceph",
    ]


@pytest.mark.parametrize("action", ["list", "retry", "pause"])
def test_an_unknown_destination_is_wrong_usage(config: Path, action: str) -> None:
    done = run(main, "--config", config, action, "--destination", "swift", *(["--all"] if action == "retry" else []))
    assert done.status == 2
    assert "--destination swift: unknown destination; the configuration has" in done.err
    assert "dest-swift" in done.err


def test_a_negative_limit_is_wrong_usage(config: Path) -> None:
    done = run(main, "--config", config, "--limit", "-1")
    assert (done.status, "--limit: must be a number, 0 or more, not '-1'" in done.err) == (2, True)


def test_an_unreachable_redis_exits_with_3(tmp_path: Path) -> None:
    assert run(main, "--config", config_file(tmp_path, "redis://127.0.0.1:9/0")).status == 3


def test_on_a_terminal_texts_are_wrapped_and_commands_are_not(config: Path, redis_url: str) -> None:
    dead_letter(redis_url, "k", reason="403 AccessDenied: " + "the owner must permit it " * 4)
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "s3s3", "jobs", "--config", str(config)]
    with os.fdopen(terminal, "rb", buffering=0) as output:
        environment = {**os.environ, "COLUMNS": "60"}
        with subprocess.Popen(command, stdin=other_end, stdout=other_end, env=environment) as process:
            os.close(other_end)
            text = b""
            while part := _read(output):
                text += part
        assert process.returncode == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert [line for line in lines if len(line) > 60] == [
        "  every key: s3s3 jobs --keys --route default --destination dest-ceph",
        "  after the cause is fixed: s3s3 jobs retry --all --route default --destination dest-ceph, or --reason TEXT",
    ]
    assert "the owner must" in text.decode()


def _read(output: io.FileIO) -> bytes:
    try:
        return output.read(4096) or b""
    except OSError:  # EIO: the other end is closed
        return b""
