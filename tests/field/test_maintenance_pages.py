"""What proxies, ingresses and captive portals answer during a maintenance says nothing about an object."""

from __future__ import annotations

import asyncio

import pytest

from s3s3.errors import UnexpectedResponse
from tests.faults.kinds import Respond, listing
from tests.field.answers import MAINTENANCE_STATUSES, about, page
from tests.field.workplace import DESTINATION, Workplace, working
from tests.s3.raw_server import response
from tests.waiting import until

pytestmark = pytest.mark.real

MAINTENANCE_S = 3.0


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_no_key_is_given_up_because_of_the_pages_of_a_maintenance(place: Workplace, side: str) -> None:
    keys = {f"key-{status}": status for status in MAINTENANCE_STATUSES}
    proxy = place.source_proxy if side == "source" else place.proxy
    place.put(*keys)
    async with working(place):
        with proxy.injecting(*(Respond(page(status), of=about(key)) for key, status in keys.items())):
            await place.notify(*keys)
            await asyncio.sleep(MAINTENANCE_S)
            assert await place.dead_letters() == {}
        await place.until_done()
    assert place.copied() == set(keys)
    assert await place.dead_letters() == {}


async def test_a_redirect_is_reported_with_the_setting_to_change(place: Workplace) -> None:
    place.put("one")
    async with working(place):
        with place.proxy.injecting(Respond(page(307))):
            await place.notify("one")
            await until(place.is_parked)
            reason = (await place.stats()).circuits[DESTINATION]
        await place.until_done()
    assert "the store redirects to https://status.example.org/: set host or region in [destination]" in reason


async def test_the_size_limit_of_a_proxy_is_the_object_s_and_named(place: Workplace) -> None:
    """413 comes from nginx's client_max_body_size: smaller objects pass."""
    place.put("large", "small")
    async with working(place):
        with place.proxy.injecting(Respond(page(413), of=about("large", "PUT"))):
            await place.notify("large", "small")
            await place.until_done()
    [letter] = (await place.dead_letters()).values()
    assert (letter.key, letter.attempts) == ("large", 3), "it is counted"
    assert "client_max_body_size" in letter.reason
    assert place.copied() == {"small"}


@pytest.mark.parametrize("body", [page(200), response(200, b"{}"), response(200)], ids=["HTML", "JSON", "nothing"])
async def test_a_page_instead_of_a_listing_is_no_empty_bucket(place: Workplace, body: bytes) -> None:
    place.put("one")
    with place.source_proxy.injecting(Respond(body, of=listing)):
        error = await place.stores.read_error("source", "")
    assert isinstance(error, UnexpectedResponse)
    assert "check host and port in [source]" in str(error)
