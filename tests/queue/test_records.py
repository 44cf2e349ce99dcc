"""Reading records, and listing the keys in each state, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from s3s3.model import Lane
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.records import KeyState, list_keys, read_records
from s3s3.queue.redis_queue import RedisJobQueue

pytestmark = pytest.mark.real


@pytest.fixture
async def jobs(redis_url: str) -> AsyncIterator[RedisJobQueue]:
    client = connect(redis_url)
    yield RedisJobQueue(client, "default", ("dest",))
    await client.aclose()


async def enqueue(jobs: RedisJobQueue, count: int, lane: Lane = Lane.FRESH) -> set[str]:
    keys = [f"{lane.value} {number}" for number in range(count)]
    await jobs.enqueue([JobRequest(key, ("dest",)) for key in keys], lane)
    return set(keys)


async def finish(jobs: RedisJobQueue, count: int, disposition: Disposition, recheck: bool = False) -> set[str]:
    keys = await enqueue(jobs, count)
    for job in (await jobs.claim(count, 0, 0, 0)).jobs:
        await jobs.finish(job, {"dest": disposition}, recheck=recheck)
    return keys


async def listed(jobs: RedisJobQueue, state: KeyState, limit: int = 7, store: str = "") -> list[str]:
    """The keys of all pages."""
    found: list[str] = []
    page = await list_keys(jobs, state, limit=limit, store=store)
    while True:
        found += [record.key for record in page.records.records]
        if not page.cursor:
            return found
        page = await list_keys(jobs, state, cursor=page.cursor, limit=limit, store=store)


async def test_queued_and_running_keys_of_both_lanes_are_listed_once(jobs: RedisJobQueue) -> None:
    keys = await enqueue(jobs, 20) | await enqueue(jobs, 20, Lane.BULK)
    running = {job.key for job in (await jobs.claim(10, 5, 5, 0)).jobs}
    queued = await listed(jobs, KeyState.QUEUED)
    assert len(queued) == len(set(queued))
    assert set(queued) == keys - running
    assert set(await listed(jobs, KeyState.RUNNING)) == running
    await jobs.enqueue([JobRequest("bulk 19", ("dest",))], Lane.FRESH)  # leaves an obsolete entry in the bulk lane
    assert (await listed(jobs, KeyState.QUEUED)).count("bulk 19") == 1


async def test_waiting_keys_are_listed_by_the_time_of_their_next_attempt(jobs: RedisJobQueue) -> None:
    keys = await finish(jobs, 20, Disposition(DispositionKind.RETRY, 60.0))
    assert set(await listed(jobs, KeyState.WAITING)) == keys
    page = await list_keys(jobs, KeyState.WAITING, limit=1)
    (record,) = page.records.records
    assert record.retry_at_ms is not None
    assert 0 < record.retry_at_ms - page.records.now_ms <= 60_000
    assert record.attempts == {"dest": 1}


@pytest.mark.long
async def test_parked_keys_are_listed_with_the_next_probe(jobs: RedisJobQueue) -> None:
    await jobs.trip_circuit("dest", "503", "other")
    keys = await finish(jobs, 300, Disposition(DispositionKind.PARK, circuit="dest"))
    assert set(await listed(jobs, KeyState.PARKED, store="dest")) == keys
    found = await read_records(jobs, ["fresh 1"])
    assert found.records[0].parked == ("dest",)
    circuit = found.circuits["dest"]
    assert (circuit.reason, circuit.is_paused) == ("503", False)
    assert circuit.probe_at_ms is not None
    await jobs.pause("dest")
    assert (await read_records(jobs, [])).circuits["dest"].probe_at_ms is None


async def test_rechecks_are_listed(jobs: RedisJobQueue) -> None:
    keys = await finish(jobs, 3, Disposition(DispositionKind.DONE), recheck=True)
    assert set(await listed(jobs, KeyState.RECHECK, limit=2)) == keys
    (record,) = (await read_records(jobs, ["fresh 0"])).records
    assert (record.phase, record.recheck_at_ms is not None) == ("", True)


@pytest.mark.parametrize(("state", "cursor"), [(KeyState.QUEUED, "slow:1"), (KeyState.WAITING, "x")])
async def test_another_cursor_is_refused(jobs: RedisJobQueue, state: KeyState, cursor: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        await list_keys(jobs, state, cursor=cursor)
