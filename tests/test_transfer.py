from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from s3s3 import fanout
from s3s3.errors import (
    AccessDenied,
    Damaged,
    LeaseLost,
    LeftBehind,
    NoSuchBucket,
    NoSuchKey,
    SpoolTooSmall,
    SpoolUnavailable,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
)
from s3s3.fanout import fan_out
from s3s3.metrics import Metrics
from s3s3.model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Outcome, Proof, Result, Secret
from s3s3.spool import Need, Room
from s3s3.store import Written
from s3s3.transfer import AT_ONCE_BYTES, SMALL_BYTES, STREAM_BYTES, Transfer, one_store, ordinary
from s3s3.transfer.sizes import goes_in_parts, part_bytes_of
from tests.scripted_store import Object, ScriptedStore, unavailable

KEY = "some/key"
TINY, SMALL, BIG = b"content", os.urandom(AT_ONCE_BYTES + 1), os.urandom(SMALL_BYTES + 1)
SIZES = pytest.mark.parametrize("content", [b"", TINY, SMALL, BIG], ids=["empty", "tiny", "small", "big"])
WHOLE_ROOM = Need(STREAM_BYTES, len(BIG))
PARTS = "0123456789abcdef0123456789abcdef-2"
LOOKS_LIKE_AN_MD5 = "0123456789abcdef0123456789abcdef"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def permitted() -> None:
    """Nobody else has the job."""


