"""Runs docs/how-to/mirror.md: its configuration with other hosts and ports, and each of its commands."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from s3s3.model import Endpoint
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import eventually
from tests.integration.test_cache import signed
from tests.integration.test_mirror import mirroring
from tests.mirror.origin_server import OriginServer, response

pytestmark = [pytest.mark.real, pytest.mark.long]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "mirror.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CONFIGURATION = "".join(block for kind, block in BLOCKS if kind == "toml")
COMMANDS = "".join(block for kind, block in BLOCKS if kind == "sh").replace("\\\n", "").splitlines()


def command(pattern: str) -> str:
    (found,) = (line.partition("#")[0].strip() for line in COMMANDS if re.fullmatch(pattern, line.partition("  ")[0]))
    return found


def replace_all(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_config(path: Path, store: Endpoint, origin: OriginServer, redis_url: str, ports: list[int]) -> None:
    place = f'host = "127.0.0.1"\nport = {store.port}\nis_secure = false\n'
    keys = f'aws_access_key_id = "{store.access_key_id}"\naws_secret_access_key = "${{CEPH_SECRET}}"\n'
    binds = {f"[mirror.{name}]\n": f'[mirror.{name}]\nbind = "127.0.0.1:{port}"\n'
             for name, port in zip(("redirect", "proxy", "cache"), ports, strict=True)}  # fmt: skip
    changes = {
        **binds, '"^https://artifacts\\\\.example\\\\.org/"': f'"^https://127\\\\.0\\\\.0\\\\.1:{origin.port}/"',
        "lifespan_days = 1\n": "lifespan_days = 1\nallow_private = true\n", "https://origin.example.org/": origin.url,
        'host = "ceph.example.org"\n': place, '"artifacts-us-west-1"\n': f'"{store.bucket_name}-a"\n{place}{keys}',
        '"files"': f'"{store.bucket_name}"', '"ACCESS-KEY"': f'"{store.access_key_id}"',
        '"/var/cache/s3s3"\n': f'"{path.parent / "cache"}"\nmax_fill = 1.0\nlow_fill = 1.0\n',
    }  # fmt: skip
    text = replace_all(CONFIGURATION, changes)
    path.write_text(f'{text}[pubsub]\nurl = "{redis_url}"\n[http]\nbind = ""\n')


async def test_the_how_to_page_works(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    store = swift.endpoint(new_bucket(swift), "mirror.cache.store")
    for name, value in {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "PURGE_TOKEN": "token", "PIPELINE_SECRET": "x",
                        "CEPH_SECRET": swift.accounts[0].secret_access_key,
                        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    ports = free_ports(3)
    config = tmp_path / "s3s3.toml"

    async def shell(line: str, status: int = 0) -> str:
        done = await asyncio.to_thread(subprocess.run, ["bash", "-c", line], cwd=tmp_path, capture_output=True,
                                       text=True, timeout=60, check=False)  # fmt: skip
        assert done.returncode == status, (line, done.stdout, done.stderr)
        return str(done.stdout)

    async with OriginServer(tls=context) as origin:
        origin.responses |= {"/a.tar.gz": response(b"of a URL"), "/files/a/b.bin": response(b"of a path")}
        write_config(config, store, origin, redis_url, ports)
        assert f"bucket {store.bucket_name}-a created" in await shell("s3s3 mirror --make-buckets")
        with ExitStack() as stack:
            starting = command(r"s3s3 mirror .*").split()
            assert starting[:4] == ["s3s3", "mirror", "--config", config.name]
            await asyncio.to_thread(stack.enter_context, mirroring(config, *starting[4:]))
            url = {"127.0.0.1:9190": f"127.0.0.1:{ports[0]}", "artifacts.example.org": f"127.0.0.1%3A{origin.port}"}
            assert await shell(replace_all(command(r"curl -L .*"), url)) == "of a URL"
            assert await shell(replace_all(command(r"curl -X DELETE .*"), url)) == ""
            assert await shell(replace_all(command(r"curl -L .*"), url)) == "of a URL"
            assert [request.target for request in origin.requests] == ["/a.tar.gz"] * 2, "purged and copied again"
            wait = re.search(r"`(x-max-wait-duration: \w+)`", PAGE)
            assert wait is not None
            assert await shell(f"curl -sL -H '{wait[1]}' http://127.0.0.1:{ports[1]}/a/b.bin") == "of a path"
            read = f"curl -sL '{signed(store, ports[2], 'a/b.bin')}'"
            assert await shell(read) == "of a path"
            eventually(lambda: list((tmp_path / "cache" / "objects").glob("*/*.json")), "it is cached")
            assert "1 object" in await shell(command("s3s3 cache"))
            assert "verified 1 object, 0 damaged" in await shell(command("s3s3 cache verify"))
            await shell(command("s3s3 cache evict"))
            assert await shell("s3s3 cache evict a/b.bin") == "a/b.bin: removed\n"
