"""Run every command of the README in order against real stores."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3s3.scripts.demo.servers import StoreServer
from tests.integration.commands import eventually
from tests.real.ceph_server import CephServer

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
TIMEOUT_S = 200

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]


def blocks() -> list[tuple[str, str]]:
    """The README's code blocks: their language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


class Reader:
    """A newcomer with an empty home and a fresh copy of the repository."""

    def __init__(self, folder: Path, environment: dict[str, str], instead: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._instead = instead
        self._listener: subprocess.Popen[bytes] | None = None

    def follow(self, language: str, text: str) -> None:
        for written, meant in self._instead.items():
            text = text.replace(written, meant)
        if language == "toml":
            (self.folder / "s3s3.toml").write_text(text)
        elif language == "python":
            self._run([self.folder.parent / "home/s3s3-venv/bin/python", "-c", text])
        elif text.strip() == "s3s3 listen":
            self._listen()
        else:
            assert language == "sh", f"a block of {language} that is not run"
            self._run(["bash", "-euc", f"{text}\necho $PATH > ../path"])
            self._environment["PATH"] = (self.folder.parent / "path").read_text().strip()

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"

    def _listen(self) -> None:
        log = self.folder.parent / "listen.log"
        with log.open("wb") as output:
            self._listener = subprocess.Popen(
                ["s3s3", "listen"], cwd=self.folder, env=self._environment, stdout=output, stderr=output,
                executable=shutil.which("s3s3", path=self._environment["PATH"]),
            )  # fmt: skip
        eventually(lambda: ": subscribed" in log.read_text(), "the listener subscribes")

    def leave(self) -> None:
        if self._listener is not None:
            self._listener.terminate()
            assert self._listener.wait(TIMEOUT_S) == 0


@pytest.fixture
def reader(fresh_copy: Path, ceph: CephServer, swift: StoreServer, redis_url: str) -> Iterator[Reader]:
    (home := fresh_copy.parent / "home").mkdir()
    (source_key, source_secret), (key, secret) = ceph.accounts[0], swift.accounts[0]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3S3_", "VIRTUAL_ENV"))},
        "HOME": str(home),
        "PIP_NO_COMPILE": "1",  # half of what installing costs
        "PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin",
        "CEPH_KEY": source_key,
        "CEPH_SECRET": source_secret,
        "SWIFT_KEY": key,
        "SWIFT_SECRET": secret,
    }
    instead = {
        'host = "ceph.example.org"\nport = 7480': f'host = "127.0.0.1"\nport = {ceph.port}',
        'host = "swift.example.org"\nport = 8080': f'host = "127.0.0.1"\nport = {swift.port}',
        '"host": "ceph.example.org", "port": 7480': f'"host": "127.0.0.1", "port": {ceph.port}',
        '"host": "swift.example.org", "port": 8080': f'"host": "127.0.0.1", "port": {swift.port}',
        "ceph = create": f"keys = iter({[source_key, source_secret, key, secret]})\nceph = create",
        '"..."': "next(keys)",
        "redis://localhost:6379/0": redis_url,
        "redis.Redis()": f"redis.Redis.from_url({redis_url!r})",
    }
    one = Reader(fresh_copy, environment, instead)
    yield one
    one.leave()


@pytest.mark.long
def test_following_the_readme_ends_with_every_object_copied(
    reader: Reader, ceph: CephServer, swift: StoreServer
) -> None:
    source, there = ceph.boto3_client(), swift.boto3_client()
    source.create_bucket(Bucket="images")
    there.create_bucket(Bucket="images-backup")
    for name in ("hello.txt", "there/already.txt"):
        source.put_object(Bucket="images", Key=name, Body=name.encode())
    for language, text in blocks():
        reader.follow(language, text)
    for name in ("hello.txt", "there/already.txt"):
        assert there.get_object(Bucket="images-backup", Key=name)["Body"].read() == name.encode()


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