class Permit:
    """Permits so many writes and then no more."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LeaseLost("the lease is over")


class Scene:
    """A source with one object, destinations, and what copies between them."""

    def __init__(
        self, content: bytes = TINY, *, destinations: int = 1, room: Room | None = None, **about: object
    ) -> None:
        self.source = ScriptedStore("ceph", {KEY: Object(content, **about)})  # type: ignore[arg-type]
        self.destinations = [ScriptedStore(f"swift-{number}") for number in range(destinations)]
        self.destination = self.destinations[0]
        self.metrics = Metrics()
        self.room = room or Room(spool_bytes=WHOLE_ROOM.disk_bytes, memory_bytes=WHOLE_ROOM.memory_bytes)
        self.transfer = Transfer(self.source, self.room, metrics=self.metrics, route="default")  # type: ignore[arg-type]

    async def copy(
        self, *, look: bool = False, permit: Callable[[], None] = permitted, wait_for_all: bool = True
    ) -> list[Outcome]:
        outcomes = await self.transfer.copy(
            KEY,
            self.destinations,  # type: ignore[arg-type]
            permit=permit,
            look=look,
            wait_for_all=wait_for_all,
        )
        assert [outcome.destination for outcome in outcomes] == [store.name for store in self.destinations]
        assert self.source.open_readings == 0, "an open reading holds a connection for ever"
        return outcomes

    async def outcome(self, *, look: bool = False, permit: Callable[[], None] = permitted) -> Outcome:
        [outcome] = await self.copy(look=look, permit=permit)
        return outcome

    def held(self, number: int = 0) -> Object:
        return self.destinations[number].objects[KEY]

    def mismatches(self) -> dict[str, float]:
        return {labels[1]: count for labels, count in self.metrics.verify_mismatch.items() if count}


# who holds up the others


class Late(ScriptedStore):
    """Stores what it gets, after a while: later than anybody waits who need not."""

    late_s = 60.0

    async def put(self, *arguments: Any, **named: Any) -> Written:
        await asyncio.sleep(self.late_s)
        return await super().put(*arguments, **named)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(fanout, "STRAGGLER_PATIENCE_S", 0.05)
    scene = Scene(destinations=3)
    scene.destinations[1] = Late("swift-1")
    return scene


@pytest.mark.parametrize("look", [False, True])
async def test_a_destination_that_holds_up_the_others_is_left_behind_and_its_put_may_be_under_way(
    late: Scene, look: bool
) -> None:
    first, second, third = await late.copy(look=look, wait_for_all=False)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, LeftBehind)
    assert second.unanswered
    assert "swift-1" in second.reason
    assert late.destinations[1].requests.count("PUT") == 0


class LateAnswer(Late):
    """Takes all that it is sent, and answers after a while."""

    async def put(self, *arguments: Any, **named: Any) -> Written:
        written = await ScriptedStore.put(self, *arguments, **named)
        await asyncio.sleep(self.late_s)
        return written


async def test_whose_answer_to_a_stream_is_late_is_left_behind_too(late: Scene) -> None:
    late.source.objects[KEY] = Object(BIG)
    late.destinations[1] = LateAnswer("swift-1")
    first, second, third = await late.copy(wait_for_all=False)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, LeftBehind)
    assert second.unanswered


async def test_who_gets_all_of_a_stream_in_time_is_waited_for(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    late.source.objects[KEY] = Object(BIG)
    late.destinations[1] = LateAnswer("swift-1")
    monkeypatch.setattr(LateAnswer, "late_s", 0.01)
    assert [outcome.result for outcome in await late.copy(wait_for_all=False)] == [Result.COPIED] * 3


async def test_who_is_copied_to_within_the_store_does_not_wait_for_the_others(
    late: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.transfer = Transfer(
        late.source, late.room, metrics=late.metrics, route="default", within=["swift-0", "swift-2"]  # type: ignore[arg-type]
    )  # fmt: skip
    for number in (0, 2):
        late.destinations[number].copies = lambda: late.source.objects[KEY]
    first, second, third = await late.copy(wait_for_all=False)
    assert (first.result, third.result) == (Result.COPIED, Result.COPIED)
    assert isinstance(second.error, LeftBehind)
    monkeypatch.setattr(Late, "late_s", 0.4)
    assert [outcome.result for outcome in await late.copy()] == [Result.COPIED] * 3


async def test_who_is_found_equal_does_not_wait_for_the_others(late: Scene) -> None:
    for number in (0, 2):
        late.destinations[number].objects[KEY] = Object(TINY)
    first, second, third = await late.copy(look=True, wait_for_all=False)
    assert (first.result, third.result) == (Result.SAME, Result.SAME)
    assert isinstance(second.error, LeftBehind)


async def test_who_has_no_queue_waits_for_all(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "late_s", 0.4)
    assert [outcome.result for outcome in await late.copy()] == [Result.COPIED] * 3


async def test_a_destination_that_fails_at_once_hurries_nobody(late: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "late_s", 0.4)
    for number in (0, 2):
        late.destinations[number].answers = refuses
    results = [outcome.result for outcome in await late.copy(wait_for_all=False)]
    assert results == [Result.FAILED, Result.COPIED, Result.FAILED]


def refuses(_: Object) -> Written:
    raise AccessDenied("no", store="swift", operation="PUT")


# a fresh notice


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

    assert [outcome.result for outcome in outcomes] == [Result.SOURCE_GONE] * 2
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

    def refuse(_: Object) -> Written:
        raise AccessDenied("no", store="swift-0", operation="PUT", key=KEY)

    scene.destination.answers = refuse

    refused, copied = await scene.copy()

    assert (refused.result, copied.result) == (Result.FAILED, Result.COPIED)
    assert isinstance(refused.error, AccessDenied)
    assert scene.held(1).content == content


# never wrong


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_a_short_read_never_becomes_an_object(content: bytes) -> None:
    scene = Scene(content[:-1], size_bytes=len(content), etag=md5(content), destinations=2)

    for number, outcome in enumerate(await scene.copy()):
        assert isinstance(outcome.error, Damaged)
        assert scene.destinations[number].objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
async def test_a_short_read_of_an_object_without_an_md5_never_becomes_an_object(content: bytes) -> None:
    scene = Scene(content[:-1], size_bytes=len(content), etag=PARTS)

    assert isinstance((await scene.outcome()).error, Damaged)
    assert scene.destination.objects == {}


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_bytes_damaged_differently_each_time_never_become_an_object(content: bytes) -> None:
    scene = Scene()
    etag = md5(content)
    scene.source.serves[KEY] = [Object(damaged(content), etag), Object(b"x" + content[1:], etag)]

    outcome = await scene.outcome()

    assert isinstance(outcome.error, Damaged) and outcome.error.retriable
    assert "read twice" in outcome.reason
    assert not outcome.unanswered
    assert scene.destination.objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [TINY, SMALL], ids=["tiny", "small"])
async def test_bytes_damaged_once_are_read_again_and_copied(content: bytes) -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(content), md5(content)), Object(content)]

    assert (await scene.outcome()).result is Result.COPIED
    assert (scene.held().content, scene.held().recorded_etag) == (content, None)


async def test_a_streamed_object_whose_bytes_are_damaged_resets_the_put_even_at_a_store_that_checks_nothing() -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(BIG), md5(BIG)), Object(b"x" + BIG[1:], md5(BIG))]
    scene.destination.ignores_content_md5 = True

    assert isinstance((await scene.outcome()).error, Damaged)
    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 2


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_bytes_that_are_cut_short_the_same_way_each_time_never_become_an_object(content: bytes) -> None:
    scene = Scene(content)
    scene.source.serves[KEY] = [Object(content[:-1], md5(content))]

    outcome = await scene.outcome()

    assert isinstance(outcome.error, Damaged) and outcome.error.retriable
    assert f"a HEAD says that it has {len(content)}" in outcome.reason
    assert scene.destination.objects == {}
    assert scene.mismatches() == {"ceph": 1}


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_an_etag_that_looks_like_an_md5_and_is_none_is_known_by_reading_twice_the_same(content: bytes) -> None:
    scene = Scene(content, etag=LOOKS_LIKE_AN_MD5)

    outcome = await scene.outcome()

    assert outcome.result is Result.COPIED
    assert outcome.source_md5 == md5(content)
    assert scene.source.requests == ["GET", "HEAD", "GET"]
    assert (scene.held().content, scene.held().recorded_etag) == (content, LOOKS_LIKE_AN_MD5)
    assert scene.mismatches() == {}
    assert (await scene.outcome(look=True)).proof is Proof.RECORDED_ETAG


async def test_a_destination_that_failed_at_the_first_reading_is_not_asked_at_the_second() -> None:
    scene = Scene(BIG, etag=LOOKS_LIKE_AN_MD5, destinations=2)
    refused = AccessDenied("no", store="swift-0", operation="PUT", key=KEY)
    tries: list[str] = []

    async def refuse(key: str, *_: object, **__: object) -> Written:
        tries.append(key)
        raise refused

    scene.destination.put = refuse  # type: ignore[method-assign, assignment]

    failed, copied = await scene.copy()

    assert (failed.error, tries) == (refused, [KEY])
    assert copied.result is Result.COPIED


async def test_the_etag_of_an_encrypted_object_is_recorded_even_if_it_happens_to_be_the_md5() -> None:
    scene = Scene(encrypted=True)

    await scene.copy()

    assert scene.held().recorded_etag == md5(TINY)
    assert (await scene.outcome(look=True)).proof is Proof.RECORDED_ETAG


@SIZES
async def test_the_etag_of_an_encrypted_object_is_not_held_against_anything(content: bytes) -> None:
    scene = Scene(content, etag=LOOKS_LIKE_AN_MD5, encrypted=True)

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.source.requests == ["GET"]
    assert (scene.held().content, scene.held().recorded_etag) == (content, LOOKS_LIKE_AN_MD5)


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_destination_that_says_200_with_another_etag_is_caught(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)
    scene.destination.answers = lambda _: Written(LOOKS_LIKE_AN_MD5, False, False)

    outcome = await scene.outcome()

    assert isinstance(outcome.error, Damaged) and outcome.error.retriable
    assert md5(content) in outcome.reason and LOOKS_LIKE_AN_MD5 in outcome.reason
    assert scene.mismatches() == {"swift-0": 1}


async def test_a_destination_that_says_200_before_it_has_everything_is_caught() -> None:
    scene = Scene(BIG)
    scene.destination.answers_after = 3

    outcome = await scene.outcome()

    assert isinstance(outcome.error, Damaged)
    assert "before it had the whole object" in outcome.reason


@pytest.mark.parametrize("content", [TINY, BIG], ids=["tiny", "big"])
async def test_a_destination_that_encrypts_may_answer_any_etag(content: bytes) -> None:
    scene = Scene(content)
    scene.destination.answers = lambda _: Written(LOOKS_LIKE_AN_MD5, True, False)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.destination_md5) == (Result.COPIED, None)


async def test_an_object_rewritten_between_two_readings_is_copied_as_it_is_now() -> None:
    scene = Scene()
    new = os.urandom(SMALL_BYTES + 7)
    scene.source.serves[KEY] = [Object(damaged(BIG), md5(BIG)), Object(new)]

    assert (await scene.outcome()).result is Result.COPIED
    assert scene.held().content == new


async def test_an_object_deleted_between_two_readings_is_gone() -> None:
    scene = Scene()
    scene.source.serves[KEY] = [Object(damaged(TINY), md5(TINY))]
    serve = scene.source.get

    async def get_once(key: str) -> object:
        reading = await serve(key)
        scene.source.serves.clear()
        scene.source.objects.clear()
        return reading

    scene.source.get = get_once  # type: ignore[assignment, method-assign]

    assert (await scene.outcome()).result is Result.SOURCE_GONE


# what is recorded


async def test_nothing_is_recorded_where_both_etags_are_md5s() -> None:
    scene = Scene(recorded_etag="from another copy")

    await scene.copy()

    assert scene.held().recorded_etag is None


@SIZES
async def test_an_etag_of_parts_is_recorded(content: bytes) -> None:
    scene = Scene(content, etag=PARTS)

    await scene.copy()

    assert scene.held().recorded_etag == PARTS


async def test_a_destination_whose_etags_are_no_md5s_is_remembered() -> None:
    scene = Scene(destinations=2)
    scene.destination.answers = lambda _: Written("W-17", False, False)

    await scene.copy()
    await scene.copy()

    assert [scene.held(number).recorded_etag for number in (0, 1)] == [md5(TINY), None]


async def test_another_process_learns_from_a_look_that_a_destinations_etags_are_no_md5s() -> None:
    scene = Scene()
    scene.destination.answers = lambda _: Written("W-17", False, False)
    await scene.copy()
    assert scene.held().recorded_etag is None
    scene.transfer.without_md5.clear()

    unproven = await scene.outcome(look=True)
    same = await scene.outcome(look=True)

    assert (unproven.result, unproven.reason) == (Result.COPIED, "unproven")
    assert (same.result, same.proof) == (Result.SAME, Proof.RECORDED_ETAG)


# looking first


@SIZES
async def test_a_look_copies_nothing_that_is_the_same(content: bytes) -> None:
    scene = Scene(content, destinations=2)
    for store in scene.destinations:
        store.objects[KEY] = Object(content)

    outcomes = await scene.copy(look=True)

    for outcome in outcomes:
        assert (outcome.result, outcome.reason, outcome.proof) == (Result.SAME, "same", Proof.ETAG)
        assert (outcome.source_md5, outcome.destination_md5) == (md5(content), md5(content))
        assert (outcome.source_size_bytes, outcome.destination_size_bytes) == (len(content), len(content))
    assert [store.requests for store in scene.destinations] == [["HEAD"], ["HEAD"]]
    assert scene.source.bytes_read == (len(content) if len(content) <= AT_ONCE_BYTES else 0)


@pytest.mark.parametrize("content", [TINY, SMALL, BIG], ids=["tiny", "small", "big"])
async def test_a_look_copies_only_where_something_differs(content: bytes) -> None:
    scene = Scene(content, destinations=4)
    scene.destinations[0].objects[KEY] = Object(content)
    scene.destinations[2].objects[KEY] = Object(damaged(content))
    scene.destinations[3].objects[KEY] = Object(content + b"more")

    outcomes = await scene.copy(look=True)

    found = [(outcome.result.value, outcome.reason) for outcome in outcomes]
    assert found == [("same", "same"), ("copied", "missing"), ("copied", "etag"), ("copied", "size")]
    assert scene.source.requests == ["GET"]
    assert [len(store.requests) for store in scene.destinations] == [1, 2, 2, 2]
    assert all(scene.held(number).content == content for number in range(4))


async def test_a_destination_that_cannot_be_looked_at_fails_alone() -> None:
    scene = Scene(destinations=2)
    scene.destination.head_error = unavailable("swift-0")

    failed, copied = await scene.copy(look=True)

    assert failed.error is scene.destination.head_error
    assert copied.result is Result.COPIED
    assert scene.destination.requests == ["HEAD"]


async def test_a_source_that_is_gone_is_not_looked_for_at_the_destinations() -> None:
    scene = Scene()
    scene.source.objects.clear()

    assert (await scene.outcome(look=True)).result is Result.SOURCE_GONE
    assert scene.destination.requests == []


@pytest.mark.parametrize("verifying", ["source", "destination"])
@SIZES
async def test_contents_decide_where_either_side_wants_them_verified(content: bytes, verifying: str) -> None:
    scene = Scene(content, etag=PARTS, destinations=3)
    scene.source.verify_md5 = verifying == "source"
    for store in scene.destinations:
        store.verify_md5 = verifying == "destination"
    scene.destinations[0].objects[KEY] = Object(content, "other-parts-5")
    scene.destinations[1].objects[KEY] = Object(content)
    scene.destinations[2].objects[KEY] = Object(damaged(content) if content else b"", "other-parts-5")

    outcomes = await scene.copy(look=True)

    same = ("same", "same", Proof.CONTENT)
    last = ("copied", "content", Proof.ETAG) if content else same
    assert [(outcome.result.value, outcome.reason, outcome.proof) for outcome in outcomes] == [same, same, last]
    assert scene.destinations[1].requests == ["HEAD"], "its ETag is an MD5: there is nothing to read"
    assert all(outcome.source_md5 == outcome.destination_md5 == md5(content) for outcome in outcomes)
    assert all(scene.held(number).content == content for number in range(3))


async def test_contents_decide_where_the_destination_encrypts() -> None:
    scene = Scene()
    scene.destination.verify_md5 = True
    scene.destination.objects[KEY] = Object(TINY, LOOKS_LIKE_AN_MD5, encrypted=True)

    assert (await scene.outcome(look=True)).proof is Proof.CONTENT


async def test_only_the_destination_is_read_where_the_sources_etag_is_an_md5() -> None:
    scene = Scene(BIG)
    scene.source.verify_md5 = True
    scene.destination.objects[KEY] = Object(BIG, PARTS)

    assert (await scene.outcome(look=True)).proof is Proof.CONTENT
    assert scene.source.bytes_read == 0


async def test_a_big_object_whose_md5_was_worked_out_for_a_comparison_need_not_be_spooled() -> None:
    scene = Scene(BIG, etag=PARTS, room=Room(spool_dir="/no/such/directory"))
    scene.source.verify_md5 = True
    scene.destination.objects[KEY] = Object(damaged(BIG), "other-parts-5")

    assert (await scene.outcome(look=True)).result is Result.COPIED
    assert scene.held().recorded_etag == PARTS


async def test_a_destination_whose_content_cannot_be_read_fails_alone() -> None:
    scene = Scene(etag=PARTS, destinations=2)
    scene.source.verify_md5 = True
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY, "other-parts-5")
    scene.destination.get_error = unavailable("swift-0")

    failed, same = await scene.copy(look=True)

    assert failed.error is scene.destination.get_error
    assert scene.room.take_now(WHOLE_ROOM)
    assert same.proof is Proof.CONTENT


# leases


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_nothing_is_written_once_the_lease_is_over(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    outcome = await scene.outcome(permit=Permit(0))

    assert isinstance(outcome.error, LeaseLost)
    assert not outcome.unanswered
    assert scene.destination.objects == {}


@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_lease_that_ends_during_a_long_put_keeps_the_object_from_being_complete(etag: str) -> None:
    scene = Scene(BIG, etag=etag)

    outcome = await scene.outcome(permit=Permit(1))

    assert isinstance(outcome.error, LeaseLost)
    assert scene.destination.objects == {}
    assert scene.destination.cut_off == 1


# writes without an answer


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_put_that_was_sent_whole_and_got_no_answer_is_told(content: bytes, etag: str) -> None:
    scene = Scene(content, etag=etag)

    def break_off(_: Object) -> Written:
        raise unavailable("swift-0", unanswered=True)

    scene.destination.answers = break_off

    outcome = await scene.outcome()

    assert isinstance(outcome.error, StoreUnavailable)
    assert outcome.unanswered


async def test_a_put_of_which_the_end_was_never_sent_cannot_be_carried_out_later() -> None:
    scene = Scene(BIG)

    async def break_off(*_: object, **__: object) -> Written:
        raise unavailable("swift-0", unanswered=True)

    scene.destination.put = break_off  # type: ignore[method-assign, assignment]

    assert not (await scene.outcome()).unanswered


async def test_an_attempt_without_an_answer_before_the_one_that_succeeded_is_told() -> None:
    scene = Scene()
    scene.destination.answers = lambda stored: Written(md5(stored.content), False, True)

    outcome = await scene.outcome()

    assert (outcome.result, outcome.unanswered) == (Result.COPIED, True)


async def test_a_lease_that_ended_between_two_attempts_does_not_hide_the_first_one() -> None:
    scene = Scene()
    put = scene.destination.put

    async def put_twice(*arguments: object, **named: object) -> Written:
        await put(*arguments, **named)  # type: ignore[arg-type]  # sent, and no answer came
        return await put(*arguments, **named)  # type: ignore[arg-type]

    scene.destination.put = put_twice  # type: ignore[method-assign, assignment]

    outcome = await scene.outcome(permit=Permit(1))

    assert isinstance(outcome.error, LeaseLost)
    assert outcome.unanswered


# limits


async def test_an_object_over_a_single_puts_limit_names_the_setting_and_is_not_read() -> None:
    scene = Scene(b"", size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, destinations=2)

    for outcome in await scene.copy():
        assert isinstance(outcome.error, TooLarge) and not outcome.error.retriable
        assert "multipart = true in [swift-" in outcome.reason
        assert outcome.source_size_bytes == SINGLE_PUT_LIMIT_BYTES + 1
    assert scene.source.bytes_read == 0
    assert scene.destination.requests == []


async def test_an_object_over_the_limit_is_not_said_to_be_too_large_for_the_spool() -> None:
    scene = Scene(b"", etag=PARTS, size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, room=Room(spool_bytes=SMALL_BYTES))

    assert isinstance((await scene.outcome()).error, TooLarge)


async def test_an_object_over_the_limit_that_is_there_already_is_the_same() -> None:
    huge = Object(b"", PARTS, size_bytes=SINGLE_PUT_LIMIT_BYTES + 1)
    scene = Scene(destinations=2)
    scene.source.objects[KEY] = scene.destination.objects[KEY] = huge

    same, too_large = await scene.copy(look=True)

    assert same.result is Result.SAME
    assert isinstance(too_large.error, TooLarge)


async def test_an_object_that_the_spool_can_never_hold_names_the_setting_and_is_not_read() -> None:
    scene = Scene(BIG, etag=PARTS, room=Room(spool_bytes=SMALL_BYTES))

    outcome = await scene.outcome()

    assert isinstance(outcome.error, SpoolTooSmall)
    assert "spool_bytes" in outcome.reason
    assert scene.source.bytes_read == 0


async def test_a_spool_that_cannot_be_written_is_tried_again_later() -> None:
    outcome = await Scene(BIG, etag=PARTS, room=Room(spool_dir="/no/such/directory")).outcome()

    assert isinstance(outcome.error, SpoolUnavailable) and outcome.error.retriable
    assert "spool_dir" in outcome.reason


@pytest.mark.parametrize(
    ("content", "etag"), [(SMALL, ""), (BIG, ""), (BIG, PARTS)], ids=["small", "streamed", "spooled"]
)
async def test_a_copy_waits_for_room_without_holding_a_connection(content: bytes, etag: str) -> None:
    room = Room(spool_bytes=len(BIG), memory_bytes=STREAM_BYTES)
    scene = Scene(content, etag=etag, room=room)
    await room.take(Need(STREAM_BYTES, len(BIG)))
    copying = asyncio.create_task(scene.outcome())
    await asyncio.sleep(0.05)

    assert (scene.source.open_readings, scene.source.bytes_read, scene.destination.requests) == (0, 0, [])

    room.give(Need(STREAM_BYTES, len(BIG)))
    assert (await copying).result is Result.COPIED
    assert scene.held().content == content


async def test_what_comes_with_the_get_needs_no_room() -> None:
    room = Room(memory_bytes=STREAM_BYTES)
    await room.take(Need(STREAM_BYTES))

    assert (await asyncio.wait_for(Scene(TINY, room=room).outcome(), 5)).result is Result.COPIED


@SIZES
@pytest.mark.parametrize("etag", ["", PARTS])
async def test_a_copy_gives_back_all_the_room_it_took(content: bytes, etag: str) -> None:
    room = Room(spool_bytes=len(BIG), memory_bytes=STREAM_BYTES)
    scene = Scene(content, etag=etag, room=room)
    for _ in range(2):
        await scene.copy()

    def refuse(_: Object) -> Written:
        raise AccessDenied("no", store="swift-0")

    scene.destination.answers = refuse
    await scene.copy()
    scene.source.objects[KEY] = replace(scene.source.objects[KEY], size_bytes=len(content) + 1)
    await scene.copy()

    assert room.take_now(Need(STREAM_BYTES, len(BIG)))


async def test_an_object_that_grew_while_its_copy_waited_for_room_takes_what_it_needs_now() -> None:
    room = Room(memory_bytes=STREAM_BYTES)
    scene = Scene(SMALL, room=room)
    await room.take(Need(STREAM_BYTES))
    copying = asyncio.create_task(scene.outcome())
    await asyncio.sleep(0.02)
    scene.source.objects[KEY] = Object(BIG)
    room.give(Need(STREAM_BYTES))

    assert (await copying).result is Result.COPIED
    assert scene.held().content == BIG
    assert room.take_now(Need(STREAM_BYTES))


# slow destinations


async def test_a_slow_destination_of_a_streamed_object_is_cut_loose_and_gets_an_attempt_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ordinary, "fan_out", partial(fan_out, patience_s=0.05))
    scene = Scene(os.urandom(8 * 1024 * 1024), destinations=3)
    scene.destinations[1].pause_s = 0.05

    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3
    assert scene.source.requests == ["GET", "GET"]
    assert [store.requests for store in scene.destinations] == [["PUT"], ["PUT", "PUT"], ["PUT"]]
    assert scene.destinations[1].cut_off == 1
    assert len({scene.held(number).content for number in range(3)}) == 1


async def test_a_slow_destination_whose_own_attempt_meets_a_failing_source_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ordinary, "fan_out", partial(fan_out, patience_s=0.05))
    content = os.urandom(8 * 1024 * 1024)
    scene = Scene(destinations=2)
    scene.source.serves[KEY] = [Object(content), unavailable("ceph")]
    scene.destinations[1].pause_s = 0.05

    quick, slow = await scene.copy()

    assert quick.result is Result.COPIED
    assert isinstance(slow.error, StoreUnavailable) and slow.error.store == "ceph"


async def test_a_cancelled_copy_leaves_nothing_open() -> None:
    room = Room(memory_bytes=STREAM_BYTES)
    scene = Scene(BIG, destinations=2, room=room)
    for store in scene.destinations:
        store.pause_s = 10
    copying = asyncio.create_task(scene.copy())
    await asyncio.sleep(0.05)
    copying.cancel()

    with pytest.raises(asyncio.CancelledError):
        await copying
    assert scene.source.open_readings == 0
    assert [store.cut_off for store in scene.destinations] == [1, 1]
    assert room.take_now(Need(STREAM_BYTES))


# deletions


def gone_from_the_source(**settings: object) -> Scene:
    """Two destinations hold a key that the source lacks; the first carries deletions over."""
    scene = Scene(destinations=2)
    scene.source.objects.clear()
    scene.destination.settings = {"delete": True, **settings}
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY)
    return scene


async def test_what_a_get_at_the_source_says_is_gone_is_deleted_where_that_is_asked_for() -> None:
    scene = gone_from_the_source()

    deleted, left = await scene.copy()

    assert (deleted.result, deleted.reason) == (Result.DELETED, "source gone")
    assert left.result is Result.SOURCE_GONE
    assert [store.requests for store in scene.destinations] == [["DELETE"], []]
    assert KEY not in scene.destination.objects
    assert KEY in scene.destinations[1].objects


async def test_a_look_deletes_only_what_is_there() -> None:
    scene = gone_from_the_source()

    deleted, _ = await scene.copy(look=True)
    absent, _ = await scene.copy(look=True)

    assert (deleted.result, deleted.destination_size_bytes) == (Result.DELETED, len(TINY))
    assert absent.result is Result.SOURCE_GONE
    assert scene.destination.requests == ["HEAD", "DELETE", "HEAD"]


@pytest.mark.parametrize(
    "error",
    [
        NoSuchBucket("no such bucket", store="ceph", operation="GET"),
        AccessDenied("no", store="ceph", operation="GET"),
        StoreRefused("not found", store="ceph", operation="GET", status=404),
        StoreUnavailable("away", store="ceph", operation="GET"),
    ],
)
@pytest.mark.parametrize("look", [False, True])
async def test_nothing_but_no_such_key_deletes(error: StoreError, look: bool) -> None:
    scene = gone_from_the_source()
    scene.source.get_error = error

    outcomes = await scene.copy(look=look)

    assert [outcome.result for outcome in outcomes] == [Result.FAILED] * 2
    assert scene.destination.requests == []


async def test_no_such_key_of_a_destination_deletes_nothing() -> None:
    scene = Scene()
    scene.destination.settings = {"delete": True}
    scene.destination.head_error = NoSuchKey("odd", store="swift-0", operation="HEAD", key=KEY)

    assert (await scene.outcome(look=True)).result is Result.FAILED
    assert scene.destination.requests == ["HEAD"]


async def test_a_key_that_the_route_is_not_about_is_never_deleted() -> None:
    scene = gone_from_the_source()
    scene.transfer = Transfer(
        scene.source, scene.room, metrics=scene.metrics, route="default", matches=lambda key: key != KEY  # type: ignore[arg-type]
    )  # fmt: skip

    assert [outcome.result for outcome in await scene.copy()] == [Result.SOURCE_GONE] * 2
    assert KEY in scene.destination.objects


async def test_a_lease_that_is_over_deletes_nothing() -> None:
    scene = gone_from_the_source()

    lost, _ = await scene.copy(permit=Permit(0))

    assert isinstance(lost.error, LeaseLost)
    assert not lost.unanswered
    assert KEY in scene.destination.objects


async def test_a_delete_without_an_answer_is_told_to_be_one() -> None:
    scene = gone_from_the_source()
    scene.destination.delete_error = unavailable("swift-0", unanswered=True)
    failed, _ = await scene.copy()
    scene.destination.delete_error, scene.destination.deletes_late = None, True
    deleted, _ = await scene.copy()

    assert (failed.result, failed.unanswered) == (Result.FAILED, True)
    assert (deleted.result, deleted.unanswered) == (Result.DELETED, True)


async def test_what_vanishes_between_two_readings_is_deleted_too() -> None:
    scene = Scene(BIG, etag=LOOKS_LIKE_AN_MD5)
    scene.destination.settings = {"delete": True}
    first = Object(BIG, etag=LOOKS_LIKE_AN_MD5)
    scene.source.serves[KEY] = [first, NoSuchKey("gone", store="ceph", operation="GET", key=KEY, status=404)]

    assert (await scene.outcome()).result is Result.DELETED


# within one store


def one_store_with(content: bytes = TINY, **about: object) -> Scene:
    """A source and two destinations; the first is in the source's own store."""
    scene = Scene(content, destinations=2, **about)
    scene.transfer = Transfer(
        scene.source, scene.room, metrics=scene.metrics, route="default", within=["swift-0"]  # type: ignore[arg-type]
    )  # fmt: skip
    scene.destination.copies = lambda: scene.source.objects[KEY]
    return scene


