"""A host with several addresses is reached if one of them answers (RFC 8305)."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import warnings

import pytest
import trustme

from s3s3.errors import StoreUnavailable
from s3s3.s3 import Timeouts
from s3s3.tasks import connect_socket
from tests.addresses import NAME, resolve_to, silent_address
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, respond, response

OK = respond(response(body=b"x"))

#: A connection fails after this time; on an unloaded machine it takes 0.25 s for each silent address.
TIMEOUTS = Timeouts(connect_s=8)


async def test_a_store_is_reached_if_its_first_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address("::1") as silent:
        async with RawServer([OK]) as server:
            resolve_to(monkeypatch, silent, ("127.0.0.1", server.port))
            async with server.store(endpoint={"host": NAME}, timeouts=TIMEOUTS) as store:
                assert (await store.fetch("key", 10))[1] == b"x"
            assert server.connections == 1


async def test_several_silent_and_refusing_addresses_of_one_family_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with silent_address("127.0.0.2") as first, silent_address("127.0.0.3") as second, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with RawServer([OK]) as server:
            resolve_to(monkeypatch, first, closed.getsockname(), second, ("127.0.0.1", server.port))
            async with server.store(endpoint={"host": NAME}, timeouts=TIMEOUTS) as store:
                assert (await store.fetch("key", 10))[1] == b"x"


async def test_a_certificate_is_compared_with_the_name_whatever_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    with authority.cert_pem.tempfile() as ca_file, silent_address() as silent:
        async with RawServer([OK], tls=context) as server:
            resolve_to(monkeypatch, silent, ("127.0.0.1", server.port))
            async with server.store(endpoint={"host": NAME, "ca_file": ca_file}, timeouts=TIMEOUTS) as store:
                assert (await store.fetch("key", 10))[1] == b"x"


async def test_a_host_of_which_no_address_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as first, silent_address("::1") as second:
        resolve_to(monkeypatch, first, second)
        async with RawServer([]) as server:
            timeouts = Timeouts(connect_s=0.5)
            async with server.store(endpoint={"host": NAME}, timeouts=timeouts) as store:
                with pytest.raises(StoreUnavailable, match=f"no connection to {NAME}:{server.port} in time"):
                    await store.get("key")


async def test_a_host_of_which_every_address_refuses_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as first, socket.socket(socket.AF_INET6) as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("::1", 0))
        resolve_to(monkeypatch, first.getsockname(), second.getsockname()[:2])
        async with RawServer([]) as server, server.store(endpoint={"host": NAME}) as store:
            with pytest.raises(StoreUnavailable, match=f"nothing listens on {NAME}:{server.port}"):
                await store.get("key")


async def test_a_cancelled_or_lost_race_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as silent, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        async with RawServer([OK]) as server:
            resolve_to(monkeypatch, silent, ("127.0.0.1", server.port))
            (await connect_socket(NAME, port=1)).close()
            resolve_to(monkeypatch, silent)
            task = asyncio.create_task(connect_socket(NAME, port=1))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
        gc.collect()
    assert not [str(warning.message) for warning in caught if "socket" in str(warning.message)]
