"""The webhook, over real sockets: who may send, what is taken, and what it says when it cannot be."""

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
from s3s3.notifications.webhook import LARGEST_BODY_BYTES, WebhookSource
from tests.notifications.senders import TOKEN, Taken, WebhookSender, event, listening
from tests.waiting import running, until


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    made = WebhookSender()
    yield made
    await made.close()


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(f"rgw:{TOKEN}"), basic(f":{TOKEN}")])
async def test_who_knows_the_token_may_send(sender: WebhookSender, header: str) -> None:
    async with listening(sender) as (taken, _):
        assert await sender.post(event("k"), headers={"Authorization": header}) == (200, "queued: 1\n")
    assert taken.notices == [Notification("k", "images")]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Digest {TOKEN}", "Basic !!",
     "Basic ", basic("rgw:wrong"), basic(TOKEN), basic(f"{TOKEN}:"), f"Basic {TOKEN}"],
)  # fmt: skip
async def test_who_does_not_is_refused_and_counted(sender: WebhookSender, header: str) -> None:
    async with listening(sender) as (taken, _):
        status, said = await sender.post(event("k"), headers={"Authorization": header} if header else {})
    assert status == 401
    assert TOKEN not in said
    assert (taken.notices, taken.counted) == ([], ["refused"])


async def test_without_a_token_everybody_may_send(sender: WebhookSender) -> None:
    taken = Taken()
    webhook = WebhookSource("127.0.0.1", sender.port, "", taken)
    async with running(webhook.run(asyncio.Event())):
        await until(lambda: not webhook.health_problem())
        assert (await sender.post(event("k"), headers={}))[0] == 200


async def test_what_is_wrong_is_400_and_what_is_sound_beside_it_is_taken(sender: WebhookSender) -> None:
    body = json.loads(event("a", "b"))
    body["Records"][0]["eventSource"] = "aws:sqs"
    async with listening(sender) as (taken, _):
        status, said = await sender.post(json.dumps(body))
        assert (status, said.partition(":")[0]) == (400, "wrong source")
        assert (await sender.post(b"\xff{"))[0] == 400
    assert taken.notices == [Notification("b", "images")]
    assert taken.counted == ["wrong source", "no JSON"]


async def test_ceph_s_and_minio_s_events_are_taken_as_each_writes_keys(sender: WebhookSender) -> None:
    async with listening(sender) as (taken, _):
        for source in ("ceph:s3", "minio:s3"):
            await sender.post(event("a b", source=source))
    assert taken.keys == ["a+b", "a b"]


async def test_a_test_event_is_answered_with_200(sender: WebhookSender) -> None:
    async with listening(sender):
        assert await sender.post(json.dumps({"Event": "s3:TestEvent"})) == (200, "queued: 0\n")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_bounded_however_it_comes(sender: WebhookSender, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    async with listening(sender) as (taken, _):
        status, _ = await sender.post(pieces() if chunked else b" " * (LARGEST_BODY_BYTES + 1))
        assert status == 413
        just_fits = event("k").ljust(LARGEST_BODY_BYTES)
        assert (await sender.post(just_fits))[0] == 200
    assert len(taken.notices) == 1


async def test_a_body_that_does_not_come_is_given_up(sender: WebhookSender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "BODY_WITHIN_S", 0.2)
    async with listening(sender) as (taken, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", sender.port)
        token = base64.b64encode(f"u:{TOKEN}".encode()).decode()
        writer.write(
            f"POST /notify HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert b" 408 " in await reader.readline()
        writer.close()
        assert (await sender.post(event("k")))[0] == 200
    assert len(taken.notices) == 1


async def test_a_redis_that_is_away_is_503_at_once_and_one_that_does_not_answer_soon(
    sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_module, "QUEUED_WITHIN_S", 0.2)

    def away() -> NoReturn:
        raise RedisUnavailable("Redis cannot be reached")

    async with listening(sender) as (taken, _):
        waits: list[Callable[[], Awaitable[object]]] = [away, lambda: asyncio.sleep(60)]
        for wait in waits:
            taken.wait = wait
            status, said = await sender.post(event("k"))
            assert (status, "send it again" in said) == (503, True)
    assert taken.notices == []


async def test_other_paths_and_methods_are_refused(sender: WebhookSender) -> None:
    async with listening(sender):
        url = f"http://127.0.0.1:{sender.port}"
        async with sender.session.get(f"{url}/notify") as answer:
            assert answer.status == 405
        async with sender.session.post(f"{url}/", data=event("k")) as answer:
            assert answer.status == 404


async def test_two_listeners_of_one_machine_share_the_address(sender: WebhookSender) -> None:
    async with listening(sender) as (one, _):
        async with listening(sender) as (other, _):
            for number in range(40):
                await sender.post(
                    event(f"key {number}"), headers={"Authorization": f"Bearer {TOKEN}", "Connection": "close"}
                )
            assert one.notices and other.notices
        await sender.post(event("last"), headers={"Authorization": f"Bearer {TOKEN}"})
    assert len(one.notices) + len(other.notices) == 41


async def test_an_address_that_is_taken_is_told_and_had_later(
    sender: WebhookSender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook_module, "BIND_AGAIN_S", 0.05)
    taken = Taken()
    webhook = sender.source(taken, taken.counted.append)
    with socket.create_server(("127.0.0.1", sender.port)):
        async with running(webhook.run(asyncio.Event())) as task:
            await until(lambda: "[webhook] bind" in webhook.health_problem())
            assert "[webhook] bind: the address cannot be had" in caplog.text
            assert not task.done()
    async with listening(sender) as (taken, _):
        assert (await sender.post(event("k")))[0] == 200


async def test_what_is_being_taken_when_it_is_told_to_stop_is_answered(sender: WebhookSender) -> None:
    taken, stop, opened = Taken(), asyncio.Event(), asyncio.Event()
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await opened.wait()

    taken.wait = wait
    webhook = sender.source(taken, taken.counted.append)
    async with running(webhook.run(stop)) as task:
        await until(lambda: not webhook.health_problem())
        sending = asyncio.create_task(sender.post(event("k")))
        await asyncio.wait_for(begun.wait(), 10)
        stop.set()
        asyncio.get_running_loop().call_later(0.2, opened.set)
        assert (await sending)[0] == 200
        await asyncio.wait_for(task, 5)
