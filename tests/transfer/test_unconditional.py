"""Unconditional copies of fresh notifications."""

from __future__ import annotations

import pytest

from s3s3.errors import AccessDenied, LeaseLost, NoSuchBucket, StoreUnavailable
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import PutResult
from s3s3.transfer.copier import Copier
from s3s3.transfer.decision import MAX_UNCOMPARED_BYTES
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


# large objects of notifications


def notified(*, lane: Lane = Lane.FRESH) -> Job:
    return Job(KEY, ("swift-0", "swift-1"), lane, unconditional=True)


async def run(scene: Scene, job: Job, *, server_side: bool = False) -> list[Outcome]:
    stores = {store.name: store for store in scene.destinations}
    copier = Copier(
        scene.source, scene.budget, metrics=Metrics(), route="default", destinations=stores,  # type: ignore[arg-type]
        server_side=stores if server_side else (),
    )  # fmt: skip
    return await copier.copy_job(job, ("swift-0", "swift-1"), lambda: None)


LARGE = bytes(MAX_UNCOMPARED_BYTES + 1)


@pytest.mark.parametrize("content", [b"", b"content", bytes(MAX_UNCOMPARED_BYTES)], ids=["empty", "small", "1 MiB"])
async def test_a_notification_of_an_object_up_to_1_mib_copies_without_comparing(content: bytes) -> None:
    scene = Scene(content, destinations=2)
    scene.destination.objects[KEY] = Object(content)
    outcomes = await run(scene, notified())
    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert [store.requests for store in scene.destinations] == [["PUT"]] * 2


@pytest.mark.parametrize("content", [LARGE, BIG], ids=["1 MiB + 1", "streamed"])
async def test_a_notification_of_a_larger_object_compares_first(content: bytes) -> None:
    scene = Scene(content, destinations=2)
    scene.destination.objects[KEY] = Object(content)
    same, copied = await run(scene, notified())
    assert (same.result, same.proof) == (Result.SAME, "etag")
    assert (copied.result, copied.error) == (Result.COPIED, None)
    assert [store.requests for store in scene.destinations] == [["HEAD"], ["HEAD", "PUT"]]
    assert scene.source.requests == ["GET"]
    assert scene.stored(1).content == content


async def test_a_larger_object_with_other_content_or_metadata_is_copied() -> None:
    scene = Scene(LARGE, destinations=2, headers={"content-type": "image/fits"})
    scene.destinations[0].objects[KEY] = Object(b"x" * len(LARGE), headers={"content-type": "image/fits"})
    scene.destinations[1].objects[KEY] = Object(LARGE, headers={"content-type": "text/plain"})
    outcomes = await run(scene, notified())
    assert [(outcome.result, outcome.reason) for outcome in outcomes] == [
        (Result.COPIED, "etag"),
        (Result.COPIED, "metadata"),
    ]


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize(("age_ms", "result"), [(-5000, "same"), (0, "same"), (1000, "same"), (2000, "copied")])
async def test_an_equal_copy_that_is_older_than_the_source_is_written_again(
    age_ms: int, result: str, server_side: bool
) -> None:
    # What a HEAD shows may be of the past (a cache, a replica that is behind): then the source was this before, too.
    scene = Scene(LARGE, destinations=2, modified_ms=100_000)
    for store in scene.destinations:
        store.objects[KEY] = Object(LARGE, modified_ms=100_000 - age_ms)
        store.copies = lambda: Object(LARGE)
    outcomes = await run(scene, notified(), server_side=server_side)
    assert [outcome.result for outcome in outcomes] == [result] * 2
    written = {"same": [], "copied": ["COPY" if server_side else "PUT"]}[result]
    assert [store.requests for store in scene.destinations] == [["HEAD", *written]] * 2


async def test_a_larger_object_is_copied_to_a_destination_that_denies_reads() -> None:
    scene = Scene(LARGE, destinations=2)
    for store in scene.destinations:
        store.head_error = AccessDenied("no", store=store.name, operation="HEAD", status=403)
    outcomes = await run(scene, notified())
    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert [store.requests for store in scene.destinations] == [["HEAD", "PUT"]] * 2


async def test_a_forced_copy_of_a_larger_object_does_not_compare() -> None:
    scene = Scene(LARGE, destinations=2)
    scene.destination.objects[KEY] = Object(LARGE)
    outcomes = await run(scene, notified(lane=Lane.BULK))
    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert [store.requests for store in scene.destinations] == [["PUT"]] * 2


async def test_a_larger_object_is_copied_where_only_its_content_could_prove_it_equal() -> None:
    scene = Scene(LARGE, destinations=2, etag=PARTS)
    for store in scene.destinations:
        store.objects[KEY] = Object(LARGE)
        store.verify_md5 = True
    outcomes = await run(scene, notified())
    assert [(outcome.result, outcome.reason) for outcome in outcomes] == [(Result.COPIED, "unproven")] * 2
    assert [store.requests for store in scene.destinations] == [["HEAD", "PUT"]] * 2
