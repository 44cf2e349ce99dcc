"""The bytes of a connection, taken apart as far as a fault has to understand them."""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.kinds import Fault

CHUNK_BYTES = 1 << 16


class Towards(enum.Enum):
    """Which way bytes go."""

    SERVER = "server"
    CLIENT = "client"


class Part(enum.Enum):
    """The phase of a message; anything that is not HTTP is body."""

    HEAD = "head"
    BODY = "body"
    END = "end"


@dataclass
class Message:
    """A request or a response; without HTTP, all data in one direction of a connection.

    Attributes:
        head: of the request, or of the answer.
        request: the first line of the request that this is, or answers: "GET /bucket/key HTTP/1.1"; "" without HTTP.
        passed_bytes: how much of its content has come so far.
        drawn: which faults happen to it, and which do not.
    """

    towards: Towards
    request: str = ""
    head: bytes = b""
    chunked: bool = False
    passed_bytes: int = 0
    drawn: dict[Fault, bool] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.request.partition(" ")[0]

    @property
    def target(self) -> str:
        return self.request.split(" ")[1] if self.request else ""

    def header(self, name: str) -> str:
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.decode("latin-1").partition(":")
            if found.lower() == name:
                return value.strip()
        return ""

    def framed(self, part: Part, content: bytes) -> bytes:
        """Return content as it goes over the wire."""
        if not self.chunked or part is Part.HEAD:
            return content
        if part is Part.END:
            return b"0\r\n\r\n"
        return b"%x\r\n%b\r\n" % (len(content), content) if content else b""


@dataclass(frozen=True)
class Piece:
    """Some bytes of a message: its head, or a part of its content without the framing."""

    message: Message
    part: Part
    content: bytes


class Reader:
    """Reads from a socket by lines and by lengths."""

    def __init__(self, here: socket.socket) -> None:
        self._here = here
        self._ahead = b""

    def some(self, most_bytes: int = CHUNK_BYTES) -> bytes:
        ready = self._ahead or self._here.recv(CHUNK_BYTES)
        self._ahead = ready[most_bytes:]
        return ready[:most_bytes]

    def until(self, end: bytes) -> bytes:
        """Return all up to and with `end`; b"" where the connection ended before."""
        while end not in self._ahead:
            more = self._here.recv(CHUNK_BYTES)
            if not more:
                return b""
            self._ahead += more
        found, _, self._ahead = self._ahead.partition(end)
        return found + end

    def exactly(self, size_bytes: int) -> Iterator[bytes]:
        while size_bytes:
            content = self.some(size_bytes)
            if not content:
                raise ConnectionResetError("the message broke off")
            size_bytes -= len(content)
            yield content


def plain_pieces(reader: Reader, towards: Towards) -> Iterator[Piece]:
    """Anything that is not HTTP."""
    message = Message(towards)
    while content := reader.some():
        yield Piece(message, Part.BODY, content)
        message.passed_bytes += len(content)


def http_pieces(reader: Reader, towards: Towards, asked: list[str]) -> Iterator[Piece]:
    """HTTP/1.1 without pipelining. `asked` has the requests that wait for their answers."""
    while head := reader.until(b"\r\n\r\n"):
        if towards is Towards.SERVER:
            request = head.partition(b"\r\n")[0].decode("latin-1")
        else:
            is_final = not head.startswith(b"HTTP/1.1 1")
            request = (asked.pop(0) if is_final else asked[0]) if asked else ""
        message = Message(towards, request, head)
        message.chunked = message.header("transfer-encoding") == "chunked"
        yield Piece(message, Part.HEAD, head)
        for content in _contents(reader, message):
            yield Piece(message, Part.BODY, content)
            message.passed_bytes += len(content)
        yield Piece(message, Part.END, b"")


def _contents(reader: Reader, message: Message) -> Iterator[bytes]:
    if message.chunked:
        while size_bytes := int(reader.until(b"\r\n").partition(b";")[0], 16):
            yield from reader.exactly(size_bytes)
            reader.until(b"\r\n")
        while reader.until(b"\r\n") not in (b"\r\n", b""):
            pass  # trailers
    elif message.towards is Towards.SERVER or _has_body(message):
        length = message.header("content-length")
        if length or message.towards is Towards.SERVER:
            yield from reader.exactly(int(length or 0))
        else:
            while content := reader.some():
                yield content


def _has_body(answer: Message) -> bool:
    status = answer.head.split(b" ", 2)[1]
    return answer.method != "HEAD" and not status.startswith(b"1") and status not in (b"204", b"304")
