"""The real demonstration, with fewer objects."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis

from s3s3.config import DEFAULT_ROUTE
from s3s3.model import Endpoint, Lane, Route
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts import demo
from s3s3.scripts.demo.environment import Environment, check_installed
from s3s3.scripts.demo.objects import LARGE_SIZES_BYTES, ODD_NAMES, first_samples, real_files
from s3s3.scripts.demo.screen import Screen
from s3s3.scripts.demo.servers import ServerMissing
from s3s3.scripts.demo.tour import MIN_OBJECTS, tour
from tests.conftest import missing
from tests.integration.commands import command, eventually
from tests.queue.factories import DESTINATIONS, RETRY_LATER, claim_one

pytestmark = pytest.mark.timeout(300)

FEW = str(MIN_OBJECTS)
#: Objects put while no listener runs.
MORE_OBJECTS = 3

ONLY_THE_END = """
import sys
from s3s3.scripts.demo.environment import started_environment
from s3s3.scripts import demo

def only_the_end(screen, *, objects, before_stop):
    with started_environment() as environment:
        environment.start_listener()
        before_stop(environment, screen)
    return True

demo.tour = only_the_end
sys.exit(demo.main(["--keep"]))
"""


@pytest.fixture
def installed() -> None:
    try:
        check_installed()
    except ServerMissing as error:
        missing(str(error))


class Demonstration:
    """A demo process, and all processes that it has started."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.folder = folder
        self.output_file = folder.parent / f"{folder.name}.output"
        self._started: dict[int, psutil.Process] = {}
        self._store_folders: set[Path] = set()
        # A configured proxy must not matter; this one does not exist.
        environment = {**os.environ, "TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"}
        with self.output_file.open("wb") as output:
            self.process = psutil.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def record_children(self) -> bool:
        """Record the processes that it has started; return whether it still runs."""
        with suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                self._started[child.pid] = child
                self._store_folders |= {Path(part) for part in child.cmdline() if "s3s3-server-swift" in part}
        return self.process.poll() is None

    def status(self) -> int:
        """Wait until it has ended, and return its exit status."""
        eventually(lambda: not self.record_children(), f"it ends; so far:\n{self.output}", timeout_s=240)
        return int(self.process.returncode)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed the text."""
        eventually(lambda: text in self.output or not self.record_children(), text, timeout_s=120)
        assert text in self.output

    def assert_nothing_is_left(self) -> None:
        assert len(self._started) > len(("redis", "four of swift", "rclone"))
        assert not [child for child in self._started.values() if child.is_running()]
        assert self._store_folders
        assert not [folder for folder in self._store_folders if folder.exists()]
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def start(tmp_path: Path, installed: None) -> Iterator[Callable[..., Demonstration]]:
    """`start(*arguments)` starts a demonstration process, which ends with the test."""
    started = []

    def start_demo(*arguments: str) -> Demonstration:
        folder = tmp_path / "temporary"
        folder.mkdir()
        started.append(Demonstration(list(arguments), folder))
        return started[-1]

    yield start_demo
    for demonstration in started:
        with suppress(psutil.NoSuchProcess):
            demonstration.process.kill()
            demonstration.process.wait()


@pytest.mark.long
@pytest.mark.real
def test_everything_is_verified_and_nothing_is_left_behind(start: Callable[..., Demonstration]) -> None:
    shown = start(*command("demo", "--objects", FEW))
    assert shown.status() == 0, shown.output
    count = MIN_OBJECTS + MORE_OBJECTS
    for row in (r"dest-swift +OpenStack Swift", r"dest-rclone +rclone serve s3"):
        assert re.search(rf"^ +{row} +{count} +[\d.]+ MiB +{count} +{count}$", shown.output, re.MULTILINE), shown.output
    assert f"{MORE_OBJECTS} keys published; 0 of them were delivered." in shown.output
    assert f"{2 * count} copies verified" in shown.output
    shown.assert_nothing_is_left()


@pytest.mark.real
async def test_it_counts_the_keys_of_both_lanes_and_those_that_wait(redis_url: str) -> None:
    route = Route(DEFAULT_ROUTE, Endpoint("source", "s"), tuple(Endpoint(name, name) for name in DESTINATIONS))
    async with connected(redis_url) as client:
        jobs = RedisJobQueue.of(client, route, 5.0)
        await jobs.enqueue([JobRequest("waiting", DESTINATIONS)], Lane.FRESH)
        job = await claim_one(jobs)
        await jobs.finish(job, dict.fromkeys(job.destinations, RETRY_LATER))
        await jobs.enqueue([JobRequest("running", DESTINATIONS)], Lane.BULK)
        await claim_one(jobs)
        await jobs.enqueue([JobRequest("fresh", DESTINATIONS)], Lane.FRESH)
        await jobs.enqueue([JobRequest("bulk", DESTINATIONS)], Lane.BULK)
    environment = object.__new__(Environment)
    environment._client = redis.Redis.from_url(redis_url)
    assert environment.queue() == (4, 1)


@pytest.mark.real
@pytest.mark.long
def test_an_interrupted_demonstration_leaves_nothing_behind(start: Callable[..., Demonstration]) -> None:
    shown = start(*command("demo", "--objects", FEW))
    shown.wait_for("Start `s3s3 listen`")
    shown.record_children()
    shown.process.send_signal(signal.SIGINT)
    assert shown.status() == 1
    assert "Interrupted." in shown.output
    assert "Traceback" not in shown.output
    shown.assert_nothing_is_left()


@pytest.mark.real
@pytest.mark.long
def test_damaged_copies_are_found(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Environment] = []
    pids: list[int] = []

    def damage(environment: Environment, _: Screen) -> None:
        seen.append(environment)
        pids.extend(environment.pids)
        swift, rclone = environment.destinations
        hurt, bare, gone = ODD_NAMES[:3]
        response = swift.client.get_object(Bucket="copies", Key=hurt)
        body = response["Body"].read()
        swift.client.put_object(
            Bucket="copies",
            Key=hurt,
            ContentType=response["ContentType"],
            CacheControl=response["CacheControl"],
            Metadata=response["Metadata"],
            Body=body[:-1] + b"!",
        )
        content = swift.client.get_object(Bucket="copies", Key=bare)["Body"].read()
        swift.client.put_object(Bucket="copies", Key=bare, Body=content)
        rclone.client.delete_object(Bucket="copies", Key=gone)
        rclone.client.put_object(Bucket="copies", Key="stray", Body=b"")

    monkeypatch.setattr(demo, "tour", partial(tour, before_verification=damage))
    assert demo.main(["--objects", FEW]) == 1
    output = capsys.readouterr().out
    count = MIN_OBJECTS + MORE_OBJECTS
    assert re.search(rf"dest-swift .* {count} .* {count - 1} +{count - 1}$", output, re.MULTILINE), output
    assert re.search(rf"dest-rclone .* {count - 1} .* {count - 1} +{count - 1}$", output, re.MULTILINE), output
    unwrapped = " ".join(output.split())
    for problem in (
        f"dest-swift: {ODD_NAMES[0]!r} has the MD5",
        f"dest-swift: {ODD_NAMES[1]!r} has {{'Content-Type'",
        f"dest-rclone: {ODD_NAMES[2]!r} is missing",
        "dest-rclone: 'stray' should not be there",
    ):
        assert problem in unwrapped
    assert "Nothing lost" not in unwrapped
    assert not any(folder.exists() for folder in seen[0].folders)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.real
@pytest.mark.long
def test_the_commands_that_keep_prints_work(start: Callable[..., Demonstration], tmp_path: Path) -> None:
    shown = start(sys.executable, "-c", ONLY_THE_END)
    shown.wait_for("To end it")
    shown.record_children()
    _, _, advice = shown.output.partition("To try in another terminal:")
    commands = [line for line in advice.splitlines() if line.startswith("      ")]
    tried = subprocess.run(
        ["bash", "-ec", "\n".join(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert tried.returncode == 0, tried.stderr
    assert "\nhello\n" in tried.stdout
    assert re.search(r"^default +dest-rclone +1 +1$", tried.stdout, re.MULTILINE), tried.stdout
    shown.process.terminate()
    assert shown.status() == 0, shown.output
    shown.assert_nothing_is_left()


def test_a_missing_server_is_named_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr("shutil.which", lambda _program: None)
    monkeypatch.delenv("S3S3_RCLONE", raising=False)
    assert demo.main([]) == 2
    error = capsys.readouterr().err
    assert "needs OpenStack Swift and rclone" in error
    assert error.endswith("run: pip install 's3s3[demo]'\n")


def test_too_few_objects_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(["--objects", str(MIN_OBJECTS - 1)])
    assert ended.value.code == 2
    assert f"at least {MIN_OBJECTS}" in capsys.readouterr().err


@pytest.mark.parametrize("count", [MIN_OBJECTS, 2000])
def test_the_requested_number_of_objects_have_different_names(count: int) -> None:
    samples = first_samples(real_files(), count)
    assert len({sample.key for sample in samples}) == count
    assert set(ODD_NAMES) <= {sample.key for sample in samples}
    assert sum(sample.size_bytes >= min(LARGE_SIZES_BYTES) for sample in samples) == len(LARGE_SIZES_BYTES)
