"""Copies without a queue: bounded, reported and drained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from s3s3.errors import IntegrityError, JobReleased, StoreUnavailable
from s3s3.model import Endpoint, Job, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.reconcile import executor
from s3s3.reconcile.executor import InProcessExecutor
from s3s3.tasks import cancel

A, B, SOURCE = "dest-a", "dest-b", "source"
ROUTE = Route("default", Endpoint(SOURCE, "s"), (Endpoint(A, "a"), Endpoint(B, "b")))

Behaviour = Callable[[str, str], Exception | None]


class Limiter:
    is_stopped = False

    def stop_admitting(self) -> None:
        self.is_stopped = True


class Stores:
    """Test double of `RouteStores`; `behaviour` returns the error of a copy, or None."""

    def __init__(self, behaviour: Behaviour = lambda key, destination: None) -> None:
        self.route, self.source = ROUTE, SimpleNamespace(name=SOURCE)
        self.metrics = Metrics()
        self.copier = self
        self.limiter = Limiter()
        self.limits = {A: self.limiter}
        self.behaviour = behaviour
        self.copied: list[tuple[str, str]] = []
        self.jobs: list[Job] = []
        self.running = self.most_running = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def copy_job(self, job: Job, destinations: Sequence[str], check_lease: Any, **_: Any) -> list[Outcome]:
        check_lease()
        self.jobs.append(job)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.may_end.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        self.copied += [(job.key, name) for name in destinations]
        return [self._outcome(job.key, name) for name in destinations]

    def _outcome(self, key: str, name: str) -> Outcome:
        error = self.behaviour(key, name)
        result = Result.COPIED if error is None else Result.FAILED
        return Outcome(name, key, result, str(error or "missing"), error=error)


class Run:
    """An executor and what it reported."""

    def __init__(self, stores: Stores, concurrency: int = 8, unconditional: bool = False) -> None:
        self.stores = stores
        self.reported: list[dict[str, Any]] = []
        self.executor = InProcessExecutor(
            stores,  # type: ignore[arg-type]
            concurrency,
            unconditional=unconditional,
            on_outcome=self.reported.append,
        )

    async def copy(self, *keys: str, destinations: tuple[str, ...] = (A, B)) -> None:
        await self.executor.enqueue([JobRequest(key, destinations) for key in keys])
        while self.executor:
            await self.executor.poll()

    def outcomes(self) -> set[tuple[str, str, str]]:
        return {(line["key"], line["destination"], line["outcome"]) for line in self.reported}


@asynccontextmanager
async def started(run: Run, drain_s: float = 5.0) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(run.executor.run(stop, drain_s))
    try:
        yield stop
        stop.set()
        await asyncio.wait_for(task, 10)
    finally:
        await cancel([task])


async def test_every_key_is_reported_once_for_each_destination_and_concurrency_is_bounded() -> None:
    run = Run(Stores(), concurrency=3)
    keys = [f"k{number}" for number in range(50)]
    async with started(run):
        await run.copy(*keys)
    assert run.outcomes() == {(key, name, "copied") for key in keys for name in (A, B)}
    assert len(run.reported) == 100
    assert run.stores.most_running == 3
    assert run.stores.metrics.copies["default", A, "copied"] == 50


@pytest.mark.parametrize("unconditional", [True, False])
async def test_a_forced_reconcile_copies_without_comparing_first(unconditional: bool) -> None:
    run = Run(Stores(), unconditional=unconditional)
    async with started(run):
        await run.copy("k")
    assert [job.unconditional for job in run.stores.jobs] == [unconditional]


async def test_a_failure_is_logged_and_reported_as_failed_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Stores(lambda key, name: IntegrityError("bits differ", store=B) if name == B else None))
    async with started(run):
        await run.copy("k")
    assert run.outcomes() == {("k", A, "copied"), ("k", B, "failed")}
    assert "default: 'k' to dest-b failed: dest-b: bits differ" in caplog.text
    assert run.stores.copied.count(("k", B)) == 1, "not retried"


async def test_a_defect_counts_as_failed_and_the_rest_is_copied(caplog: pytest.LogCaptureFixture) -> None:
    stores = Stores()
    run = Run(stores)
    copy = stores.copy_job

    async def broken(job: Job, *rest: Any, **named: Any) -> list[Outcome]:
        if job.key == "bad":
            raise ZeroDivisionError
        return await copy(job, *rest, **named)

    stores.copy_job = broken  # type: ignore[method-assign]
    async with started(run):
        await run.copy("bad", "good")
    assert run.outcomes() == {(key, name, result) for key, result in (("bad", "failed"), ("good", "copied"))
                              for name in (A, B)}  # fmt: skip
    assert "internal error" in caplog.text


class Outage:
    """A store that is down until `is_over`."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.is_over = False

    def __call__(self, key: str, destination: str) -> Exception | None:
        if self.is_over or self.store not in (destination, SOURCE):
            return None
        return StoreUnavailable("refused", store=self.store)


