"""What s3s3 records in a copy's metadata never makes the copy fail, nor a later comparison copy it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s3s3.errors import AccessDenied, StoreError, StoreRefused, StoreUnavailable
from s3s3.model import Outcome, Proof, Result
from s3s3.s3 import PutResult
from s3s3.transfer.copier import Copier
from s3s3.transfer.metadata import MAX_METADATA_ITEMS, headers_digest
from tests.scripted_store import Object
from tests.transfer.scene import BIG, KEY, PARTS, SIZES, TINY, Scene, md5

LIMIT = "copied without recording the source's {}: the destination's metadata limit"
FITS, TEXT = {"content-type": "image/fits"}, {"content-type": "text/plain"}


def refusing_records(error: StoreError | None = None) -> Callable[[Object], PutResult]:
    """Return a destination's answers that refuse every record."""
    refusal = error or StoreRefused("too much", store="swift-0", operation="PUT", status=400, code="MetadataTooLarge")

    def answer(stored: Object) -> PutResult:
        if stored.recorded_etag is not None or stored.recorded_headers is not None:
            raise refusal
        return PutResult(md5(stored.content), False, False)

    return answer


def facts(outcome: Outcome) -> tuple[Result, str, Proof | None]:
    return outcome.result, outcome.reason, outcome.proof


def restarted(scene: Scene) -> Scene:
    """Let another process copy from now on."""
    scene.transfer = Copier(scene.source, scene.budget, metrics=scene.metrics, route="default")  # type: ignore[arg-type]
    return scene


# a destination that refuses the record of the ETag


@SIZES
async def test_an_object_is_copied_without_the_record_that_its_destination_refuses(content: bytes) -> None:
    scene = Scene(content, etag=PARTS, destinations=2)
    scene.destination.answers = refusing_records()

    without, recorded = await scene.copy()

    assert facts(without) == (Result.COPIED, LIMIT.format("ETag"), Proof.ETAG)
    assert facts(recorded) == (Result.COPIED, "", Proof.ETAG)
    assert [scene.stored(number).recorded_etag for number in (0, 1)] == [None, PARTS]
    assert [store.requests for store in scene.destinations] == [["PUT", "PUT"], ["PUT"]]
    assert scene.source.requests == ["GET"]


@pytest.mark.parametrize("destinations", [1, 2])
async def test_a_stream_is_read_again_for_a_destination_that_refuses_the_record(destinations: int) -> None:
    scene = Scene(BIG, destinations=destinations)
    scene.transfer.checksums.non_md5.add("swift-0")
    scene.destination.answers = refusing_records()

    outcomes = await scene.copy(isolate_slow=True)

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * destinations
    assert outcomes[0].reason == LIMIT.format("ETag")
    assert scene.destination.requests == ["PUT", "PUT"]
    assert scene.source.requests == ["GET", "GET"]
    assert all(store.requests == ["PUT"] for store in scene.destinations[1:])


@pytest.mark.parametrize(
    "refusal",
    [
        StoreRefused("", store="swift-0", status=400, code="InvalidRequest"),
        StoreRefused("", store="swift-0", status=431),
        StoreUnavailable("", store="swift-0", status=500, code="UnknownError"),
    ],
)
async def test_any_refusal_that_may_concern_metadata_is_followed_by_a_copy_without_record(refusal: StoreError) -> None:
    scene = Scene(etag=PARTS)
    scene.destination.answers = refusing_records(refusal)

    assert (await scene.outcome()).result is Result.COPIED


async def test_a_refusal_for_another_reason_is_a_failure() -> None:
    scene = Scene(etag=PARTS)
    scene.destination.answers = refusing_records(AccessDenied("no", store="swift-0", status=403))

    assert isinstance((await scene.outcome()).error, AccessDenied)
    assert scene.destination.requests == ["PUT"]


async def test_an_object_that_is_refused_without_record_too_is_a_failure() -> None:
    scene = Scene(etag=PARTS)

    def refuse(stored: Object) -> PutResult:
        code = "InvalidArgument" if stored.recorded_etag is None else "MetadataTooLarge"
        raise StoreRefused("no", store="swift-0", status=400, code=code)

    scene.destination.answers = refuse

    outcome = await scene.outcome()

    assert isinstance(outcome.error, StoreRefused) and outcome.error.code == "InvalidArgument"
    assert scene.destination.requests == ["PUT", "PUT"]


