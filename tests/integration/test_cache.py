"""The disk cache of `s3s3 mirror` as a process, and `s3s3 cache`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
import yarl
from botocore.config import Config
from botocore.httpsession import URLLib3Session

from s3s3.model import Endpoint
from s3s3.scripts.demo.servers import StoreServer, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import missing
from tests.faults.kinds import Bandwidth, getting
from tests.faults.proxy import Proxy
from tests.integration.commands import endpoint_table, eventually, run
from tests.integration.test_mirror import mirroring, monitoring_pages

pytestmark = pytest.mark.real

MIB = 1024 * 1024
CONTENT = hashlib.sha256(b"seed").digest() * (2 * MIB // 32)


def cache_config(path: Path, store: Endpoint, port: int, *, http_port: int = 0, **keys: object) -> Path:
    keys = {"bind": f"127.0.0.1:{port}", "directory": str(path.parent / "cache"), "max_fill": 1.0, **keys}
    path.write_text(
        "[mirror.cache]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items())
        + endpoint_table(store).replace("verify_md5 = false\n", "")
        + '[pubsub]\nurl = ""\n'
        + f'[http]\nbind = "{f"127.0.0.1:{http_port}" if http_port else ""}"\n'
    )  # fmt: skip
    return path


@cache
def client(port: int, access_key_id: str, secret: str, version: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id=access_key_id,
        aws_secret_access_key=secret, config=Config(signature_version=version, s3={"addressing_style": "path"}),
    )  # fmt: skip


def signed(store: Endpoint, port: int, key: str, version: str = "s3") -> str:
    signing = client(
        port,
        store.access_key_id or "",
        store.secret_access_key.get_secret_value() if store.secret_access_key else "",
        version,
    )
    return str(signing.generate_presigned_url("get_object", {"Bucket": store.bucket_name, "Key": key}, 600))


async def fetch(http: aiohttp.ClientSession, url: str) -> tuple[int, str, bytes]:
    async with http.get(yarl.URL(url, encoded=True), allow_redirects=False) as got:
        return got.status, got.headers.get("X-Cache", ""), await got.read()


@pytest.fixture
def store(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return with_objects(swift, new_bucket(swift))


def with_objects(server: StoreServer, bucket: str) -> Endpoint:
    for key in ("a b/ü+c.bin", *(f"key-{number}" for number in range(5))):
        server.boto3_client().put_object(Bucket=bucket, Key=key, Body=CONTENT, ContentType="application/x-thing")
    return server.endpoint(bucket, "mirror.cache.store")


def by_boto3(url: str, output: Path) -> None:
    """botocore's HTTP session does not follow redirects."""
    from botocore.awsrequest import AWSPreparedRequest, HeadersDict  # noqa: PLC0415

    none: Any = HeadersDict()  # botocore passes this, although its stubs forbid it

    for _ in range(2):
        got = URLLib3Session().send(AWSPreparedRequest("GET", url, none, b"", False))
        if got.status_code != 302:
            break
        url = got.headers["Location"]
    assert got.status_code == 200
    output.write_bytes(got.content)


