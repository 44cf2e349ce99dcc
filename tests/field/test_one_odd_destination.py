"""One destination drips its answers, or meets a fault of s3s3's own code: the other one gets every object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from s3s3.errors import DestinationTooSlow, InternalError
from s3s3.model import Lane, Result
from s3s3.monitoring.metrics import Metrics
from s3s3.queue.base import JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.merge import merge
from s3s3.s3 import ObjectInfo, PutResult, Store, Timeouts
from s3s3.s3.probe import probe
from s3s3.transfer.budget import CopyBudget
from s3s3.transfer.copier import Copier
from s3s3.worker.worker import Worker
from tests.s3.raw_server import RawServer, ReceivedRequest, Script, respond, response
from tests.scripted_store import Object, ScriptedStore
from tests.transfer.scene import BIG, KEY, TINY, Scene
from tests.waiting import until
from tests.worker.copies import BOTH, ROUTE, SOURCE, A, B, working

KEYS = [f"key {number:02}" for number in range(40)]
CONTENT = b"content"
PARTS = "0123456789abcdef0123456789abcdef-2"

#: A thirtieth of the default limits.
TIMEOUTS = Timeouts(read_s=2, write_s=2, rate_window_s=2, min_bytes_per_s=100)


@pytest.fixture
async def jobs(redis_url: str) -> AsyncIterator[RedisJobQueue]:
    client = connect(redis_url)
    yield RedisJobQueue(client, ROUTE.name, BOTH)
    await client.aclose()


async def drip_head(received: ReceivedRequest) -> None:
    """A header line now and then, without end."""
    received.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        received.write(b"a: b\r\n")
        await asyncio.sleep(0.3)


async def drip_body(received: ReceivedRequest) -> None:
    """A HEAD is answered; of a GET's body a byte comes now and then."""
    received.write(response(content_length=str(len(CONTENT) * 100), etag=f'"{PARTS}"'))
    if received.method == "GET":
        while True:
            received.write(b"x")
            await asyncio.sleep(0.3)