async def test_a_store_that_has_both_copies_by_itself_and_the_others_get_theirs_the_ordinary_way() -> None:
    scene = one_store_with()

    within, other = await scene.copy()

    assert (within.result, within.source_md5, within.destination_md5) == (Result.COPIED, md5(TINY), md5(TINY))
    assert other.result is Result.COPIED
    assert scene.source.requests == ["HEAD", "GET"]
    assert [store.requests for store in scene.destinations] == [["COPY"], ["PUT"]]


async def test_a_look_has_the_store_copy_only_what_differs() -> None:
    scene = one_store_with()
    scene.transfer = Transfer(
        scene.source, scene.room, metrics=scene.metrics, route="default", within=["swift-0", "swift-1"]  # type: ignore[arg-type]
    )  # fmt: skip
    scene.destination.objects[KEY] = Object(TINY)
    scene.destinations[1].copies = lambda: scene.source.objects[KEY]

    same, copied = await scene.copy(look=True)

    assert (same.result, copied.result, copied.reason) == (Result.SAME, Result.COPIED, "missing")
    assert scene.source.bytes_read == 0
    assert [store.requests for store in scene.destinations] == [["HEAD"], ["HEAD", "COPY"]]


@pytest.mark.parametrize(
    "copies",
    [
        Written(LOOKS_LIKE_AN_MD5, False, False),
        Written("", False, False),
        Written(md5(TINY), True, False),
        StoreRefused("no such thing", store="swift-0", status=501),
        StoreRefused("changed", store="swift-0", status=412),
        NoSuchKey("gone", store="swift-0", status=404),
    ],
)
async def test_what_the_store_s_own_copy_does_not_prove_goes_the_ordinary_road_at_once(
    copies: Written | Exception,
) -> None:
    scene = one_store_with()

    def copy() -> Written:
        if isinstance(copies, Exception):
            raise copies
        return copies

    scene.destination.copies = copy

    assert [outcome.result for outcome in await scene.copy()] == [Result.COPIED] * 2
    assert scene.destination.requests == ["COPY", "PUT"]
    assert scene.held().content == TINY


