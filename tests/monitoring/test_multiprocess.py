"""Several processes told of as one, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from s3s3.config import HttpSettings
from s3s3.monitoring.health import application, served
from s3s3.monitoring.metrics import Metrics
from s3s3.monitoring.multiprocess import STARTING_S, Several, socket_of
from s3s3.scripts.demo.servers import free_ports
from tests.monitoring.test_health import Part


@dataclass
class Process:
    number: int
    pid: int | None = 1
    age: float = STARTING_S + 1

    def age_s(self) -> float:
        return self.age


@asynccontextmanager
async def asking(processes: Sequence[Process], folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    (port,) = free_ports(1)
    async with (
        served(Several(processes, folder).application(), HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def text(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


async def test_what_ails_one_is_told_with_its_number(tmp_path: Path) -> None:
    async with (
        served(application([Part("deaf"), Part("stuck")], Metrics()), socket_of(tmp_path, 1)),
        served(application([Part()], Metrics()), socket_of(tmp_path, 2)),
        asking([Process(1), Process(2)], tmp_path) as session,
    ):
        assert await text(session, "/healthz") == (503, "process 1: deaf\nprocess 1: stuck\n")
        assert await text(session, "/readyz") == (200, "ok\n")


@pytest.mark.parametrize(("age_s", "status"), [(1.0, 200), (STARTING_S + 1, 503)])
async def test_one_that_is_starting_need_not_answer_yet(tmp_path: Path, age_s: float, status: int) -> None:
    async with asking([Process(1, age=age_s)], tmp_path) as session:
        assert (await text(session, "/healthz"))[0] == status
        assert await text(session, "/readyz") == (503, "process 1: does not answer\n")


async def test_figures_are_added_up_and_outlive_the_process(tmp_path: Path) -> None:
    figures = [Metrics(), Metrics()]
    for metrics in figures:
        metrics.notifications["default", "pubsub"] += 5
    processes = [Process(1, pid=11), Process(2, pid=12)]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(served(application([], figures[0]), socket_of(tmp_path, 1)))
        await stack.enter_async_context(served(application([], figures[1]), socket_of(tmp_path, 2)))
        session = await stack.enter_async_context(asking(processes, tmp_path))
        wanted = 's3s3_notifications_total{kind="pubsub",route="default"} 10.0'
        assert wanted in (await text(session, "/metrics"))[1].splitlines()
        await first.aclose()
        processes[0].pid = 13
        assert wanted in (await text(session, "/metrics"))[1].splitlines()
        assert wanted in (await text(session, "/metrics"))[1].splitlines()
