"""Compare first: equal objects are not copied."""

from __future__ import annotations

import pytest

from s3s3.model import Proof, Result
from s3s3.transfer.budget import MAX_SMALL_BYTES, CopyBudget
from tests.scripted_store import Object, unavailable
from tests.transfer.scene import (
    BIG,
    KEY,
    LOOKS_LIKE_AN_MD5,
    PARTS,
    SIZES,
    SMALL,
    TINY,
    WHOLE_BUDGET,
    Scene,
    damaged,
    md5,
)


@SIZES
async def test_compare_copies_no_equal_object(content: bytes) -> None:
    scene = Scene(content, destinations=2)
    for store in scene.destinations:
        store.objects[KEY] = Object(content)

    outcomes = await scene.copy(compare=True)

    for outcome in outcomes:
        assert (outcome.result, outcome.reason, outcome.proof) == (Result.SAME, "same", Proof.ETAG)
        assert (outcome.source_md5, outcome.destination_md5) == (md5(content), md5(content))
        assert (outcome.source_size_bytes, outcome.destination_size_bytes) == (len(content), len(content))
    assert [store.requests for store in scene.destinations] == [["HEAD"], ["HEAD"]]
    assert scene.source.bytes_read == (len(content) if len(content) <= MAX_SMALL_BYTES else 0)


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_compare_copies_only_to_differing_destinations(content: bytes) -> None:
    scene = Scene(content, destinations=4)
    scene.destinations[0].objects[KEY] = Object(content)
    scene.destinations[2].objects[KEY] = Object(damaged(content))
    scene.destinations[3].objects[KEY] = Object(content + b"more")

    outcomes = await scene.copy(compare=True)

    found = [(outcome.result.value, outcome.reason) for outcome in outcomes]
    assert found == [("same", "same"), ("copied", "missing"), ("copied", "etag"), ("copied", "size")]
    assert scene.source.requests == ["GET"]
    assert [len(store.requests) for store in scene.destinations] == [1, 2, 2, 2]
    assert all(scene.stored(number).content == content for number in range(4))


async def test_failed_head_fails_only_its_destination() -> None:
    scene = Scene(destinations=2)
    scene.destination.head_error = unavailable("swift-0")

    failed, copied = await scene.copy(compare=True)

    assert failed.error is scene.destination.head_error
    assert copied.result is Result.COPIED
    assert scene.destination.requests == ["HEAD"]


async def test_missing_source_object_needs_no_head() -> None:
    scene = Scene()
    scene.source.objects.clear()

    assert (await scene.outcome(compare=True)).result is Result.SOURCE_MISSING
    assert scene.destination.requests == []


@pytest.mark.parametrize("verifying", ["source", "destination"])
@SIZES
async def test_contents_are_compared_if_either_side_sets_verify_md5(content: bytes, verifying: str) -> None:
    scene = Scene(content, etag=PARTS, destinations=3)
    scene.source.verify_md5 = verifying == "source"
    for store in scene.destinations:
        store.verify_md5 = verifying == "destination"
    scene.destinations[0].objects[KEY] = Object(content, "other-parts-5")
    scene.destinations[1].objects[KEY] = Object(content)
    scene.destinations[2].objects[KEY] = Object(damaged(content) if content else b"", "other-parts-5")

    outcomes = await scene.copy(compare=True)

    same = ("same", "same", Proof.CONTENT)
    last = ("copied", "content", Proof.ETAG) if content else same
    assert [(outcome.result.value, outcome.reason, outcome.proof) for outcome in outcomes] == [same, same, last]
    assert scene.destinations[1].requests == ["HEAD"], "its ETag is an MD5, so its content is not read"
    assert all(outcome.source_md5 == outcome.destination_md5 == md5(content) for outcome in outcomes)
    assert all(scene.stored(number).content == content for number in range(3))


async def test_contents_are_compared_if_the_destination_encrypts() -> None:
    scene = Scene()
    scene.destination.verify_md5 = True
    scene.destination.objects[KEY] = Object(TINY, LOOKS_LIKE_AN_MD5, encrypted=True)

    assert (await scene.outcome(compare=True)).proof is Proof.CONTENT


async def test_only_the_destination_is_read_if_the_source_etag_is_an_md5() -> None:
    scene = Scene(BIG)
    scene.source.verify_md5 = True
    scene.destination.objects[KEY] = Object(BIG, PARTS)

    assert (await scene.outcome(compare=True)).proof is Proof.CONTENT
    assert scene.source.bytes_read == 0


async def test_md5_from_a_comparison_makes_spooling_unnecessary() -> None:
    scene = Scene(BIG, etag=PARTS, budget=CopyBudget(spool_dir="/no/such/directory"))
    scene.source.verify_md5 = True
    scene.destination.objects[KEY] = Object(damaged(BIG), "other-parts-5")

    assert (await scene.outcome(compare=True)).result is Result.COPIED
    assert scene.stored().recorded_etag == PARTS


async def test_failed_read_of_a_destination_fails_only_that_destination() -> None:
    scene = Scene(etag=PARTS, destinations=2)
    scene.source.verify_md5 = True
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY, "other-parts-5")
    scene.destination.get_error = unavailable("swift-0")

    failed, same = await scene.copy(compare=True)

    assert failed.error is scene.destination.get_error
    assert scene.budget.try_acquire(WHOLE_BUDGET)
    assert same.proof is Proof.CONTENT
