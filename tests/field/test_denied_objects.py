"""Objects that the source denies: they fail alone, and are reported as what they are."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

import pytest

from s3s3.monitoring.metrics import Metrics
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.comparison import ReconcileOptions
from s3s3.reconcile.reconciler import reconcile_with_worker
from s3s3.reconcile.summary import ReconcileSummary
from tests.faults.kinds import Reset, Respond, listing
from tests.faults.messages import Message
from tests.field.answers import about, denied, page
from tests.field.workplace import DESTINATION, SETTINGS, Workplace, working
from tests.s3.raw_server import error_response
from tests.waiting import until

pytestmark = pytest.mark.real

#: Objects that may not be read, sorted before the others; and the others.
BRIEF, WHOLE = (12, 40), pytest.param((30, 300), marks=pytest.mark.long)


def of_objects(message: Message) -> bool:
    return not listing(message)


async def compared(place: Workplace, jobs: RedisJobQueue | None) -> ReconcileSummary:
    """Run `s3s3 bucket`, with Redis or without."""
    lines: list[dict[str, object]] = []
    summary = ReconcileSummary("default", (DESTINATION,), lines.append)
    stores = dataclasses.replace(place.stores, metrics=Metrics())
    await reconcile_with_worker(stores, jobs, SETTINGS, ReconcileOptions(), asyncio.Event(), summary=summary)
    assert Counter(str(line["outcome"]) for line in lines) == Counter(summary.counts[DESTINATION])
    for line in lines:
        if line["outcome"] == "failed":
            assert str(line["key"]).startswith("denied"), line
            assert "403" in str(line["reason"])
    return summary


@pytest.mark.parametrize("with_redis", [True, False])
@pytest.mark.parametrize("answer", [denied(), page(403)], ids=["AccessDenied", "a page of a firewall"])
@pytest.mark.parametrize("counts", [BRIEF, WHOLE])
async def test_a_run_copies_every_readable_object_and_reports_exactly_the_others(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], answer: bytes, with_redis: bool
) -> None:
    for module in ("executor", "reconciler"):
        monkeypatch.setattr(f"s3s3.reconcile.{module}.MAX_OUTAGE_S", 1.0)
    denied_keys = [f"denied {number:03}" for number in range(counts[0])]
    good_keys = [f"good {number:03}" for number in range(counts[1])]
    place.put(*denied_keys, *good_keys)
    with place.source_proxy.injecting(Respond(answer, of=about("denied"))):
        for run in range(2):
            summary = await compared(place, place.jobs if with_redis else None)
            copied = {"copied": len(good_keys)} if run == 0 else {"same": len(good_keys)}
            assert summary.counts[DESTINATION] == {**copied, "failed": len(denied_keys)}
            assert place.copied() == set(good_keys)


@pytest.mark.parametrize("with_redis", [True, False])
@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.long)])
async def test_a_run_waits_for_the_end_of_an_outage_and_nothing_fails(
    place: Workplace, count: int, with_redis: bool
) -> None:
    keys = {f"key {number:03}" for number in range(count)}
    place.put(*keys)
    with place.source_proxy.injecting(outage := Reset(of=of_objects)):
        run = asyncio.create_task(compared(place, place.jobs if with_redis else None))
        await until(lambda: place.source_proxy.injected[outage.name] > 20)
        await asyncio.sleep(1)
        assert not run.done()
    summary = await run
    assert summary.counts[DESTINATION] == {"copied": count}
    assert place.copied() == keys


async def test_a_listener_copies_all_readable_objects_and_gives_the_others_up(place: Workplace) -> None:
    denied_keys, good_keys = {f"denied {number}" for number in range(8)}, {f"good {number}" for number in range(8)}
    place.put(*denied_keys, *good_keys)
    async with working(place):
        with place.source_proxy.injecting(Respond(denied(), of=about("denied"))):
            await place.notify(*sorted(denied_keys), *good_keys)
            await place.until_done()
    letters = await place.dead_letters()
    assert letters.keys() == denied_keys
    assert {letter.attempts for letter in letters.values()} == {SETTINGS.max_attempts}
    assert place.copied() == good_keys


async def test_where_nothing_may_be_listed_denied_objects_do_not_stop_the_others(place: Workplace) -> None:
    """Without the permission to list, a GET of a missing object is a 403 as well (S3 API reference, "GetObject")."""
    place.put("good 1", "good 2")
    async with working(place):
        with place.source_proxy.injecting(
            Respond(denied(), of=listing), Respond(denied(), of=about("missing")), Respond(denied(), of=about("denied"))
        ):
            await place.notify("denied 1", "missing 2")
            await until(lambda: place.source_proxy.injected.total() > 10)
            await place.notify("good 1")
            await until(lambda: place.copied() == {"good 1"})
            await place.notify("good 2")
            await until(lambda: place.copied() == {"good 1", "good 2"})


async def test_a_source_that_denies_everything_is_down_and_nothing_is_given_up(place: Workplace) -> None:
    keys = {f"key {number}" for number in range(10)}
    place.put(*keys)
    async with working(place):
        with place.source_proxy.injecting(Respond(denied())):
            await place.notify(*keys)

            async def source_is_down() -> bool:
                return "source" in (await place.stats()).circuits

            await until(source_is_down)
            await until(lambda: place.source_proxy.injected.total() > 40)
        await place.until_done()
    assert place.copied() == keys
    assert await place.dead_letters() == {}


async def test_a_signature_that_is_refused_for_one_key_alone_is_the_object_s(place: Workplace) -> None:
    """As of Ceph for a metadata name with "_" (V2); there may be no other key that shows that the store works."""
    place.put("odd")
    refused = error_response(403, "SignatureDoesNotMatch", "the signatures differ")
    async with working(place):
        with place.proxy.injecting(Respond(refused, of=about("odd", "PUT"))):
            await place.notify("odd")
            await place.until_done()
    assert (await place.dead_letters()).keys() == {"odd"}


async def test_a_wrong_secret_is_the_store_s_and_nothing_is_given_up(place: Workplace) -> None:
    place.put("a", "b")
    refused = error_response(403, "SignatureDoesNotMatch", "the signatures differ")
    async with working(place):
        with place.proxy.injecting(Respond(refused)):
            await place.notify("a", "b")
            await until(lambda: place.proxy.injected.total() > 10)
        await place.until_done()
    assert (place.copied(), await place.dead_letters()) == ({"a", "b"}, {})


async def test_a_write_that_is_denied_for_one_key_is_the_object_s(place: Workplace) -> None:
    place.put("denied", *(f"good {number}" for number in range(40)))
    async with working(place):
        with place.proxy.injecting(Respond(denied(), of=about("denied", "PUT"))):
            await place.notify("denied")
            for number in range(40):
                await place.notify(f"good {number}")
                await asyncio.sleep(0.05)
            await place.until_done()
    assert (await place.dead_letters()).keys() == {"denied"}
    assert len(place.copied()) == 40