@pytest.mark.real
@pytest.mark.parametrize(
    ("script", "lane", "content"),
    [
        (drip_head, Lane.BULK, CONTENT),
        (drip_head, Lane.FRESH, CONTENT),
        (drip_body, Lane.BULK, CONTENT * 100),
    ],
    ids=["HEAD", "PUT", "GET"],
)
async def test_a_healthy_destination_does_not_wait_for_one_that_drips(
    jobs: RedisJobQueue, script: Script, lane: Lane, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.s3.request.ATTEMPTS", 1)
    source = ScriptedStore(SOURCE, {key: Object(content, etag=PARTS[::-1]) for key in KEYS}, verify_md5=True)
    healthy = ScriptedStore(A)
    async with RawServer([script]) as server, server.store(endpoint={"name": B}, timeouts=TIMEOUTS) as dripping:
        stores: Any = {A: healthy, B: dripping}
        copier = Copier(source, CopyBudget(), metrics=Metrics(), route="default", destinations=stores)  # type: ignore[arg-type]
        worker = Worker(ROUTE, jobs, copier.copy_job, concurrency=8)
        async with working(worker, drain_s=0.1):
            await jobs.enqueue([JobRequest(key, BOTH) for key in KEYS], lane)
            await until(lambda: len(healthy.objects) == len(KEYS), timeout_s=8)
            await until(lambda: B in worker._circuits.opened, timeout_s=20)
            assert A not in worker._circuits.opened
    assert all(stored.content == content for stored in healthy.objects.values())


class OddStore(ScriptedStore):
    """Meets a fault of s3s3's code in one operation."""

    odd = ""

    async def head(self, key: str) -> ObjectInfo | None:
        if self.odd == "HEAD":
            raise ZeroDivisionError("odd")
        return await super().head(key)

    async def put(self, *arguments: Any, **named: Any) -> PutResult:
        if self.odd == "PUT":
            raise ZeroDivisionError("odd")
        return await super().put(*arguments, **named)

    async def delete(self, *arguments: Any, **named: Any) -> bool:
        if self.odd == "DELETE":
            raise ZeroDivisionError("odd")
        return await super().delete(*arguments, **named)

    async def get(self, key: str) -> Any:
        if self.odd == "GET":
            raise ZeroDivisionError("odd")
        return await super().get(key)


def odd_scene(operation: str, content: bytes = TINY, **about: Any) -> Scene:
    scene = Scene(content, destinations=2, **about)
    odd = OddStore("swift-1", settings={"delete": True})
    odd.odd = operation
    scene.destinations = [ScriptedStore("swift-0", settings={"delete": True}), odd]
    return scene


@pytest.mark.internal_errors
@pytest.mark.parametrize("isolate_slow", [False, True])
@pytest.mark.parametrize(("operation", "content"), [("HEAD", TINY), ("PUT", TINY), ("PUT", BIG)])
async def test_an_unforeseen_error_is_the_outcome_of_its_destination(
    operation: str, content: bytes, isolate_slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    scene = odd_scene(operation, content)
    copied, failed = await scene.copy(compare=True, isolate_slow=isolate_slow)
    assert copied.result is Result.COPIED
    assert (failed.result, type(failed.error)) == (Result.FAILED, InternalError)
    assert "swift-1" in failed.reason
    assert "internal error: ZeroDivisionError" in failed.reason
    assert failed.indeterminate == (operation == "PUT")
    assert len([record for record in caplog.records if record.exc_info]) == 1, "one traceback"


@pytest.mark.internal_errors
async def test_an_unforeseen_error_of_a_deletion_is_the_outcome_of_its_destination() -> None:
    scene = odd_scene("DELETE")
    del scene.source.objects[KEY]
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY)
    deleted, failed = await scene.copy()
    assert deleted.result is Result.DELETED
    assert isinstance(failed.error, InternalError)


@pytest.mark.internal_errors
async def test_an_unforeseen_error_of_comparing_contents_is_the_outcome_of_its_destination() -> None:
    scene = odd_scene("GET", etag=PARTS)
    scene.source.verify_md5 = True
    for store in scene.destinations:
        store.objects[KEY] = Object(TINY, etag=PARTS[::-1])
    same, failed = await scene.copy(compare=True)
    assert same.result is Result.SAME
    assert isinstance(failed.error, InternalError)


async def test_a_destination_whose_head_takes_long_gets_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(ScriptedStore):
        async def head(self, key: str) -> ObjectInfo | None:
            await asyncio.sleep(60)
            return None

    monkeypatch.setattr("s3s3.transfer.fanout.STRAGGLER_GRACE_S", 0.05)
    scene = Scene(destinations=2)
    scene.destinations[1] = Hanging("swift-1")
    copied, slow = await scene.copy(compare=True, isolate_slow=True)
    assert copied.result is Result.COPIED
    assert isinstance(slow.error, DestinationTooSlow)
    assert not slow.indeterminate, "nothing was written"
    assert "PUT" not in scene.destinations[1].requests


PAGE = response(body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")

CALLS: dict[str, Callable[[Store], Any]] = {
    "HEAD": lambda store: store.head("key"),
    "GET": lambda store: store.get("key"),
    "LIST": lambda store: store.list_after("", 1),
    "PUT": lambda store: store.put("key", b"", size_bytes=0, md5=b"m" * 16, headers={}),
    "DELETE": lambda store: store.delete("key"),
}


@pytest.mark.internal_errors
@pytest.mark.parametrize(
    ("operation", "function"),
    [*((operation, "request.http_date_ms") for operation in CALLS), ("HEAD", "client.object_info"),
     ("GET", "client.object_info"), ("LIST", "listing.parse_page")],
)  # fmt: skip
async def test_an_unforeseen_error_in_s3_code_is_an_error_of_the_store(
    operation: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(f"s3s3.s3.{function}", fail)
    async with RawServer([respond(PAGE)]) as server, server.store() as store:
        with pytest.raises(InternalError, match=r"destination-raw: .*internal error: ZeroDivisionError"):
            await CALLS[operation](store)
        if operation == "LIST":
            found = await probe(server.endpoint(), writes=False)
            assert "internal error" in found.errors[0]
            [batch] = [batch async for batch in merge(ScriptedPages(), [store.pages()])]
            assert isinstance(batch.failed[0], InternalError)


class ScriptedPages:
    """An empty listing."""

    def __aiter__(self) -> ScriptedPages:
        return self

    async def __anext__(self) -> list[Any]:
        raise StopAsyncIteration
