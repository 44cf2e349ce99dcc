from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from s3s3.model import Endpoint, Route
from s3s3.queue import store_checks
from s3s3.queue.store_checks import StoreChecks
from tests.waiting import running, until

ROUTE = Route(
    "images",
    Endpoint("source", "images", "ceph.example.org"),
    (Endpoint("dest-a", "a", "swift.example.org", 8080), Endpoint("dest-b", "b", "swift.example.org", 8080)),
)
A, B = ROUTE.destinations


@dataclass
class Known:
    enforcing: set[str] = field(default_factory=set)
    refuted: set[str] = field(default_factory=set)


@pytest.fixture
def checks(client: Redis) -> StoreChecks:
    return StoreChecks(client, ROUTE)


async def test_a_result_is_kept_with_its_date_and_replaced_by_the_next_one(checks: StoreChecks) -> None:
    assert await checks.load() == {}
    await checks.record(A, enforced=False)
    await checks.record(A, enforced=True)
    ((name, check),) = (await checks.load()).items()
    assert (name, check.enforced) == ("dest-a", True)
    assert abs(check.checked_ms - time.time() * 1000) < 60_000


async def test_a_result_belongs_to_host_and_bucket_not_to_the_name(checks: StoreChecks, client: Redis) -> None:
    await checks.record(A, enforced=True)
    moved = dataclasses.replace(ROUTE, destinations=(dataclasses.replace(A, bucket_name="elsewhere"), B))
    assert await StoreChecks(client, moved).load() == {}
    renamed = dataclasses.replace(ROUTE, destinations=(dataclasses.replace(A, name="dest-new"), B))
    assert list(await StoreChecks(client, renamed).load()) == ["dest-new"]
    for other in (dataclasses.replace(ROUTE, name="raw"), dataclasses.replace(ROUTE, namespace="other")):
        assert await StoreChecks(client, other).load() == {}


@pytest.mark.parametrize("record", ["", "?", "[]", "{}", '{"enforced": true}'])
async def test_a_record_of_another_form_counts_as_none(checks: StoreChecks, client: Redis, record: str) -> None:
    await checks.record(A, enforced=True)
    await checks.record(B, enforced=True)
    await client.hset("s3s3:{images}:content-md5", "swift.example.org:8080/a", record)
    assert list(await checks.load()) == ["dest-b"]


async def test_a_process_learns_the_results(checks: StoreChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_checks, "REFRESH_S", 0.05)
    known = Known()
    async with running(checks.follow(known)):
        await checks.record(A, enforced=True)
        await checks.record(B, enforced=False)
        await until(lambda: known.enforcing == {"dest-a"})
        await checks.record(A, enforced=False)
        await until(lambda: not known.enforcing)


async def test_what_a_copy_has_refuted_is_recorded_once_and_ignored_here_until_the_process_ends(
    checks: StoreChecks,
) -> None:
    await checks.record(A, enforced=True)
    known = Known()
    await checks.refresh(known)
    known.refuted |= {"dest-a", "source"}
    await checks.refresh(known)
    assert known.enforcing == set()
    assert not (await checks.load())["dest-a"].enforced, "the other processes learn it"
    await checks.record(A, enforced=True)  # the operator has repaired the store, and checked it again
    await checks.refresh(known)
    assert (await checks.load())["dest-a"].enforced
    assert known.enforcing == set()


async def test_redis_may_be_away_meanwhile(checks: StoreChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_checks, "REFRESH_S", 0.01)
    away = StoreChecks(Redis(port=1), ROUTE)
    async with running(away.follow(Known())) as task:
        await asyncio.sleep(0.2)
        assert not task.done()
