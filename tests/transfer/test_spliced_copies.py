"""Whole copies whose bytes are moved by the kernel, between two scripted servers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from s3s3.errors import LeaseLost, StoreUnavailable
from s3s3.model import Outcome, Proof, Result
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import Timeouts
from s3s3.s3.transport import splice
from s3s3.transfer.budget import CopyBudget
from s3s3.transfer.copier import Copier
from tests.contents import random_bytes
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, eventually, respond, response
from tests.transfer.scene import ExpiringLease, always_valid, damaged, md5

pytestmark = pytest.mark.skipif(not splice.is_available(), reason="this system has no splice")

CONTENT = random_bytes(2 * 1024 * 1024 + 1)
TIMEOUTS = Timeouts(read_s=20, write_s=20)

Script = Callable[[ReceivedRequest], Awaitable[None]]


@dataclass
class Copies:
    source: RawServer
    destinations: list[RawServer]
    copier: Copier
    stores: list[Any]
    moved: list[int] = field(default_factory=list)

    async def copy(self, check_lease: Callable[[], None] = always_valid) -> list[Outcome]:
        return await asyncio.wait_for(self.copier.copy("key", self.stores, check_lease=check_lease, compare=False), 30)


def serve(*contents: bytes) -> Script:
    """Serve these contents in order, the last one again and again, under the ETag of the last one."""
    left = list(contents)

    async def script(received: ReceivedRequest) -> None:
        content = left.pop(0) if len(left) > 1 else left[0]
        etag = f'"{md5(contents[-1])}"'
        received.write(response(body=content, etag=etag, content_type="image/fits", x_amz_meta_night="7"))
        await received.writer.drain()

    return script


async def enforce(received: ReceivedRequest) -> None:
    """Answer as a store that enforces Content-MD5."""
    from base64 import b64encode  # noqa: PLC0415

    await received.read_body()
    if received.is_truncated:
        return
    if b64encode(hashlib.md5(received.body).digest()) == received.headers["content-md5"]:
        received.write(response())
    else:
        received.write(error_response(400, "BadDigest"))


@asynccontextmanager
async def copies(
    source: Script, *destinations: Script, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[Copies]:
    moved: list[int] = []
    send = splice.SplicedBody.send

    async def counted(body: splice.SplicedBody, *args: Any) -> None:
        moved.append(args[2])
        await send(body, *args)

    monkeypatch.setattr(splice.SplicedBody, "send", counted)
    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 0.01)
    servers = [RawServer([script]) for script in (source, *destinations)]
    for server in servers:
        await server.__aenter__()
    stores = [
        server.store(timeouts=TIMEOUTS, endpoint={"name": name, "checksum": "store", **settings})
        for name, server in zip(("source", "dest-a", "dest-b"), servers, strict=False)
    ]
    try:
        copier = Copier(stores[0], CopyBudget(), metrics=Metrics(), route="default")
        yield Copies(servers[0], servers[1:], copier, stores[1:], moved)
    finally:
        for store in stores:
            await store.close()
        for server in servers:
            await server.__aexit__(None, None, None)


async def test_a_copy_has_content_and_metadata_and_costs_one_get_and_one_put(monkeypatch: pytest.MonkeyPatch) -> None:
    async with copies(serve(CONTENT), enforce, monkeypatch=monkeypatch) as scene:
        [outcome] = await scene.copy()
        [put] = scene.destinations[0].requests
        assert (outcome.result, outcome.proof, outcome.source_md5) == (Result.COPIED, Proof.ETAG, md5(CONTENT))
        assert (put.body, put.headers["content-type"], put.headers["x-amz-meta-night"]) == (
            CONTENT, b"image/fits", b"7",
        )  # fmt: skip
        assert (len(scene.source.requests), scene.moved) == (1, [len(CONTENT)])
        await scene.copy()
        assert (scene.source.connections, scene.destinations[0].connections) == (1, 1)


async def test_damage_is_refused_by_the_store_and_read_again_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async with copies(serve(damaged(CONTENT), CONTENT), enforce, monkeypatch=monkeypatch) as scene:
        [outcome] = await scene.copy()
        assert outcome.result is Result.COPIED
        assert [put.body == CONTENT for put in scene.destinations[0].requests] == [False, True]
        assert len(scene.moved) == 1, "the second pass is hashed here"


async def test_a_lost_lease_resets_the_put_and_leaves_nothing_indeterminate(monkeypatch: pytest.MonkeyPatch) -> None:
    async with copies(serve(CONTENT), enforce, monkeypatch=monkeypatch) as scene:
        [outcome] = await scene.copy(ExpiringLease(1))
        assert isinstance(outcome.error, LeaseLost)
        assert not outcome.indeterminate
        requests = scene.destinations[0].requests
        await eventually(lambda: requests and requests[0].is_truncated)
        assert len(scene.moved) == 1


async def test_a_put_without_a_response_is_indeterminate_and_a_cut_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(received: ReceivedRequest) -> None:
        received.body = await received.reader.readexactly(100_000)
        await received.reset()

    async def leave(received: ReceivedRequest) -> None:
        await received.read_body()
        await received.close()

    for script, indeterminate in ((cut, False), (leave, True)):
        content = CONTENT * (1 if indeterminate else 12)  # more than sockets hold
        async with copies(serve(content), script, monkeypatch=monkeypatch) as scene:
            [outcome] = await scene.copy()
            assert isinstance(outcome.error, StoreUnavailable)
            assert outcome.indeterminate is indeterminate


@pytest.mark.parametrize("names", [("source",), ("destination",)])
async def test_the_side_that_fails_is_named(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(received: ReceivedRequest) -> None:
        received.write(response(content_length=str(len(CONTENT)), etag=f'"{md5(CONTENT)}"') + CONTENT[:700_000])
        await received.writer.drain()
        await received.close()

    async def refuse(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write(error_response(503, "SlowDown"))

    source, destination = (stop, enforce) if names == ("source",) else (serve(CONTENT), refuse)
    async with copies(source, destination, monkeypatch=monkeypatch) as scene:
        [outcome] = await scene.copy()
        assert outcome.error is not None
        assert outcome.error.store == ("source" if names == ("source",) else "dest-a")  # type: ignore[attr-defined]
        assert not outcome.indeterminate


@pytest.mark.parametrize(
    ("settings", "destinations"),
    [
        ({"checksum": "client"}, 1),
        ({"checksum": "auto"}, 1),
        ({}, 2),
        ({"multipart": True, "multipart_threshold_bytes": 1}, 1),
    ],
    ids=["client", "no record", "two destinations", "parts"],
)
async def test_what_has_to_pass_through_this_process_does(
    settings: dict[str, Any], destinations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = enforce if "multipart" not in settings else respond(error_response(501, "NotImplemented"))
    async with copies(serve(CONTENT), *[script] * destinations, monkeypatch=monkeypatch, **settings) as scene:
        outcomes = await scene.copy()
        assert scene.moved == []
        if "multipart" not in settings:
            assert [outcome.result for outcome in outcomes] == [Result.COPIED] * destinations
            assert all(server.requests[-1].body == CONTENT for server in scene.destinations)
