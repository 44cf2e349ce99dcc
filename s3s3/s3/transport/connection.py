"""One HTTP/1.1 connection with precise knowledge of what was sent, and the parsing of responses (RFC 9112).

It replaces aiohttp's client, which repeats a PUT on its own if a kept connection turns out to be dead: a write without
a check of the lease. aiohttp also takes five times the CPU time for a small object.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from .errors import (
    BodyLengthMismatch,
    ConnectionLost,
    PrematureResponse,
    ProtocolError,
    TransportError,
    TransportTimeout,
)

HEAD_LIMIT_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 512 * 1024
_WRITE_BUFFER_BYTES = 256 * 1024
_SMALL_BODY_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
#: A chunk's size and its extensions, or a line of the trailer.
_MAX_CHUNK_LINE_BYTES = 4096
_VERSIONS = ("HTTP/1.1 ", "HTTP/1.0 ")
_STATUS = re.compile("[1-5][0-9][0-9]").fullmatch
_AFTER_STATUS = ("", " ")
_MAX_LENGTH_DIGITS = 18
_TOO_LONG = "more bytes than the response announced"


class Connection(asyncio.Protocol):
    """A connection for one request at a time: `send` or `send_stream`, then `head`, then `read` until b"".

    Attributes:
        closed: no request can be sent.
        progress_s: when a byte was last sent or received, by the loop's clock.
    """

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.closed = False
        self._write_paused = False
        self._requests = 0
        self._unsent_bytes = 0
        self._reset()

    def _reset(self) -> None:
        """Prepare for the next request."""
        self._busy = False
        self._sent_whole = True
        self._is_head = False
        self._raw = bytearray()
        self._informational_bytes = 0
        self._head: Head | None = None
        self._body = EMPTY_BODY
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._wanted_bytes = 0
        self._reading_paused = False
        self.progress_s = self._loop.time()
        self._deadline_s = math.inf

    def finish(self) -> bool:
        """End a request. Return whether the next one may follow: everything was sent, and the response was read."""
        if self.closed or self.transport.is_closing():
            return False
        if self._busy:
            if self._head is None or not (self._head.persistent and self._body.ended and self._sent_whole):
                return False
            self._reset()
        return True

    def end_within(self, timeout_s: float) -> None:
        """Fail the request with TransportTimeout if it has not ended after `timeout_s`."""
        self._deadline_s = self._loop.time() + timeout_s

    def abort(self) -> None:
        """Close the connection. An incomplete request is reset, so that the store does not take it for complete."""
        if self.closed:
            return
        if not self._sent_whole and not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.closed = True
        if self._error is None:
            self._error = ConnectionAbortedError("aborted by s3s3")
        self.transport.abort()
        self._wake()

    def check_timeouts(self, now_s: float, read_s: float) -> None:
        """Fail the request if its deadline has passed, or if no byte was sent or received for `read_s`."""
        if self._waiter is None:
            return
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self.progress_s = unsent_bytes, now_s
        if now_s > self._deadline_s or now_s - self.progress_s > read_s:
            self._error = TimeoutError()
            self.abort()

    # one request

    def send(self, head: bytes, body: bytes, *, size_bytes: int, is_head: bool, timeout_s: float | None = None) -> None:
        """Send a request with its whole body; TransportTimeout if the response is not complete after `timeout_s`.

        Raises BodyLengthMismatch, and sends nothing, if the head announces another length than the body has.
        """
        if len(body) != size_bytes:
            raise BodyLengthMismatch(f"the body has {len(body)} bytes instead of the announced {size_bytes}")
        self._start(is_head)
        if timeout_s is not None:
            self._deadline_s = self._loop.time() + timeout_s
        if len(body) <= _SMALL_BODY_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    async def send_stream(self, head: bytes, body: AsyncIterator[bytes], size_bytes: int) -> None:
        """Send a request with a streamed body. Raises TransportError, and what the iterator raises.

        A chunk is sent only when the next one is available, and the last one only after the iterator has ended
        without an error and the sizes match. So the store never gets a complete body if anything raises. A response
        before the end stops the sending; it is the response to the request, unless it reports success.
        """
        self._start(is_head=False)
        self._sent_whole = False
        self.transport.write(head)
        left_bytes, ready = size_bytes, b""
        async for chunk in body:
            left_bytes -= len(chunk)
            if left_bytes < 0 and self._head is None:
                raise self._mark(BodyLengthMismatch(f"the body has more than the announced {size_bytes} bytes"))
            if ready:
                await self._write(ready)
                if self._head is not None:
                    return
            ready = chunk
        if left_bytes and self._head is None:
            raise self._mark(BodyLengthMismatch(f"the body lacks {left_bytes} of the announced {size_bytes} bytes"))
        if self._head is None:
            self._sent_whole = True
            await self._write(ready)

    async def head(self) -> Head:
        """Return the head of the response. Raises TransportError."""
        while self._head is None:
            await self._wait()
        if self._head.status < 300 and not self._sent_whole:
            raise self._mark(PrematureResponse())
        return self._head

    async def read(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` of the body or more; fewer at its end only, then b"". Raises TransportError."""
        self._wanted_bytes = size_bytes
        while not self._body.ended and self._buffered_bytes < size_bytes:
            self._resume_reading()
            await self._wait()
        content = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._reading_paused:
            self._resume_reading()
        return content

    def _start(self, is_head: bool) -> None:
        if self.closed:
            raise self._lost()
        self._busy = True
        self._is_head = is_head
        self._requests += 1

    async def _write(self, chunk: bytes) -> None:
        if self._head is None:
            if self.closed:
                raise self._lost()
            self.transport.write(chunk)
        while self._write_paused and self._head is None:
            await self._wait()

    def _wait(self) -> asyncio.Future[None]:
        """Return a future that `_wake` completes at the next event of the connection. Raises TransportError."""
        if self.closed:
            raise self._lost()
        self.progress_s = self._loop.time()
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _lost(self) -> TransportError:
        error = self._error
        if isinstance(error, TransportError):
            return error
        lost = self._mark(TransportTimeout() if isinstance(error, TimeoutError) else ConnectionLost())
        lost.__cause__ = error
        return lost

    def _mark(self, error: TransportError) -> TransportError:
        """Record in the error how far the request has come."""
        error.sent = self._busy
        error.answered = self._head is not None
        error.reused = self._requests > 1
        return error

    def _fail(self, message: str) -> None:
        self._error = self._mark(ProtocolError(message))
        self.abort()

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a TCP connection
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.progress_s = self._loop.time()
        if self._head is not None:
            self._body_received(data)
            return
        if not self._busy:  # for example a 408 before the server closes the connection
            self.abort()
            return
        raw: bytes | bytearray = data
        searched = 0
        if self._raw:  # the head comes in pieces
            searched = max(len(self._raw) - 3, 0)
            self._raw += data
            raw = self._raw
        while (end := raw.find(b"\r\n\r\n", searched)) >= 0:
            rest = bytes(raw[end + 4 :])
            try:
                head = parse_head(raw[:end])
                body = body_of(head, is_head=self._is_head)
            except ValueError as error:
                self._fail(str(error))
                return
            if head.status >= 200:
                self._raw.clear()
                self._head, self._body = head, body
                if rest:
                    self._body_received(rest)
                if self._waiter is not None:
                    self._wake()
                return
            self._informational_bytes += end  # 100 Continue, for example, which precedes the response
            if self._informational_bytes > HEAD_LIMIT_BYTES:
                self._fail("too many informational responses")
                return
            self._raw.clear()
            raw, searched = rest, 0
        if len(raw) > HEAD_LIMIT_BYTES or not raw.startswith(b"HTTP/1."[: len(raw)]):
            self._fail(f"the response starts with {bytes(raw[:40])!r}")
        elif not self._raw:
            self._raw += raw

    def eof_received(self) -> None:
        if self._head is not None:
            self._body.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._error is None:
            self._error = exc
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake()

    def _body_received(self, raw: bytes) -> None:
        try:
            content = self._body.feed(raw)
        except ValueError as error:
            self._fail(str(error))
            return
        if content:
            self._chunks.append(content)
            self._buffered_bytes += len(content)
        if self._body.ended or self._buffered_bytes >= self._wanted_bytes:
            if self._waiter is not None:
                self._wake()
            if not self._body.ended and self._buffered_bytes > _READ_AHEAD_BYTES and not self._reading_paused:
                self.transport.pause_reading()
                self._reading_paused = True

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()


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


