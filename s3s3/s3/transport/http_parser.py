"""HTTP/1.1 answers taken apart: the head, and where the body ends (RFC 9112)."""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD_LIMIT_BYTES = 64 * 1024
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_TOO_MUCH = "more bytes than the answer announced"


class Head(NamedTuple):
    """Status and headers of an answer: names in lower case, values as the bytes they came as (surrogateescape).

    `persistent`: the connection may serve another exchange after this one.
    """

    status: int
    headers: dict[str, str]
    persistent: bool


def parse_head(raw: bytes) -> Head:
    """Parse the status line and the header lines. Raises ValueError for what is no HTTP/1.x."""
    text = raw.decode("utf-8", "surrogateescape")
    line, *lines = text.split("\r\n")
    if not line.startswith("HTTP/1.") or not line[9:12].isdigit():
        raise ValueError(f"the answer begins with {line[:40]!r}")
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
    """Return headers of which some come more than once (RFC 9110, 5.2)."""
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        known = headers.get(name)
        if known is None or (known == value and name == "content-length"):
            headers[name] = value
        else:
            headers[name] = f"{known}, {value}"
    return headers


class Body:
    """Finds the end of a body of known length; also the base of the other two kinds."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, raw: bytes) -> bytes:
        """Return the content in `raw`. Raises ValueError when there is more than was announced."""
        self._left -= len(raw)
        if self._left < 0:
            raise ValueError(_TOO_MUCH)
        self.ended = self._left == 0
        return raw

    def close(self) -> None:
        """The peer has closed the connection; only one kind of body ends by that."""


class UntilClose(Body):
    """A body that the end of the connection ends."""

    def __init__(self) -> None:
        super().__init__(-1)

    def feed(self, raw: bytes) -> bytes:
        return raw

    def close(self) -> None:
        self.ended = True


class Chunked(Body):
    """A body in chunks. Extensions and trailers are read and dropped."""

    def __init__(self) -> None:
        super().__init__(-1)
        self._left = 0  # of this chunk, with the line end behind it
        self._line_begun = b""
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, raw: bytes) -> bytes:
        raw = self._line_begun + raw if self._line_begun else raw
        self._line_begun = b""
        content: list[bytes] = []
        at = 0
        while at < len(raw):
            if self.ended:
                raise ValueError(_TOO_MUCH)
            if self._left:
                step = min(self._left, len(raw) - at)
                content.append(raw[at : at + min(step, max(self._left - 2, 0))])
                self._left -= step
                at += step
                continue
            end = raw.find(b"\n", at)
            if end < 0:
                self._line_begun = raw[at:]
                if len(self._line_begun) > HEAD_LIMIT_BYTES:
                    raise ValueError("a chunk's size line that does not end")
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
            raise ValueError("a chunk's size that is no number")
        size = int(digits, 16)
        self._left = size + 2 if size else 0
        self._in_trailer = size == 0


def body_of(head: Head, *, without_body: bool) -> Body:
    """Tell how the body of an answer ends (RFC 9112, 6.3). Raises ValueError. `without_body`: it answers a HEAD."""
    headers = head.headers
    if without_body or head.status in (204, 304):
        return Body(0)
    encoding = headers.get("transfer-encoding")
    if encoding is not None:
        if encoding.lower() != "chunked":
            raise ValueError(f"an unknown transfer encoding, {encoding!r}")
        return Chunked()
    length = headers.get("content-length")
    if length is None:
        return UntilClose()
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"a Content-Length that is no number, {length!r}")
    return Body(int(length))
