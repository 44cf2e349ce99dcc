"""Processes that share a reconcile of slow listings."""

from __future__ import annotations

import asyncio
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3s3.config import WorkerSettings
from s3s3.model import Endpoint, Entry, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile import distributed
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.range_splitter import split_points
from s3s3.reconcile.summary import ReconcileSummary

pytestmark = pytest.mark.real

ROUTE = Route("images", Endpoint("source", "a"), (Endpoint("ceph", "b"),))
SETTINGS = WorkerSettings(
    concurrency=4, max_attempts=2, lease_s=10, spool_dir=Path(tempfile.gettempdir()), spool_bytes=2**20
)
KEYS = [f"{number:05}" for number in range(15_000)]  # fewer than COMMIT_ENTRIES


class Listed:
    """A store with slow listings."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.name = endpoint, endpoint.name

    async def pages(self, start_after: str = "", until: str | None = None) -> AsyncIterator[list[Entry]]:
        found = KEYS[bisect_right(KEYS, start_after) : None if until is None else bisect_right(KEYS, until)]
        for at in range(0, len(found), 200):
            await asyncio.sleep(0.02)
            yield entries(found[at : at + 200])

    async def list_after(self, start_after: str, most: int) -> list[Entry]:
        at = bisect_right(KEYS, start_after)
        return entries(KEYS[at : at + most])

    def is_valid_key(self, key: str) -> bool:
        return True


def entries(keys: Sequence[str]) -> list[Entry]:
    return [Entry(key, 1, "e" * 32) for key in keys]


@pytest.mark.long
async def test_a_slow_range_is_split_after_a_few_seconds_even_if_it_has_few_entries(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "COMMIT_INTERVAL_S", 0.2)
    monkeypatch.setattr(distributed, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(distributed, "split_points", none_at_first(split_points))
    monkeypatch.delattr(distributed, "with_worker")  # a dry run runs none
    stores: Any = SimpleNamespace(
        route=ROUTE, source=Listed(ROUTE.source), destinations=(Listed(ROUTE.destinations[0]),), metrics=Metrics(),
        limits={}, copy=None,
    )  # fmt: skip
    compared: list[int] = []
    async with connected(redis_url) as client:

        async def join(number: int) -> ReconcileSummary:
            summary = ReconcileSummary("images", ("ceph",), lambda _: compared.append(number))
            await distributed.reconcile_distributed(
                stores,
                RedisJobQueue(client, "images", ["ceph"]),
                SETTINGS,
                ReconcileOptions(dry_run=True),
                asyncio.Event(),
                summary=summary,
            )
            return summary

        summaries = await asyncio.gather(join(0), join(1))
    assert [summary.source_entries for summary in summaries] == [len(KEYS)] * 2
    assert len(compared) == len(KEYS), "each key is compared once"
    assert min(compared.count(0), compared.count(1)) > 1000, "both processes took part"


def none_at_first(split_points: Any) -> Any:
    """Find no split points at the first call."""
    calls = 0

    async def split(*arguments: Any) -> list[str]:
        nonlocal calls
        calls += 1
        return [] if calls == 1 else await split_points(*arguments)

    return split
