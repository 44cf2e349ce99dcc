"""One process's part in a run that several share, over listings that are slow to read."""

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
from s3s3.reconcile.range_splitter import cuts
from s3s3.reconcile.summary import ReconcileSummary

pytestmark = pytest.mark.real

ROUTE = Route("images", Endpoint("source", "a"), (Endpoint("ceph", "b"),))
SETTINGS = WorkerSettings(
    concurrency=4, max_attempts=2, lease_s=10, spool_dir=Path(tempfile.gettempdir()), spool_bytes=2**20
)
KEYS = [f"{number:05}" for number in range(15_000)]  # fewer than a turn has


class Listed:
    """What a comparison asks of a store; each page takes a while."""

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


async def test_a_slow_range_is_shared_after_a_while_however_few_entries_it_has(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "TURN_S", 0.2)
    monkeypatch.setattr(distributed, "PAUSE_S", 0.05)
    monkeypatch.setattr(distributed, "cuts", no_cuts_at_first(cuts))
    monkeypatch.delattr(distributed, "with_worker")  # a dry run has none
    stores: Any = SimpleNamespace(
        route=ROUTE, source=Listed(ROUTE.source), destinations=(Listed(ROUTE.destinations[0]),), metrics=Metrics(),
        limits={}, copy=None,
    )  # fmt: skip
    compared: list[int] = []
    async with connected(redis_url) as client:

        async def take_part(number: int) -> ReconcileSummary:
            tally = ReconcileSummary("images", ("ceph",), lambda _: compared.append(number))
            await distributed.reconcile_together(
                stores,
                RedisJobQueue(client, "images", ["ceph"]),
                SETTINGS,
                ReconcileOptions(dry_run=True),
                asyncio.Event(),
                summary=tally,
            )
            return tally

        tallies = await asyncio.gather(take_part(0), take_part(1))
    assert [tally.source_entries for tally in tallies] == [len(KEYS)] * 2
    assert len(compared) == len(KEYS), "each key is compared once"
    assert min(compared.count(0), compared.count(1)) > 1000, "both had their part"


def no_cuts_at_first(cuts: Any) -> Any:
    """Who is first finds nothing to cut, as where the names of keys tell nothing."""
    asked = 0

    async def cut(*arguments: Any) -> list[str]:
        nonlocal asked
        asked += 1
        return [] if asked == 1 else await cuts(*arguments)

    return cut
