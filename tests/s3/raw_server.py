"""A scripted store on a raw socket: it sends the given bytes and records the requests."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import struct
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3s3.model import Endpoint, Secret
from s3s3.s3 import Store

DATE = "Mon, 05 Oct 2026 21:09:27 GMT"


def response(status: int = 200, body: bytes = b"", **headers: str | None) -> bytes:
    """Return a whole response. `content_length=None` omits the header."""
    fields: dict[str, str | None] = {"date": DATE, "content-length": str(len(body))}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


def error_response(status: int, code: str, message: str = "", **headers: str | None) -> bytes:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return response(status, body.encode(), **headers)


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@dataclass
class ReceivedRequest:
    """A request after its head was read, and its connection."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    body: bytes = b""
    is_truncated: bool = False

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> bytes:
        return self.head.split(b" ", 2)[1]

    @property
    def headers(self) -> dict[str, bytes]:
        lines = (line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:] if line)
        return {name.decode().lower(): value for name, value in lines}

    async def read_body(self) -> bytes:
        left = int(self.headers.get("content-length", b"0")) - len(self.body)
        while left > 0:
            try:
                part = await self.reader.read(min(left, 65536))
            except ConnectionError:
                part = b""
            if not part:
                self.is_truncated = True
                break
            self.body += part
            left -= len(part)
        return self.body

    def write(self, raw: bytes) -> None:
        """Write a response. A 200 without an ETag gets what a store sends: the MD5 of the object."""
        head, end, body = raw.partition(b"\r\n\r\n")
        if end and head.startswith(b"HTTP/1.1 200") and b"\r\netag:" not in head:
            content_md5 = self.headers.get("content-md5")
            md5 = hashlib.md5(body).digest() if content_md5 is None else b64decode(content_md5)
            head += b'\r\nx-amz-request-id: raw\r\netag: "%s"' % md5.hex().encode()
        self.writer.write(head + end + body)

    def write_unchanged(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def close(self) -> None:
        """Close the connection like a server that shuts down; what was written is sent."""
        self.writer.close()

    async def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[ReceivedRequest], Awaitable[Any]]


@dataclass
class RawServer:
    """Passes each request to the next of the scripts, and repeats the last one."""

    scripts: Iterable[Script]
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def __aenter__(self) -> RawServer:
        self._scripts = list(self.scripts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                received = ReceivedRequest(head[:-4], reader, writer, len(self.requests))
                self.requests.append(received)
                await self._scripts[min(received.number, len(self._scripts) - 1)](received)
                if not writer.is_closing():
                    await received.read_body()
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client disconnected, or the test ended
        finally:
            writer.close()

    def endpoint(self, **changed: Any) -> Endpoint:
        settings: dict[str, Any] = {
            "name": "destination-raw",
            "bucket_name": "bucket",
            "host": self.host,
            "port": self.port,
            "is_secure": self.tls is not None,
            "access_key_id": "AKID",
            "secret_access_key": Secret("s3cr3t-key"),
        }
        return Endpoint(**{**settings, **changed})

    def store(self, *, endpoint: dict[str, Any] | None = None, **options: Any) -> Store:
        return Store(self.endpoint(**(endpoint or {})), **options)


def respond(raw: bytes) -> Script:
    """Return a script that reads the whole request, then writes `raw`."""

    async def script(received: ReceivedRequest) -> None:
        await received.read_body()
        received.write(raw)

    return script


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition is true; fail after ten seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not become true")
