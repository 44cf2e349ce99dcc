"""Damaged content is never written, and ETags that prove nothing are recorded."""

from __future__ import annotations

import pytest

from s3s3.errors import AccessDenied, IntegrityError
from s3s3.model import Proof, Result
from s3s3.s3 import PutResult
from s3s3.transfer.budget import MAX_IN_MEMORY_BYTES
from tests.contents import random_bytes
from tests.scripted_store import Object
from tests.transfer.scene import BIG, KEY, LOOKS_LIKE_AN_MD5, PARTS, SIZES, SMALL, TINY, Scene, damaged, md5


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_incomplete_body_is_never_written(content: bytes) -> None:
    scene = Scene(content[:-1], size_bytes=len(content), etag=md5(content), destinations=2)

    for number, outcome in enumerate(await scene.copy()):
        assert isinstance(outcome.error, IntegrityError)
        assert scene.destinations[number].objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
async def test_incomplete_body_without_known_md5_is_never_written(content: bytes) -> None:
    scene = Scene(content[:-1], size_bytes=len(content), etag=PARTS)

    assert isinstance((await scene.outcome()).error, IntegrityError)
    assert scene.destination.objects == {}


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_bytes_damaged_differently_in_two_reads_are_never_written(content: bytes) -> None:
    scene = Scene()
    etag = md5(content)
    scene.source.serves[KEY] = [Object(damaged(content), etag), Object(damaged(content, 0), etag)]

    outcome = await scene.outcome()

    assert isinstance(outcome.error, IntegrityError) and outcome.error.retriable
    assert "two reads returned different bytes" in outcome.reason
    assert not outcome.indeterminate
    assert scene.destination.objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [TINY, SMALL], ids=["tiny", "small"])
async def test_bytes_damaged_once_are_reread_and_copied(content: bytes) -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(content), md5(content)), Object(content)]

    assert (await scene.outcome()).result is Result.COPIED
    assert (scene.stored().content, scene.stored().recorded_etag) == (content, None)


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
@pytest.mark.parametrize("checksum", ["client", "store"])
async def test_a_copy_that_has_the_etag_survives_a_source_that_returns_other_bytes(
    content: bytes, checksum: str
) -> None:
    scene = Scene(content, destinations=2)
    scene.source.serves[KEY] = [Object(damaged(content), md5(content))]
    scene.destination.objects[KEY] = Object(content)
    for store in scene.destinations:
        store.settings = {"checksum": checksum}

    for outcome in await scene.copy():
        assert isinstance(outcome.error, IntegrityError) and outcome.error.retriable
        assert "the copy at swift-0 has this ETag and is kept" in outcome.reason
    assert [store.objects for store in scene.destinations] == [{KEY: Object(content)}, {}]
    assert scene.mismatches() == {"ceph": 1}


async def test_a_copy_with_the_etag_of_damaged_content_survives_other_metadata() -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(TINY), md5(TINY), {"content-type": "text/plain"})]
    scene.destination.objects[KEY] = Object(TINY)

    outcome = await scene.outcome(compare=True)

    assert isinstance(outcome.error, IntegrityError)
    assert (scene.stored().content, scene.destination.requests) == (TINY, ["HEAD"])


async def test_a_destination_that_can_only_be_written_gets_content_that_contradicts_its_etag() -> None:
    scene = Scene(etag=LOOKS_LIKE_AN_MD5)
    scene.destination.head_error = AccessDenied("no", store="swift-0", operation="HEAD", status=403)

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.stored().content == TINY


async def test_damaged_stream_aborts_the_put_even_if_the_store_ignores_content_md5() -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(BIG), md5(BIG)), Object(damaged(BIG, 0), md5(BIG))]
    scene.destination.ignores_content_md5 = True

    assert isinstance((await scene.outcome()).error, IntegrityError)
    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 2


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_body_that_always_ends_early_is_never_written(content: bytes) -> None:
    scene = Scene(content)
    scene.source.serves[KEY] = [Object(content[:-1], md5(content))]

    outcome = await scene.outcome()

    assert isinstance(outcome.error, IntegrityError) and outcome.error.retriable
    assert f"HEAD reports {len(content)}" in outcome.reason
    assert scene.destination.objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_two_equal_reads_prove_that_an_etag_is_not_an_md5(content: bytes) -> None:
    scene = Scene(content, etag=LOOKS_LIKE_AN_MD5)

    outcome = await scene.outcome()

    assert outcome.result is Result.COPIED
    assert outcome.source_md5 == md5(content)
    assert scene.source.requests == ["GET", "HEAD", "GET"]
    assert (scene.stored().content, scene.stored().recorded_etag) == (content, LOOKS_LIKE_AN_MD5)
    assert scene.mismatches() == {}
    assert (await scene.outcome(compare=True)).proof is Proof.RECORDED_ETAG


