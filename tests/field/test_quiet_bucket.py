"""A bucket that sees one notification an hour: its store is down, and nothing may be given up."""

from __future__ import annotations

import pytest

from tests.faults.kinds import Fault, Reset, Respond
from tests.faults.messages import Message
from tests.field.answers import page
from tests.field.workplace import DESTINATION, Workplace, working
from tests.s3.raw_server import error_response
from tests.waiting import until

pytestmark = pytest.mark.real

OUTAGES: dict[str, Fault] = {
    "refuses every connection": Reset(),
    "answers 503": Respond(error_response(503, "SlowDown")),
    "does not know the access key": Respond(error_response(403, "InvalidAccessKeyId")),
    "does not know the bucket": Respond(error_response(404, "NoSuchBucket")),
    "denies every write": Respond(error_response(403, "AccessDenied")),
    "is behind a portal": Respond(page(302)),
}


@pytest.mark.parametrize(
    ("outage", "keys"), [*((outage, ["one"]) for outage in OUTAGES), ("refuses every connection", ["one", "two"])]
)
async def test_a_few_keys_wait_for_a_destination_that_is_down_and_are_copied_when_it_returns(
    place: Workplace, outage: str, keys: list[str]
) -> None:
    place.put(*keys)
    async with working(place):
        with place.proxy.injecting(OUTAGES[outage]):
            await place.notify(*keys)
            await until(place.is_parked)
            tried = place.proxy.injected.total()

            async def is_probed_longer_than_there_are_attempts() -> bool:
                return place.proxy.injected.total() > tried + 10

            await until(is_probed_longer_than_there_are_attempts, 60)
            stats = await place.stats()
            assert stats.circuits.keys() == {DESTINATION}
            assert 1 <= stats.pending <= len(keys)
            assert await place.dead_letters() == {}
        await place.until_done(10)
    assert place.copied() == set(keys)
    assert await place.dead_letters() == {}
    assert (await place.stats()).circuits == {}


async def test_what_waits_is_shown_with_its_reason(place: Workplace) -> None:
    place.put("one")
    async with working(place):
        with place.proxy.injecting(OUTAGES["does not know the access key"]):
            await place.notify("one")
            await until(place.is_parked)
            reason = (await place.stats()).circuits[DESTINATION]
        await place.until_done(10)
    assert "403 InvalidAccessKeyId" in reason
    assert "check aws_access_key_id in [destination]" in reason


async def test_the_source_of_a_quiet_bucket_is_waited_for_as_well(place: Workplace) -> None:
    def of_an_object(message: Message) -> bool:
        return message.method == "GET"

    place.put("one")
    async with working(place):
        with place.source_proxy.injecting(Respond(page(404), of=of_an_object)):
            await place.notify("one")

            async def source_is_down() -> bool:
                return "source" in (await place.stats()).circuits

            await until(source_is_down)
        await place.until_done(10)
    assert place.copied() == {"one"}
    assert await place.dead_letters() == {}
