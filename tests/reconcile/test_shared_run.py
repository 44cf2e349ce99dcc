"""What the processes that share a run keep in Redis."""

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


async def part(client: Redis, lease_s: float = 60.0) -> SharedRun:
    shared = SharedRun(RedisJobQueue(client, "images", ["ceph"]), lease_s)
    await shared.begin({"force": False})
    return shared


def counted(**counts: int) -> ReconcileSummary:
    tally = ReconcileSummary("images", ("ceph",))
    tally.source_entries = sum(counts.values())
    for word, count in counts.items():
        tally.count("ceph", word, "etag", count)
    return tally


async def test_who_comes_second_takes_part_in_the_run_of_the_first(client: Redis) -> None:
    one, other = await part(client), await part(client)
    assert (one.is_new, other.is_new) == (True, False)
    assert one.id == other.id
    assert other.options == {"force": False}


async def test_ranges_are_cut_and_no_two_processes_have_the_same(client: Redis) -> None:
    one, other = await part(client), await part(client)
    mine = await one.take()
    assert mine is not None
    assert (mine.after, mine.until, mine.wanting) == ("", None, 1)
    assert await other.take() is None
    await one.go_on(mine, "", counted(), ["b", "new\nline \x01", "\u65e5"])
    assert (mine.after, mine.until, mine.wanting) == ("", "b", -2)
    taken = [await other.take() for _ in range(4)]
    assert [held and (held.after, held.until) for held in taken] == [
        ("b", "new\nline \x01"), ("new\nline \x01", "\u65e5"), ("\u65e5", None), None,
    ]  # fmt: skip


async def test_what_is_counted_is_counted_once_and_the_last_range_ends_the_run(client: Redis) -> None:
    one, other = await part(client), await part(client)
    mine = await one.take()
    assert mine is not None
    await one.go_on(mine, "m", counted(same=3, source_missing=1), ["p"])
    await one.go_on(mine, "n", counted(copied=2))
    theirs = await other.take()
    assert theirs is not None
    assert (theirs.after, theirs.until) == ("p", None)
    failed = counted()
    failed.errors["ceph"] = "away"
    await other.go_on(theirs, None, failed)
    with pytest.raises(RunFinished):
        await one.go_on(mine, None, counted(same=1))
    with pytest.raises(RunFinished):
        await other.take()
    tally = ReconcileSummary("images", ("ceph",))
    assert await other.state(tally) == 0
    assert tally.counts == {"ceph": {"same": 4, "source_missing": 1, "copied": 2}}
    assert (tally.source_entries, tally.errors) == (7, {"ceph": "away"})
    assert (await part(client)).is_new, "a run that has ended is not taken part in"


async def test_a_range_whose_process_was_killed_goes_on_where_it_was(client: Redis) -> None:
    killed, other = await part(client, 0.3), await part(client, 0.3)
    lost = await killed.take()
    assert lost is not None
    await killed.go_on(lost, "k", counted(same=2))
    assert await other.take() is None
    assert await killed.renew(lost)
    await asyncio.sleep(0.4)
    taken = await other.take()
    assert taken is not None
    assert (taken.after, taken.until) == ("k", None)
    assert not await killed.renew(lost)
    with pytest.raises(LeaseLost):
        await killed.go_on(lost, None, counted(same=5))
    await killed.leave(lost)
    assert await other.renew(taken), "what is another's is not given back"
    with pytest.raises(RunFinished):
        await other.go_on(taken, None, counted(same=5))
    tally = ReconcileSummary("images", ("ceph",))
    await other.state(tally)
    assert tally.counts == {"ceph": {"same": 7}}


async def test_a_range_that_is_given_back_is_there_at_once(client: Redis) -> None:
    one, other = await part(client), await part(client)
    mine = await one.take()
    assert mine is not None
    await one.leave(mine)
    assert await other.take() is not None


async def test_afresh_forgets_a_run_of_which_nobody_is_alive_only(client: Redis) -> None:
    one = await part(client)
    await one.take()
    other = SharedRun(RedisJobQueue(client, "images", ["ceph"]), 60.0)
    await other.begin({"force": True}, afresh=True)
    assert not other.is_new
    await client.delete(f"s3s3:{{images}}:distributed:{one.id}:workers")
    await other.begin({"force": True}, afresh=True)
    assert other.is_new
    assert await other.take() is not None
    with pytest.raises(RunFinished):
        await one.take()


async def test_every_key_expires(client: Redis) -> None:
    one = await part(client)
    mine = await one.take()
    assert mine is not None
    await one.go_on(mine, "a", counted(same=1), ["b"])
    found = [key async for key in client.scan_iter("s3s3:*")]
    assert len(found) == 5
    for key in found:
        assert await client.pttl(key) > 0, key
