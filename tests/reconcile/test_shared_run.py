"""Key ranges and counts of a distributed reconcile in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from s3s3.errors import LeaseLost
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.shared_run import RunFinished, SharedRun
from s3s3.reconcile.summary import ReconcileSummary

pytestmark = pytest.mark.real


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connected(redis_url) as client:
        yield client


async def join(client: Redis, lease_s: float = 60.0) -> SharedRun:
    shared = SharedRun(RedisJobQueue(client, "images", ["ceph"]), lease_s)
    await shared.start({"force": False})
    return shared


def counted(**counts: int) -> ReconcileSummary:
    summary = ReconcileSummary("images", ("ceph",))
    summary.source_entries = sum(counts.values())
    for word, count in counts.items():
        summary.count("ceph", word, "etag", count)
    return summary


async def test_the_second_process_joins_the_reconcile_of_the_first(client: Redis) -> None:
    first, second = await join(client), await join(client)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.id == second.id
    assert second.options == {"force": False}


async def test_ranges_are_split_and_no_two_processes_have_the_same(client: Redis) -> None:
    first, second = await join(client), await join(client)
    mine = await first.acquire_range()
    assert mine is not None
    assert (mine.after, mine.until, mine.shortfall) == ("", None, 1)
    assert await second.acquire_range() is None
    await first.commit_progress(mine, "", counted(), ["b", "new\nline \x01", "\u65e5"])
    assert (mine.after, mine.until, mine.shortfall) == ("", "b", -2)
    taken = [await second.acquire_range() for _ in range(4)]
    assert [each and (each.after, each.until) for each in taken] == [
        ("b", "new\nline \x01"), ("new\nline \x01", "\u65e5"), ("\u65e5", None), None,
    ]  # fmt: skip


async def test_each_outcome_is_counted_once_and_the_last_range_finishes_the_reconcile(client: Redis) -> None:
    first, second = await join(client), await join(client)
    mine = await first.acquire_range()
    assert mine is not None
    await first.commit_progress(mine, "m", counted(same=3, source_missing=1), ["p"])
    await first.commit_progress(mine, "n", counted(copied=2))
    theirs = await second.acquire_range()
    assert theirs is not None
    assert (theirs.after, theirs.until) == ("p", None)
    failed = counted()
    failed.errors["ceph"] = "away"
    await second.commit_progress(theirs, None, failed)
    with pytest.raises(RunFinished):
        await first.commit_progress(mine, None, counted(same=1))
    with pytest.raises(RunFinished):
        await second.acquire_range()
    summary = ReconcileSummary("images", ("ceph",))
    assert await second.load_counts(summary) == 0
    assert summary.counts == {"ceph": {"same": 4, "source_missing": 1, "copied": 2}}
    assert (summary.source_entries, summary.errors) == (7, {"ceph": "away"})
    assert (await join(client)).is_new, "a finished reconcile is not joined"


async def test_a_range_of_a_killed_process_continues_at_its_last_commit(client: Redis) -> None:
    killed, second = await join(client, 0.3), await join(client, 0.3)
    lost = await killed.acquire_range()
    assert lost is not None
    await killed.commit_progress(lost, "k", counted(same=2))
    assert await second.acquire_range() is None
    await killed.renew(lost)
    await asyncio.sleep(0.4)
    taken = await second.acquire_range()
    assert taken is not None
    assert (taken.after, taken.until) == ("k", None)
    with pytest.raises(LeaseLost):
        await killed.renew(lost)
    with pytest.raises(LeaseLost):
        await killed.commit_progress(lost, None, counted(same=5))
    await killed.release_range(lost)
    await second.renew(taken)  # a lost range is not released
    with pytest.raises(RunFinished):
        await second.commit_progress(taken, None, counted(same=5))
    summary = ReconcileSummary("images", ("ceph",))
    await second.load_counts(summary)
    assert summary.counts == {"ceph": {"same": 7}}


async def test_a_released_range_is_available_immediately(client: Redis) -> None:
    first, second = await join(client), await join(client)
    mine = await first.acquire_range()
    assert mine is not None
    await first.release_range(mine)
    assert await second.acquire_range() is not None


async def test_restart_discards_only_a_reconcile_without_live_processes(client: Redis) -> None:
    first = await join(client)
    await first.acquire_range()
    second = SharedRun(RedisJobQueue(client, "images", ["ceph"]), 60.0)
    await second.start({"force": True}, restart=True)
    assert not second.is_new
    await client.delete(f"s3s3:{{images}}:distributed:{first.id}:workers")
    await second.start({"force": True}, restart=True)
    assert second.is_new
    assert await second.acquire_range() is not None
    with pytest.raises(RunFinished):
        await first.acquire_range()


async def test_every_key_expires(client: Redis) -> None:
    first = await join(client)
    mine = await first.acquire_range()
    assert mine is not None
    await first.commit_progress(mine, "a", counted(same=1), ["b"])
    found = [key async for key in client.scan_iter("s3s3:*")]
    assert len(found) == 5
    for key in found:
        assert await client.pttl(key) > 0, key