async def test_a_destination_that_is_down_gets_few_requests_and_the_others_all_of_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(Stores(Outage(B)), concurrency=4)
    keys = [f"k{number}" for number in range(500)]
    async with started(run):
        await run.copy(*keys)
    assert run.outcomes() == {(key, name, result) for key in keys for name, result in ((A, "copied"), (B, "failed"))}
    assert sum(name == B for _, name in run.stores.copied) < 20
    last = next(line for line in reversed(run.reported) if line["destination"] == B)
    assert last["reason"] == "dest-b is down: dest-b: refused"
    assert [record.message for record in caplog.records if "is down" in record.message] == [
        "route default: dest-b is down, and its copies fail until it is available: dest-b: refused"
    ]


async def test_while_the_source_is_down_nothing_is_requested_for_any_destination() -> None:
    run = Run(Stores(Outage(SOURCE)), concurrency=1)
    async with started(run):
        await run.copy(*(f"k{number}" for number in range(100)))
    assert len(run.stores.jobs) < 10
    assert {outcome for _, _, outcome in run.outcomes()} == {"failed"}


async def test_a_store_is_probed_at_growing_intervals_and_used_again_when_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(executor, "INITIAL_PROBE_INTERVAL_S", 0.05)
    outage = Outage(B)
    run = Run(Stores(outage), concurrency=1)
    async with started(run):
        await run.copy(*(f"k{number}" for number in range(10)), destinations=(B,))
        requests = len(run.stores.jobs)
        await asyncio.sleep(0.06)
        await run.copy("probe 1", "not a probe", destinations=(B,))
        assert len(run.stores.jobs) == requests + 1, "one probe"
        await asyncio.sleep(0.06)
        await run.copy("too early", destinations=(B,))
        assert len(run.stores.jobs) == requests + 1, "the interval doubles"
        await asyncio.sleep(0.06)
        outage.is_over = True
        await run.copy("probe 2", "next", destinations=(B,))
    assert {("probe 2", B, "copied"), ("next", B, "copied")} <= run.outcomes()
    assert "route default: dest-b works again" in caplog.text


async def test_a_stop_starts_nothing_more_and_waits_for_running_copies() -> None:
    run = Run(Stores(), concurrency=2)
    run.stores.may_end.clear()
    async with started(run) as stop:
        await run.executor.enqueue([JobRequest(f"k{number}", (A,)) for number in range(5)])
        await asyncio.sleep(0.02)
        stop.set()
        await asyncio.sleep(0.02)
        assert run.executor.running == 2
        run.stores.may_end.set()
    assert len(run.stores.copied) == 2
    assert run.stores.limiter.is_stopped, "copies that wait for a rate limit end"


async def test_copies_that_outlast_the_drain_are_cancelled() -> None:
    run = Run(Stores())
    run.stores.may_end.clear()
    async with started(run, drain_s=0.05) as stop:
        await run.executor.enqueue([JobRequest("k", (A,))])
        await asyncio.sleep(0.02)
        stop.set()
    assert (run.stores.running, run.stores.copied) == (0, [])


async def test_a_copy_that_a_stop_released_has_no_outcome() -> None:
    run = Run(Stores(lambda key, name: JobReleased("stopping")))
    async with started(run):
        await run.copy("k")
    assert run.reported == []
