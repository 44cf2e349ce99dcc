"""kill -9 at every crash point of a copy: another listener completes it within the lease time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from s3s3 import config
from s3s3.listener import listen, route_listeners
from s3s3.model import Endpoint, Lane
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.tasks import run_with_background
from tests.faults.crash_points import STEPS
from tests.faults.results import report
from tests.integration.commands import TIMEOUT_S, eventually, write_config
from tests.integration.objects import KIB, MIB
from tests.waiting import running, until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

LEASE_S = 2
KEYS = LEFT_ALONE, OVERWRITTEN = "left alone", "overwritten"
SOME_STEPS = [
    ("delivered", "small"), ("claimed", "small"), ("put half sent", "streamed"), ("put sent", "small"),
    ("moved half", "spliced"), ("end held back", "spliced"), ("verify", "small"), ("finish", "small"),
    ("finished", "small"),
]  # fmt: skip
SIZES_BYTES = {"small": 4 * KIB, "streamed": 5 * MIB, "spliced": 5 * MIB}
#: Steps of large objects only.
LARGE_STEPS = ("put half sent", "moved half", "end held back")


@dataclass
class Victim:
    """A separate queue (Redis database) per crash point, so that the state left by its listener is not touched."""

    step: str
    size: str
    source: Endpoint
    there: Endpoint
    redis_url: str
    folder: Path
    source_client: S3Client
    client: S3Client

    def config(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        return write_config(self.folder, self.source, [self.there], self.redis_url, worker={"lease_s": LEASE_S})

    @property
    def log(self) -> Path:
        return self.folder / "listen.log"

    def content(self, key: str, version: int) -> bytes:
        return f"{self.step} {key} {version} ".encode().ljust(SIZES_BYTES[self.size], b"x")

    def write(self, key: str, version: int) -> None:
        self.source_client.put_object(Bucket=self.source.bucket_name, Key=key, Body=self.content(key, version))

    def publish(self, *keys: str) -> None:
        async def put() -> None:
            async with connected(self.redis_url) as client:
                jobs = RedisJobQueue(client, "default", ["destination"], lease_s=LEASE_S)
                await jobs.enqueue([JobRequest(key, ("destination",)) for key in keys], Lane.FRESH)

        asyncio.run(put())

    def held(self, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.there.bucket_name, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def left_over(self) -> list[str]:
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            kinds = ("job:*", "rechecks", "retries", "dead-letters:*", "parked:*")
            return [key for kind in kinds for key in client.scan_iter(f"s3s3:{{default}}:{kind}")]


@pytest.fixture(params=["some steps", pytest.param("every step", marks=pytest.mark.long)])
def victims(
    request: pytest.FixtureRequest, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> list[Victim]:
    """Small objects for every step, large ones for those that go another way."""
    wanted = [(step, "small") for step in STEPS if step not in LARGE_STEPS]
    wanted += [(step, "streamed") for step in ("hash", "put half sent", "put sent")]
    wanted += [(step, "spliced") for step in ("moved half", "end held back", "put sent", "answered")]
    if request.param == "some steps":  # one of each kind of state that is left behind
        wanted = [(step, size) for step, size in wanted if (step, size) in SOME_STEPS]
    clients = swift.boto3_client(), swift.boto3_client(1)
    made = []
    for number, (step, size) in enumerate(wanted, 1):
        source = swift.endpoint(new_bucket(swift))
        checksum = "store" if size == "spliced" else "client"
        there = swift.endpoint(new_bucket(swift, 1), "destination", account=1, checksum=checksum)
        url = redis_url.removesuffix("0") + str(number)
        made.append(Victim(step, size, source, there, url, tmp_path / str(number), *clients))
        for key in KEYS:
            made[-1].write(key, 1)
    return made


@pytest.fixture
def dying(victims: list[Victim], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A listener for each step, which kills itself there."""
    steps = tmp_path / "steps"
    lines = [{"step": v.step, "config": str(v.config()), "log": str(v.log)} for v in victims]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with steps.open() as file, subprocess.Popen(
        [sys.executable, "-m", "tests.faults.crash_points"],
        stdin=file, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def listening(victims: list[Victim]) -> AsyncIterator[None]:
    """A listener for each queue, alive and well."""
    async with AsyncExitStack() as stack:
        runs = []
        for victim in victims:
            settings = config.load(victim.config())
            listeners = await stack.enter_async_context(route_listeners(settings, Metrics()))
            runs.append(listen(listeners, [], asyncio.Event()))
        async with running(run_with_background(*runs)):
            yield


def test_another_listener_completes_what_a_killed_one_left_at_any_crash_point(
    victims: list[Victim], dying: subprocess.Popen[str]
) -> None:
    for victim in victims:
        eventually(
            partial(lambda v: v.log.exists() and ": subscribed" in v.log.read_text(), victim),
            f"{victim.step}: it listens",
        )
        victim.publish(*KEYS)
    for victim, status in zip(victims, statuses(dying, victims), strict=True):
        assert int(status) == -signal.SIGKILL, f"{victim.step}\n{victim.log.read_text()}"
        victim.write(OVERWRITTEN, 2)
        victim.publish(OVERWRITTEN)
    took_s = asyncio.run(taken_over(victims))
    assert took_s < 3 * LEASE_S + 15, "the lease, a look, and a busy machine"
    report("kill -9", kills=len(victims), all_right_after_s=round(took_s, 1), lease_s=LEASE_S)


def statuses(dying: subprocess.Popen[str], victims: list[Victim]) -> list[str]:
    """How each of the listeners ended, once all have."""
    try:
        return dying.communicate(timeout=TIMEOUT_S)[0].split()
    except subprocess.TimeoutExpired as late:
        victim = victims[len((late.output or b"").split())]
        pytest.fail(f"{victim.step}, {victim.size}: never came to it\n{victim.log.read_text()}")


async def taken_over(victims: list[Victim]) -> float:
    """Let others take over; return the seconds until everything is as it ought to be."""
    began_s = time.monotonic()

    def wrong() -> list[str]:
        wanted = ((LEFT_ALONE, 1), (OVERWRITTEN, 2))
        return [
            f"{victim.step} {victim.size} {key}"
            for victim in victims
            for key, version in wanted
            if victim.held(key) != victim.content(key, version)
        ]

    async with listening(victims):
        while (found := await asyncio.to_thread(wrong)) and time.monotonic() - began_s < 60:
            await asyncio.sleep(0.1)
        assert found == []
        took_s = time.monotonic() - began_s
        await until(lambda: not any(victim.left_over() for victim in victims), timeout_s=30)
    assert wrong() == [], "nor did a look spoil it"
    return took_s
