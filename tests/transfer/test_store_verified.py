"""Copies of which the stores compute the MD5: what is hashed here, and what happens if the stores disagree."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from s3s3.model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Proof, Result
from s3s3.s3 import PutResult
from s3s3.transfer.budget import MAX_SMALL_BYTES
from s3s3.transfer.verification import ChecksumKnowledge, is_store_verified
from tests.scripted_store import Object
from tests.transfer.scene import BIG, KEY, LOOKS_LIKE_AN_MD5, PARTS, SMALL, TINY, ExpiringLease, Scene, damaged, md5

LARGE = pytest.mark.parametrize("content", [SMALL, BIG], ids=["in memory", "streamed"])


def store_verified(*args: Any, checksum: str = "store", **about: Any) -> Scene:
    scene = Scene(*args, **about)
    for destination in scene.destinations:
        destination.settings = {"checksum": checksum}
    return scene


@LARGE
@pytest.mark.parametrize("destinations", [1, 2])
async def test_nothing_is_hashed_here_if_both_stores_verify(content: bytes, destinations: int) -> None:
    scene = store_verified(content, destinations=destinations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s3s3.transfer.object_write.Digest", None)
        patch.setattr("s3s3.transfer.object_write.md5_of", None)
        outcomes = await scene.copy()

    for number, outcome in enumerate(outcomes):
        assert (outcome.result, outcome.proof, outcome.source_md5) == (Result.COPIED, Proof.ETAG, md5(content))
        assert (scene.stored(number).content, scene.stored(number).recorded_etag) == (content, None)
    assert scene.source.requests == ["GET"]


@LARGE
async def test_bytes_damaged_once_are_read_again_with_an_md5_computed_here(content: bytes) -> None:
    scene = store_verified()
    scene.source.serves[KEY] = [Object(damaged(content), md5(content)), Object(content)]

    outcome = await scene.outcome()

    assert (outcome.result, scene.stored().content) == (Result.COPIED, content)
    assert scene.source.requests.count("GET") == 2
    assert scene.transfer.checksums.refuted == set()


@LARGE
async def test_bytes_damaged_differently_in_each_read_are_never_written(content: bytes) -> None:
    scene = store_verified()
    scene.source.serves[KEY] = [Object(bytes([i]) + content[1:], md5(content)) for i in range(8) if i != content[0]]

    outcome = await scene.outcome()

    assert "two reads returned different bytes" in outcome.reason
    assert scene.destination.objects == {}
    assert scene.mismatches() == {"ceph": 1}


@LARGE
async def test_an_etag_that_only_looks_like_an_md5_is_found_out_and_the_source_is_hashed_from_then_on(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    scene = store_verified(content, etag=LOOKS_LIKE_AN_MD5)

    outcome = await scene.outcome()
    assert (outcome.result, outcome.source_md5) == (Result.COPIED, md5(content))
    assert scene.stored().recorded_etag == LOOKS_LIKE_AN_MD5
    assert scene.transfer.checksums.refuted == {"ceph"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

    scene.source.requests.clear()
    assert (await scene.outcome()).result is Result.COPIED
    assert scene.source.requests == ["GET", "HEAD", "GET"], "two reads with an MD5 here, none without"


@LARGE
async def test_a_destination_that_stores_other_bytes_is_found_out_and_the_copy_repaired(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    scene = store_verified()
    scene.source.serves[KEY] = [Object(damaged(content), md5(content)), Object(content)]
    scene.destination.ignores_content_md5 = True

    outcome = await scene.outcome()

    assert (outcome.result, scene.stored().content) == (Result.COPIED, content)
    assert scene.transfer.checksums.refuted == {"swift-0"}
    assert "swift-0: it stored other bytes than Content-MD5 announced" in caplog.text
    scene.source.serves[KEY] = [Object(damaged(content), md5(content)), Object(content)]
    seen: list[bytes] = []

    def answer(stored: Object) -> PutResult:
        seen.append(stored.content)
        return PutResult(md5(content), False, False)

    scene.destination.answers = answer
    await scene.copy()
    assert set(seen) <= {content}, "no further wrong object is visible"


@LARGE
@pytest.mark.parametrize("answer", [PutResult("W-17", False, False), PutResult(LOOKS_LIKE_AN_MD5, True, False)])
async def test_a_destination_whose_etags_are_not_md5s_gets_an_md5_computed_here(
    content: bytes, answer: PutResult
) -> None:
    scene = store_verified(content)
    scene.destination.answers = lambda _: answer

    outcome = await scene.outcome()

    assert (outcome.result, outcome.proof) == (Result.COPIED, Proof.CONTENT)
    assert scene.destination.requests == ["PUT", "PUT"]
    assert scene.transfer.checksums.non_md5 == {"swift-0"}
    await scene.copy()
    assert scene.destination.requests == ["PUT"] * 3


async def test_one_destination_that_refuses_is_repeated_alone() -> None:
    scene = store_verified(BIG, destinations=2)
    scene.destinations[1].answers = lambda _: PutResult("W-17", False, False)

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert [store.requests for store in scene.destinations] == [["PUT"], ["PUT", "PUT"]]


async def test_the_lease_is_checked_before_the_last_bytes() -> None:
    scene = store_verified(BIG)

    outcome = await scene.outcome(check_lease=ExpiringLease(1))

    assert "lease" in outcome.reason
    assert (scene.destination.objects, scene.destination.cut_off, outcome.indeterminate) == ({}, 1, False)


@LARGE
async def test_a_short_body_is_never_written(content: bytes) -> None:
    scene = store_verified(content[:-1], size_bytes=len(content), etag=md5(content))

    assert (await scene.outcome()).result is Result.FAILED
    assert scene.destination.objects == {}


@pytest.mark.parametrize("checksum", ["client", "auto"])
async def test_without_the_record_of_a_check_the_md5_is_computed_here(checksum: str) -> None:
    scene = store_verified(checksum=checksum)
    scene.source.serves[KEY] = [Object(damaged(BIG), md5(BIG)), Object(BIG)]
    scene.destination.ignores_content_md5 = True

    await scene.copy()

    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 2, "no PUT was sent to its end"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"size_bytes": MAX_SMALL_BYTES}, False),
        ({"source_md5": None}, False),
        ({"checksum": "store", "enforcing": set()}, True),
        ({"checksum": "client"}, False),
        ({"enforcing": set()}, False),
        ({"enforcing": {"another"}}, False),
        ({"non_md5": {"dest"}}, False),
        ({"refuted": {"dest"}}, False),
        ({"refuted": {"source"}}, False),
        ({"checksum": "store", "refuted": {"dest"}}, False),
        ({"multipart": True, "size_bytes": SINGLE_PUT_LIMIT_BYTES + 1}, False),
    ],
)
def test_who_computes_the_md5(changes: dict[str, Any], expected: bool) -> None:
    given = {"size_bytes": MAX_SMALL_BYTES + 1, "source_md5": md5(TINY), "enforcing": {"dest"}, **changes}
    sets = {name: given.pop(name) for name in ("enforcing", "non_md5", "refuted") if name in given}
    size_bytes, source_md5 = given.pop("size_bytes"), given.pop("source_md5")
    destination, known = Endpoint("dest", "bucket", **given), ChecksumKnowledge(**sets)
    assert is_store_verified(size_bytes, source_md5, "source", [destination], known) is expected
    assert not is_store_verified(size_bytes, source_md5, "source", [destination, Endpoint("b", "b")], known)


@LARGE
async def test_a_multipart_etag_is_hashed_here(content: bytes) -> None:
    scene = store_verified(content, etag=PARTS)

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.stored().recorded_etag == PARTS
