"""The timeouts of a store's table: for connections, responses and pages of listings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint
from s3s3.s3 import BucketAdmin, Store, Timeouts
from s3s3.s3.probe import probe
from tests.addresses import silent_address
from tests.config.configurations import loaded, problems_in
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, response
from tests.s3.test_listing import aws, page

SLOW_S = 1.5


def after(pause_s: float, raw: bytes) -> Script:
    async def script(received: ReceivedRequest) -> None:
        await asyncio.sleep(pause_s)
        received.write(raw)

    return script


def configured(port: int, lines: str) -> Endpoint:
    """Return the source of a file with these lines in a shared table."""
    text = f"""
[stores.slow]
host = "127.0.0.1"
port = {port}
is_secure = false
aws_access_key_id = "AKID"
aws_secret_access_key = "secret"
{lines}
[source]
store = "slow"
bucket_name = "bucket"
[destination]
host = "elsewhere"
bucket_name = "bucket"
"""
    return loaded(text).routes[0].source


@pytest.mark.long
async def test_a_listing_may_take_longer_than_other_requests() -> None:
    listed = response(body=page(aws("a")))
    async with RawServer([after(SLOW_S, listed)]) as server:
        async with Store(configured(server.port, 'read_timeout = "1s"')) as store:
            assert [entry.key async for found in store.pages() for entry in found] == ["a"]
        async with Store(configured(server.port, "list_timeout = 1")) as store:
            with pytest.raises(StoreUnavailable, match=r"0 bytes of the response in 1 s .*list_timeout in \[source"):
                await store.list_after("", 1)


@pytest.mark.long
async def test_a_read_that_is_slower_than_the_setting_fails_and_a_longer_setting_permits_it() -> None:
    async with RawServer([after(SLOW_S, response(body=b"x"))]) as server:
        async with Store(configured(server.port, "read_timeout = 1")) as store:
            with pytest.raises(StoreUnavailable, match=r"in 1 s .*read_timeout in \[source"):
                await store.get("key")
        async with Store(configured(server.port, 'read_timeout = "1m"')) as store:
            assert (await store.fetch("key", 10))[1] == b"x"


async def test_the_setting_limits_a_connection() -> None:
    with silent_address() as (_, port):
        endpoint = replace(configured(port, "connect_timeout = 1"), connect_timeout_s=0.2)
        started_s = time.monotonic()
        async with Store(endpoint) as store:
            with pytest.raises(StoreUnavailable, match=f"no connection to 127.0.0.1:{port} in time"):
                await store.get("key")
        assert time.monotonic() - started_s < 8


async def test_check_and_the_creation_of_buckets_keep_to_the_settings() -> None:
    async with RawServer([after(60, b"")]) as server:
        endpoint = replace(configured(server.port, ""), read_timeout_s=0.2, list_timeout_s=0.2)
        found = await asyncio.wait_for(probe(endpoint, writes=False), 30)
        assert "0.2 s" in found.errors[0]
        admin = BucketAdmin(endpoint)
        with pytest.raises(StoreUnavailable, match=r"0\.2 s"):
            await asyncio.wait_for(admin.create(), 30)
        await admin.close()


def test_a_longer_read_timeout_is_also_one_for_listings() -> None:
    assert Timeouts().for_endpoint(configured(1, "read_timeout = 600")).list_s == 600
    assert Timeouts().for_endpoint(configured(1, "read_timeout = 5")).list_s == 300
    assert Timeouts().for_endpoint(configured(1, "")) == Timeouts()


def test_a_timeout_that_is_not_positive_is_a_problem() -> None:
    text = '[source]\nbucket_name="a"\nread_timeout=0\n[destination]\nbucket_name="b"\nconnect_timeout="1x"'
    assert [problem.partition("] ")[2] for problem in problems_in(text)] == [
        "read_timeout: must be a duration from 1 to 3600 s, not 0",
        'connect_timeout: must be a duration such as 90, "90s", "5m", "36h" or "7d", not "1x"',
    ]