def by_command(*command: str) -> Callable[[str, Path], None]:
    def read(url: str, output: Path) -> None:
        program = shutil.which(command[0], path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
        if program is None:
            missing(f"{command[0]} is not installed")
        arguments = [part.format(url=url, output=output) for part in command[1:]]
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    return read


CLIENTS = {
    "boto3": by_boto3,
    "curl": by_command("curl", "--fail", "--silent", "--show-error", "--location", "--output", "{output}", "{url}"),
    "wget": by_command("wget", "--quiet", "--output-document={output}", "{url}"),
    "rclone": by_command("rclone", "copyurl", "{url}", "{output}"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["swift", "ceph"])
async def test_common_clients_read_through_the_cache(
    kind: str, new_bucket: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: StoreServer = request.getfixturevalue(kind)
    store = with_objects(server, new_bucket(server))
    (port,) = free_ports(1)
    async with aiohttp.ClientSession() as http:
        with ExitStack() as stack:
            config = cache_config(tmp_path / "s3s3.toml", store, port)
            await asyncio.to_thread(stack.enter_context, mirroring(config))
            for version in ("s3", "s3v4"):
                url = signed(store, port, "a b/ü+c.bin", version)
                for expected in ("miss", "hit"):
                    for name, read in CLIENTS.items():
                        output = tmp_path / f"{name}-{version}-{expected}"
                        await asyncio.to_thread(read, url, output)
                        assert await asyncio.to_thread(output.read_bytes) == CONTENT, (name, version)
                    while (await fetch(http, url))[1] != "hit":
                        await asyncio.sleep(0.05)


@pytest.mark.long
async def test_a_process_killed_during_a_download_leaves_a_usable_directory(store: Endpoint, tmp_path: Path) -> None:
    port, next_port = free_ports(2)
    downloads = tmp_path / "cache" / "downloads"
    async with aiohttp.ClientSession() as http:
        with Proxy(store.port or 0) as proxy, ExitStack() as stack:
            proxied = proxy.through(store)
            killed = await asyncio.to_thread(
                stack.enter_context, mirroring(cache_config(tmp_path / "killed.toml", proxied, port))
            )
            assert (await until_hit(http, signed(store, port, "key-1")))[2] == CONTENT
            with proxy.injecting(Bandwidth(bytes_per_s=MIB // 4, of=getting)):
                assert (await fetch(http, signed(store, port, "key-0")))[0] == 302
                while not await asyncio.to_thread(files_in, downloads):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.3)
                killed.kill()
                killed.wait()
            assert len(await asyncio.to_thread(files_in, downloads)) == 1
            config = cache_config(tmp_path / "next.toml", proxied, next_port)
            await asyncio.to_thread(stack.enter_context, mirroring(config))
            await asyncio.to_thread(eventually, lambda: not files_in(downloads), "the leftover is removed")
            assert (await fetch(http, signed(store, next_port, "key-1")))[1:] == ("hit", CONTENT)
            assert (await until_hit(http, signed(store, next_port, "key-0")))[2] == CONTENT
    assert "verified 2 objects, 0 damaged" in run("cache", "verify", "--config", config).stdout


@pytest.mark.long
@pytest.mark.parametrize("miss", ["redirect", "stream"])
async def test_two_processes_that_share_a_directory_download_each_object_once(
    store: Endpoint, tmp_path: Path, miss: str
) -> None:
    ports = free_ports(2)
    async with aiohttp.ClientSession() as http:
        with Proxy(store.port or 0) as proxy, ExitStack() as stack:
            proxied = proxy.through(store)
            for port in ports:
                config = cache_config(tmp_path / f"{port}.toml", proxied, port, miss=miss)
                await asyncio.to_thread(stack.enter_context, mirroring(config))
            urls = [signed(store, ports[number % 2], f"key-{number % 5}") for number in range(100)]
            answers = await asyncio.gather(*(fetch(http, url) for url in urls))
            assert {status for status, _, _ in answers} <= ({200} if miss == "stream" else {200, 302})
            assert {body for status, _, body in answers if status == 200} <= {CONTENT}
            for url in urls[:10]:
                assert (await until_hit(http, url))[2] == CONTENT
            assert proxy.requests["GET"] == 5


@pytest.mark.long
async def test_a_client_that_waits_for_a_killed_process_gets_the_object_from_another(
    store: Endpoint, tmp_path: Path
) -> None:
    ports = free_ports(2)
    async with aiohttp.ClientSession() as http:
        with Proxy(store.port or 0) as proxy, ExitStack() as stack:
            configs = [cache_config(tmp_path / f"{port}.toml", proxy.through(store), port, miss="stream")
                       for port in ports]  # fmt: skip
            killed, _ = [await asyncio.to_thread(stack.enter_context, mirroring(config)) for config in configs]
            urls = [signed(store, port, "key-0") for port in ports]
            with proxy.injecting(Bandwidth(bytes_per_s=MIB // 2, of=getting)):
                reading = asyncio.gather(fetch(http, urls[0]), return_exceptions=True)
                while not await asyncio.to_thread(files_in, tmp_path / "cache" / "downloads"):
                    await asyncio.sleep(0.02)
                waiting = asyncio.create_task(fetch(http, urls[1]))
                await asyncio.sleep(0.5)
                killed.kill()
                (cut_off,) = await reading
                assert isinstance(cut_off, aiohttp.ClientError), "a partial response must be recognizable"
            status, _, body = await waiting
            assert (status, body) == (200, CONTENT)
            assert (await until_hit(http, urls[1]))[2] == CONTENT


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def until_hit(http: aiohttp.ClientSession, url: str) -> tuple[int, str, bytes]:
    for _ in range(400):
        answer = await fetch(http, url)
        if answer[1] == "hit":
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(answer[:2])


async def test_monitoring_access_log_and_shutdown_without_redis(store: Endpoint, tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    config = cache_config(tmp_path / "s3s3.toml", store, port, http_port=http_port)
    async with aiohttp.ClientSession() as http:
        with ExitStack() as stack:
            process = await asyncio.to_thread(stack.enter_context, mirroring(config, "--access-log"))
            url = signed(store, port, "key-0")
            await until_hit(http, url)
            await fetch(http, url + "x")
            pages = await monitoring_pages(http, http_port)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
    assert pages["healthz"] == pages["readyz"] == (200, "ok\n")
    for series in ('s3s3_mirror_requests_total{mirror="mirror.cache",outcome="hit"}',
                   's3s3_mirror_requests_total{mirror="mirror.cache",outcome="refused"} 1.0',
                   's3s3_mirror_cache_fills_total{mirror="mirror.cache",outcome="cached"} 1.0',
                   's3s3_mirror_cache_fill_ratio{mirror="mirror.cache"}'):  # fmt: skip
        assert series in pages["metrics"][1]
    lines = list(map(json.loads, config.with_suffix(".out").read_text().splitlines()))
    hit = next(line for line in lines if line["outcome"] == "hit")
    assert (hit["status"], hit["bytes"], hit["path"]) == (200, len(CONTENT), f"/{store.bucket_name}/key-0")
    assert [line["status"] for line in lines if line["outcome"] == "refused"] == [403]
    assert "Signature" not in config.with_suffix(".out").read_text() + config.with_suffix(".log").read_text()


@pytest.mark.long
async def test_ten_thousand_idle_connections_do_not_block_others(store: Endpoint, tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        pytest.skip(f"10,000 connections need more open files than {hard}")
    config = cache_config(tmp_path / "s3s3.toml", store, port, http_port=http_port)
    idle: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12_000), hard))
        with ExitStack() as stack:
            process = await asyncio.to_thread(stack.enter_context, mirroring(config))
            before_bytes = resident_bytes(process.pid)
            await asyncio.to_thread(open_idle, port, 10_000, idle)
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{http_port}/metrics") as got:
                    connections = re.search(r"s3s3_mirror_connections\{[^}]*\} (\S+)", await got.text())
                assert (await until_hit(http, signed(store, port, "key-0")))[2] == CONTENT
            assert connections is not None and float(connections[1]) <= 8192
            assert resident_bytes(process.pid) - before_bytes < 256 * MIB
    finally:
        for connection in idle:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_idle(port: int, count: int, opened: list[socket.socket]) -> None:
    for _ in range(count):
        with suppress(ConnectionError):
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.long
async def test_the_cache_command(store: Endpoint, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = cache_config(tmp_path / "s3s3.toml", store, port)
    assert "does not exist; s3s3 mirror creates it" in run("cache", "--config", config, status=2).stderr
    async with aiohttp.ClientSession() as http:
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, mirroring(config))
            for number in range(3):
                await until_hit(http, signed(store, port, f"key-{number}"))
    assert "3 objects, 6.0 MiB" in run("cache", "--config", config).stdout
    stats = json.loads(run("cache", "stat", "--json", "--config", config).stdout)
    assert (stats["objects"], stats["size_bytes"], stats["downloads"]) == (3, 3 * len(CONTENT), 0)
    assert run("cache", "evict", "--config", config, "key-0").stdout == "key-0: removed\n"
    assert run("cache", "evict", "--config", config, "key-0", status=1).stdout == "key-0: not cached\n"
    body = next(path for path in (tmp_path / "cache" / "objects").glob("*/*") if path.suffix != ".json")
    body.write_bytes(CONTENT[:-1] + b"x")
    verified = run("cache", "verify", "--config", config, status=1).stdout
    assert "verified 2 objects, 1 damaged" in verified
    assert "removed 1 object" in run("cache", "evict", "--all", "--config", config).stdout
    assert "unrecognized arguments: key" in run("cache", "stat", "key", "--config", config, status=2).stderr


def test_configuration_errors(store: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = cache_config(tmp_path / "s3s3.toml", store, 1, directory=str(tmp_path / "file" / "cache"))
    assert "[mirror.cache] directory: " in run("mirror", "--config", config, status=2).stderr
    assert "add a table [mirror.cache]" in run("cache", "--config", minimal(tmp_path, store), status=2).stderr


def minimal(directory: Path, store: Endpoint) -> Path:
    path = directory / "other.toml"
    path.write_text('[mirror.proxy]\nsource = "http://127.0.0.1:1/"\n' + endpoint_table(store).replace(
        "mirror.cache.store", "mirror.proxy.destination").replace("verify_md5 = false\n", ""))  # fmt: skip
    return path
