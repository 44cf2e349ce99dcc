"""Server-side copies within one store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from s3s3.errors import LeaseLost, NoSuchKey, StoreRefused
from s3s3.model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Result, Secret
from s3s3.s3 import PutResult
from s3s3.transfer.copier import Copier
from s3s3.transfer.server_side_copy import is_same_store
from tests.scripted_store import Object, unavailable
from tests.transfer.scene import BIG, KEY, LOOKS_LIKE_AN_MD5, TINY, ExpiringLease, Scene, md5


def one_store_with(content: bytes = TINY, **about: Any) -> Scene:
    """A source and two destinations; the first is in the source's own store."""
    scene = Scene(content, destinations=2, **about)
    scene.transfer = Copier(
        scene.source, scene.budget, metrics=scene.metrics, route="default", server_side=["swift-0"]  # type: ignore[arg-type]
    )  # fmt: skip
    scene.destination.copies = lambda: scene.source.objects[KEY]
    return scene


async def test_server_side_copy_and_put_to_another_store() -> None:
    scene = one_store_with()

    first, other = await scene.copy()

    assert (first.result, first.source_md5, first.destination_md5) == (
        Result.COPIED,
        md5(TINY),
        md5(TINY),
    )
    assert other.result is Result.COPIED
    assert scene.source.requests == ["HEAD", "GET"]
    assert [store.requests for store in scene.destinations] == [["COPY"], ["PUT"]]


async def test_compare_copies_server_side_only_what_differs() -> None:
    scene = one_store_with()
    scene.transfer = Copier(
        scene.source, scene.budget, metrics=scene.metrics, route="default", server_side=["swift-0", "swift-1"]  # type: ignore[arg-type]
    )  # fmt: skip
    scene.destination.objects[KEY] = Object(TINY)
    scene.destinations[1].copies = lambda: scene.source.objects[KEY]

    same, copied = await scene.copy(compare=True)

    assert (same.result, copied.result, copied.reason) == (Result.SAME, Result.COPIED, "missing")
    assert scene.source.bytes_read == 0
    assert [store.requests for store in scene.destinations] == [["HEAD"], ["HEAD", "COPY"]]


@pytest.mark.parametrize(
    "copies",
    [
        PutResult(LOOKS_LIKE_AN_MD5, False, False),
        PutResult("", False, False),
        PutResult(md5(TINY), True, False),
        StoreRefused("no such thing", store="swift-0", status=501),
        StoreRefused("changed", store="swift-0", status=412),
        NoSuchKey("gone", store="swift-0", status=404),
    ],
)
async def test_unproven_server_side_copy_is_followed_by_a_put(
    copies: PutResult | Exception,
) -> None:
    scene = one_store_with()

    def copy() -> PutResult:
        if isinstance(copies, Exception):
            raise copies
        return copies

    scene.destination.copies = copy

    assert [outcome.result for outcome in await scene.copy()] == [Result.COPIED] * 2
    assert scene.destination.requests == ["COPY", "PUT"]
    assert scene.stored().content == TINY


@pytest.mark.parametrize(("status", "asked"), [(501, 1), (403, 3)])
async def test_store_without_server_side_copy_is_no_longer_asked(status: int, asked: int) -> None:
    scene = one_store_with()

    def refuse() -> Object:
        raise StoreRefused("no", store="swift-0", status=status)

    scene.destination.copies = refuse
    for _ in range(5):
        await scene.copy()

    assert scene.destination.requests.count("COPY") == asked
    assert scene.source.requests.count("HEAD") == asked


async def test_store_that_made_a_server_side_copy_is_asked_again_after_refusals() -> None:
    scene = one_store_with()
    await scene.copy()
    copies = scene.destination.copies
    scene.destination.copies = lambda: PutResult("another", False, False)
    for _ in range(5):
        await scene.copy()
    scene.destination.copies = copies
    await scene.copy()

    assert scene.destination.requests[-1] == "COPY"


@pytest.mark.parametrize("about", [{"encrypted": True}, {"size_bytes": SINGLE_PUT_LIMIT_BYTES + 1}])
async def test_no_server_side_copy_if_unprovable_or_too_large(about: dict[str, Any]) -> None:
    scene = one_store_with(**about)
    await scene.copy()
    assert "COPY" not in scene.destination.requests


async def test_server_side_copy_without_response_is_indeterminate() -> None:
    scene = one_store_with()

    def silent() -> Object:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.copies = silent
    failed, other = await scene.copy()

    assert (failed.result, failed.indeterminate) == (Result.FAILED, True)
    assert other.result is Result.COPIED
    assert scene.destination.requests == ["COPY"]


async def test_large_object_is_put_after_its_server_side_copy_timed_out() -> None:
    scene = one_store_with(BIG)

    def silent() -> Object:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.copies = silent
    await scene.copy()
    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert scene.destination.requests == ["COPY", "PUT"]


async def test_expired_lease_prevents_server_side_copy() -> None:
    lost, _ = await one_store_with().copy(check_lease=ExpiringLease(0))
    assert isinstance(lost.error, LeaseLost)
    assert not lost.indeterminate


async def test_object_without_an_etag_is_not_copied_server_side() -> None:
    scene = one_store_with()
    scene.source.objects[KEY] = Object(TINY)
    scene.destination.copies = lambda: PutResult("", False, False)
    without_etag = scene.source.objects[KEY].info(KEY)._replace(etag="")
    scene.source.head = AsyncMock(return_value=without_etag)  # type: ignore[method-assign]

    await scene.copy()

    assert scene.destination.requests == ["PUT"]


async def test_missing_source_is_confirmed_by_get_head_and_list_before_a_deletion() -> None:
    scene = one_store_with()
    scene.source.objects.clear()
    scene.destination.settings = {"delete": True}
    scene.destination.objects[KEY] = Object(TINY)

    deleted, _ = await scene.copy()

    assert deleted.result is Result.DELETED
    assert scene.source.requests == ["HEAD", "GET", "HEAD", "LIST"]


async def test_recorded_etag_is_not_copied_server_side() -> None:
    scene = one_store_with(headers={"content-type": "image/fits"}, recorded_etag="older")
    await scene.copy()
    assert scene.stored().headers == {"content-type": "image/fits"}


CEPH = Endpoint("source", "a", host="ceph.example.org", access_key_id="A", secret_access_key=Secret("s"))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"bucket_name": "b", "prefix": "p/", "name": "dest", "signature_version": "s3v4"}, True),
        ({"host": "CEPH.example.org.", "port": 443}, True),
        ({"port": 7480}, False),
        ({"host": None}, False),
        ({"access_key_id": "B"}, False),
        ({"secret_access_key": Secret("t")}, False),
        ({"is_secure": False, "port": 443}, False),
        ({"region": "eu"}, False),
    ],
)
def test_same_store_means_same_host_port_and_credentials(change: dict[str, Any], same: bool) -> None:
    assert is_same_store(CEPH, replace(CEPH, **change)) is same
