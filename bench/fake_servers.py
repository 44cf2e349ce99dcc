"""A store and a Redis inside the event loop, without a network, for `bench.small_object`.

`run` connects a protocol to the server of its port. A server gets what the protocol writes, and responds in the next
iteration of the loop, as one read from a socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol
from unittest import mock

import hiredis
import uvloop

from s3s3.queue import connection
from s3s3.s3.transport import connecting

STORE_PORT, REDIS_PORT = 1, 2
_ENTRY = b"1767225600000-0"
_DATE = "Tue, 06 Oct 2026 03:09:27 GMT"


class Server(Protocol):
    """Responds to what a connection writes."""

    def received(self, data: bytes, respond: Callable[[bytes], object]) -> None:
        """Handle one write; `respond` may be called later, too."""


class Transport(asyncio.Transport):
    """The client's end of a connection to a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any, server: Server) -> None:
        super().__init__()
        self._loop, self._protocol, self._server = loop, protocol, server
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._server.received(bytes(data), self._respond)

    def _respond(self, data: bytes) -> None:
        self._loop.call_soon(self._protocol.data_received, data)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _Socket(0) if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@dataclass
class _Socket:
    port: int
    family = None

    def setsockopt(self, *_: object) -> None:
        pass

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 0


class Loop(uvloop.Loop):
    """An event loop whose connections lead to servers by port."""

    def __init__(self, servers: Mapping[int, Server]) -> None:
        super().__init__()
        self._servers_by_port = servers

    async def create_connection(  # type: ignore[override]  # of the arguments, only these matter
        self, factory: Callable[[], Any], *_: object, sock: _Socket, **__: object
    ) -> tuple[Transport, Any]:
        """Connect a protocol to the server of a socket's port."""
        protocol = factory()
        transport = Transport(self, protocol, self._servers_by_port[sock.port])
        protocol.connection_made(transport)
        return transport, protocol


async def _connect_socket(*_: str, port: int) -> _Socket:
    return _Socket(port)


def run(coroutine: Coroutine[Any, Any, None], servers: Mapping[int, Server]) -> None:
    """Run a coroutine in a loop with these servers, by port."""
    loop = Loop(servers)
    with ExitStack() as stack:
        stack.callback(loop.close)
        for module in (connecting, connection):
            stack.enter_context(mock.patch.object(module, "connect_socket", _connect_socket))
        loop.run_until_complete(coroutine)


class FakeStore:
    """Has one object under every key, accepts every PUT, and responds with the headers of radosgw (Ceph 16)."""

    def __init__(self, content: bytes) -> None:
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        common = (
            f"Accept-Ranges: bytes\r\nx-amz-request-id: tx00000a1b2c3d4e5f60718-0065a1b2c3-1234-default\r\n"
            f"Date: {_DATE}\r\nConnection: Keep-Alive\r\n\r\n"
        )
        self._object = (
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nLast-Modified: {_DATE}\r\n"
            f'x-rgw-object-type: Normal\r\nETag: "{etag}"\r\nx-amz-meta-origin: camera-3\r\n'
            f"Content-Type: image/fits\r\n{common}"
        ).encode() + content
        self._stored = f'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "{etag}"\r\n{common}'.encode()
        self.puts = 0

    def received(self, data: bytes, respond: Callable[[bytes], object]) -> None:
        """Respond to a request, which is one write."""
        if data.startswith(b"PUT"):
            self.puts += 1
            respond(self._stored)
        else:
            respond(self._object)