@pytest.mark.parametrize(("status", "asked"), [(501, 1), (403, 3)])
async def test_a_store_that_makes_no_copies_is_not_asked_for_ever(status: int, asked: int) -> None:
    scene = one_store_with()

    def refuse() -> Object:
        raise StoreRefused("no", store="swift-0", status=status)

    scene.destination.copies = refuse
    for _ in range(5):
        await scene.copy()

    assert scene.destination.requests.count("COPY") == asked
    assert scene.source.requests.count("HEAD") == asked


async def test_a_store_that_made_a_copy_once_is_asked_again_after_any_number_of_refusals() -> None:
    scene = one_store_with()
    await scene.copy()
    copies = scene.destination.copies
    scene.destination.copies = lambda: Written("another", False, False)
    for _ in range(5):
        await scene.copy()
    scene.destination.copies = copies
    await scene.copy()

    assert scene.destination.requests[-1] == "COPY"


@pytest.mark.parametrize("about", [{"encrypted": True}, {"size_bytes": SINGLE_PUT_LIMIT_BYTES + 1}])
async def test_what_no_etag_proves_or_one_put_does_not_take_is_not_asked_for(about: dict[str, object]) -> None:
    scene = one_store_with(**about)
    await scene.copy()
    assert "COPY" not in scene.destination.requests


