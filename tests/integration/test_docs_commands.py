"""Every command and configuration on the pages of docs/: those that have no test of their own are run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import trustme

from docs.generated import EXAMPLES
from s3s3 import config
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.console_blocks import REPOSITORY
from tests.integration.commands import Listener, eventually, route_tables, write_config
from tests.scripts.test_convert import INI

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("how-to/*.md"))]

#: Blocks of commands, by page and language, that another test runs.
RUN_ELSEWHERE = {
    ("README.md", "sh"): "tests/test_readme.py",
    ("README.md", "python"): "tests/test_readme.py",
    ("README.md", "toml"): "tests/test_readme.py",
    ("install.md", "sh"): "tests/integration/test_install.py",
    ("ceph.md", "sh"): "tests/integration/test_least_privilege.py",
    ("swift.md", "sh"): "tests/integration/test_least_privilege.py",
    ("mirror.md", "toml"): "tests/integration/test_mirror_howto.py",
    ("mirror.md", "sh"): "tests/integration/test_mirror_howto.py",
    ("tutorial.md", "console"): "tests/integration/test_tutorial.py",
    ("deletions.md", "console"): "tests/integration/test_deletions_howto.py",
    ("rclone.md", "console"): "tests/integration/test_rclone_howto.py",
    ("runbooks.md", "console"): "tests/monitoring/test_runbooks.py",
    ("notifications.md", "python"): "tests/integration/test_sources.py",
}

#: What is no command.
OTHER_LANGUAGES = {"text", "toml", "json", "ini", "javascript"}

#: Objects that the pages name.
KEYS = ("images/1.fits", "images/a.fits", "images/m31.fits", "m01.fits")
TOKEN = "secret"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of a page, except directives: their language and text."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in found if not language.startswith("{")]


def commands() -> dict[str, list[str]]:
    """The commands that are run here, by page."""
    found = {"commands": list(EXAMPLES)}
    for page in PAGES:
        texts = [text for language, text in blocks(page) if language == "sh"]
        if texts and (page.name, "sh") not in RUN_ELSEWHERE:
            lines = "".join(texts).replace("\\\n", " ").splitlines()
            found[page.name] = lines
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_is_run_or_is_no_command(page: Path) -> None:
    for language, text in blocks(page):
        if language in OTHER_LANGUAGES or (language == "sh" and page.name in commands()):
            continue
        where = RUN_ELSEWHERE.get((page.name, language))
        assert where is not None, f"nothing runs:\n```{language}\n{text}"
        assert page.stem.lower() in (REPOSITORY / where).read_text().lower()
    without_fences = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"\n\n {4}\S.*", without_fences)
    assert page.name == "README.md" or not indented, "a block in ``` has a language"


def whole(text: str) -> dict[str, Any]:
    """The tables of a block, with what a configuration needs besides."""
    tables = tomlkit.parse(text).unwrap()
    if not any(isinstance(each, dict) for each in tables.values()):
        tables = {"destination": tables}
    if "routes" in tables:
        return {"pubsub": {}, **tables}
    if not any(name.startswith("dest") for name in tables):
        tables["destination"] = {}
    for name in ("source", *(name for name in tables if name.startswith("dest"))):
        needed = {"host": "s3.example.org", "aws_access_key_id": "k", "aws_secret_access_key": "s", "bucket_name": name}
        tables[name] = {**needed, **tables.get(name, {})}
    return {"pubsub": {}, **tables}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=page.name)
        for page in PAGES
        for language, text in blocks(page)
        if language == "toml" and (page.name, language) not in RUN_ELSEWHERE
    ],
)
def test_each_configuration_is_valid(text: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    environment = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "a value")
    config.from_tables(whole(text.replace("/etc/s3s3/ca.pem", str(authority))), environment)


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=page.name) for page in PAGES for language, text in blocks(page) if language == "json"],
)
def test_each_json_block_is_json(text: str) -> None:
    json.loads(text)


# -- commands

#: For `redis-cli` of the pages, with the port of the test's Redis.
REDIS_CLI = """#!{python}
import sys, redis
print(redis.Redis.from_url({url!r}).execute_command(*sys.argv[1:]))
"""


class Reader:
    """Follows a page, with a configuration and a listener."""

    def __init__(self, folder: Path, config_file: Path, environment: Mapping[str, str], port: int, url: str) -> None:
        self.folder = folder
        self.port = port
        programs = {
            "s3s3": f'#!/bin/sh\nexec {sys.executable} -m s3s3 "$@"\n',
            "redis-cli": REDIS_CLI.format(python=sys.executable, url=url),
            "make": f'#!/bin/sh\nexec /usr/bin/make -C {REPOSITORY} -n "$@"\n',
        }
        (folder / "bin").mkdir()
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self._environment = {
            **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
            "S3S3_CONFIG": str(config_file), "TOKEN": TOKEN, **environment,
        }  # fmt: skip
        self.config = config_file

    def follow(self, command: str, instead: Mapping[str, str]) -> None:
        words = shlex.split(command, comments=True)
        if words[:2] == ["s3s3", "listen"]:
            with Listener(self.config, *words[2:], environment={"S3S3_HTTP_BIND": ""}):
                return
        for written, meant in {"127.0.0.1:9180": f"127.0.0.1:{self.port}", **instead}.items():
            command = command.replace(written, meant)
        done = subprocess.run(
            ["bash", "-euc", command], cwd=self.folder, env=self._environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        allowed = (0, 1) if "--dry-run" in words else (0,)  # 1: there are differences
        assert done.returncode in allowed, f"$ {command}\n{done.stdout}\n{done.stderr}"
        if words[0] == "curl":
            assert "detail" not in json.loads(done.stdout), f"$ {command}\n{done.stdout}"
        if "/reconcile" in command:  # the next command may reconcile, too
            eventually(self._is_reconciled, "the reconcile ends", every_s=0.5)

    def _is_reconciled(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/status", timeout=30) as response:
            route = json.load(response)["routes"][0]
        return route["last_reconcile"] is not None and route["current_reconcile"] is None


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(280)
@pytest.mark.parametrize("page", commands())
def test_every_command_of_a_page_works(
    page: str, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source, there = new_bucket(swift), new_bucket(swift, 1)
    raw = (
        swift.endpoint(new_bucket(swift), prefix="raw/"),
        swift.endpoint(new_bucket(swift, 1), "dest-swift", account=1),
    )
    (port,) = free_ports(1)
    config_file = write_config(
        tmp_path, swift.endpoint(source), [swift.endpoint(there, "dest-swift", account=1)], redis_url,
        routes=[route_tables("raw", *raw, channel="raw")], bind=f"127.0.0.1:{port}",
    )  # fmt: skip
    config_file.write_text(config_file.read_text() + f'token = "{TOKEN}"\n[stream]\n')
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "s3s3.ini").write_text(INI)
    client, there_client = swift.boto3_client(), swift.boto3_client(1)
    reader = Reader(tmp_path / "work", config_file, {}, port, redis_url)
    with Listener(config_file):
        for key in KEYS:
            client.put_object(Bucket=source, Key=key, Body=key.encode())
        for command in commands()[page]:
            reader.follow(command, {"bucket images": f"bucket {source}"})
            notified = re.search(r"redis-cli .* (\S+\.fits)", command)
            if notified:
                there_client.get_waiter("object_exists").wait(Bucket=there, Key=notified[1])