class FakeRedis:
    """Runs what the scripts of `s3s3.queue` do to unconditional jobs that succeed; and pub/sub.

    Attributes:
        on_finished: called with the number of jobs that a call has finished.
        finished: number of finished jobs.
    """

    def __init__(self) -> None:
        self.on_finished: Callable[[int], None] = lambda _: None
        self.finished = 0
        self._queued: deque[bytes] = deque()
        self._scripts: dict[bytes, str] = {}
        self._subscriber: tuple[bytes, Callable[[bytes], object]] | None = None
        self._blocked: Callable[[bytes], object] | None = None
        self._files = {path.name.removesuffix(".lua"): path.read_bytes()
                       for path in resources.files("s3s3.queue").joinpath("lua").iterdir()}  # fmt: skip

    def publish(self, messages: list[bytes]) -> None:
        """Send messages to the subscriber, as one read."""
        assert self._subscriber is not None
        channel, respond = self._subscriber
        respond(b"".join(map(_encode, ([b"message", channel, message] for message in messages))))

    @property
    def has_subscriber(self) -> bool:
        return self._subscriber is not None

    def received(self, data: bytes, respond: Callable[[bytes], object]) -> None:
        """Respond to commands; a command is never split."""
        reader = hiredis.Reader()
        reader.feed(data)
        while isinstance(command := reader.gets(), list):
            self._run(command, respond)

    def _run(self, command: list[bytes], respond: Callable[[bytes], object]) -> None:
        name = command[0]
        if name == b"EVALSHA":
            script = self._scripts.get(command[1])
            respond(b"-NOSCRIPT none\r\n" if script is None else _encode(self._run_script(script, command[4:])))
        elif name == b"SCRIPT":
            text = command[2]
            sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
            self._scripts[sha] = next(name for name, file in self._files.items() if text.endswith(file))
            respond(_encode(sha))
        elif name == b"XREADGROUP":
            self._blocked = respond
            if self._queued:
                self._unblock()
            else:
                block_s = int(command[command.index(b"BLOCK") + 1]) / 1000
                asyncio.get_running_loop().call_later(block_s, self._end_block, respond)
        elif name == b"PUBLISH":
            if self._subscriber is not None:
                self._subscriber[1](_encode([b"message", *command[1:]]))
            respond(b":1\r\n")
        elif name == b"SUBSCRIBE":
            self._subscriber = command[1], respond
            respond(b"".join(_encode([b"subscribe", channel, number]) for number, channel in enumerate(command[1:], 1)))
        else:
            respond(b"+OK\r\n")

    def _run_script(self, script: str, args: list[bytes]) -> Any:
        if script == "enqueue":
            self._queued += json_list(args[4])[::3]
            if self._blocked is not None:
                self._unblock()
        elif script == "claim":
            return [self._claim(args), [], 0, 0]
        elif script == "finish":
            count = len(json_list(args[2]))
            self.finished += count
            self.on_finished(count)
            return []
        elif script == "promote_due":
            return [0, -1]
        return []

    def _end_block(self, respond: Callable[[bytes], object]) -> None:
        if self._blocked is respond:
            self._blocked = None
            respond(b"*-1\r\n")

    def _unblock(self) -> None:
        assert self._blocked is not None
        respond, self._blocked = self._blocked, None
        respond(_encode([[b"s3s3:{default}:fresh", [[_ENTRY, [b"key", self._queued.popleft()]]]]]))

    def _claim(self, args: list[bytes]) -> list[list[bytes]]:
        keys = args[12::3]
        while self._queued and len(keys) < int(args[3]):
            keys.append(self._queued.popleft())
        return [
            [
                key,
                b"dest",
                b"fresh",
                b"1767225600000-0",
                args[2] + b".%d" % number,
                b"1",
                b"1767225600000",
                b"",
                b"",
                b"",
            ]
            for number, key in enumerate(keys, 1)
        ]


def json_list(text: bytes) -> list[Any]:
    """Parse a JSON list of `s3s3.queue`; keys as bytes."""
    return [item.encode() if isinstance(item, str) else item for item in json.loads(text)]


def _encode(value: Any) -> bytes:
    """Encode a response (RESP 2)."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(_encode, value))
    return b":%d\r\n" % value if isinstance(value, int) else b"$%d\r\n%s\r\n" % (len(value), value)