async def test_a_copy_within_a_store_without_an_answer_is_told_to_be_one() -> None:
    scene = one_store_with()

    def silent() -> Object:
        raise unavailable("swift-0", unanswered=True)

    scene.destination.copies = silent
    failed, other = await scene.copy()

    assert (failed.result, failed.unanswered) == (Result.FAILED, True)
    assert other.result is Result.COPIED
    assert scene.destination.requests == ["COPY"]


async def test_a_large_copy_that_a_store_does_not_finish_in_time_goes_the_ordinary_road_the_next_time() -> None:
    scene = one_store_with(BIG)

    def silent() -> Object:
        raise unavailable("swift-0", unanswered=True)

    scene.destination.copies = silent
    await scene.copy()
    outcomes = await scene.copy()

    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 2
    assert scene.destination.requests == ["COPY", "PUT"]


async def test_a_lease_that_is_over_has_no_store_copy_anything() -> None:
    lost, _ = await one_store_with().copy(permit=Permit(0))
    assert isinstance(lost.error, LeaseLost)
    assert not lost.unanswered


async def test_a_source_that_is_gone_is_asked_by_a_get_before_anything_is_deleted() -> None:
    scene = one_store_with()
    scene.source.objects.clear()
    scene.destination.settings = {"delete": True}
    scene.destination.objects[KEY] = Object(TINY)

    deleted, _ = await scene.copy()

    assert deleted.result is Result.DELETED
    assert scene.source.requests == ["HEAD", "GET"]


