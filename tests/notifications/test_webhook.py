"""The webhook over real sockets: authorization, limits and responses."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn

import pytest

from s3s3.errors import RedisUnavailable
from s3s3.model import Notification
from s3s3.notifications import webhook as webhook_module
from s3s3.notifications.webhook import MAX_BODY_BYTES, WebhookSource
from tests.notifications.senders import TOKEN, Receiver, WebhookSender, event, listening
from tests.waiting import running, until


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    sender = WebhookSender()
    yield sender
    await sender.close()


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(f"rgw:{TOKEN}"), basic(f":{TOKEN}")])
async def test_a_request_with_the_token_is_accepted(sender: WebhookSender, header: str) -> None:
    async with listening(sender) as (receiver, _):
        assert await sender.post(event("k"), headers={"Authorization": header}) == (200, "queued: 1\n")
    assert receiver.notifications == [Notification("k", "images")]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Digest {TOKEN}", "Basic !!",
     "Basic ", basic("rgw:wrong"), basic(TOKEN), basic(f"{TOKEN}:"), f"Basic {TOKEN}"],
)  # fmt: skip
async def test_a_request_without_the_token_is_refused_and_counted(sender: WebhookSender, header: str) -> None:
    async with listening(sender) as (receiver, _):
        status, text = await sender.post(event("k"), headers={"Authorization": header} if header else {})
    assert status == 401
    assert TOKEN not in text
    assert (receiver.notifications, receiver.counted) == ([], ["unauthorized"])


async def test_without_a_configured_token_every_request_is_accepted(sender: WebhookSender) -> None:
    receiver = Receiver()
    webhook = WebhookSource("127.0.0.1", sender.port, "", receiver)
    async with running(webhook.run(asyncio.Event())):
        await until(lambda: not webhook.health_problem())
        assert (await sender.post(event("k"), headers={}))[0] == 200


async def test_a_bad_record_is_answered_with_400_and_the_others_are_enqueued(sender: WebhookSender) -> None:
    body = json.loads(event("a", "b"))
    body["Records"][0]["eventSource"] = "aws:sqs"
    async with listening(sender) as (receiver, _):
        status, text = await sender.post(json.dumps(body))
        assert (status, text.partition(":")[0]) == (400, "wrong_source")
        assert (await sender.post(b"\xff{"))[0] == 400
    assert receiver.notifications == [Notification("b", "images")]
    assert receiver.counted == ["wrong_source", "not_json"]


async def test_keys_of_ceph_and_minio_are_decoded_as_each_encodes_them(sender: WebhookSender) -> None:
    async with listening(sender) as (receiver, _):
        for source in ("ceph:s3", "minio:s3"):
            await sender.post(event("a b", source=source))
    assert receiver.keys == ["a+b", "a b"]


async def test_a_test_event_is_answered_with_200(sender: WebhookSender) -> None:
    async with listening(sender):
        assert await sender.post(json.dumps({"Event": "s3:TestEvent"})) == (200, "queued: 0\n")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused(sender: WebhookSender, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    async with listening(sender) as (receiver, _):
        status, _ = await sender.post(pieces() if chunked else b" " * (MAX_BODY_BYTES + 1))
        assert status == 413
        just_fits = event("k").ljust(MAX_BODY_BYTES)
        assert (await sender.post(just_fits))[0] == 200
    assert len(receiver.notifications) == 1


async def test_a_body_that_does_not_arrive_times_out(sender: WebhookSender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "BODY_TIMEOUT_S", 0.2)
    async with listening(sender) as (receiver, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", sender.port)
        token = base64.b64encode(f"u:{TOKEN}".encode()).decode()
        writer.write(
            f"POST /notify HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert b" 408 " in await reader.readline()
        writer.close()
        assert (await sender.post(event("k")))[0] == 200
    assert len(receiver.notifications) == 1


async def test_an_unavailable_or_silent_redis_is_answered_with_503(
    sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_module, "ENQUEUE_TIMEOUT_S", 0.2)

    def away() -> NoReturn:
        raise RedisUnavailable("Redis cannot be reached")

    async with listening(sender) as (receiver, _):
        waits: list[Callable[[], Awaitable[object]]] = [away, lambda: asyncio.sleep(60)]
        for wait in waits:
            receiver.wait = wait
            status, text = await sender.post(event("k"))
            assert (status, "retry later" in text) == (503, True)
    assert receiver.notifications == []


async def test_other_paths_and_methods_are_refused(sender: WebhookSender) -> None:
    async with listening(sender):
        url = f"http://127.0.0.1:{sender.port}"
        async with sender.session.get(f"{url}/notify") as response:
            assert response.status == 405
        async with sender.session.post(f"{url}/", data=event("k")) as response:
            assert response.status == 404


async def test_two_listeners_of_one_machine_share_the_address(sender: WebhookSender) -> None:
    async with listening(sender) as (first, _):
        async with listening(sender) as (second, _):
            for number in range(40):
                await sender.post(
                    event(f"key {number}"), headers={"Authorization": f"Bearer {TOKEN}", "Connection": "close"}
                )
            assert first.notifications and second.notifications
        await sender.post(event("last"), headers={"Authorization": f"Bearer {TOKEN}"})
    assert len(first.notifications) + len(second.notifications) == 41


async def test_an_address_in_use_is_reported_and_bound_later(
    sender: WebhookSender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook_module, "BIND_RETRY_S", 0.05)
    receiver = Receiver()
    webhook = sender.source(receiver, receiver.counted.append)
    with socket.create_server(("127.0.0.1", sender.port)):
        async with running(webhook.run(asyncio.Event())) as task:
            await until(lambda: "[webhook] bind" in webhook.health_problem())
            assert "[webhook] bind: cannot listen on the address" in caplog.text
            assert not task.done()
    async with listening(sender) as (receiver, _):
        assert (await sender.post(event("k")))[0] == 200


async def test_a_request_in_progress_is_answered_before_the_stop(sender: WebhookSender) -> None:
    receiver, stop, opened = Receiver(), asyncio.Event(), asyncio.Event()
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await opened.wait()

    receiver.wait = wait
    webhook = sender.source(receiver, receiver.counted.append)
    async with running(webhook.run(stop)) as task:
        await until(lambda: not webhook.health_problem())
        sending = asyncio.create_task(sender.post(event("k")))
        await asyncio.wait_for(started.wait(), 10)
        stop.set()
        asyncio.get_running_loop().call_later(0.2, opened.set)
        assert (await sending)[0] == 200
        await asyncio.wait_for(task, 5)