def parse_head(raw: bytes | bytearray) -> Head:
    """Parse the status line and the headers.

    Raises ValueError for a head that is not HTTP/1.x or whose framing another reader could understand differently:
    Transfer-Encoding with Content-Length or from HTTP/1.0, several lengths, folded lines, other line ends than CRLF.
    """
    text = raw.decode("utf-8", "surrogateescape")
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
        if name in headers and not (name == "content-length" and value == headers[name]):
            repeated.setdefault(name, [headers[name]]).append(value)
        else:
            headers[name] = value
    for name, values in repeated.items():
        headers[name] = ", ".join(values)  # RFC 9110, 5.2
    connection = headers.get("connection", "").lower()
    persistent = "close" not in connection if line[7] == "1" else "keep-alive" in connection
    length, chunked = _framing(headers, is_1_0=line[7] == "0")
    if status == "204" and (length or chunked):
        persistent = False  # a body that follows must not be read as the next response
    return Head(int(status), headers, persistent, length, chunked)


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
    """A body in chunks (RFC 9112, 7.1). Extensions and trailers are ignored."""

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
            if self._left > 2:
                chunk = raw[at : at + self._left - 2]
                content.append(chunk)
                self._left -= len(chunk)
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
        if self._left:
            if line:
                raise ValueError("a chunk that is longer than its size")
            self._left = 0
            return
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not _CHUNK_SIZE.fullmatch(digits):
            raise ValueError("a chunk size that is not a number")
        size = int(digits, 16)
        self._left = size + 2 if size else 0
        self._in_trailer = size == 0


def body_of(head: Head, *, is_head: bool) -> Body:
    """Return the framing of a response's body. `is_head`: of the response to a HEAD request."""
    if is_head or head.status in (204, 304) or head.length == 0:
        return EMPTY_BODY
    if head.chunked:
        return Chunked()
    return UntilClose() if head.length is None else Body(head.length)