async def test_a_record_is_never_copied_onward_within_a_store() -> None:
    scene = one_store_with(headers={"content-type": "image/fits"}, recorded_etag="older")
    await scene.copy()
    assert scene.held().headers == {"content-type": "image/fits"}


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
def test_one_store_is_the_same_host_and_port_and_the_same_keys(change: dict[str, Any], same: bool) -> None:
    assert one_store(CEPH, replace(CEPH, **change)) is same


# parts


@pytest.mark.parametrize(
    ("size_bytes", "threshold_bytes", "part_bytes"),
    [
        (6 * 1024**3, 5 * 1024**3, 64 * 1024**2),
        (6 * 1024**2, 5 * 1024**2, 5 * 1024**2),
        (10_000 * 64 * 1024**2, 5 * 1024**3, 64 * 1024**2),
        (10_000 * 64 * 1024**2 + 1, 5 * 1024**3, 65 * 1024**2),
        (5 * 1024**4, 5 * 1024**3, 525 * 1024**2),
    ],
)
def test_there_are_never_more_parts_than_a_store_takes(size_bytes: int, threshold_bytes: int, part_bytes: int) -> None:
    endpoint = Endpoint("swift", "b", multipart=True, multipart_threshold_bytes=threshold_bytes)
    assert part_bytes_of(endpoint, size_bytes) == part_bytes
    assert -(-size_bytes // part_bytes) <= 10_000
    assert goes_in_parts(endpoint, size_bytes)
    assert not goes_in_parts(endpoint, threshold_bytes)
    assert not goes_in_parts(replace(endpoint, multipart=False), size_bytes)


async def test_a_store_that_takes_no_parts_fails_for_itself_alone_and_nothing_is_waited_for() -> None:
    scene = Scene(b"", size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, destinations=2)
    scene.destination.settings = {"multipart": True}
    scene.room = Room(spool_bytes=1)
    with_parts, without = await scene.copy()
    assert isinstance(with_parts.error, SpoolTooSmall) or "spool_bytes" in with_parts.reason
    assert without.result is Result.FAILED
