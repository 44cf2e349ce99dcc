"""Unconditional copies of fresh notifications."""

from __future__ import annotations

import pytest

from s3s3.errors import AccessDenied, LeaseLost, NoSuchBucket, StoreUnavailable
from s3s3.model import Result
from s3s3.s3 import PutResult
from tests.scripted_store import Object, unavailable
from tests.transfer.scene import BIG, KEY, PARTS, SIZES, ExpiringLease, Scene, md5


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_source_is_read_once_and_written_to_every_destination(content: bytes, etag: str) -> None:
    scene = Scene(content, destinations=3, etag=etag, headers={"content-type": "image/fits", "x-amz-meta-a-b": "1"})

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    assert scene.source.requests == ["GET"]
    for number, store in enumerate(scene.destinations):
        assert store.requests == ["PUT"]
        assert scene.stored(number).content == content
        assert scene.stored(number).headers == {"content-type": "image/fits", "x-amz-meta-a-b": "1"}


@SIZES
async def test_outcome_has_sizes_and_md5s_of_both_sides(content: bytes) -> None:
    outcome = await Scene(content).outcome()

    assert (outcome.key, outcome.result, outcome.error) == (KEY, Result.COPIED, None)
    assert (outcome.source_size_bytes, outcome.destination_size_bytes) == (len(content), len(content))
    assert (outcome.source_md5, outcome.destination_md5) == (md5(content), md5(content))


async def test_missing_source_object_is_source_missing_for_every_destination() -> None:
    scene = Scene(destinations=2)
    scene.source.objects.clear()

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.SOURCE_MISSING] * 2
    assert [store.requests for store in scene.destinations] == [[], []]


async def test_error_of_the_source_fails_every_destination_and_names_the_source() -> None:
    scene = Scene(destinations=2)
    scene.source.get_error = NoSuchBucket("no such bucket", store="ceph", operation="GET", key=KEY)

    for outcome in await scene.copy():
        assert outcome.result is Result.FAILED
        assert outcome.error is scene.source.get_error
        assert outcome.reason == "ceph: GET of 'some/key': no such bucket"


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_failure_of_one_destination_does_not_affect_the_others(content: bytes, etag: str) -> None:
    scene = Scene(content, destinations=2, etag=etag)

    def refuse(_: Object) -> PutResult:
        raise AccessDenied("no", store="swift-0", operation="PUT", key=KEY)

    scene.destination.answers = refuse

    refused, copied = await scene.copy()

    assert (refused.result, copied.result) == (Result.FAILED, Result.COPIED)
    assert isinstance(refused.error, AccessDenied)
    assert scene.stored(1).content == content


# leases


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_expired_lease_prevents_every_write(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    outcome = await scene.outcome(check_lease=ExpiringLease(0))

    assert isinstance(outcome.error, LeaseLost)
    assert not outcome.indeterminate
    assert scene.destination.objects == {}


@pytest.mark.parametrize("etag", ["", PARTS])
async def test_lease_that_expires_during_a_streamed_put_aborts_it(etag: str) -> None:
    scene = Scene(BIG, etag=etag)

    outcome = await scene.outcome(check_lease=ExpiringLease(1))

    assert isinstance(outcome.error, LeaseLost)
    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 1


# indeterminate writes


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_put_without_response_is_indeterminate(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    def break_off(_: Object) -> PutResult:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.answers = break_off

    outcome = await scene.outcome()

    assert isinstance(outcome.error, StoreUnavailable)
    assert outcome.indeterminate


async def test_incomplete_put_is_not_indeterminate() -> None:
    scene = Scene(BIG)

    async def break_off(*_: object, **__: object) -> PutResult:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.put = break_off  # type: ignore[method-assign]

    assert not (await scene.outcome()).indeterminate


async def test_success_after_an_attempt_without_response_is_indeterminate() -> None:
    scene = Scene()
    scene.destination.answers = lambda stored: PutResult(md5(stored.content), False, True)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.indeterminate) == (Result.COPIED, True)


async def test_lease_that_expires_between_two_attempts_is_indeterminate() -> None:
    scene = Scene()
    put = scene.destination.put

    async def put_twice(*arguments: object, **named: object) -> PutResult:
        await put(*arguments, **named)  # type: ignore[arg-type]  # sent, and no answer came
        return await put(*arguments, **named)  # type: ignore[arg-type]

    scene.destination.put = put_twice  # type: ignore[method-assign]

    outcome = await scene.outcome(check_lease=ExpiringLease(1))

    assert isinstance(outcome.error, LeaseLost)
    assert outcome.indeterminate