async def test_destination_that_failed_in_the_first_pass_is_skipped_in_the_second() -> None:
    scene = Scene(BIG, etag=LOOKS_LIKE_AN_MD5, destinations=2)
    refused = AccessDenied("no", store="swift-0", operation="PUT", key=KEY)
    attempts: list[str] = []

    async def refuse(key: str, *_: object, **__: object) -> PutResult:
        attempts.append(key)
        raise refused

    scene.destination.put = refuse  # type: ignore[method-assign]

    failed, copied = await scene.copy()

    assert (failed.error, attempts) == (refused, [KEY])
    assert copied.result is Result.COPIED


async def test_etag_of_encrypted_object_is_recorded_even_if_it_equals_the_md5() -> None:
    scene = Scene(encrypted=True)

    await scene.copy()

    assert scene.stored().recorded_etag == md5(TINY)
    assert (await scene.outcome(compare=True)).proof is Proof.RECORDED_ETAG


@SIZES
async def test_etag_of_encrypted_object_is_not_compared(content: bytes) -> None:
    scene = Scene(content, etag=LOOKS_LIKE_AN_MD5, encrypted=True)

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.source.requests == ["GET"]
    assert (scene.stored().content, scene.stored().recorded_etag) == (content, LOOKS_LIKE_AN_MD5)


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_response_200_with_another_etag_is_an_integrity_error(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)
    scene.destination.answers = lambda _: PutResult(LOOKS_LIKE_AN_MD5, False, False)

    outcome = await scene.outcome()

    assert isinstance(outcome.error, IntegrityError) and outcome.error.retriable
    assert md5(content) in outcome.reason and LOOKS_LIKE_AN_MD5 in outcome.reason
    assert scene.mismatches() == {"swift-0": 1}


async def test_response_200_before_the_end_of_the_body_is_an_integrity_error() -> None:
    scene = Scene(BIG)
    scene.destination.answers_after = 3

    outcome = await scene.outcome()

    assert isinstance(outcome.error, IntegrityError)
    assert "before the whole object was sent" in outcome.reason


@pytest.mark.parametrize("content", [TINY, BIG], ids=["tiny", "big"])
async def test_encrypting_destination_may_return_any_etag(content: bytes) -> None:
    scene = Scene(content)
    scene.destination.answers = lambda _: PutResult(LOOKS_LIKE_AN_MD5, True, False)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.destination_md5) == (Result.COPIED, None)


async def test_object_rewritten_between_two_reads_is_copied_as_it_is_now() -> None:
    scene = Scene()
    new = random_bytes(MAX_IN_MEMORY_BYTES + 7)
    scene.source.serves[KEY] = [Object(damaged(BIG), md5(BIG)), Object(new)]

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.stored().content == new


async def test_object_deleted_between_two_reads_is_source_missing() -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(TINY), md5(TINY))]
    serve = scene.source.get

    async def get_once(key: str) -> object:
        reading = await serve(key)
        scene.source.serves.clear()
        scene.source.objects.clear()
        return reading

    scene.source.get = get_once  # type: ignore[assignment, method-assign]

    assert (await scene.outcome()).result is Result.SOURCE_MISSING


# recorded ETags


async def test_no_etag_is_recorded_if_both_are_md5s() -> None:
    scene = Scene(recorded_etag="from another copy")

    await scene.copy()

    assert scene.stored().recorded_etag is None


@SIZES
async def test_multipart_etag_is_recorded(content: bytes) -> None:
    scene = Scene(content, etag=PARTS)

    await scene.copy()

    assert scene.stored().recorded_etag == PARTS


async def test_destination_whose_etags_are_not_md5s_is_remembered() -> None:
    scene = Scene(destinations=2)
    scene.destination.answers = lambda _: PutResult("W-17", False, False)

    await scene.copy()
    await scene.copy()

    assert [scene.stored(number).recorded_etag for number in (0, 1)] == [md5(TINY), None]


@pytest.mark.parametrize("compare", [False, True])
@pytest.mark.parametrize("content", [TINY, BIG], ids=["tiny", "big"])
async def test_copy_without_an_etag_has_no_proof(content: bytes, compare: bool) -> None:
    scene = Scene(content)
    scene.destination.answers = lambda _: PutResult("", False, False)

    outcome = await scene.outcome(compare=compare)

    assert (outcome.result, outcome.proof, outcome.destination_md5) == (Result.COPIED, None, None)
    assert outcome.reason == ("missing, " if compare else "") + "the store returned no ETag, so nothing proves the copy"


async def test_another_process_learns_from_a_head_that_etags_are_not_md5s() -> None:
    scene = Scene()
    scene.destination.answers = lambda _: PutResult("W-17", False, False)
    await scene.copy()
    assert scene.stored().recorded_etag is None
    scene.transfer.checksums.non_md5.clear()

    unproven = await scene.outcome(compare=True)
    same = await scene.outcome(compare=True)

    assert (unproven.result, unproven.reason) == (Result.COPIED, "unproven")
    assert (same.result, same.proof) == (Result.SAME, Proof.RECORDED_ETAG)
