"""A fresh notice: copied unseen, under a lease, to each destination for itself."""

from __future__ import annotations

import pytest

from s3s3.errors import AccessDenied, LeaseLost, NoSuchBucket, StoreUnavailable
from s3s3.model import Result
from s3s3.s3 import PutResult
from tests.scripted_store import Object, unavailable
from tests.transfer.scene import BIG, KEY, PARTS, SIZES, ExpiringLease, Scene, md5


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_the_source_is_read_once_and_written_to_every_destination(content: bytes, etag: str) -> None:
    scene = Scene(content, destinations=3, etag=etag, headers={"content-type": "image/fits", "x-amz-meta-a-b": "1"})

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    assert scene.source.requests == ["GET"]
    for number, store in enumerate(scene.destinations):
        assert store.requests == ["PUT"]
        assert scene.held(number).content == content
        assert scene.held(number).headers == {"content-type": "image/fits", "x-amz-meta-a-b": "1"}


@SIZES
async def test_an_outcome_tells_sizes_and_md5s_of_both_sides(content: bytes) -> None:
    outcome = await Scene(content).outcome()

    assert (outcome.key, outcome.result, outcome.error) == (KEY, Result.COPIED, None)
    assert (outcome.source_size_bytes, outcome.destination_size_bytes) == (len(content), len(content))
    assert (outcome.source_md5, outcome.destination_md5) == (md5(content), md5(content))


async def test_an_object_that_the_source_has_no_more_is_gone_for_every_destination() -> None:
    scene = Scene(destinations=2)
    scene.source.objects.clear()

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.SOURCE_MISSING] * 2
    assert [store.requests for store in scene.destinations] == [[], []]


async def test_any_other_error_of_the_source_fails_every_destination_and_names_the_source() -> None:
    scene = Scene(destinations=2)
    scene.source.get_error = NoSuchBucket("no such bucket", store="ceph", operation="GET", key=KEY)

    for outcome in await scene.copy():
        assert outcome.result is Result.FAILED
        assert outcome.error is scene.source.get_error
        assert outcome.reason == "ceph: GET of 'some/key': no such bucket"


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_one_destinations_failure_leaves_the_others_alone(content: bytes, etag: str) -> None:
    scene = Scene(content, destinations=2, etag=etag)

    def refuse(_: Object) -> PutResult:
        raise AccessDenied("no", store="swift-0", operation="PUT", key=KEY)

    scene.destination.answers = refuse

    refused, copied = await scene.copy()

    assert (refused.result, copied.result) == (Result.FAILED, Result.COPIED)
    assert isinstance(refused.error, AccessDenied)
    assert scene.held(1).content == content


# leases


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_nothing_is_written_once_the_lease_is_over(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    outcome = await scene.outcome(check_lease=ExpiringLease(0))

    assert isinstance(outcome.error, LeaseLost)
    assert not outcome.indeterminate
    assert scene.destination.objects == {}


@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_lease_that_ends_during_a_long_put_keeps_the_object_from_being_complete(etag: str) -> None:
    scene = Scene(BIG, etag=etag)

    outcome = await scene.outcome(check_lease=ExpiringLease(1))

    assert isinstance(outcome.error, LeaseLost)
    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 1


# writes without an answer


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_put_that_was_sent_whole_and_got_no_answer_is_told(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    def break_off(_: Object) -> PutResult:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.answers = break_off

    outcome = await scene.outcome()

    assert isinstance(outcome.error, StoreUnavailable)
    assert outcome.indeterminate


async def test_a_put_of_which_the_end_was_never_sent_cannot_be_carried_out_later() -> None:
    scene = Scene(BIG)

    async def break_off(*_: object, **__: object) -> PutResult:
        raise unavailable("swift-0", indeterminate=True)

    scene.destination.put = break_off  # type: ignore[method-assign]

    assert not (await scene.outcome()).indeterminate


async def test_an_attempt_without_an_answer_before_the_one_that_succeeded_is_told() -> None:
    scene = Scene()
    scene.destination.answers = lambda stored: PutResult(md5(stored.content), False, True)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.indeterminate) == (Result.COPIED, True)


async def test_a_lease_that_ended_between_two_attempts_does_not_hide_the_first_one() -> None:
    scene = Scene()
    put = scene.destination.put

    async def put_twice(*arguments: object, **named: object) -> PutResult:
        await put(*arguments, **named)  # type: ignore[arg-type]  # sent, and no answer came
        return await put(*arguments, **named)  # type: ignore[arg-type]

    scene.destination.put = put_twice  # type: ignore[method-assign]

    outcome = await scene.outcome(check_lease=ExpiringLease(1))

    assert isinstance(outcome.error, LeaseLost)
    assert outcome.indeterminate
