"""Parse HTTP/1.1 response heads and body framing (RFC 9112)."""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD_LIMIT_BYTES = 64 * 1024
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_TOO_LONG = "more bytes than the response announced"


class Head(NamedTuple):
    """Status and headers of a response.

    Attributes:
        headers: lower-case names, values as surrogateescaped bytes.
        persistent: the connection may serve another request.
    """

    status: int
    headers: dict[str, str]
    persistent: bool


def parse_head(raw: bytes) -> Head:
    """Parse the status line and the headers. Raises ValueError if it is not HTTP/1.x."""
    text = raw.decode("utf-8", "surrogateescape")
    line, *lines = text.split("\r\n")
    if not line.startswith("HTTP/1.") or not line[9:12].isdigit():
        raise ValueError(f"the response starts with {line[:40]!r}")
    if "\r\n " in text or "\r\n\t" in text or "\r\n:" in text:
        raise ValueError("a header line without a name")
    headers: dict[str, str] = {}
    for header in lines:
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError("a header line without a name")
        headers[name.lower()] = value.strip(" \t")
    if len(headers) != len(lines):
        headers = _joined(lines)
    connection = headers.get("connection", "").lower()
    persistent = "close" not in connection if line[7] == "1" else "keep-alive" in connection
    return Head(int(line[9:12]), headers, persistent)


def _joined(lines: list[str]) -> dict[str, str]:
    """Return headers of which some are repeated, with their values joined (RFC 9110, 5.2)."""
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        before = headers.get(name)
        if before is None or (before == value and name == "content-length"):
            headers[name] = value
        else:
            headers[name] = f"{before}, {value}"
    return headers


class Body:
    """The framing of a body of known length; base class of the other two.

    Attributes:
        ended: the whole body was received.
    """

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, raw: bytes) -> bytes:
        """Return the content in `raw`. Raises ValueError if it is more than was announced."""
        self._left -= len(raw)
        if self._left < 0:
            raise ValueError(_TOO_LONG)
        self.ended = self._left == 0
        return raw

    def close(self) -> None:
        """The peer has closed the connection, which ends an `UntilClose` body only."""


#: The body of a response without one.
EMPTY_BODY = Body(0)


class UntilClose(Body):
    """A body that ends with the connection."""

    def __init__(self) -> None:
        super().__init__(-1)

    def feed(self, raw: bytes) -> bytes:
        return raw

    def close(self) -> None:
        self.ended = True


class Chunked(Body):
    """A body in chunks. Extensions and trailers are ignored."""

    def __init__(self) -> None:
        super().__init__(-1)
        self._left = 0  # of the current chunk, including the line end after it
        self._partial_line = b""
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, raw: bytes) -> bytes:
        raw = self._partial_line + raw if self._partial_line else raw
        self._partial_line = b""
        content: list[bytes] = []
        at = 0
        while at < len(raw):
            if self.ended:
                raise ValueError(_TOO_LONG)
            if self._left:
                step = min(self._left, len(raw) - at)
                content.append(raw[at : at + min(step, max(self._left - 2, 0))])
                self._left -= step
                at += step
                continue
            end = raw.find(b"\n", at)
            if end < 0:
                self._partial_line = raw[at:]
                if len(self._partial_line) > HEAD_LIMIT_BYTES:
                    raise ValueError("a chunk size line that does not end")
                break
            self._line(raw[at:end].rstrip(b"\r"))
            at = end + 1
        return b"".join(content)

    def _line(self, line: bytes) -> None:
        if self._in_trailer:
            self.ended = not line
            self._trailer_bytes += len(line)
            if self._trailer_bytes > HEAD_LIMIT_BYTES:
                raise ValueError("a trailer that does not end")
            return
        digits = line.partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(digits):
            raise ValueError("a chunk size that is not a number")
        size = int(digits, 16)
        self._left = size + 2 if size else 0
        self._in_trailer = size == 0


def body_of(head: Head, *, is_head: bool) -> Body:
    """Return the framing of a response's body (RFC 9112, 6.3). Raises ValueError. `is_head`: of a HEAD request."""
    headers = head.headers
    if is_head or head.status in (204, 304):
        return EMPTY_BODY
    encoding = headers.get("transfer-encoding")
    if encoding is not None:
        if encoding.lower() != "chunked":
            raise ValueError(f"an unknown transfer encoding, {encoding!r}")
        return Chunked()
    length = headers.get("content-length")
    if length is None:
        return UntilClose()
    if length == "0":
        return EMPTY_BODY
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"a Content-Length that is not a number, {length!r}")
    return Body(int(length))
