"""A minimal InfluxDB that records the lines it receives."""

from __future__ import annotations

import asyncio
import re


class Database:
    """Records each POST."""

    def __init__(self, status: int = 204) -> None:
        self.status = status
        self.heads: list[str] = []
        self.lines: list[str] = []

    async def __aenter__(self) -> Database:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        assert length is not None
        self.heads.append(head)
        self.lines += (await reader.readexactly(int(length[1]))).decode().split("\n")
        writer.write(f"HTTP/1.1 {self.status} Status\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
