"""Delay each response of a store: PORT TARGET_PORT DELAY_MS."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

import uvloop

HOST = "127.0.0.1"


class _Side(asyncio.Protocol):
    """One side of a relayed connection; received data is passed on after `delay_s`."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._early: deque[bytes] = deque()  # received before the other side was connected
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._forward, data)
        else:
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def connect(self, other: _Side) -> None:
        """Connect to the other side and pass on early data."""
        self.other = other
        while self._early:
            self._forward(self._early.popleft())

    def connection_lost(self, exc: Exception | None) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            asyncio.get_running_loop().call_later(self._delay_s, other.transport.close)


async def serve(port: int, target_port: int, delay_s: float) -> None:
    """Relay until cancelled."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def connect(client: _Side) -> None:
        _, server = await loop.create_connection(lambda: _Side(delay_s), HOST, target_port)
        server.connect(client)
        client.connect(server)

    def accepted() -> _Side:
        client = _Side(0)
        task = loop.create_task(connect(client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return client

    async with await loop.create_server(accepted, HOST, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    own_port, target, delay_ms = map(int, sys.argv[1:])
    uvloop.run(serve(own_port, target, delay_ms / 1000))
