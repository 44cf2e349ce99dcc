"""Size limits, and the memory and disk budget of copies."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from s3s3.errors import AccessDenied, SpoolTooSmall, SpoolUnavailable, TooLarge
from s3s3.model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Result
from s3s3.s3 import PutResult
from s3s3.transfer.budget import (
    MAX_IN_MEMORY_BYTES,
    STREAM_BYTES,
    BudgetRequest,
    CopyBudget,
    needs_multipart,
    part_bytes_of,
)
from tests.scripted_store import Object
from tests.transfer.scene import BIG, KEY, PARTS, SIZES, SMALL, TINY, Scene


async def test_object_over_single_put_limit_fails_unread_and_names_the_setting() -> None:
    scene = Scene(b"", size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, destinations=2)

    for outcome in await scene.copy():
        assert isinstance(outcome.error, TooLarge) and not outcome.error.retriable
        assert "multipart = true in [swift-" in outcome.reason
        assert outcome.source_size_bytes == SINGLE_PUT_LIMIT_BYTES + 1
    assert scene.source.bytes_read == 0
    assert scene.destination.requests == []


async def test_object_over_single_put_limit_is_not_reported_as_too_large_for_the_spool() -> None:
    scene = Scene(
        b"", etag=PARTS, size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, budget=CopyBudget(spool_bytes=MAX_IN_MEMORY_BYTES)
    )

    assert isinstance((await scene.outcome()).error, TooLarge)


async def test_equal_object_over_the_limit_is_the_same() -> None:
    huge = Object(b"", PARTS, size_bytes=SINGLE_PUT_LIMIT_BYTES + 1)
    scene = Scene(destinations=2)
    scene.source.objects[KEY] = scene.destination.objects[KEY] = huge

    same, too_large = await scene.copy(compare=True)

    assert same.result is Result.SAME
    assert isinstance(too_large.error, TooLarge)


async def test_object_larger_than_the_spool_fails_unread_and_names_the_setting() -> None:
    scene = Scene(BIG, etag=PARTS, budget=CopyBudget(spool_bytes=MAX_IN_MEMORY_BYTES))

    outcome = await scene.outcome()

    assert isinstance(outcome.error, SpoolTooSmall)
    assert "spool_bytes" in outcome.reason
    assert scene.source.bytes_read == 0


async def test_unwritable_spool_is_retriable() -> None:
    outcome = await Scene(BIG, etag=PARTS, budget=CopyBudget(spool_dir="/no/such/directory")).outcome()

    assert isinstance(outcome.error, SpoolUnavailable) and outcome.error.retriable
    assert "spool_dir" in outcome.reason


@pytest.mark.parametrize(
    ("content", "etag"), [(SMALL, ""), (BIG, ""), (BIG, PARTS)], ids=["small", "streamed", "spooled"]
)
async def test_copy_waits_for_its_budget_without_an_open_connection(content: bytes, etag: str) -> None:
    budget = CopyBudget(spool_bytes=len(BIG), memory_bytes=STREAM_BYTES)
    scene = Scene(content, etag=etag, budget=budget)
    await budget.acquire(BudgetRequest(STREAM_BYTES, len(BIG)))
    copying = asyncio.create_task(scene.outcome())
    await asyncio.sleep(0.05)

    assert (scene.source.open_streams, scene.source.bytes_read, scene.destination.requests) == (0, 0, [])

    budget.release(BudgetRequest(STREAM_BYTES, len(BIG)))
    assert (await copying).result is Result.COPIED
    assert scene.stored().content == content


async def test_small_object_needs_no_budget() -> None:
    budget = CopyBudget(memory_bytes=STREAM_BYTES)
    await budget.acquire(BudgetRequest(STREAM_BYTES))

    assert (await asyncio.wait_for(Scene(TINY, budget=budget).outcome(), 5)).result is Result.COPIED


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_copy_releases_its_whole_budget(content: bytes, etag: str) -> None:
    budget = CopyBudget(spool_bytes=len(BIG), memory_bytes=STREAM_BYTES)
    scene = Scene(content, etag=etag, budget=budget)
    for _ in range(2):
        await scene.copy()

    def refuse(_: Object) -> PutResult:
        raise AccessDenied("no", store="swift-0")

    scene.destination.answers = refuse
    await scene.copy()
    scene.source.objects[KEY] = replace(scene.source.objects[KEY], size_bytes=len(content) + 1)
    await scene.copy()

    assert budget.try_acquire(BudgetRequest(STREAM_BYTES, len(BIG)))


async def test_object_that_grew_while_its_copy_waited_acquires_a_larger_budget() -> None:
    budget = CopyBudget(memory_bytes=STREAM_BYTES)
    scene = Scene(SMALL, budget=budget)
    await budget.acquire(BudgetRequest(STREAM_BYTES))
    copying = asyncio.create_task(scene.outcome())
    await asyncio.sleep(0.02)
    scene.source.objects[KEY] = Object(BIG)
    budget.release(BudgetRequest(STREAM_BYTES))

    assert (await copying).result is Result.COPIED
    assert scene.stored().content == BIG
    assert budget.try_acquire(BudgetRequest(STREAM_BYTES))


@pytest.mark.parametrize(
    ("size_bytes", "threshold_bytes", "part_bytes"),
    [
        (6 * 1024**3, 5 * 1024**3, 64 * 1024**2),
        (6 * 1024**2, 5 * 1024**2, 5 * 1024**2),
        (10_000 * 64 * 1024**2, 5 * 1024**3, 64 * 1024**2),
        (10_000 * 64 * 1024**2 + 1, 5 * 1024**3, 65 * 1024**2),
        (5 * 1024**4, 5 * 1024**3, 525 * 1024**2),
    ],
)
def test_number_of_parts_stays_within_the_limit(size_bytes: int, threshold_bytes: int, part_bytes: int) -> None:
    endpoint = Endpoint("swift", "b", multipart=True, multipart_threshold_bytes=threshold_bytes)
    assert part_bytes_of(endpoint, size_bytes) == part_bytes
    assert -(-size_bytes // part_bytes) <= 10_000
    assert needs_multipart(endpoint, size_bytes)
    assert not needs_multipart(endpoint, threshold_bytes)
    assert not needs_multipart(replace(endpoint, multipart=False), size_bytes)


async def test_destination_without_multipart_fails_alone_and_needs_no_budget() -> None:
    scene = Scene(b"", size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, destinations=2)
    scene.destination.settings = {"multipart": True}
    scene.budget = CopyBudget(spool_bytes=1)
    with_parts, without = await scene.copy()
    assert isinstance(with_parts.error, SpoolTooSmall) or "spool_bytes" in with_parts.reason
    assert without.result is Result.FAILED
