"""A TCP proxy that injects faults of networks and servers on command.

    with Proxy(swift.port) as proxy:
        endpoint = proxy.through(swift.endpoint(bucket))
        with proxy.injecting(Flip(of=getting), Latency(late_s=0.1)):
            ...
        assert proxy.injected["Flip"] > 0

Without a fault, bytes pass as they come. It serves asyncio and processes alike, since it runs in threads of its own.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from s3s3.model import Endpoint
from tests.faults.kinds import Fault
from tests.faults.messages import Message, Part, Piece, Reader, Towards, http_pieces, plain_pieces

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """A proxy in front of a server, on a local port; a context manager.

    Attributes:
        injected: how often each fault happened: to how many messages, or connections.
        requests: how many requests of each method came (with HTTP).
        deleted: the targets of the DELETE requests that came, unquoted.
    """

    def __init__(self, target_port: int, *, http: bool = True) -> None:
        self.target_port = target_port
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.deleted: list[str] = []
        self.faults: tuple[Fault, ...] = ()
        self._http = http
        self._links: list[Link] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Proxy:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.inject()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for link in self.links:
            link.reset()

    @property
    def links(self) -> list[Link]:
        """The open connections."""
        with self._lock:
            return list(self._links)

    def through(self, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint as it is reached through this proxy."""
        return dataclasses.replace(endpoint, host="127.0.0.1", port=self.port)

    def inject(self, *faults: Fault) -> None:
        """Let these happen from now on, and no others."""
        ended = [fault for fault in self.faults if fault not in faults]
        begun = [fault for fault in faults if fault not in self.faults]
        for fault in begun:
            fault.ended.clear()
        self.faults = faults
        for fault in ended:
            fault.ended.set()
        for fault in begun:
            fault.begin(self.links)

    @contextmanager
    def injecting(self, *faults: Fault) -> Iterator[None]:
        """Let these happen in the block, beside what is injected already."""
        before = self.faults
        self.inject(*before, *faults)
        try:
            yield
        finally:
            self.inject(*before)

    def count(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            counter[name] += 1

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed: the test is over
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target_port))
        except OSError:
            _reset(client)
            return
        link = Link(self, client, server)
        with self._lock:
            self._links.append(link)
        backwards = threading.Thread(target=self._pump, args=(link, server, Towards.CLIENT), daemon=True)
        backwards.start()
        self._pump(link, client, Towards.SERVER)
        backwards.join()
        if not link.dead:
            link.close()
        with self._lock:
            self._links.remove(link)

    def _pump(self, link: Link, here: socket.socket, towards: Towards) -> None:
        reader = Reader(here)
        pieces = http_pieces(reader, towards, link.asked) if self._http else plain_pieces(reader, towards)
        try:
            for piece in pieces:
                if piece.part is Part.HEAD and towards is Towards.SERVER:
                    self.count(self.requests, piece.message.method)
                    if piece.message.method == "DELETE":
                        self.deleted.append(unquote(piece.message.target))
                self._pass_on(link, piece)
            link.end(towards)
        except (OSError, ValueError, IndexError):
            link.reset()

    def _pass_on(self, link: Link, piece: Piece) -> None:
        content: bytes | None = piece.content
        # A fault that applies to a whole message continues to its end.
        begun = [fault for fault, struck in piece.message.drawn.items() if struck and fault.from_head]
        for fault in dict.fromkeys((*begun, *self.faults)):
            if content is not None and fault.strikes(link, piece):
                content = fault.pass_on(link, dataclasses.replace(piece, content=content))
        if content is not None and not link.dead:
            if piece.part is Part.HEAD and piece.message.towards is Towards.SERVER:
                link.asked.append(piece.message.request)
            link.send(piece.message, piece.part, content)


class Link:
    """A connection from a client, and the one to the server that belongs to it.

    Attributes:
        asked: the requests that the server has and has not answered.
        dead: nothing arrives any more, and neither end is notified.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self.asked: list[str] = []
        self.dead = False
        self._is_reset = False
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def server_port(self) -> int:
        """The port under which the server knows this connection."""
        port: int = self._server.getsockname()[1]
        return port

    def count(self, name: str) -> None:
        self._proxy.count(self._proxy.injected, name)

    def send(self, message: Message, part: Part, content: bytes) -> None:
        raw = message.framed(part, content)
        if raw:
            (self._server if message.towards is Towards.SERVER else self._client).sendall(raw)

    def answer(self, raw: bytes) -> None:
        """Answer the client in the server's place."""
        self._client.sendall(raw)

    def end(self, towards: Towards) -> None:
        """One side has finished sending."""
        if not (self.dead or self._is_reset):
            with suppress(OSError):
                (self._server if towards is Towards.SERVER else self._client).shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it in good order: what was sent arrives."""
        if self._is_reset:
            return
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def reset(self) -> None:
        self._is_reset = True
        for end in (self._client, self._server):
            _reset(end)


def _reset(end: socket.socket) -> None:
    """Close it so that the peer sees a reset. Reading is shut down first: that wakes a reader and sends nothing."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        end.shutdown(socket.SHUT_RD)
    end.close()
