"""Health, readiness and metrics, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from s3s3.config import HttpSettings
from s3s3.errors import RedisUnavailable
from s3s3.http_server import ServerLimits
from s3s3.monitoring import health
from s3s3.monitoring.health import CheckRedis, application, served
from s3s3.monitoring.metrics import Metrics
from tests.waiting import until


class Source:
    """A notification source with fixed problems."""

    def __init__(self, health_problem: str = "", readiness_problems: list[str] | None = None) -> None:
        self._health_problem, self._readiness_problems = health_problem, readiness_problems or []

    def health_problem(self) -> str:
        return self._health_problem

    async def readiness_problems(self) -> list[str]:
        return self._readiness_problems


class Component(Source):
    """A component that has gauges; `unavailable`: its Redis is."""

    def __init__(
        self, health_problem: str = "", readiness_problems: list[str] | None = None, unavailable: bool = False
    ) -> None:
        super().__init__(health_problem, readiness_problems)
        self._unavailable = unavailable
        self.measured = 0

    async def measure(self) -> None:
        self.measured += 1
        if self._unavailable:
            raise RedisUnavailable("connection refused")


def free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


async def get(
    path: str, *components: Component, sources: Sequence[Source] = (), check_redis: CheckRedis | None = None
) -> tuple[int, str, str]:
    port = free_port()
    app = application(components, Metrics(), sources=sources, check_redis=check_redis)
    async with (
        served(app, HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text(), response.headers["Content-Type"]


async def test_without_problems_the_response_is_200_ok() -> None:
    for path in ("/healthz", "/readyz"):
        assert (await get(path, Component(), Component()))[:2] == (200, "ok\n")


async def test_problems_are_a_503_with_a_line_each() -> None:
    assert (await get("/healthz", Component("first"), Component(), Component("second")))[:2] == (503, "first\nsecond\n")
    components = [Component(readiness_problems=["a", "b"]), Component(readiness_problems=["c"])]
    assert (await get("/readyz", *components))[:2] == (503, "a\nb\nc\n")


@pytest.mark.parametrize("is_silent", [False, True])
async def test_without_redis_a_restart_does_not_help_so_the_process_counts_as_alive(is_silent: bool) -> None:
    async def check_redis() -> None:
        if is_silent:
            await asyncio.Event().wait()
        raise RedisUnavailable("Redis cannot be reached")

    component = Component("not subscribed", ["Redis cannot be reached"])
    assert (await get("/healthz", component, check_redis=check_redis))[:2] == (200, "ok\n")
    assert (await get("/readyz", component, check_redis=check_redis))[:2] == (
        503, "not subscribed\nRedis cannot be reached\n"
    )  # fmt: skip


async def test_with_redis_a_component_that_does_not_work_is_not_alive() -> None:
    async def check_redis() -> None:
        pass

    assert (await get("/healthz", Component("stuck"), check_redis=check_redis))[:2] == (503, "stuck\n")


async def test_problems_of_notification_sources_follow_those_of_components() -> None:
    sources = [Source("subscription lost", ["unreachable"])]
    assert (await get("/healthz", Component("stuck"), sources=sources))[:2] == (503, "stuck\nsubscription lost\n")
    assert (await get("/readyz", Component(readiness_problems=["a"]), sources=sources))[:2] == (
        503, "subscription lost\na\nunreachable\n"
    )  # fmt: skip
    assert (await get("/metrics", Component(), sources=sources))[0] == 200


async def test_gauges_are_measured_at_each_scrape_which_works_while_redis_is_unavailable() -> None:
    component = Component(unavailable=True)
    status, text, kind = await get("/metrics", component)
    assert (status, component.measured) == (200, 1)
    assert "s3s3_build_info" in text
    assert kind.startswith("text/plain; version=0.0.4")


async def test_a_readiness_check_that_takes_too_long_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READINESS_TIMEOUT_S", 0.05)

    class Slow(Component):
        async def readiness_problems(self) -> list[str]:
            await asyncio.sleep(5)
            return []

    status, text, _ = await get("/readyz", Slow())
    assert status == 503
    assert "not answered within" in text


async def test_an_address_in_use_is_a_warning_and_the_block_runs(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with served(application([], Metrics()), HttpSettings("127.0.0.1", port)):
            assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in caplog.text


async def test_an_address_in_use_is_served_as_soon_as_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("s3s3.http_server.BIND_RETRY_S", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        attempts = 0
        create_server = asyncio.get_running_loop().create_server

        async def counted(*args: Any, **options: Any) -> asyncio.Server:
            nonlocal attempts
            attempts += 1
            return await create_server(*args, **options)

        monkeypatch.setattr(asyncio.get_running_loop(), "create_server", counted)
        async with served(application([], Metrics()), HttpSettings("127.0.0.1", port)) as problem:
            await until(lambda: attempts >= 3)
            assert problem().startswith(f"cannot listen on 127.0.0.1:{port} (Address already in use)")
            assert caplog.text.count("cannot listen") == 1
            taken.close()
            await until(lambda: not problem())
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as response:
                assert response.status == 200
            assert f"listening on 127.0.0.1:{port}" in caplog.text
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


async def test_without_an_address_nothing_is_served() -> None:
    async with served(application([], Metrics()), None) as problem:
        assert problem() == ""


async def raw(port: int, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode())
    return reader, writer


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "127.0.0.1:9180", 404),
        ("/", "[::1]:9180", 404),
        ("/", "localhost", 404),
        ("/", "s3s3.localhost:1", 404),
        ("/", "monitor", 404),
        ("/", socket.gethostname(), 404),
        ("/", "S3S3.example.org", 404),
        ("/", "a.pages.example.org.", 404),
        ("/", "attacker.example:9180", 421),
        ("/", "s3s3.example.org.attacker.example", 421),
        ("/events", "127.0.0.1.attacker.example", 421),
        ("/metrics", "any.example", 200),
        ("/healthz", "any.example", 200),
    ],
)
async def test_a_page_is_served_only_under_its_own_names(path: str, host: str, status: int) -> None:
    port = free_port()
    settings = HttpSettings("127.0.0.1", port, allowed_hosts=("s3s3.example.org", "*.pages.example.org"))
    async with served(application([], Metrics()), settings):
        reader, _ = await raw(port, f"GET {path} HTTP/1.1", f"Host: {host}", "")
        assert int((await asyncio.wait_for(reader.readline(), 10)).split()[1]) == status


async def test_idle_and_excess_connections_are_closed_and_the_page_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMITS", ServerLimits(connections=10, idle_s=0.6))
    port = free_port()
    async with served(application([], Metrics()), HttpSettings("127.0.0.1", port)):
        silent = [await raw(port) for _ in range(30)]
        reader, _ = await raw(port, "GET /healthz HTTP/1.1", "Host: x", "")
        assert b"200" in await asyncio.wait_for(reader.readline(), 10)
        for reader, _ in silent:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
