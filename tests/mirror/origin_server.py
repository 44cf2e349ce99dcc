"""An HTTP(S) server that sends scripted responses and records its requests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

#: Writes a response; the connection is closed after it.
Responder = Callable[[asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes = b"", status: int = 200, *, method: str = "GET", **headers: str | None) -> bytes:
    """Return a complete response; `content_length=None` omits that header."""
    fields: dict[str, str | None] = {"content-length": str(len(body)), "content-type": "text/plain"}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode() + (b"" if method == "HEAD" else body)


def chunked(*chunks: bytes, **headers: str | None) -> bytes:
    fields: dict[str, Any] = {"content_length": None, "transfer_encoding": "chunked", **headers}
    head = response(**fields)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def redirect(url: str, status: int = 302) -> bytes:
    return response(status=status, location=url)


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the server received."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class OriginServer:
    """Serves `responses` by path, else 404.

    Attributes:
        delay_s: delay before each response.
        requests: every request, in order.
    """

    tls: ssl.SSLContext | None = None
    responses: dict[str, bytes | Responder] = field(default_factory=dict)
    requests: list[ReceivedRequest] = field(default_factory=list)
    delay_s: float = 0.0
    host: str = "127.0.0.1"
    port: int = 0

    async def __aenter__(self) -> OriginServer:
        self._server = await asyncio.start_server(self._talk, self.host, 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/"

    def gets(self, path: str) -> int:
        return sum(request.target == path for request in self.requests)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = line.split(" ")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            self.requests.append(ReceivedRequest(method, target, headers))
            await asyncio.sleep(self.delay_s)
            scripted = self.responses.get(target, response(b"not found", 404))
            if isinstance(scripted, bytes):
                writer.write(scripted)
            else:
                await scripted(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            writer.close()
