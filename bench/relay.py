"""Holds every answer of a store back for a while: PORT TARGET_PORT DELAY_MS."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

import uvloop

HOST = "127.0.0.1"


class _End(asyncio.Protocol):
    """One side of a relayed connection; what it receives goes to the other side, `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._early: deque[bytes] = deque()  # what came before the other side was there
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._give, data)
        else:
            self._give(data)

    def _give(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def meet(self, other: _End) -> None:
        """Know the other side, and give it what came early."""
        self.other = other
        while self._early:
            self._give(self._early.popleft())

    def connection_lost(self, exc: Exception | None) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            asyncio.get_running_loop().call_later(self._delay_s, other.transport.close)


async def serve(port: int, target_port: int, delay_s: float) -> None:
    """Relay for ever."""
    loop = asyncio.get_running_loop()
    meetings: set[asyncio.Task[None]] = set()

    async def meet(client: _End) -> None:
        _, server = await loop.create_connection(lambda: _End(delay_s), HOST, target_port)
        server.meet(client)
        client.meet(server)

    def accepted() -> _End:
        client = _End(0)
        task = loop.create_task(meet(client))
        meetings.add(task)
        task.add_done_callback(meetings.discard)
        return client

    async with await loop.create_server(accepted, HOST, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    own_port, target, delay_ms = map(int, sys.argv[1:])
    uvloop.run(serve(own_port, target, delay_ms / 1000))
