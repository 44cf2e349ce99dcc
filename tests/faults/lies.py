"""What gateways, captive portals, proxies and damaged indexes do in a store's place. `Proxy.injecting` lets them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.kinds import Fault, Respond, getting, is_bare, reading
from tests.faults.messages import Message, Part, Piece, Towards

if TYPE_CHECKING:
    from tests.faults.proxy import Link

HTML = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Accept the terms &amp; go on</p></body></html>\n"
)

UNAVAILABLE_IN = {
    "GBK": "\u670d\u52a1\u5668\u5fd9",
    "Shift_JIS": "\u30b5\u30fc\u30d3\u30b9\u505c\u6b62\u4e2d",
    "EUC-KR": "\uc11c\ubc84 \uc810\uac80",
    "Big5": "\u4f3a\u670d\u5668\u5fd9\u788c",
}
"""The text of an error page, in an encoding that expat does not know."""

UNKNOWN_ENCODING = "x-of-this-appliance"


def response(status: int, body: bytes = b"", content_type: str = "text/html", **headers: str) -> bytes:
    """Return a whole response; `_` in the names of headers stands for `-`."""
    fields = {"content-type": content_type, "content-length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} From a gateway\r\n{lines}\r\n".encode() + body


def error_in(encoding: str, status: int = 503) -> bytes:
    """Return an XML error page in another encoding than UTF-8; a name that Python does not know is only announced."""
    text = UNAVAILABLE_IN.get(encoding, "unavailable")
    page = f'<?xml version="1.0" encoding="{encoding}"?><Error><Code>Busy</Code><Message>{text}</Message></Error>'
    return response(status, page.encode(encoding if encoding in UNAVAILABLE_IN else "ascii"), "application/xml")


ERRORS = tuple(error_in(encoding) for encoding in (*UNAVAILABLE_IN, UNKNOWN_ENCODING))

PAGE = response(200, HTML)
PAGE_WITH_ETAG = response(200, HTML, etag='"66b1f2c0-66"')  # as nginx forms them: time and size, in hexadecimal
PAGE_IN_CHUNKS = (
    b"HTTP/1.1 200 From a gateway\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(HTML), HTML)
)
EMPTY_PAGE = response(200)

NO_SUCH_KEY = response(
    404, b"<Error><Code>NoSuchKey</Code><Message>its parts are gone</Message></Error>\n", "application/xml",
    x_amz_request_id="tx1",
)  # fmt: skip

MAINTENANCE: dict[str, bytes] = {
    **{f"{status}": response(status, HTML, location="http://127.0.0.1:1/sorry") for status in (302, 307)},
    **{f"{status}": response(status, b"<html><body>%d</body></html>\n" % status)
       for status in (400, 403, 404, 405, 410, 421, 425, 502, 503, 504)},
    "404 of an ingress": response(404, b"default backend - 404", "text/plain"),
    "404 in XML": response(404, b"<html xmlns='http://www.w3.org/1999/xhtml'><p>404</p></html>", "application/xml"),
    "empty 400": response(400),
}  # fmt: skip
"""What proxies and ingresses answer while the store behind them is maintained; none of it is in S3's words."""

BODY_LIMIT = response(413, b"<html><body>Request Entity Too Large</body></html>\n")
"""What a proxy answers to a body that is larger than it allows: this object's failure, and a setting's."""


@dataclass(eq=False)
class Page(Respond):
    """A captive portal or gateway answers 200 with its page, and no store sees the request."""

    answer: bytes = PAGE


@dataclass(eq=False)
class RespondAny(Respond):
    """Each request gets one of these answers."""

    answers: tuple[bytes, ...] = field(default=(), kw_only=True)

    def drawn_answer(self) -> bytes:
        return random.choice(self.answers)


@dataclass(eq=False)
class ForeignEncoding(RespondAny):
    """The error page is XML in an encoding that XML parsers need not know."""

    answers: tuple[bytes, ...] = field(default=ERRORS, kw_only=True)


@dataclass(eq=False)
class Maintenance(RespondAny):
    """A proxy before the store answers with a status of its own, in its own words."""

    answers: tuple[bytes, ...] = field(default=tuple(MAINTENANCE.values()), kw_only=True)


@dataclass(eq=False)
class IndexGhost(Respond):
    """HEAD and LIST show the object, and its content is gone: GET says NoSuchKey, as S3 does."""

    answer: bytes = NO_SUCH_KEY
    of: Callable[[Message], bool] = field(default=getting, kw_only=True)


@dataclass(eq=False)
class LostFile(IndexGhost):
    """Only LIST shows the object; GET and HEAD return 404, as Swift does after it has quarantined the file."""

    of: Callable[[Message], bool] = field(default=reading, kw_only=True)


@dataclass(eq=False)
class Drip(Fault):
    """Answers come in drops: the head by the line, or the content by the byte. What is left comes when it ends."""

    from_head = True

    part: Part = Part.BODY
    every_s: float = 1.0

    def fits(self, message: Message) -> bool:
        return message.towards is Towards.CLIENT and not (self.part is Part.BODY and is_bare(message))

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        if piece.part is not self.part:
            return piece.content
        left = piece.content
        while left and not self.ended.wait(self.every_s):
            end = left.index(b"\n") + 1 if self.part is Part.HEAD else 1
            link.send(piece.message, piece.part, left[:end])
            left = left[end:]
        return left


@dataclass(eq=False)
class WrongLength(Fault):
    """An answer announces so many bytes more (or fewer, below 0) than it has. After a longer one it hangs up."""

    from_head = True

    by_bytes: int = 10

    def fits(self, message: Message) -> bool:
        length = message.header("content-length")
        return (
            message.towards is Towards.CLIENT
            and not is_bare(message)
            and length != ""
            and int(length) + self.by_bytes >= 0
        )

    def pass_on(self, link: Link, piece: Piece) -> bytes | None:
        if piece.part is Part.HEAD:
            return with_length(piece, int(piece.message.header("content-length")) + self.by_bytes)
        if piece.part is Part.END and self.by_bytes > 0:
            link.close()
            return None
        return piece.content


@dataclass(eq=False)
class TwoLengths(Fault):
    """An answer has a Content-Length beside `Transfer-Encoding: chunked`, and another one (RFC 9112, 6.3)."""

    from_head = True

    length_bytes: int = 10

    def fits(self, message: Message) -> bool:
        has_length = message.header("content-length") != "" and not message.chunked
        return message.towards is Towards.CLIENT and has_length and not is_bare(message)

    def pass_on(self, link: Link, piece: Piece) -> bytes:
        if piece.part is Part.HEAD:
            chunked = b"\r\ntransfer-encoding: chunked\r\n\r\n"
            return with_length(piece, self.length_bytes).replace(b"\r\n\r\n", chunked, 1)
        if piece.part is Part.END:
            return b"0\r\n\r\n"
        return b"%x\r\n%b\r\n" % (len(piece.content), piece.content)


def with_length(piece: Piece, length_bytes: int) -> bytes:
    """Return a head with another Content-Length."""
    return re.sub(rb"(?i)\r\ncontent-length: *\d+\r\n", b"\r\ncontent-length: %d\r\n" % length_bytes, piece.content)
