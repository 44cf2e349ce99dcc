"""One object at which a store always breaks: it stops no other, and ends where an operator sees it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.faults.kinds import Reset, Respond
from tests.field.answers import about, page
from tests.field.workplace import DESTINATION, Workplace, working
from tests.s3.raw_server import error_response
from tests.waiting import until

pytestmark = pytest.mark.real

POISONS = {
    "500": Respond(error_response(500, "InternalError"), of=about("poison")),
    "a page of a firewall": Respond(page(403), of=about("poison")),
    "a reset": Reset(of=about("poison")),
}


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("poison", POISONS)
async def test_in_a_busy_bucket_it_becomes_a_dead_letter_and_delays_nothing(
    place: Workplace, poison: str, side: str
) -> None:
    proxy = place.source_proxy if side == "source" else place.proxy
    good = [f"good {number:03}" for number in range(120)]
    place.put("poison", *good)
    published = []
    async with working(place):
        with proxy.injecting(POISONS[poison]):
            await place.notify("poison")
            for key in good:
                await place.notify(key)
                published.append(key)
                await asyncio.sleep(0.02)
                if await place.dead_letters():
                    break
            await until(place.dead_letters)
            assert not await place.is_parked()
            await place.until_done()
    assert (await place.dead_letters()).keys() == {"poison"}
    assert place.copied() == set(published)


async def test_in_a_quiet_bucket_it_waits_visibly_and_any_other_key_is_copied_without_delay(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [f"good {number:03}" for number in range(30)]
    place.put("poison", *good)
    numbers = itertools.count()
    async with working(place):
        with place.proxy.injecting(POISONS["500"]):
            await place.notify("poison")
            await until(place.is_parked)
            with monkeypatch.context() as patch:
                for name in ("INITIAL_PROBE_INTERVAL_S", "MAX_PROBE_INTERVAL_S"):
                    patch.setattr(f"s3s3.queue.redis_queue.{name}", 60.0)
                for _ in range(3):
                    key = good[next(numbers)]
                    await place.notify(key)
                    await until(lambda: key in place.copied(), 30)  # noqa: B023
            assert "500" in (await place.stats()).circuits.get(DESTINATION, "500")

            async def has_ended() -> bool:
                """Each other key that is copied is evidence."""
                await place.notify(good[next(numbers)])
                await asyncio.sleep(0.3)
                return bool(await place.dead_letters())

            await until(has_ended, 30)
    assert (await place.dead_letters()).keys() == {"poison"}


async def test_several_of_them_do_not_keep_the_others_waiting(place: Workplace) -> None:
    """Probes rotate over the parked keys, those first that have not been tried."""
    poisons = [f"poison {number}" for number in range(6)]
    place.put(*poisons, "good")
    async with working(place):
        with place.proxy.injecting(POISONS["500"]):
            await place.notify(*poisons)
            await until(place.is_parked)
            await place.notify("good")
            await until(lambda: place.copied() == {"good"}, 10)
        await place.until_done()
    assert place.copied() == {*poisons, "good"}
