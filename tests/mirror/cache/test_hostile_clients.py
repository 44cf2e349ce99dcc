"""Hostile clients of the cache get an error or a response, and cause no warnings."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.mirror.cache.client import BIG, CacheClient

pytestmark = pytest.mark.real

HEADS = {
    "If-Modified-Since: Mon, 05 Oct 99999 21:09:27 GMT": 200,
    "If-Modified-Since: Mon, 01 Jan 0000 00:00:00 GMT": 200,
    "If-Modified-Since: " + "9" * 4000: 200,
    "Range: bytes=" + "9" * 4000 + "-": 200,
    "Range: bytes=0-" + "9" * 30: 200,
    "Range: bytes=-" + "9" * 18: 206,
    "Range: bytes=" + ",".join(f"{number}-{number}" for number in range(32)): 206,
    "Range: bytes=,,,,0-1,": 200,
    "Range: bytes=0-1\r\nRange: bytes=5-6": 206,
    "Range: bytes=\u0660-\u0661": 200,
    'Range: bytes=0-1\r\nIf-Range: "': 200,
    "If-None-Match: " + '"x",' * 1500: 200,
    "If-None-Match: " + 'W/"' * 2500: 200,
    "Connection: upgrade\r\nUpgrade: websocket": 200,
    "Expect: 100-continue": 200,
    "Transfer-Encoding: chunked\r\nContent-Length: 5": 400,
    "Host: another": 400,
    "X: " + "y" * 9000: 400,
}
LINES = {
    "CONNECT host:1 HTTP/1.1": 405,
    "GET {path} HTTP/1.0": 200,
    "GET http://x{path} HTTP/1.1": 200,
    "GET //{path} HTTP/1.1": 403,
    "GET {path}&AWSAccessKeyId=x HTTP/1.1": 403,
    "GET /?%ff=%00 HTTP/1.1": 403,
    "GET /%ff HTTP/1.1": 403,
    "GET ? HTTP/1.1": 400,
    "PRI * HTTP/2.0": 400,
}


async def status_of(port: int, request: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    status = (await asyncio.wait_for(reader.readline(), 10)).split()[1]
    writer.transport.abort()  # possibly in the middle of a body
    return int(status)


async def test_malformed_requests(hit: tuple[CacheClient, str], caplog: pytest.LogCaptureFixture) -> None:
    client, url = hit
    port, path = client.service.port, url.removeprefix(client.base)
    expected = {f"GET {path} HTTP/1.1\r\n{head}": status for head, status in HEADS.items()}
    expected |= {line.format(path=path): status for line, status in LINES.items()}
    found = {head: await status_of(port, f"{head}\r\nhost: x\r\n\r\n") for head in expected}
    assert found == expected
    await asyncio.sleep(0.2)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


async def test_pipelined_requests_are_answered_in_order(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    reader, writer = await asyncio.open_connection("127.0.0.1", client.service.port)
    writer.write(f"GET {url.removeprefix(client.base)} HTTP/1.1\r\nhost: x\r\n\r\n".encode() * 3)
    for _ in range(3):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert await asyncio.wait_for(reader.readexactly(len(BIG)), 20) == BIG
    writer.close()
