"""An HTTP(S) server that says what a test wants said, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer; the connection is closed after it."""


def answer(body: bytes = b"", status: int = 200, *, method: str = "GET", **headers: str | None) -> bytes:
    """A whole answer. `content_length=None` leaves that header out."""
    fields: dict[str, str | None] = {"content-length": str(len(body)), "content-type": "text/plain"}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + (b"" if method == "HEAD" else body)


def chunked(*chunks: bytes, **headers: str | None) -> bytes:
    fields: dict[str, Any] = {"content_length": None, "transfer_encoding": "chunked", **headers}
    head = answer(**fields)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def redirect(url: str, status: int = 302) -> bytes:
    return answer(status=status, location=url)


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class OriginServer:
    """Serves `answers` by path; 404 for what is not there.

    Attributes:
        pause_s: before each answer.
        asked: every request, in order.
    """

    tls: ssl.SSLContext | None = None
    answers: dict[str, bytes | Talk] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    pause_s: float = 0.0
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
        return sum(asked.target == path for asked in self.asked)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = line.split(" ")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            self.asked.append(Asked(method, target, headers))
            await asyncio.sleep(self.pause_s)
            said = self.answers.get(target, answer(b"nothing here", 404))
            if isinstance(said, bytes):
                writer.write(said)
            else:
                await said(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()
