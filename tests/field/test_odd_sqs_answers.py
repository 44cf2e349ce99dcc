"""An SQS endpoint that answers with something else makes the source unhealthy, and never ends the listener."""

from __future__ import annotations

import asyncio

import pytest

from s3s3.config import SqsSettings
from s3s3.notifications.sqs import CONCURRENT_POLLS, MIN_EMPTY_POLL_S, SqsSource
from tests.notifications.senders import Receiver
from tests.s3.raw_server import RawServer, ReceivedRequest, respond, response
from tests.waiting import running, until

pytestmark = pytest.mark.usefixtures("own_keys")

ATTRIBUTES = response(body=b'{"Attributes": {"VisibilityTimeout": "30"}}')


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b"{}",
        b"[]",
        b'{"Attributes": 5}',
        b'{"Attributes": {"VisibilityTimeout": "x"}}',
        b"\xff",
    ],
)
async def test_odd_attributes_are_a_problem_of_the_source(body: bytes) -> None:
    await becomes_unhealthy([response(body=body)])


@pytest.mark.parametrize("body", [b'{"Messages": 5}', b'{"Messages": [{}]}', b"\xff"])
async def test_odd_messages_are_a_problem_of_the_source(body: bytes) -> None:
    await becomes_unhealthy([ATTRIBUTES, response(body=body)])


async def test_an_endpoint_that_does_not_wait_for_messages_is_not_polled_without_a_pause() -> None:
    async with RawServer([respond(ATTRIBUTES), respond(response(body=b"<html>welcome</html>"))]) as server:
        url = f"http://127.0.0.1:{server.port}"
        source = SqsSource(SqsSettings(f"{url}/1/queue", "us-west-2", url), Receiver())
        async with running(source.run(asyncio.Event())):
            await until(lambda: len(server.requests) >= 1 + CONCURRENT_POLLS)
            await asyncio.sleep(MIN_EMPTY_POLL_S / 2)
            assert len(server.requests) <= 1 + CONCURRENT_POLLS


async def becomes_unhealthy(answers: list[bytes]) -> None:
    async with RawServer([respond(answer) for answer in answers]) as server:
        url = f"http://127.0.0.1:{server.port}"
        source = SqsSource(SqsSettings(f"{url}/1/queue", "us-west-2", url), Receiver())
        async with running(source.run(asyncio.Event())) as task:
            await until(source.readiness_problems)
            assert not task.done()


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n{"__type": "com.amazonaws.sqs#X", "message": "%s"}',
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n<html>%s</html>",
    ],
    ids=["error", "page"],
)
async def test_an_echoed_session_token_is_neither_shown_nor_logged(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = "FwoGZXIvYXdzEBYaDHtokenOfTheEnvironment" * 2
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    body_bytes = len(answer.partition(b"\r\n\r\n")[2]) - 2 + len(token)

    async def echo(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write_unchanged(answer % (body_bytes, received.headers["x-amz-security-token"]))

    async with RawServer([echo]) as server:
        url = f"http://127.0.0.1:{server.port}"
        source = SqsSource(SqsSettings(f"{url}/1/queue", "us-west-2", url), Receiver())
        async with running(source.run(asyncio.Event())):
            await until(source.readiness_problems)
            problems = await source.readiness_problems()
    assert token[:20] not in str(problems) + caplog.text
