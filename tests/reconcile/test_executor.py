"""Copies without a queue: bounded, reported and drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from s3s3.errors import AccessDenied, IntegrityError, JobReleased, StoreUnavailable
from s3s3.model import Endpoint, Job, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.reconcile import executor
from s3s3.reconcile.executor import InProcessExecutor
from s3s3.tasks import cancel
from s3s3.worker import retry_policy
from tests.waiting import until

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

    async def read_error(self, store: str, key: str) -> None:
        return None

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
        result = Result.FAILED if error else Result.COPIED
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
    assert "copy failed: bits differ" in caplog.messages
    assert run.stores.copied.count(("k", B)) == 1, "not retried"


@pytest.mark.internal_errors
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
        return StoreUnavailable("refused", store=self.store, operation="PUT")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry and probe within milliseconds."""
    monkeypatch.setattr(executor, "INITIAL_PROBE_INTERVAL_S", 0.01)
    monkeypatch.setattr(executor, "MAX_PROBE_INTERVAL_S", 0.05)
    monkeypatch.setattr(retry_policy, "INITIAL_RETRY_S", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MAX_OUTAGE_S", 0.2)


def keys_of(count: int) -> list[str]:
    return [f"k{number}" for number in range(count)]


@pytest.mark.parametrize("store", [B, SOURCE])
async def test_copies_wait_while_a_store_is_down_and_none_fails(
    quick: None, caplog: pytest.LogCaptureFixture, store: str
) -> None:
    outage = Outage(store)
    caplog.set_level("INFO")
    run = Run(Stores(outage), concurrency=4)
    keys = keys_of(500)
    async with started(run):
        copying = asyncio.create_task(run.copy(*keys))
        await until(lambda: store in run.executor._outages)
        await until(lambda: store != B or sum(name == A for _, name in run.stores.copied) == len(keys))
        await asyncio.sleep(0.1)
        attempts = sum(name == B for _, name in run.stores.copied)
        outage.is_over = True
        await copying
    assert run.outcomes() == {(key, name, "copied") for key in keys for name in (A, B)}
    assert attempts < 30, "one probe at a time"
    if store == SOURCE:
        assert len(run.stores.jobs) < len(keys) + 30, "each object is read once for both destinations"
    lines = [record for record in caplog.records if record.name == "s3s3.worker.isolation"]
    assert [line.message for line in lines] == ["circuit opened: PUT: refused", "circuit closed"]
    assert {vars(line)["fields"]["destination"] for line in lines} == {store}


async def test_a_single_copy_waits_for_its_store(quick: None) -> None:
    outage = Outage(B)
    run = Run(Stores(outage))
    async with started(run):
        copying = asyncio.create_task(run.copy("k"))
        await until(lambda: B in run.executor._outages)
        outage.is_over = True
        await copying
    assert run.outcomes() == {("k", A, "copied"), ("k", B, "copied")}


async def test_after_a_long_outage_the_rest_fails_with_the_reason_and_few_requests(
    quick: None, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(Stores(Outage(B)), concurrency=4)
    keys = keys_of(500)
    async with started(run):
        await run.copy(*keys)
        requests = sum(name == B for _, name in run.stores.copied)
        await run.copy("late 1", "late 2", "late 3")
    keys += ["late 1", "late 2", "late 3"]
    assert run.outcomes() == {(key, name, result) for key in keys for name, result in ((A, "copied"), (B, "failed"))}
    assert requests < 40
    assert sum(name == B for _, name in run.stores.copied) <= requests + 1
    assert {line["reason"] for line in run.reported if line["destination"] == B} <= {
        "dest-b is down: dest-b: PUT: refused", "dest-b: PUT: refused"
    }  # fmt: skip
    assert "dest-b is down for more than 0.2 s, its copies fail until it works again" in caplog.text


async def test_a_store_that_was_given_up_is_probed_and_used_again(quick: None, impatient: None) -> None:
    outage = Outage(B)
    run = Run(Stores(outage), concurrency=1)
    async with started(run):
        await run.copy(*keys_of(10), destinations=(B,))
        assert {outcome for _, _, outcome in run.outcomes()} == {"failed"}
        outage.is_over = True
        await asyncio.sleep(0.06)
        await run.copy("probe", "next", destinations=(B,))
    assert {("probe", B, "copied"), ("next", B, "copied")} <= run.outcomes()


async def test_objects_that_may_not_be_read_fail_and_all_others_are_copied() -> None:
    def behaviour(key: str, name: str) -> Exception | None:
        return AccessDenied("no", store=SOURCE, operation="GET") if key.startswith("denied") else None

    run = Run(Stores(behaviour), concurrency=4)
    async with started(run):
        await run.copy(*(f"denied{number}" for number in range(30)), *keys_of(300))
    failed = {key for key, _, outcome in run.outcomes() if outcome == "failed"}
    assert failed == {f"denied{number}" for number in range(30)}
    assert len(run.outcomes()) == 2 * 330


@pytest.mark.parametrize("first", [True, False])
async def test_an_object_that_always_fails_fails_alone(quick: None, impatient: None, first: bool) -> None:
    def behaviour(key: str, name: str) -> Exception | None:
        return StoreUnavailable("500", store=B, operation="PUT") if key == "poison" and name == B else None

    run = Run(Stores(behaviour), concurrency=4)
    async with started(run):
        await run.copy(*(["poison"] if first else []), *keys_of(100), *([] if first else ["poison"]))
    assert {(key, name) for key, name, outcome in run.outcomes() if outcome == "failed"} == {("poison", B)}
    assert len(run.outcomes()) == 2 * 101


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
