"""The server for clients that nobody knows: bounded in connections, bytes and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from s3s3.errors import ConfigError
from s3s3.mirror.http_server import Bounds, Connections, serving

REQUEST = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, raw: bytes = REQUEST) -> bytes:
        """Send, and return the first line of what comes; b"" where the connection is closed."""
        try:
            self.writer.write(raw)
            await self.writer.drain()
            return await asyncio.wait_for(self.reader.readline(), 10)
        except ConnectionError:
            return b""

    async def is_closed(self, within_s: float = 10) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), within_s) == b""
        except ConnectionError:
            return True
        except asyncio.TimeoutError:
            return False


class Served:
    """A server whose answers wait for `rate_limiter`."""

    def __init__(self, bounds: Bounds, stack: AsyncExitStack) -> None:
        self.connections = Connections(bounds)
        self.rate_limiter = asyncio.Event()
        self.rate_limiter.set()
        self.left = 0
        self.fault: Exception | None = None
        self._stack = stack

    async def answer(self, request: web.BaseRequest) -> web.Response:
        try:
            await self.rate_limiter.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if self.fault is not None:
            raise self.fault
        return web.Response(text="answer")

    async def start(self) -> None:
        self.port = await self._stack.enter_async_context(
            serving("mirror.proxy", "127.0.0.1", 0, self.answer, self.connections)
        )

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.close)
        return Client(reader, writer)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        made = Served(Bounds(connections=20, idle_s=0.6, head_bytes=16 * 1024), stack)
        await made.start()
        yield made


async def test_a_connection_serves_one_request_after_the_other(served: Served) -> None:
    client = await served.client()
    for _ in range(3):
        assert await client.says() == b"HTTP/1.1 200 OK\r\n"
        await client.reader.readuntil(b"answer")


async def test_who_says_nothing_is_dropped(served: Served) -> None:
    silent, kept = await served.client(), await served.client()
    await kept.says()
    await kept.reader.readuntil(b"answer")
    assert await silent.is_closed()
    assert await kept.is_closed()
    assert served.connections.open == 0


async def test_a_head_that_comes_byte_by_byte_is_not_waited_for(served: Served) -> None:
    client = await served.client()

    async def drip() -> None:
        for byte in REQUEST * 100:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await client.is_closed(3)
    dripping.cancel()


async def test_who_waits_for_an_answer_is_not_idle(served: Served) -> None:
    served.rate_limiter.clear()
    client = await served.client()
    asking = asyncio.create_task(client.says())
    await asyncio.sleep(1.5)
    served.rate_limiter.set()
    assert await asking == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (number, b"y" * 4000) for number in range(1000)),
        b"GET /" + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
        REQUEST * 10_000,
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"z" * 1_000_000,
    ],
    ids=["many headers", "a long path", "a long header", "ten thousand requests at once", "a body"],
)
async def test_a_bomb_ends_its_own_connection_only(served: Served, bomb: bytes) -> None:
    served.rate_limiter.clear()
    bomber, other = await served.client(), await served.client()
    try:
        bomber.writer.write(bomb)
        await bomber.writer.drain()
        await asyncio.wait_for(bomber.reader.read(), 5)
    except ConnectionError:
        pass
    served.rate_limiter.set()
    assert await other.says() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"), (b"GET /?x=\xed\xa0\x80 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
     ("GET /ü HTTP/1.1\r\nhost: x\r\n\r\n".encode(), b"400"), (b"GET / HTTP/1.1\r\nhost: \xff\r\n\r\n", b"200"),
     (b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n", b"400"), (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", b"200"),
     (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400")],
)  # fmt: skip
async def test_what_is_no_text_is_refused_before_anybody_makes_something_of_it(
    served: Served, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await (await served.client()).says(sent)).split(b" ")[1] == status
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == [], "a bomb for the log"


async def test_a_fault_of_ours_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.fault = ValueError("this went wrong")
    assert b" 500 " in await (await served.client()).says()
    assert "this went wrong" in caplog.text


async def test_a_client_that_leaves_is_no_fault(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.fault = ConnectionResetError("the client has gone")
    await (await served.client()).says()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_more_connections_than_there_may_be_push_out_who_idles_longest(served: Served) -> None:
    served.rate_limiter.clear()
    working = [await served.client() for _ in range(5)]
    asking = [asyncio.create_task(client.says()) for client in working]
    await asyncio.sleep(0.1)
    idlers = [await served.client() for _ in range(200)]
    assert served.connections.open <= 20
    newcomer = await served.client()
    asking.append(asyncio.create_task(newcomer.says()))
    await asyncio.sleep(0.1)
    served.rate_limiter.set()
    assert await asyncio.gather(*asking) == [b"HTTP/1.1 200 OK\r\n"] * 6
    assert await idlers[0].is_closed()


async def test_where_all_connections_are_at_work_another_is_refused(served: Served) -> None:
    served.rate_limiter.clear()
    asking = [asyncio.create_task((await served.client()).says()) for _ in range(20)]
    await asyncio.sleep(0.2)
    assert await (await served.client()).is_closed()
    served.rate_limiter.set()
    assert await asyncio.gather(*asking) == [b"HTTP/1.1 200 OK\r\n"] * 20


async def test_a_client_that_has_gone_is_not_waited_for(served: Served) -> None:
    served.rate_limiter.clear()
    client = await served.client()
    client.writer.write(REQUEST)
    await asyncio.sleep(0.2)
    client.writer.transport.abort()
    await asyncio.sleep(0.2)
    assert served.left == 1
    assert served.connections.open == 0


async def test_a_client_that_has_closed_its_half_takes_nothing_for_long(served: Served) -> None:
    client = await served.client()
    client.writer.write(REQUEST)
    client.writer.write_eof()
    await asyncio.wait_for(client.reader.read(), 5)
    assert await client.is_closed()
    assert served.connections.open == 0


async def test_a_port_that_is_taken_is_a_fault_of_the_configuration(served: Served) -> None:
    with pytest.raises(ConfigError, match=r"\[mirror.proxy\] bind: 127.0.0.1:\d+ cannot be had"):
        async with serving("mirror.proxy", "127.0.0.1", served.port, served.answer, served.connections):
            pass
