"""Health, readiness and metrics, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import aiohttp
import pytest

from s3s3.config import HttpSettings
from s3s3.errors import RedisUnavailable
from s3s3.monitoring import health
from s3s3.monitoring.health import application, served
from s3s3.monitoring.metrics import Metrics


class Source:
    """A source of notices, whose health is told."""

    def __init__(self, health_problem: str = "", readiness_problems: list[str] | None = None) -> None:
        self._ailment, self._unready = health_problem, readiness_problems or []

    def health_problem(self) -> str:
        return self._ailment

    async def readiness_problems(self) -> list[str]:
        return self._unready


class Part(Source):
    """A part that has gauges, too."""

    def __init__(
        self, health_problem: str = "", readiness_problems: list[str] | None = None, away: bool = False
    ) -> None:
        super().__init__(health_problem, readiness_problems)
        self._away = away
        self.measured = 0

    async def measure(self) -> None:
        self.measured += 1
        if self._away:
            raise RedisUnavailable("away")


def free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


async def ask(path: str, *parts: Part, sources: Sequence[Source] = ()) -> tuple[int, str, str]:
    port = free_port()
    async with (
        served(application(parts, Metrics(), sources=sources), HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text(), answer.headers["Content-Type"]


async def test_all_well_is_200_and_ok() -> None:
    for path in ("/healthz", "/readyz"):
        assert (await ask(path, Part(), Part()))[:2] == (200, "ok\n")


async def test_whatever_ails_is_503_and_a_line_each() -> None:
    assert (await ask("/healthz", Part("one"), Part(), Part("two")))[:2] == (503, "one\ntwo\n")
    assert (await ask("/readyz", Part(readiness_problems=["a", "b"]), Part(readiness_problems=["c"])))[:2] == (
        503,
        "a\nb\nc\n",
    )


async def test_a_source_of_notices_is_told_of_after_the_parts() -> None:
    sources = [Source("deaf", ["unreachable"])]
    assert (await ask("/healthz", Part("one"), sources=sources))[:2] == (503, "one\ndeaf\n")
    assert (await ask("/readyz", Part(readiness_problems=["a"]), sources=sources))[:2] == (503, "a\nunreachable\n")
    assert (await ask("/metrics", Part(), sources=sources))[0] == 200


async def test_metrics_are_measured_at_each_scrape_and_shown_even_when_redis_is_away() -> None:
    part = Part(away=True)
    status, text, kind = await ask("/metrics", part)
    assert (status, part.measured) == (200, 1)
    assert "s3s3_build_info" in text
    assert kind.startswith("text/plain; version=0.0.4")


async def test_a_readiness_check_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READY_WITHIN_S", 0.05)

    class Slow(Part):
        async def readiness_problems(self) -> list[str]:
            await asyncio.sleep(5)
            return []

    status, said, _ = await ask("/readyz", Slow())
    assert status == 503
    assert "not answered within" in said


async def test_a_port_that_is_taken_is_a_warning_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with served(application([], Metrics()), HttpSettings("127.0.0.1", port)):
            assert f"127.0.0.1:{port} cannot be had (Address already in use)" in caplog.text


async def test_without_an_address_nothing_is_served() -> None:
    async with served(application([], Metrics()), None):
        pass
