"""The production installation of docs/how-to/install.md, with systemd's part played by the test."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import REPOSITORY
from tests.real.ceph_server import CephServer
from tests.test_conf import parsed
from tests.waiting import eventually

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(280)]

#: An unprivileged user, as `DynamicUser=yes` creates one.
UID = 65534


class Host:
    """The folders that the page writes to, and the services that it starts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin, self.units, self.etc = root / "usr/local/bin", root / "etc/systemd/system", root / "etc/s3s3"
        for folder in (self.bin, self.units):
            folder.mkdir(parents=True)
        systemctl = self.bin / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >> {root}/systemctl.log\n')
        systemctl.chmod(0o755)

    def run(self, block: str, clone: Path) -> None:
        for path in ("/opt/s3s3", "/etc/s3s3", "/etc/systemd/system", "/usr/local/bin"):
            block = re.sub(rf"(?<![\w/]){path}", f"{self.root}{path}", block)
        environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        environment |= {"PATH": f"{self.bin}:{Path(sys.executable).resolve().parent}:/usr/bin:/bin",
                        "HOME": str(self.root), "S3S3_CONFIG": str(self.etc / "s3s3.toml"),
                        "PIP_NO_COMPILE": "1"}  # fmt: skip
        done = subprocess.run(
            ["bash", "-euc", block], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"

    @property
    def systemctl_calls(self) -> list[str]:
        return (self.root / "systemctl.log").read_text().splitlines()

    @contextmanager
    def service(self, name: str, notify: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start a unit's service with what systemd gives it: environment, credentials, an unprivileged user."""
        unit = dict(parsed((self.units / name).read_text())["Service"])
        credentials = self.root / "run" / name
        credentials.mkdir(parents=True)
        credential, _, path = unit["LoadCredential"].partition(":")
        shutil.copy(f"{self.root}{path}", credentials / credential)
        (credentials / credential).chmod(0o440)
        os.chown(credentials / credential, UID, -1)
        environment = dict(
            line.split("=", 1) for line in Path(f"{self.root}{unit['EnvironmentFile'][1:]}").read_text().splitlines()
        )
        cache = self.root / "cache"
        cache.mkdir(exist_ok=True)
        os.chown(cache, UID, -1)
        environment |= {"CREDENTIALS_DIRECTORY": str(credentials), "NOTIFY_SOCKET": str(notify), "TMPDIR": str(cache),
                        "PATH": "/usr/bin:/bin"}  # fmt: skip
        command = [word.replace("${CREDENTIALS_DIRECTORY}", str(credentials)) for word in unit["ExecStart"].split()]
        command[0] = f"{self.root}{command[0]}"
        interpreter = Path(f"{self.root}/opt/s3s3/bin/python").resolve()
        is_public = all(folder.stat().st_mode & stat.S_IXOTH for folder in interpreter.parents)
        user: dict[str, Any] = (
            {"user": UID, "group": UID, "extra_groups": []} if is_public else {}
        )  # else the Python is in a home
        with subprocess.Popen(command, env=environment, cwd="/", **user) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def blocks(section: str) -> list[str]:
    text = (REPOSITORY / "docs/how-to/install.md").read_text()
    part = re.split(r"^## ", text.partition(f"## {section}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    root = tmp_path_factory.mktemp("host")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)  # pytest's are for their owner only
    return Host(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root and starts services as another user")
def test_following_the_page_ends_with_services_that_copy(
    fresh_copy: Path, host: Host, ceph: CephServer, swift: SwiftServer, redis_url: str
) -> None:
    (source_key, source_secret), (key, secret) = ceph.accounts[0], swift.accounts[0]
    source, destination = ceph.boto3_client(), swift.boto3_client()
    source.create_bucket(Bucket="images-installed")
    destination.create_bucket(Bucket="copies-installed")
    source.put_object(Bucket="images-installed", Key="existing", Body=b"1")
    toml = re.search(r"^```toml\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert toml is not None
    text = toml[1].replace('"images"', '"images-installed"').replace('"images-backup"', '"copies-installed"')
    text = text.replace('"ceph.example.org"\nport = 7480', f'"127.0.0.1"\nport = {ceph.port}')
    text = text.replace('"swift.example.org"\nport = 8080', f'"127.0.0.1"\nport = {swift.port}')
    (fresh_copy / "s3s3.toml").write_text(text.replace("redis://localhost:6379/0", redis_url) + '[http]\nbind = ""\n')
    (fresh_copy / "s3s3.env").write_text(
        f"CEPH_KEY={source_key}\nCEPH_SECRET={source_secret}\nSWIFT_KEY={key}\nSWIFT_SECRET={secret}\n"
    )
    for section in ("Install", "Configure", "Start the services"):
        assert blocks(section), section
        for block in blocks(section):
            host.run(block, fresh_copy)
    assert destination.get_object(Bucket="copies-installed", Key="existing")["Body"].read() == b"1"
    assert host.systemctl_calls[-1] == "enable --now s3s3-listen.service s3s3-bucket.timer"
    assert (host.etc / "s3s3.toml").stat().st_mode & 0o077 == 0

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(host.root / "notify"))
        (host.root / "notify").chmod(0o777)
        notify.settimeout(60)
        with host.service("s3s3-listen.service", host.root / "notify") as listener:
            assert b"READY=1" in notify.recv(1000)
            source.put_object(Bucket="images-installed", Key="published", Body=b"2")
            with redis.Redis.from_url(redis_url) as producer:
                eventually(lambda: producer.publish("backup", "published") == 1)
            eventually(lambda: "published" in listed(destination), 30)
        assert listener.returncode == 0
    with host.service("s3s3-bucket.service", host.root / "notify") as bucket:
        assert bucket.wait(60) == 0


def listed(client: object) -> set[str]:
    entries = client.list_objects_v2(Bucket="copies-installed").get("Contents", [])  # type: ignore[attr-defined]
    return {entry["Key"] for entry in entries}