async def test_a_refused_write_that_may_still_be_carried_out_makes_the_copy_indeterminate() -> None:
    scene = Scene(etag=PARTS)
    late = StoreUnavailable("", store="swift-0", operation="PUT", status=500, code="UnknownError")
    late.indeterminate = True
    scene.destination.answers = refusing_records(late)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.indeterminate) == (Result.COPIED, True)


async def test_a_process_does_not_repeat_a_record_that_was_refused() -> None:
    scene = Scene(etag=PARTS)
    scene.destination.answers = refusing_records()
    await scene.copy()

    outcome = await scene.outcome()

    assert outcome.reason == LIMIT.format("ETag")
    assert scene.destination.requests == ["PUT", "PUT", "PUT"]
    scene.source.objects[KEY] = Object(TINY, PARTS, headers=TEXT)
    scene.destination.answers = None
    assert (await scene.outcome()).reason == ""
    assert scene.stored().recorded_etag == PARTS


@SIZES
async def test_a_copy_without_record_is_compared_by_content_and_not_copied_again(content: bytes) -> None:
    scene = Scene(content, etag=PARTS)
    scene.destination.answers = refusing_records()
    await scene.copy()

    assert facts(await scene.outcome(compare=True)) == (Result.SAME, "same", Proof.CONTENT)
    assert scene.destination.requests == ["PUT", "PUT", "HEAD"], "its ETag is an MD5, so its content is not read"


async def test_a_later_process_compares_the_content_of_an_object_without_room_for_a_record() -> None:
    headers = {f"x-amz-meta-{number}": "v" for number in range(MAX_METADATA_ITEMS)}
    scene = Scene(etag=PARTS, headers=headers)
    scene.destination.answers = refusing_records()
    await scene.copy()

    same = await restarted(scene).outcome(compare=True)
    scene.destination.objects[KEY] = Object(b"another", headers=headers)
    other = await restarted(scene).outcome(compare=True)

    assert facts(same) == (Result.SAME, "same", Proof.CONTENT)
    assert facts(other) == (Result.COPIED, f"content, {LIMIT.format('ETag')}", Proof.ETAG)


# headers that a copy does not return


def lose_case(headers: dict[str, str]) -> dict[str, str]:
    """Return what a store makes of headers if it keeps values in upper case only."""
    return {name: value.upper() for name, value in headers.items()}


@SIZES
async def test_different_headers_are_copied(content: bytes) -> None:
    scene = Scene(content, headers=FITS, destinations=3)
    scene.destinations[0].objects[KEY] = Object(content, headers=TEXT)
    scene.destinations[1].objects[KEY] = Object(content, headers=FITS)

    outcomes = await scene.copy(compare=True)

    assert [(outcome.result.value, outcome.reason) for outcome in outcomes] == [
        ("copied", "metadata"), ("same", "same"), ("copied", "missing"),
    ]  # fmt: skip
    assert all(scene.stored(number).headers == FITS for number in range(3))
    recorded = [scene.stored(number).recorded_headers for number in range(3)]
    assert recorded == [headers_digest(FITS), None, None]


@SIZES
async def test_a_difference_that_a_copy_does_not_remove_is_copied_once(content: bytes) -> None:
    scene = Scene(content, headers=FITS)
    scene.destination.returns = lose_case
    await scene.copy()

    outcomes = [await restarted(scene).outcome(compare=True) for _ in range(3)]

    assert [(outcome.result.value, outcome.reason) for outcome in outcomes] == [
        ("copied", "metadata"), ("same", "same"), ("same", "same"),
    ]  # fmt: skip
    scene.source.objects[KEY] = Object(content, headers=TEXT)
    changed = [(await restarted(scene).outcome(compare=True)).reason for _ in range(3)]
    assert changed == ["metadata", "same", "same"]


