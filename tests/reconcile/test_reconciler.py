"""A failed listing prevents deletions; dry runs; metrics."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3s3.config import WorkerSettings
from s3s3.errors import ListingOutOfOrder, S3S3Error, StoreUnavailable
from s3s3.model import Endpoint, Entry, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.reconcile import reconciler
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.reconciler import Reconciler, reconcile_with_worker
from s3s3.reconcile.summary import ReconcileSummary

ROUTE = Route("default", Endpoint("source", "a"), (Endpoint("dest", "b", delete=True, max_delete=1),))
SETTINGS = WorkerSettings(
    concurrency=4, max_attempts=2, lease_s=10, spool_dir=Path(tempfile.gettempdir()), spool_bytes=2**20
)


class Listed:
    """A store that can be listed; an error among the pages is raised in its place."""

    def __init__(self, endpoint: Endpoint, *pages: Sequence[str] | S3S3Error) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self._pages = pages

    async def pages(self) -> AsyncIterator[list[Entry]]:
        for page in self._pages:
            if isinstance(page, S3S3Error):
                raise page
            yield [Entry(key, 1, "e" * 32) for key in page]


class NoCopies:
    """Fails the test if anything is copied or deleted."""

    def __len__(self) -> int:
        return 0

    async def enqueue(self, requests: Sequence[JobRequest]) -> None:
        assert not requests

    async def poll(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("allow_empty", [False, True])
@pytest.mark.parametrize(
    "error", [ListingOutOfOrder("b after c", store="source"), StoreUnavailable("x", store="source")]
)
@pytest.mark.parametrize("before", [[], [["a"]], [["a"], ["c"]]])
async def test_a_source_whose_listing_fails_deletes_nothing(
    error: S3S3Error, before: list[list[str]], allow_empty: bool
) -> None:
    source = Listed(ROUTE.source, *before, error)
    with pytest.raises(type(error)):
        await reconcile(
            source, Listed(ROUTE.destinations[0], ["a", "b", "c", "d"]), ReconcileOptions(allow_empty=allow_empty)
        ).run()


async def test_nothing_is_deleted_at_a_destination_whose_listing_fails() -> None:
    away = StoreUnavailable("x", store="dest")
    run = reconcile(Listed(ROUTE.source, ["a"]), Listed(ROUTE.destinations[0], ["a", "b"], away))
    summary = await run.run()
    assert (summary.counts, list(summary.errors)) == ({"dest": {"same": 1, "extraneous": 1}}, ["dest"])
    assert not summary.proven


class Stuck(Listed):
    """A store with an endless listing."""

    async def pages(self) -> AsyncIterator[list[Entry]]:
        async for page in super().pages():
            yield page
        await asyncio.Event().wait()


@pytest.mark.parametrize("listed", [Listed, Stuck])
async def test_a_dry_run_has_no_worker_and_ends_at_a_stop(
    listed: type[Listed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(reconciler, "with_worker")
    stores: Any = SimpleNamespace(
        metrics=Metrics(),
        route=ROUTE,
        source=listed(ROUTE.source, ["a"], ["b"]),
        destinations=(Listed(ROUTE.destinations[0], ["a"]),),
        read_error=None,
    )
    stop = asyncio.Event()
    if listed is Stuck:
        asyncio.get_running_loop().call_later(0.05, stop.set)
    run = reconcile_with_worker(stores, None, SETTINGS, ReconcileOptions(dry_run=True), stop)
    summary = await asyncio.wait_for(run, 10)
    assert summary.ended == (listed is Listed)
    if summary.ended:
        assert summary.counts == {"dest": {"same": 1, "would_copy": 1}}


async def test_the_metrics_count_entries_by_destination_and_reason() -> None:
    metrics = Metrics()
    source, destination = Listed(ROUTE.source, ["a", "b"]), Listed(ROUTE.destinations[0], ["b", "c"])
    await reconcile(source, destination, ReconcileOptions(dry_run=True), metrics).run()
    lines = [line for line in metrics.page().decode().splitlines() if line.startswith("s3s3_reconcile_entries_total")]
    assert sorted(lines) == [
        f's3s3_reconcile_entries_total{{destination="dest",reason="{reason}",route="default"}} 1.0'
        for reason in ("missing", "same", "source_missing")
    ]


def reconcile(
    source: Listed,
    destination: Listed,
    options: ReconcileOptions = ReconcileOptions(),  # noqa: B008
    metrics: Metrics | None = None,
) -> Reconciler:
    stores: Any = SimpleNamespace(
        route=ROUTE, source=source, destinations=[destination], metrics=metrics or Metrics(), read_error=None
    )
    copies: Any = NoCopies()
    return Reconciler(stores, copies, options, SETTINGS, ReconcileSummary(ROUTE.name, ROUTE.destination_names))
