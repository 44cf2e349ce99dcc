"""Parse the head of a response, and its body by the framing that the head announces (RFC 9112).

The length of an object comes from here only: two readers that understand the framing differently would take a part of
one object for another response or request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

#: How many lists of header names a `HeadParser` remembers.
MAX_LAYOUTS = 4

#: The largest head of a response, or trailer of a body.
HEAD_LIMIT_BYTES = 64 * 1024

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
#: A chunk's size and its extensions, or a line of the trailer.
_MAX_CHUNK_LINE_BYTES = 4096
_VERSIONS = ("HTTP/1.1 ", "HTTP/1.0 ")
_STATUS = re.compile("[1-5][0-9][0-9]").fullmatch
_AFTER_STATUS = ("", " ")
_MAX_LENGTH_DIGITS = 18
#: A value with no blank at its ends. `[^\r]` takes half the time of a class of several characters.
_VALUE = "([!-~][^\\r]*)(?<! )"
#: Headers without a list of values; some proxies send them twice.
_SINGLE_HEADERS = frozenset(("content-length", "content-type", "date", "etag", "last-modified"))
_FOLDED_WORDS = "?=\n =?"
_TOO_LONG = "more bytes than the response announced"


class Head(NamedTuple):
    """Status and headers of a response, and the framing of its body (RFC 9112, 6.3).

    Attributes:
        headers: lower-case names, values as surrogateescaped bytes.
        persistent: the connection may serve another request.
        length: of the body, by a valid Content-Length; None if there is none: the body is in chunks, or ends with the
            connection. To a HEAD it is the length that a GET would announce. The only source of an object's size.
        chunked: the body is in chunks.
    """

    status: int
    headers: dict[str, str]
    persistent: bool
    length: int | None
    chunked: bool


#: `parse_head`, or `HeadParser.parse`.
ParseHead = Callable[[bytes | bytearray], Head]


def parse_head(raw: bytes | bytearray) -> Head:
    """Parse the status line and the headers.

    Raises ValueError for a head that is not HTTP/1.x or whose framing another reader could understand differently:
    Transfer-Encoding with Content-Length or from HTTP/1.0, several lengths, folded lines, other line ends than CRLF.
    Exempt is a line break between two encoded words (RFC 2047): Swift returns long metadata outside ASCII so.
    """
    text = raw.decode("utf-8", "surrogateescape")
    if _FOLDED_WORDS in text:
        text = text.replace(_FOLDED_WORDS, "?= =?")  # RFC 9112, 5.2
    line, *lines = text.split("\r\n")
    status = line[9:12]
    if line[:9] not in _VERSIONS or not _STATUS(status) or line[12:13] not in _AFTER_STATUS:
        raise ValueError(f"the response starts with {line[:40]!r}")
    if "\r\n " in text or "\r\n\t" in text or "\r\n:" in text:
        raise ValueError("a header line without a name")
    if not text.count("\n") == text.count("\r") == len(lines) or "\0" in text:
        raise ValueError("a header line that contains a line break or a NUL")
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for header in lines:
        name, colon, value = header.partition(":")
        if not colon or name[-1] <= " ":
            raise ValueError("a header line without a name")
        name, value = name.lower(), value.strip(" \t")
        if name in headers and not (name in _SINGLE_HEADERS and value == headers[name]):
            repeated.setdefault(name, [headers[name]]).append(value)
        else:
            headers[name] = value
    for name, values in repeated.items():
        headers[name] = ", ".join(values)  # RFC 9110, 5.2
    return _head(status, headers, is_1_0=line[7] == "0")


def _head(status: str, headers: dict[str, str], *, is_1_0: bool) -> Head:
    """Return a head with its framing. Raises ValueError."""
    connection = headers.get("connection", "").lower()
    persistent = "keep-alive" in connection if is_1_0 else "close" not in connection
    length, chunked = _framing(headers, is_1_0=is_1_0)
    if status == "204" and (length or chunked):
        persistent = False  # a body that follows must not be read as the next response
    return Head(int(status), headers, persistent, length, chunked)


class HeadParser:
    """Does what `parse_head` does, in half the time for a head with the same header names as two earlier ones.

    A store sends the same headers in the same order in each response to one kind of request. A regular expression of
    their names then finds all values in one step. Names that came twice in a row are remembered; `MAX_LAYOUTS` lists.
    """

    __slots__ = ("_last_names", "_layouts")

    def __init__(self) -> None:
        self._last_names: Sequence[str] = ()
        self._layouts: list[tuple[Sequence[str], Callable[[str], re.Match[str] | None]]] = []

    def parse(self, raw: bytes | bytearray) -> Head:
        """Parse the status line and the headers. Raises as `parse_head`."""
        text = raw.decode("utf-8", "surrogateescape")
        for names, match in self._layouts:
            if found := match(text):
                if raw.count(b"\n") != len(names) or b"\0" in raw or b"\t" in raw:
                    break
                status, *values = found.groups()
                return _head(status, dict(zip(names, values)), is_1_0=False)  # noqa: B905  # strict is slower
        head = parse_head(raw)
        self._learn(text, head)
        return head

    def _learn(self, text: str, head: Head) -> None:
        names = [header.partition(":")[0] for header in text.split("\r\n")[1:]]
        keys = [name.lower() for name in names]
        if names == self._last_names and keys == list(head.headers):  # which has no header twice
            values = "".join(f"\r\n{re.escape(name)}: {_VALUE}" for name in names)
            pattern = re.compile(f"HTTP/1\\.1 ([1-5][0-9][0-9])(?: [^\r]*)?{values}")
            self._layouts = [(keys, pattern.fullmatch), *self._layouts[: MAX_LAYOUTS - 1]]
        self._last_names = names


def _framing(headers: Mapping[str, str], *, is_1_0: bool) -> tuple[int | None, bool]:
    """Return the length of the body if it is announced, and whether it is in chunks. Raises ValueError."""
    encoding, announced = headers.get("transfer-encoding"), headers.get("content-length")
    if encoding is not None:
        if encoding.lower() != "chunked":
            raise ValueError(f"an unknown transfer encoding, {encoding[:40]!r}")
        if announced is not None or is_1_0:
            raise ValueError("a Transfer-Encoding together with a Content-Length, or in HTTP/1.0")
        return None, True
    if announced is None:
        return None, False
    if not (announced.isascii() and announced.isdecimal() and len(announced) <= _MAX_LENGTH_DIGITS):
        raise ValueError(f"a Content-Length that is not a number, {announced[:40]!r}")
    return int(announced), False


class Body:
    """The framing of a body of known length; base class of the other two.

    Attributes:
        ended: the whole body was received.
    """

    def __init__(self, length: int) -> None:
        self.left_bytes = length
        self.ended = length == 0

    def feed(self, raw: bytes) -> bytes:
        """Return the content in `raw`. Raises ValueError if it is more than was announced."""
        self.left_bytes -= len(raw)
        if self.left_bytes < 0:
            raise ValueError(_TOO_LONG)
        self.ended = self.left_bytes == 0
        return raw

    def skip(self, size_bytes: int) -> None:
        """Count bytes of a body of known length that were received without `feed`."""
        self.left_bytes -= size_bytes
        self.ended = self.left_bytes == 0

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
    """A body in chunks (RFC 9112, 7.1). Extensions and trailers are ignored."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.left_bytes = 0  # of the current chunk, including the line end after it
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
            if self.left_bytes > 2:
                chunk = raw[at : at + self.left_bytes - 2]
                content.append(chunk)
                self.left_bytes -= len(chunk)
                at += len(chunk)
                continue
            end = raw.find(b"\n", at, at + _MAX_CHUNK_LINE_BYTES)
            if end < 0:
                self._partial_line = raw[at:]
                if len(self._partial_line) >= _MAX_CHUNK_LINE_BYTES:
                    raise ValueError("a chunk size line that does not end")
                break
            if raw[end - 1 : end] != b"\r" or end == at:
                raise ValueError("a line of a chunk that does not end with CRLF")
            self._line(raw[at : end - 1])
            at = end + 1
        return b"".join(content)

    def _line(self, line: bytes) -> None:
        if self._in_trailer:
            self.ended = not line
            self._trailer_bytes += len(line)
            if self._trailer_bytes > HEAD_LIMIT_BYTES:
                raise ValueError("a trailer that does not end")
            return
        if self.left_bytes:
            if line:
                raise ValueError("a chunk that is longer than its size")
            self.left_bytes = 0
            return
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not _CHUNK_SIZE.fullmatch(digits):
            raise ValueError("a chunk size that is not a number")
        size = int(digits, 16)
        self.left_bytes = size + 2 if size else 0
        self._in_trailer = size == 0


def body_of(head: Head, *, is_head: bool) -> Body:
    """Return the framing of a response's body. `is_head`: of the response to a HEAD request."""
    if is_head or head.status in (204, 304) or head.length == 0:
        return EMPTY_BODY
    if head.chunked:
        return Chunked()
    return UntilClose() if head.length is None else Body(head.length)
