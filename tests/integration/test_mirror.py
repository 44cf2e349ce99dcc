"""`s3s3 mirror` as a process."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import pytest
import redis

from s3s3.model import Endpoint
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import command, endpoint_table, eventually, run
from tests.mirror.influxdb_server import Database
from tests.mirror.origin_server import OriginServer, response

pytestmark = pytest.mark.real


def proxy_config(path: Path, origin: str, destination: Endpoint, redis_url: str, port: int, http_port: int = 0) -> Path:
    path.write_text(
        f'[mirror.proxy]\nbind = "127.0.0.1:{port}"\nsource = "{origin}"\nmax_wait_s = 30\n'
        + endpoint_table(destination).replace("verify_md5 = false\n", "")
        + f'[pubsub]\nurl = "{redis_url}"\n[worker]\nlease_s = 2\n'
        + f'[http]\nbind = "{f"127.0.0.1:{http_port}" if http_port else ""}"\n'
    )
    return path


@contextmanager
def mirroring(config: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    log = config.with_suffix(".log")
    with log.open("wb") as output, config.with_suffix(".out").open("wb") as access_log:
        process = subprocess.Popen(
            [*command("mirror", "--config", config), *arguments], stdout=access_log, stderr=output
        )
    try:
        eventually(lambda: "serving" in log.read_text() or process.poll() is not None, "the mirror serves")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


async def monitoring_pages(http: aiohttp.ClientSession, http_port: int) -> dict[str, tuple[int, str]]:
    """Return status and text of each monitoring page."""
    pages = {}
    for path in ("healthz", "readyz", "metrics", ""):
        async with http.get(f"http://127.0.0.1:{http_port}/{path}") as got:
            pages[path] = (got.status, await got.text())
    return pages


async def fetch(http: aiohttp.ClientSession, port: int, path: str) -> tuple[int, str]:
    async with http.get(f"http://127.0.0.1:{port}{path}", allow_redirects=False) as got:
        return got.status, got.headers["Location"].partition("?")[0]


@pytest.fixture
def destination(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return swift.endpoint(new_bucket(swift), "mirror.proxy.destination")


@pytest.mark.long
async def test_three_processes_make_one_copy_of_each_key(destination: Endpoint, redis_url: str, tmp_path: Path) -> None:
    ports = free_ports(3)
    async with OriginServer(delay_s=0.5) as origin, aiohttp.ClientSession() as http:
        for number in range(5):
            origin.responses[f"/key-{number}"] = response(b"content of %d" % number)
        with ExitStack() as stack:
            for port in ports:
                config = proxy_config(tmp_path / f"{port}.toml", origin.url, destination, redis_url, port)
                await asyncio.to_thread(stack.enter_context, mirroring(config))
            answers = await asyncio.gather(
                *(fetch(http, ports[number % 3], f"/key-{number % 5}") for number in range(200))
            )
    copies = Counter(
        f"http://127.0.0.1:{destination.port}/{destination.bucket_name}/key-{number}" for number in range(5)
    )
    assert Counter(answers) == {(302, url): 40 for url in copies}
    assert Counter(request.target for request in origin.requests) == {f"/key-{number}": 1 for number in range(5)}


@pytest.mark.long
async def test_another_process_finishes_the_copy_of_a_killed_one(
    destination: Endpoint, redis_url: str, tmp_path: Path
) -> None:
    killed_port, port = free_ports(2)
    async with OriginServer(delay_s=1.5) as origin, aiohttp.ClientSession() as http:
        origin.responses["/key"] = response(b"content")
        killed = proxy_config(tmp_path / "killed.toml", origin.url, destination, redis_url, killed_port)
        with ExitStack() as stack:
            process = await asyncio.to_thread(stack.enter_context, mirroring(killed))
            waiting = asyncio.gather(fetch(http, killed_port, "/key"), return_exceptions=True)
            while not origin.requests:
                await asyncio.sleep(0.05)
            process.kill()
            await waiting
            config = proxy_config(tmp_path / "other.toml", origin.url, destination, redis_url, port)
            await asyncio.to_thread(stack.enter_context, mirroring(config))
            start_s = time.monotonic()
            _, location = await fetch(http, port, "/key")
    assert location.endswith(f"/{destination.bucket_name}/key")
    assert time.monotonic() - start_s < 15


@pytest.mark.long
async def test_monitoring_influxdb_access_log_and_shutdown(
    destination: Endpoint, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, http_port = free_ports(2)
    async with OriginServer() as origin, Database() as database, aiohttp.ClientSession() as http:
        monkeypatch.setenv("INFLUXDB_URL", f"http://127.0.0.1:{database.port}/stats")
        origin.responses["/key"] = response(b"content")
        config = proxy_config(tmp_path / "s3s3.toml", origin.url, destination, redis_url, port, http_port)
        stack = ExitStack()
        process = await asyncio.to_thread(stack.enter_context, mirroring(config, "--access-log"))
        with stack:
            await fetch(http, port, "/key?signature=6QvPw")
            pages = await monitoring_pages(http, http_port)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
    assert "No problems" in pages[""][1]
    assert f"mirror, pid {process.pid}</small>" in pages[""][1]
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists("s3s3:{mirror.proxy}:processes"), "the process has deregistered"
    assert pages["healthz"] == pages["readyz"] == (200, "ok\n")
    for series in ('s3s3_mirror_requests_total{mirror="mirror.proxy",outcome="waited"} 1.0',
                   's3s3_copies_total{destination="mirror.proxy.destination",outcome="copied"',
                   's3s3_mirror_connections{mirror="mirror.proxy"}', 's3s3_pending_jobs{', "process_open_fds",
                   "process_cpu_seconds_total", "process_resident_memory_bytes"):  # fmt: skip
        assert series in pages["metrics"][1]
    (line,) = map(json.loads, config.with_suffix(".out").read_text().splitlines())
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("GET", "/key", 302, "waited")
    assert "6QvPw" not in config.with_suffix(".log").read_text()
    assert [line.partition(",")[0] for line in database.lines] == ["CacheUpload", "CacheWaitedForUpload"]


@pytest.mark.long
def test_configuration_errors(destination: Endpoint, redis_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        taken = server.getsockname()[1]
        config = proxy_config(tmp_path / "s3s3.toml", "http://origin.example.org/", destination, redis_url, taken)
        ended = run("mirror", "--config", config, status=2)
        assert f"[mirror.proxy] bind: cannot listen on 127.0.0.1:{taken}" in ended.stderr
    config.write_text(config.read_text().replace(redis_url, ""))
    assert "mirrors need Redis" in run("mirror", "--config", config, status=2).stderr
    assert (
        "mirror.proxy" in run("jobs", "--config", proxy_config(config, "http://o/", destination, redis_url, 1)).stdout
    )


def test_make_buckets(swift: SwiftServer, redis_url: str, tmp_path: Path) -> None:
    destination = swift.endpoint(f"made-{free_ports(1)[0]}", "mirror.redirect.s3.here")
    config = tmp_path / "s3s3.toml"
    config.write_text(
        '[mirror.redirect]\nallowed_patterns = ["^https://x/"]\n'
        + endpoint_table(destination).replace("verify_md5 = false\n", "")
    )
    output = run("mirror", "--config", config, "--make-buckets").stdout
    assert f"bucket {destination.bucket_name} created" in output
    assert "the store does not support expiry rules" in output
    assert destination.bucket_name in {bucket["Name"] for bucket in swift.boto3_client().list_buckets()["Buckets"]}
