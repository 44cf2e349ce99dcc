"""Propagation of deletions at the source."""

from __future__ import annotations

import pytest

from s3s3.errors import (
    AccessDenied,
    ContentUnreadable,
    LeaseLost,
    NoSuchBucket,
    NoSuchKey,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from s3s3.model import Result
from s3s3.transfer.copier import Copier
from tests.scripted_store import Object, unavailable
from tests.transfer.scene import BIG, KEY, LOOKS_LIKE_AN_MD5, PARTS, TINY, ExpiringLease, Scene


def gone_from_the_source(**settings: object) -> Scene:
    """Two destinations have a key that the source lacks; the first has `delete = true`."""
    scene = Scene(destinations=2)
    scene.source.objects.clear()
    scene.destination.settings = {"delete": True, **settings}
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY)
    return scene


async def test_object_missing_at_the_source_is_deleted_where_delete_is_enabled() -> None:
    scene = gone_from_the_source()

    deleted, left = await scene.copy()

    assert (deleted.result, deleted.reason) == (Result.DELETED, "source_missing")
    assert left.result is Result.SOURCE_MISSING
    assert [store.requests for store in scene.destinations] == [["DELETE"], []]
    assert KEY not in scene.destination.objects
    assert KEY in scene.destinations[1].objects


async def test_compare_deletes_only_existing_objects() -> None:
    scene = gone_from_the_source()

    deleted, _ = await scene.copy(compare=True)
    absent, _ = await scene.copy(compare=True)

    assert (deleted.result, deleted.destination_size_bytes) == (Result.DELETED, len(TINY))
    assert absent.result is Result.SOURCE_MISSING
    assert scene.destination.requests == ["HEAD", "DELETE", "HEAD"]


NO_SUCH_KEY = NoSuchKey("gone", store="ceph", operation="GET", key=KEY, status=404, code="NoSuchKey")


@pytest.mark.parametrize("compare", [False, True])
async def test_object_that_only_a_get_misses_is_a_retriable_failure(compare: bool) -> None:
    scene = gone_from_the_source()
    scene.source.objects[KEY] = Object(TINY)
    scene.source.serves[KEY] = [NO_SUCH_KEY]

    outcomes = await scene.copy(compare=compare)

    assert [outcome.result for outcome in outcomes] == [Result.FAILED] * 2
    assert all(isinstance(outcome.error, ContentUnreadable) and outcome.error.retriable for outcome in outcomes)
    assert all("listed, but its content cannot be read" in outcome.reason for outcome in outcomes)
    assert scene.source.requests == ["GET", "HEAD"]
    assert [store.requests for store in scene.destinations] == [[], []]


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("compare", [False, True])
async def test_object_that_only_the_listing_still_has_is_neither_deleted_nor_missing(
    compare: bool, delete: bool
) -> None:
    scene = gone_from_the_source(delete=delete)
    scene.source.ghosts[KEY] = Object(TINY)

    outcomes = await scene.copy(compare=compare)

    assert all(isinstance(outcome.error, ContentUnreadable) for outcome in outcomes)
    assert scene.source.requests == ["GET", "HEAD", "LIST"]
    assert [store.requests for store in scene.destinations] == [[], []]


async def test_object_created_between_get_and_head_is_copied_by_the_next_attempt() -> None:
    scene = gone_from_the_source()
    created = Object(b"newer")
    scene.source.objects[KEY] = created
    scene.source.serves[KEY] = [NO_SUCH_KEY, created]

    await scene.copy()
    outcomes = await scene.copy(compare=True)

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert scene.stored().content == b"newer"


async def test_failed_head_at_the_source_prevents_deletion() -> None:
    scene = gone_from_the_source()
    scene.source.head_error = StoreUnavailable("away", store="ceph", operation="HEAD")

    outcomes = await scene.copy()

    assert [(outcome.result, outcome.error) for outcome in outcomes] == [(Result.FAILED, scene.source.head_error)] * 2
    assert KEY in scene.destination.objects


async def test_content_that_disappears_while_it_is_compared_is_not_deleted_elsewhere() -> None:
    scene = Scene(BIG, etag=PARTS)
    scene.source.verify_md5 = True
    scene.destination.settings = {"delete": True}
    scene.destination.objects[KEY] = Object(BIG)
    scene.source.serves[KEY] = [Object(BIG, etag=PARTS), NO_SUCH_KEY]

    outcome = await scene.outcome(compare=True)

    assert isinstance(outcome.error, ContentUnreadable)
    assert scene.destination.requests == ["HEAD"]


@pytest.mark.parametrize(
    "error",
    [
        NoSuchBucket("no such bucket", store="ceph", operation="GET"),
        AccessDenied("no", store="ceph", operation="GET"),
        StoreRefused("not found", store="ceph", operation="GET", status=404),
        StoreUnavailable("away", store="ceph", operation="GET"),
    ],
)
@pytest.mark.parametrize("compare", [False, True])
async def test_only_no_such_key_leads_to_a_deletion(error: StoreError, compare: bool) -> None:
    scene = gone_from_the_source()
    scene.source.get_error = error

    outcomes = await scene.copy(compare=compare)

    assert [outcome.result for outcome in outcomes] == [Result.FAILED] * 2
    assert scene.destination.requests == []


async def test_no_such_key_from_a_destination_deletes_nothing() -> None:
    scene = Scene()
    scene.destination.settings = {"delete": True}
    scene.destination.head_error = NoSuchKey("odd", store="swift-0", operation="HEAD", key=KEY)

    assert (await scene.outcome(compare=True)).result is Result.FAILED
    assert scene.destination.requests == ["HEAD"]


async def test_key_outside_the_route_is_never_deleted() -> None:
    scene = gone_from_the_source()
    scene.transfer = Copier(
        scene.source, scene.budget, metrics=scene.metrics, route="default", matches=lambda key: key != KEY  # type: ignore[arg-type]
    )  # fmt: skip

    assert [outcome.result for outcome in await scene.copy()] == [Result.SOURCE_MISSING] * 2
    assert KEY in scene.destination.objects


async def test_expired_lease_prevents_deletion() -> None:
    scene = gone_from_the_source()

    lost, _ = await scene.copy(check_lease=ExpiringLease(0))

    assert isinstance(lost.error, LeaseLost)
    assert not lost.indeterminate
    assert KEY in scene.destination.objects


async def test_delete_without_response_is_indeterminate() -> None:
    scene = gone_from_the_source()
    scene.destination.delete_error = unavailable("swift-0", indeterminate=True)
    failed, _ = await scene.copy()
    scene.destination.delete_error, scene.destination.deletes_late = None, True
    deleted, _ = await scene.copy()

    assert (failed.result, failed.indeterminate) == (Result.FAILED, True)
    assert (deleted.result, deleted.indeterminate) == (Result.DELETED, True)


async def test_object_deleted_between_two_reads_is_deleted() -> None:
    scene = Scene(BIG, etag=LOOKS_LIKE_AN_MD5)
    scene.destination.settings = {"delete": True}
    first = Object(BIG, etag=LOOKS_LIKE_AN_MD5)
    scene.source.objects.clear()
    scene.source.serves[KEY] = [first, NoSuchKey("gone", store="ceph", operation="GET", key=KEY, status=404)]

    assert (await scene.outcome()).result is Result.DELETED
