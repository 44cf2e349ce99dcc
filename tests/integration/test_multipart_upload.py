"""Objects that go in parts, to real stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from s3s3.errors import IntegrityError, LeaseLost, StoreUnavailable
from s3s3.model import MIN_PART_BYTES, Outcome, Proof, Result
from s3s3.s3 import RECORDED_ETAG
from s3s3.s3.multipart import Multipart
from s3s3.scripts.demo.servers import StoreServer
from s3s3.transfer.budget import STREAM_BYTES, BudgetRequest, CopyBudget
from tests.integration.test_real_copies import BIG, MIB, Buckets, Proxy

pytestmark = pytest.mark.real
NewBucket = Callable[..., str]
CONTENT = BIG[: 11 * MIB]
"""Three parts of it."""

IN_PARTS: dict[str, Any] = {"multipart": True, "multipart_threshold_bytes": MIN_PART_BYTES}


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def buckets(server: StoreServer, new_bucket: NewBucket) -> Buckets:
    """A source and two destinations, the first of which gets large objects in parts."""
    buckets = Buckets(server, new_bucket)
    buckets.destinations[0] = replace(buckets.destinations[0], **IN_PARTS)
    return buckets


def begun(buckets: Buckets) -> list[str]:
    """The keys of uploads at the first destination that did not come to an end."""
    answer = buckets.client.list_multipart_uploads(Bucket=buckets.destinations[0].bucket_name)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


async def outcomes_of(buckets: Buckets, key: str, **how: Any) -> list[Outcome]:
    return (await buckets.copy(key, **how))[key]


def etag_of_parts(content: bytes) -> str:
    parts = [content[start : start + MIN_PART_BYTES] for start in range(0, len(content), MIN_PART_BYTES)]
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(md5s).hexdigest()}-{len(parts)}"'


@pytest.mark.parametrize("version", ["s3", pytest.param("s3v4", marks=pytest.mark.long)])
async def test_a_large_object_goes_in_parts_where_that_is_asked_for_and_is_known_again(
    buckets: Buckets, version: Literal["s3", "s3v4"]
) -> None:
    key = "odd +%&=?#//\U0001f4f7"
    buckets.destinations = [replace(one, signature_version=version) for one in buckets.destinations]
    about = {"ContentType": "image/fits", "Metadata": {"with-hyphens": "some value"}}
    buckets.write(buckets.source, key, CONTENT, **about)
    buckets.write(buckets.source, "small", CONTENT[:MIN_PART_BYTES], **about)
    etag = hashlib.md5(CONTENT).hexdigest()

    copied = await outcomes_of(buckets, key)
    small = await outcomes_of(buckets, "small")
    same = await outcomes_of(buckets, key, look=True)

    assert [outcome.result for outcome in copied + small] == [Result.COPIED] * 4
    assert [outcome.source_md5 for outcome in copied] == [etag] * 2
    assert buckets.all_hold(key, CONTENT)
    there = buckets.describe(buckets.destinations[0], key)
    assert there["ETag"] == etag_of_parts(CONTENT)
    assert there["ContentType"] == "image/fits"
    assert there["Metadata"] == {"with-hyphens": "some value", RECORDED_ETAG.removeprefix("x-amz-meta-"): etag}
    assert [outcome.proof for outcome in same] == [Proof.RECORDED_ETAG, Proof.ETAG]
    assert "-" not in str(buckets.describe(buckets.destinations[0], "small")["ETag"])
    assert begun(buckets) == []
    assert buckets.room.try_acquire(BudgetRequest(STREAM_BYTES, 64 * MIB))


async def test_an_object_of_parts_needs_no_more_room_than_for_one_of_its_own(buckets: Buckets) -> None:
    buckets.write_in_parts("parts", CONTENT)
    buckets.destinations = buckets.destinations[:1]
    buckets.room = CopyBudget(spool_bytes=MIN_PART_BYTES, memory_bytes=STREAM_BYTES)

    (copied,) = await outcomes_of(buckets, "parts")

    assert (copied.result, copied.source_md5) == (Result.COPIED, hashlib.md5(CONTENT).hexdigest())
    assert buckets.all_hold("parts", CONTENT)
    assert [outcome.result for outcome in await outcomes_of(buckets, "parts", look=True)] == [Result.SAME]


async def test_one_reading_serves_a_destination_with_parts_and_one_without_though_no_md5_is_known(
    buckets: Buckets,
) -> None:
    buckets.write_in_parts("parts", CONTENT)
    assert [outcome.result for outcome in await outcomes_of(buckets, "parts")] == [Result.COPIED] * 2
    assert buckets.all_hold("parts", CONTENT)


async def test_a_bit_flipped_on_the_way_leaves_the_old_object_standing_and_no_parts_behind(
    server: StoreServer, buckets: Buckets
) -> None:
    buckets.write(buckets.source, "big", CONTENT)
    for endpoint in buckets.destinations:
        buckets.write(endpoint, "big", b"the old one")
    proxy = Proxy(server.port, flips=[len(CONTENT) - 4 * MIB, 2 * len(CONTENT) - 5 * MIB])

    async with proxy.before(buckets.source) as damaging:
        buckets.source = damaging
        outcomes = await outcomes_of(buckets, "big")

    assert all(isinstance(outcome.error, IntegrityError) for outcome in outcomes)
    assert buckets.all_hold("big", b"the old one")
    assert begun(buckets) == []


@pytest.mark.parametrize("permits", [0, 2, 4, 5])
async def test_a_lease_that_ends_at_any_step_leaves_the_old_object_standing(buckets: Buckets, permits: int) -> None:
    buckets.write(buckets.source, "big", CONTENT)
    buckets.write(buckets.destinations[0], "big", b"the old one")
    buckets.destinations = buckets.destinations[:1]
    left = permits  # one to begin, three for parts, one to complete

    def check_lease() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise LeaseLost("over")

    (outcome,) = await outcomes_of(buckets, "big", check_lease=check_lease)

    if permits < 5:
        assert isinstance(outcome.error, LeaseLost)
        assert not outcome.indeterminate
    assert buckets.all_hold("big", CONTENT if permits == 5 else b"the old one")
    assert begun(buckets) == []


async def test_what_a_killed_process_left_behind_is_given_up_with_the_next_copy_of_that_key(buckets: Buckets) -> None:
    bucket = buckets.destinations[0].bucket_name
    for key in ("big", "bigger"):
        upload = buckets.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        buckets.client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"left behind")
    buckets.write(buckets.source, "big", CONTENT)

    assert [outcome.result for outcome in await outcomes_of(buckets, "big")] == [Result.COPIED] * 2

    assert begun(buckets) == ["bigger"], "the upload of another key is kept"


async def test_a_last_step_without_a_response_is_indeterminate_and_not_aborted(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.write(buckets.source, "big", CONTENT)
    complete = Multipart.complete
    given_up: list[str] = []

    async def indeterminate(*arguments: Any, **named: Any) -> None:
        await complete(*arguments, **named)
        error = StoreUnavailable("did not answer in time")
        error.indeterminate = True
        raise error

    async def noted(_: Multipart, key: str, upload_id: str) -> None:
        given_up.append(upload_id)

    monkeypatch.setattr(Multipart, "complete", indeterminate)
    monkeypatch.setattr(Multipart, "abort", noted)
    failed, copied = await outcomes_of(buckets, "big")
    monkeypatch.setattr(Multipart, "complete", complete)
    looked = await outcomes_of(buckets, "big", look=True)

    assert (failed.result, failed.indeterminate, copied.result) == (Result.FAILED, True, Result.COPIED)
    assert given_up == []
    assert [outcome.result for outcome in looked] == [Result.SAME] * 2


async def test_a_copy_that_is_cancelled_leaves_no_parts_behind(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.write(buckets.source, "big", CONTENT)
    sent = asyncio.Event()
    upload_part = Multipart.upload_part

    async def noted(uploads: Multipart, key: str, upload_id: str, number: int, *rest: Any, **named: Any) -> Any:
        if number == 3:
            sent.set()
            await asyncio.Event().wait()
        return await upload_part(uploads, key, upload_id, number, *rest, **named)

    monkeypatch.setattr(Multipart, "upload_part", noted)
    copying = asyncio.create_task(buckets.copy("big"))
    await sent.wait()
    assert begun(buckets) == ["big"]
    copying.cancel()
    await asyncio.wait([copying])
    assert begun(buckets) == []
