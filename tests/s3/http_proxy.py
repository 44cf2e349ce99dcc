"""A forward proxy: CONNECT for HTTPS, requests with whole URLs for HTTP."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class HttpProxy:
    """Passes on what clients send, and records their request lines.

    Attributes:
        login: the value of Proxy-Authorization that is required; "" for none.
        refusal: sent in response to every request instead of a connection.
        route: the port of 127.0.0.1 to connect to; 0: the host and port of the request.
    """

    login: str = ""
    refusal: bytes = b""
    route: int = 0
    requests: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> HttpProxy:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
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
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, *lines = head[:-4].decode("latin-1").split("\r\n")
            self.requests.append(line)
            headers = {name.lower(): value for name, _, value in (header.partition(": ") for header in lines)}
            if self.refusal or headers.get("proxy-authorization", "") != self.login:
                writer.write(self.refusal or b"HTTP/1.1 407 Login\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
            else:
                await self._pass_on(line, lines, reader, writer)
        writer.close()

    async def _pass_on(
        self, line: str, lines: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect to the store, and pass on all bytes in both directions; one request for each connection."""
        method, target, version = line.split(" ")
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        store_reader, store_writer = await asyncio.open_connection(
            "127.0.0.1" if self.route else parts.hostname, self.route or parts.port or 80
        )
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            kept = [header for header in lines if not header.lower().startswith("proxy-")]
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            text = "\r\n".join([f"{method} {path} {version}", *kept, "connection: close", "", ""])
            store_writer.write(text.encode("latin-1"))
        directions = [_copy(reader, store_writer), _copy(store_reader, writer)]
        pending = {asyncio.ensure_future(direction) for direction in directions}
        try:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in pending:
                direction.cancel()
            store_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
