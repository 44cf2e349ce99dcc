"""`s3s3 explain`, with real stores and a real Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from s3s3.config import load
from s3s3.events import object_id
from s3s3.model import Endpoint, Lane
from s3s3.programs import Copier
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts import publish
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.scripts.explain import main
from tests.scripts.command import config_file, run

pytestmark = pytest.mark.real

NewBucket = Callable[..., str]


class Setup:
    """A source and a destination in Swift, a configuration, and the queue of its route."""

    def __init__(self, folder: Path, redis_url: str, swift: SwiftServer, new_bucket: NewBucket) -> None:
        self.folder, self.redis_url = folder, redis_url
        self.source = swift.endpoint(new_bucket(swift))
        self.destination = swift.endpoint(new_bucket(swift, 1), "swift", account=1)
        self.clients = {"source": swift.boto3_client(), "destination": swift.boto3_client(1)}
        self.write()

    def write(self, *destinations: Endpoint, source: str = "", more: str = "") -> None:
        self.config = config_file(self.folder, self.redis_url, self.source, [self.destination, *destinations], more)
        self.config.write_text(self.config.read_text().replace("[source]\n", f"[source]\n{source}\n", 1))

    def put(self, store: str, key: str, body: bytes = b"content", **how: Any) -> None:
        bucket = self.source.bucket_name if store == "source" else self.destination.bucket_name
        self.clients[store].put_object(Bucket=bucket, Key=key, Body=body, **how)

    def explain(self, key: str, *arguments: str) -> Any:
        return run(main, "--config", self.config, "--json", *arguments, "--", key)

    def text(self, key: str) -> str:
        return " ".join(run(main, "--config", self.config, "--", key).out.split())

    def with_jobs(self, do: Callable[[RedisJobQueue], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            settings = load(self.config)
            async with connected(self.redis_url) as client:
                return await do(RedisJobQueue.of(client, settings.routes[0], 60.0))

        return asyncio.run(work())

    def finish(self, key: str, disposition: Disposition) -> None:
        async def do(jobs: RedisJobQueue) -> None:
            await jobs.enqueue([JobRequest(key, ("dest-swift",))], Lane.FRESH)
            (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
            await jobs.finish(job, {"dest-swift": disposition})

        self.with_jobs(do)


@pytest.fixture
def setup(tmp_path: Path, redis_url: str, swift: SwiftServer, new_bucket: NewBucket) -> Setup:
    return Setup(tmp_path, redis_url, swift, new_bucket)


def missing(setup: Setup) -> None:
    setup.put("source", "k")


def same(setup: Setup) -> None:
    setup.put("source", "k")
    setup.put("destination", "k")


def other_size(setup: Setup) -> None:
    setup.put("source", "k")
    setup.put("destination", "k", b"old")


def other_content(setup: Setup) -> None:
    setup.put("source", "k")
    setup.put("destination", "k", b"CONTENT")


def other_headers(setup: Setup) -> None:
    setup.put("source", "k", ContentType="text/plain")
    setup.put("destination", "k", ContentType="text/html")


def extraneous(setup: Setup) -> None:
    setup.put("destination", "k")


def absent(setup: Setup) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "action", "reason"),
    [(missing, "copy", "missing"), (same, "same", "same"), (other_size, "copy", "size"),
     (other_content, "copy", "etag"), (other_headers, "copy", "metadata"), (extraneous, "leave", "extraneous"),
     (absent, "same", "source_missing")],
)  # fmt: skip
def test_the_decision_is_the_one_of_a_copy(
    setup: Setup, prepare: Callable[[Setup], None], action: str, reason: str
) -> None:
    prepare(setup)
    done = setup.explain("k")
    assert done.status == 0, done.err
    (route,) = done.json["routes"]
    (destination,) = route["destinations"]
    assert (destination["action"], destination["reason"]) == (action, reason)
    advised = [step for step in route["next_steps"] if "publish" in step]
    assert bool(advised) == (action == "copy")

    async def copy() -> Any:
        settings = load(setup.config)
        async with Copier(settings.routes[0], settings.worker) as copier:
            return (await copier.copy("k"))["dest-swift"]

    outcome = asyncio.run(copy())
    if reason != "extraneous":  # a copy does not look at the destination then
        assert outcome.reason == reason
        assert outcome.result.value == {"copy": "copied", "same": "same"}[action] or reason == "source_missing"


def test_a_deletion_is_told_where_deletions_are_propagated(setup: Setup) -> None:
    setup.put("destination", "k")
    setup.config.write_text(setup.config.read_text().replace("[dest-swift]\n", "[dest-swift]\ndelete = true\n", 1))
    (route,) = setup.explain("k").json["routes"]
    (destination,) = route["destinations"]
    assert (destination["action"], destination["reason"]) == ("delete", "source_missing")
    assert "to be deleted" in setup.text("k")
    setup.put("source", "k")
    assert setup.explain("k").json["routes"][0]["destinations"][0]["action"] == "same"


def test_a_key_that_no_route_matches_is_told_why_and_which_key_was_meant(setup: Setup) -> None:
    setup.write(source='exclude = ["*.tmp"]\ninclude = ["*.fits", "*.tmp"]')
    bucket = setup.source.bucket_name
    for key, reason, hint in (
        ("a.tmp", "exclude = '*.tmp' matches 'a.tmp'", ""),
        ("a.txt", "no glob of include matches 'a.txt'", ""),
        ("/a.png", "no glob of include", ""),
        (f"s3://{bucket}/a.fits", "", ""),
    ):
        done = setup.explain(key)
        (route,) = done.json["routes"]
        assert reason in route["mismatch"]
        assert route["hint"] == hint
        assert done.status == (1 if reason else 0)
    setup.source = dataclasses.replace(setup.source, prefix="images/")
    setup.write()
    for key in ("a.fits", "/images/a.fits", f"{bucket}/images/a.fits", "imagse/a.fits", f"s3://{bucket}/images/a.fits"):
        done = setup.explain(key)
        (route,) = done.json["routes"]
        assert (done.status, route["hint"]) == (1, "images/a.fits"), key
        assert "it does not begin with prefix = 'images/'" in route["mismatch"]
    assert "is that the key?" in setup.text("a.fits")


def test_a_dead_letter_is_shown_with_its_attempts_and_the_command_that_retries_it(setup: Setup) -> None:
    setup.put("source", "it's a key")
    setup.finish("it's a key", Disposition(DispositionKind.DEAD_LETTER, reason="after 1 attempt: 403 AccessDenied"))
    (route,) = setup.explain("it's a key").json["routes"]
    (destination,) = route["destinations"]
    assert destination["dead_letter"]["reason"] == "after 1 attempt: 403 AccessDenied"
    assert destination["dead_letter"]["attempts"] == 1
    assert route["log_id"] == object_id("default", "it's a key")
    (step,) = route["next_steps"]
    assert shlex.split(step.partition("then: ")[2])[-1] == "it's a key"
    assert "no job" in route["queue"]["text"]
    text = setup.text("it's a key")
    assert "403 AccessDenied" in text
    assert f"grep {route['log_id']} shows" in text
    assert "hush" not in text


def test_a_dead_letter_is_shown_with_its_earlier_failures(setup: Setup) -> None:
    async def fail_twice(jobs: RedisJobQueue) -> None:
        for kind, reason in ((DispositionKind.RETRY, "500 Internal\x1b[2J"), (DispositionKind.DEAD_LETTER, "400 Bad")):
            await jobs.enqueue([JobRequest("k", ("dest-swift",))], Lane.FRESH)
            (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
            await jobs.finish(job, {"dest-swift": Disposition(kind, reason=f"dest-swift: {reason}")})

    setup.put("source", "k")
    setup.with_jobs(fail_twice)
    (destination,) = setup.explain("k").json["routes"][0]["destinations"]
    assert [each["reason"] for each in destination["dead_letter"]["earlier"]] == ["dest-swift: 500 Internal\x1b[2J"]
    at = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    why = rf"dead letter since {at}, 2 attempts: 400 Bad earlier failure {at}: '500 Internal\\x1b\[2J' "
    assert re.search(why, setup.text("k"))


def test_each_state_in_the_queue_is_told_with_what_the_key_waits_for(setup: Setup) -> None:
    def queue() -> dict[str, Any]:
        state: dict[str, Any] = setup.explain("k").json["routes"][0]["queue"]
        return state

    setup.put("source", "k")
    assert run(publish.main, "--config", setup.config, "k").status == 0
    assert queue()["text"].startswith("queued in the fresh lane for dest-swift since ")

    async def claim(jobs: RedisJobQueue) -> Any:
        (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
        return job, jobs.consumer

    job, consumer = setup.with_jobs(claim)
    running = queue()
    assert running["owner"] == consumer.rpartition(":")[0]
    assert running["text"].startswith("running for dest-swift, by process ")
    assert "lease renewed" in running["text"]
    retry = Disposition(DispositionKind.RETRY, 600.0, reason="dest-swift: PUT of 'k': 500 InternalError")
    setup.with_jobs(lambda jobs: jobs.finish(job, {"dest-swift": retry}))
    assert re.search(r" last failure [^:]+:\d\d:\d\d UTC: PUT of 'k': 500 InternalError ", setup.text("k"))
    waiting = queue()
    assert "next attempt at" in waiting["text"]
    assert "dest-swift: failed 1 time" in waiting["text"]
    assert waiting["next_attempt_ms"] > waiting["failed_ms"]

    async def park(jobs: RedisJobQueue) -> None:
        await jobs.enqueue([JobRequest("k", ("dest-swift",))], Lane.FRESH)
        (parked,) = (await jobs.claim(1, 0, 1, 0)).jobs
        await jobs.trip_circuit("dest-swift", "dest-swift: 503 SlowDown", "other")
        await jobs.finish(parked, {"dest-swift": Disposition(DispositionKind.PARK, circuit="dest-swift")})

    setup.with_jobs(park)
    parked = queue()
    why = r"parked until dest-swift works again, down since .* ago\): 503 SlowDown, next probe at"
    assert re.search(why, parked["text"])
    assert parked["parked"] == ["dest-swift"]
    setup.with_jobs(lambda jobs: jobs.pause("dest-swift"))
    setup.with_jobs(lambda jobs: jobs.pause())
    (route,) = setup.explain("k").json["routes"]
    assert "route default is paused" in route["queue"]["text"]
    assert "parked since dest-swift is paused" in route["queue"]["text"]
    assert route["next_steps"] == [
        "s3s3 jobs resume --route default", "s3s3 jobs resume --route default --destination dest-swift",
    ]  # fmt: skip


def test_what_cannot_be_asked_is_told_and_the_rest_is_shown(setup: Setup) -> None:
    (unused,) = free_ports(1)
    setup.write(dataclasses.replace(setup.destination, name="gone", port=unused, prefix="gone/"))
    setup.put("source", "k")
    done = setup.explain("k")
    assert done.status == 3
    swift, gone = done.json["routes"][0]["destinations"]
    assert (swift["reason"], gone["action"]) == ("missing", None)
    assert "nothing listens on" in gone["object"]["error"]
    setup.redis_url = f"redis://127.0.0.1:{unused}"
    setup.write()
    done = setup.explain("k")
    (route,) = done.json["routes"]
    assert done.status == 3
    assert route["destinations"][0]["reason"] == "missing"
    assert "Redis cannot be reached" in route["queue_error"]
    setup.redis_url = ""
    setup.write()
    assert "there is no queue" in setup.text("k")


def test_hostile_keys_are_printed_escaped(setup: Setup) -> None:
    key = "a\x1b[31m\n'b"
    setup.put("source", key)
    done = run(main, "--config", setup.config, "--", key)
    assert "\x1b" not in done.out
    assert done.status == 0
    assert json.dumps(key) in setup.explain(key).out


def test_one_valid_key_is_needed(setup: Setup) -> None:
    assert run(main, "--config", setup.config).status == 2
    assert run(main, "--config", setup.config, "a", "b").status == 2
    assert run(main, "--config", setup.config, "--route", "other", "a").status == 2
    assert run(main, "--config", setup.config, "--", "").status == 2
