"""What can go wrong on the way to a server and back. `Proxy.injecting` lets it happen."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tests.faults.messages import Message, Part, Piece, Towards

if TYPE_CHECKING:
    from tests.faults.proxy import Link

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 63\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>go slow</Message></Error>\n"
)
ERROR_IN_200 = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: 66\r\n\r\n"
    b"<Error><Code>InternalError</Code><Message>sorry</Message></Error>\n"
)


def anything(_: Message) -> bool:
    return True


def listing(message: Message) -> bool:
    """A request of a bucket's listing, or the answer to it."""
    return message.method == "GET" and re.search(r"[?&](list-type|max-keys)=", message.target) is not None


def getting(message: Message) -> bool:
    """A GET of an object."""
    return message.method == "GET" and "?" not in message.target


def reading(message: Message) -> bool:
    """A GET or HEAD of an object."""
    return message.method in ("GET", "HEAD") and "?" not in message.target


def putting(message: Message) -> bool:
    return message.method == "PUT"


@dataclass(eq=False)
class Fault:
    """Something that happens to what passes, as long as it is injected.

    Attributes:
        of: which messages (requests, and answers by what they answer) it happens to.
        share: how many of them, 0 to 1; drawn once for each (without HTTP: for each connection and direction).
        ended: set when it is injected no more.
    """

    of: Callable[[Message], bool] = field(default=anything, kw_only=True)
    share: float = field(default=1.0, kw_only=True)
    ended: threading.Event = field(default_factory=threading.Event, init=False)

    from_head: ClassVar = False
    """Whether it can only happen to a message as a whole, not from its middle on."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def strikes(self, link: Link, piece: Piece) -> bool:
        """Whether it happens to the piece's message; that is drawn, and counted, once."""
        message = piece.message
        drawn = message.drawn.get(self)
        if drawn is None:
            in_time = piece.part is Part.HEAD or not self.from_head
            drawn = in_time and self.fits(message) and self.of(message) and random.random() < self.share
            message.drawn[self] = drawn
            if drawn:
                link.count(self.name)
        return drawn

    def fits(self, message: Message) -> bool:
        """Whether it can happen to such a message at all."""
        return True

    def begin(self, links: list[Link]) -> None:
        """Act on the connections that are open when the fault begins."""

    def pass_on(self, link: Link, piece: Piece) -> bytes | None:
        """Return what goes on of a piece of a message that it strikes, None where nothing ever does."""
        raise NotImplementedError


@dataclass(eq=False)
class Latency(Fault):
    """Each message (without HTTP: each piece) is late."""

    late_s: float = 0.05

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        if piece.part is Part.HEAD or not piece.message.request:
            self.ended.wait(self.late_s)
        return piece.content


@dataclass(eq=False)
class Bandwidth(Fault):
    """All connections share this number of bytes per second in each direction."""

    bytes_per_s: float = 1 << 20
    _free_at_s: dict[Towards, float] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        with self._lock:
            now_s = time.monotonic()
            through_s = max(now_s, self._free_at_s.get(piece.message.towards, 0.0))
            through_s += len(piece.content) / self.bytes_per_s
            self._free_at_s[piece.message.towards] = through_s
        self.ended.wait(through_s - now_s)
        return piece.content


@dataclass(eq=False)
class Reset(Fault):
    """The connection is reset instead."""

    def pass_on(self, link: Link, piece: Piece) -> None:
        link.reset()


@dataclass(eq=False)
class ResetAll(Fault):
    """Every open connection is reset once, when it is injected; new ones live."""

    def begin(self, links: list[Link]) -> None:
        for link in links:
            link.count(self.name)
            link.reset()

    def fits(self, message: Message) -> bool:
        return False


@dataclass(eq=False)
class Cut(Fault):
    """The connection ends after this much content: with a reset, or orderly."""

    towards: Towards = Towards.SERVER
    after_bytes: int = 0
    with_reset: bool = True

    def fits(self, message: Message) -> bool:
        return message.towards is self.towards

    def pass_on(self, link: Link, piece: Piece) -> bytes | None:
        left_bytes = self.after_bytes - piece.message.passed_bytes
        if piece.part is Part.HEAD or (piece.part is Part.BODY and len(piece.content) <= left_bytes):
            return piece.content
        if piece.part is Part.END and piece.message.passed_bytes <= self.after_bytes:
            return piece.content  # there was no more of it
        link.send(piece.message, piece.part, piece.content[: max(left_bytes, 0)])
        if self.with_reset:
            link.reset()
        else:
            link.close()
        return None


@dataclass(eq=False)
class Hang(Fault):
    """Nothing goes on until it ends; then everything does."""

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        self.ended.wait()
        return piece.content


@dataclass(eq=False)
class HalfOpen(Fault):
    """Every connection that is open or opened during the fault stays half-open: neither end is notified."""

    def begin(self, links: list[Link]) -> None:
        for link in links:
            self._kill(link)

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        self._kill(link)
        return b""

    def _kill(self, link: Link) -> None:
        if not link.dead:
            link.dead = True
            link.count(self.name)

    def strikes(self, link: Link, piece: Piece) -> bool:
        return True


@dataclass(eq=False)
class Flip(Fault):
    """One bit of the content is another; of a content that ends before that byte, one in its first piece."""

    from_head = True

    towards: Towards = Towards.CLIENT

    def fits(self, message: Message) -> bool:
        has_content = message.chunked or message.header("content-length") not in ("", "0")
        return message.towards is self.towards and has_content and not is_bare(message)

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        if piece.part is not Part.BODY or piece.message.passed_bytes:
            return piece.content
        damaged = bytearray(piece.content)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        return bytes(damaged)


@dataclass(eq=False)
class Truncated(Fault):
    """Only the beginning of the content arrives, with framing that matches it."""

    from_head = True

    towards: Towards = Towards.CLIENT
    kept_bytes: int = 1

    def fits(self, message: Message) -> bool:
        length = message.header("content-length")
        is_longer = message.chunked or (length != "" and int(length) > self.kept_bytes)
        return message.towards is self.towards and is_longer and not is_bare(message)

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        if piece.part is Part.HEAD:
            length = b"\r\ncontent-length: %d\r\n" % self.kept_bytes
            return re.sub(rb"(?i)\r\ncontent-length: *\d+\r\n", length, piece.content)
        return piece.content[: max(self.kept_bytes - piece.message.passed_bytes, 0)]


@dataclass(eq=False)
class Respond(Fault):
    """The request gets this answer, and the server never sees it (`reaches`: it does, and its answer is lost)."""

    from_head = True

    answer: bytes = SLOW_DOWN
    reaches: bool = False

    def fits(self, message: Message) -> bool:
        return bool(message.request) and message.towards is (Towards.CLIENT if self.reaches else Towards.SERVER)

    def drawn_answer(self) -> bytes:
        """Return the answer to one request."""
        return self.answer

    def pass_on(self, link: Link, piece: Piece) -> bytes | None:
        if piece.part is Part.END:
            head, end, body = self.drawn_answer().partition(b"\r\n\r\n")
            link.answer(head + end + (b"" if piece.message.method == "HEAD" else body))
        return None


def is_bare(message: Message) -> bool:
    """Whether it is the answer to a HEAD, which has a length and no content."""
    return message.towards is Towards.CLIENT and message.method == "HEAD"