async def test_the_record_of_the_headers_is_written_again_with_other_content() -> None:
    scene = Scene(headers=FITS)
    scene.destination.returns = lose_case
    await scene.copy()
    await scene.copy(compare=True)
    scene.source.objects[KEY] = Object(b"new", headers=FITS)

    reasons = [(await restarted(scene).outcome(compare=True)).reason for _ in range(2)]

    assert reasons == ["size", "same"]


async def test_contents_are_not_read_if_the_headers_differ() -> None:
    scene = Scene(BIG, etag=PARTS, headers=FITS)
    scene.source.verify_md5 = True
    scene.destination.objects[KEY] = Object(BIG, headers=TEXT)

    assert (await scene.outcome(compare=True)).reason == "metadata"
    assert scene.destination.requests == ["HEAD", "PUT"]


async def test_a_difference_that_a_copy_does_not_remove_is_copied_once_without_a_record() -> None:
    scene = Scene(headers=FITS)
    scene.destination.returns = lose_case
    scene.destination.answers = refusing_records()
    await scene.copy()

    outcomes = [await scene.outcome(compare=True) for _ in range(3)]

    assert [outcome.reason for outcome in outcomes] == [f"metadata, {LIMIT.format('headers')}", "same", "same"]
    scene.destination.objects[KEY] = Object(TINY, headers=TEXT)  # by a late write, say
    assert (await scene.outcome(compare=True)).result is Result.COPIED


async def test_both_records_are_left_out_together() -> None:
    scene = Scene(etag=PARTS, headers=FITS)
    scene.destination.objects[KEY] = Object(TINY, headers=TEXT, recorded_etag=PARTS)
    scene.destination.answers = refusing_records()

    assert (await scene.outcome(compare=True)).reason == f"metadata, {LIMIT.format('ETag and headers')}"


async def test_an_object_that_changed_after_the_get_is_copied_as_it_was_read() -> None:
    scene = Scene(headers=FITS)
    scene.destination.objects[KEY] = Object(TINY, headers=TEXT)
    head = scene.destination.head

    async def head_after_change(key: str) -> object:
        scene.source.objects[KEY] = Object(TINY, headers={"content-type": "newer"})
        return await head(key)

    scene.destination.head = head_after_change  # type: ignore[assignment, method-assign]

    assert (await scene.outcome(compare=True)).reason == "metadata"
    assert (scene.stored().headers, scene.stored().recorded_headers) == (FITS, headers_digest(FITS))
    assert (await scene.outcome(compare=True)).reason == "metadata"
    assert scene.stored().headers == {"content-type": "newer"}


# server-side copies


def one_store(scene: Scene) -> Scene:
    scene.transfer = Copier(
        scene.source, scene.budget, metrics=scene.metrics, route="default", server_side=["swift-0"]  # type: ignore[arg-type]
    )  # fmt: skip
    scene.destination.copies = lambda: scene.source.objects[KEY]
    return scene


async def test_different_headers_are_copied_server_side_once() -> None:
    scene = one_store(Scene(headers=FITS))
    scene.destination.objects[KEY] = Object(TINY, headers=TEXT)
    scene.destination.returns = lose_case

    outcomes = [await one_store(scene).outcome(compare=True) for _ in range(3)]

    assert [outcome.reason for outcome in outcomes] == ["metadata", "same", "same"]
    assert scene.destination.requests == ["HEAD", "COPY", "HEAD", "HEAD"]


async def test_a_server_side_copy_is_made_without_the_record_that_the_store_refuses() -> None:
    scene = one_store(Scene(headers=FITS))
    scene.destination.objects[KEY] = Object(TINY, headers=TEXT)
    scene.destination.answers = refusing_records()

    outcome = await scene.outcome(compare=True)

    assert outcome.reason == f"metadata, {LIMIT.format('headers')}"
    assert scene.destination.requests == ["HEAD", "COPY", "COPY"]
    assert scene.stored().headers == FITS


async def test_records_of_another_copy_are_not_copied_server_side() -> None:
    scene = one_store(Scene(headers=FITS, recorded_headers="of another copy"))

    await scene.copy()

    assert (scene.stored().headers, scene.stored().recorded_headers) == (FITS, None)
