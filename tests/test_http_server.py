"""The HTTP server for untrusted clients: bounded in connections, bytes and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from s3s3.errors import ConfigError
from s3s3.http_server import Connections, ServerLimits, serve

REQUEST = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, raw: bytes = REQUEST) -> bytes:
        """Send, and return the first line of the response; b"" if the connection is closed."""
        try:
            self.writer.write(raw)
            await self.writer.drain()
            return await asyncio.wait_for(self.reader.readline(), 10)
        except ConnectionError:
            return b""

    async def is_closed(self, timeout_s: float = 10) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), timeout_s) == b""
        except ConnectionError:
            return True
        except asyncio.TimeoutError:
            return False


class ServerFixture:
    """A server; its handler waits for `release`."""

    def __init__(self, limits: ServerLimits, stack: AsyncExitStack) -> None:
        self.connections = Connections(limits)
        self.release = asyncio.Event()
        self.release.set()
        self.cancelled = 0
        self.error: Exception | None = None
        self._stack = stack

    async def answer(self, request: web.BaseRequest) -> web.Response:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return web.Response(text="answer")

    async def start(self) -> None:
        self.port = await self._stack.enter_async_context(
            serve("mirror.proxy", "127.0.0.1", 0, self.answer, self.connections)
        )

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.close)
        return Client(reader, writer)


@pytest.fixture
async def server() -> AsyncIterator[ServerFixture]:
    async with AsyncExitStack() as stack:
        running = ServerFixture(ServerLimits(connections=20, idle_s=0.6, body_s=0.6, request_bytes=16 * 1024), stack)
        await running.start()
        yield running


async def test_a_connection_serves_one_request_after_the_other(server: ServerFixture) -> None:
    client = await server.client()
    for _ in range(3):
        assert await client.send() == b"HTTP/1.1 200 OK\r\n"
        await client.reader.readuntil(b"answer")


async def test_idle_connections_are_closed(server: ServerFixture) -> None:
    silent, used = await server.client(), await server.client()
    await used.send()
    await used.reader.readuntil(b"answer")
    assert await silent.is_closed()
    assert await used.is_closed()
    assert server.connections.count == 0


async def test_a_slow_request_head_times_out(server: ServerFixture) -> None:
    client = await server.client()

    async def drip() -> None:
        for byte in REQUEST * 100:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await client.is_closed(3)
    dripping.cancel()


async def test_a_slow_body_times_out_and_a_client_that_waits_with_a_complete_one_does_not(
    server: ServerFixture,
) -> None:
    server.release.clear()
    slow, complete = await server.client(), await server.client()
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
    slow.writer.write(head + b"x")
    response = asyncio.create_task(complete.send(head + b"x" * 100))
    assert await slow.is_closed()
    server.release.set()
    assert await response == b"HTTP/1.1 200 OK\r\n"


async def test_a_client_that_waits_for_a_response_is_not_idle(server: ServerFixture) -> None:
    server.release.clear()
    client = await server.client()
    requests = asyncio.create_task(client.send())
    await asyncio.sleep(1.5)
    server.release.set()
    assert await requests == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (number, b"y" * 4000) for number in range(1000)),
        b"GET /" + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
        REQUEST * 10_000,
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"z" * 1_000_000,
    ],
    ids=["many headers", "a long path", "a long header", "ten thousand pipelined requests", "a body"],
)
async def test_an_oversized_request_ends_only_its_own_connection(server: ServerFixture, bomb: bytes) -> None:
    server.release.clear()
    bomber, other = await server.client(), await server.client()
    try:
        bomber.writer.write(bomb)
        await bomber.writer.drain()
        await asyncio.wait_for(bomber.reader.read(), 5)
    except ConnectionError:
        pass
    server.release.set()
    assert await other.send() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"400"), (b"GET /?x=\xed\xa0\x80 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
     ("GET /ü HTTP/1.1\r\nhost: x\r\n\r\n".encode(), b"400"), (b"GET / HTTP/1.1\r\nhost: \xff\r\n\r\n", b"200"),
     (b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n", b"400"), (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", b"200"),
     (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400")],
)  # fmt: skip
async def test_malformed_requests_are_answered_without_log_lines(
    server: ServerFixture, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await (await server.client()).send(sent)).split(b" ")[1] == status
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == [], (
        "clients must not be able to fill the log"
    )


async def test_an_error_of_the_handler_is_logged(server: ServerFixture, caplog: pytest.LogCaptureFixture) -> None:
    server.error = ValueError("this went wrong")
    assert b" 500 " in await (await server.client()).send()
    assert "this went wrong" in caplog.text


async def test_a_lost_client_is_not_logged(server: ServerFixture, caplog: pytest.LogCaptureFixture) -> None:
    server.error = ConnectionResetError("the client closed the connection")
    await (await server.client()).send()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_new_connection_replaces_the_longest_idle_one(server: ServerFixture) -> None:
    server.release.clear()
    working = [await server.client() for _ in range(5)]
    requests = [asyncio.create_task(client.send()) for client in working]
    await asyncio.sleep(0.1)
    idlers = [await server.client() for _ in range(200)]
    assert server.connections.count <= 20
    newcomer = await server.client()
    requests.append(asyncio.create_task(newcomer.send()))
    await asyncio.sleep(0.1)
    server.release.set()
    assert await asyncio.gather(*requests) == [b"HTTP/1.1 200 OK\r\n"] * 6
    assert await idlers[0].is_closed()


async def test_a_new_connection_is_refused_while_all_are_busy(server: ServerFixture) -> None:
    server.release.clear()
    requests = [asyncio.create_task((await server.client()).send()) for _ in range(20)]
    await asyncio.sleep(0.2)
    assert await (await server.client()).is_closed()
    server.release.set()
    assert await asyncio.gather(*requests) == [b"HTTP/1.1 200 OK\r\n"] * 20


async def test_the_handler_of_a_lost_client_is_cancelled(server: ServerFixture) -> None:
    server.release.clear()
    client = await server.client()
    client.writer.write(REQUEST)
    await asyncio.sleep(0.2)
    client.writer.transport.abort()
    await asyncio.sleep(0.2)
    assert server.cancelled == 1
    assert server.connections.count == 0


async def test_a_half_closed_connection_is_closed(server: ServerFixture) -> None:
    client = await server.client()
    client.writer.write(REQUEST)
    client.writer.write_eof()
    await asyncio.wait_for(client.reader.read(), 5)
    assert await client.is_closed()
    assert server.connections.count == 0


async def test_a_port_in_use_is_a_configuration_error(server: ServerFixture) -> None:
    with pytest.raises(ConfigError, match=r"\[mirror.proxy\] bind: cannot listen on 127.0.0.1:\d+"):
        async with serve("mirror.proxy", "127.0.0.1", server.port, server.answer, server.connections):
            pass
