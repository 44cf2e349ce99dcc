"""HTTP/1.1 as S3 needs it: one connection, one exchange at a time, and exact knowledge of what was sent.

Why not aiohttp's client: its session sends a PUT a second time by itself when a kept connection turns out to be dead,
a write that nobody asked whether it still may; and it takes five times the CPU for a small object.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator

from .errors import (
    BodyLengthMismatch,
    ConnectionLost,
    PrematureResponse,
    ProtocolError,
    TransportError,
    TransportTimeout,
)
from .http_parser import HEAD_LIMIT_BYTES, Body, Head, body_of, parse_head

_READ_AHEAD_BYTES = 512 * 1024
_WRITE_BUFFER_BYTES = 256 * 1024
_SMALL_BODY_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NO_BODY = Body(0)


class Connection(asyncio.Protocol):
    """One connection: `send` or `stream`, then `head`, then `take` until it gives nothing more."""

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._write_paused = False
        self._exchanges = 0
        self._unsent = 0
        self.rest()

    def rest(self) -> None:
        """Get ready for the next exchange."""
        self._busy = False
        self._sent_whole = True
        self._without_body = False
        self._raw = b""
        self._announced_bytes = 0
        self._head: Head | None = None
        self._body = _NO_BODY
        self._pieces: list[bytes] = []
        self._pending = 0
        self._wanted = 0
        self._reading_paused = False
        self._progress_s = self._loop.time()
        self._deadline_s = math.inf

    @property
    def reusable(self) -> bool:
        """No exchange is under way, or the last one has come to its end on both sides, and the next may follow."""
        if self._closed or self._transport.is_closing():
            return False
        if not self._busy:
            return True
        return self._head is not None and self._head.persistent and self._body.ended and self._sent_whole

    @property
    def idle_s(self) -> float:
        """For how long nothing has gone over it."""
        return self._loop.time() - self._progress_s

    def end_within(self, longest_s: float) -> None:
        """Let the exchange fail that is not over by then."""
        self._deadline_s = self._loop.time() + longest_s

    def abort(self) -> None:
        """Drop the connection at once. A request under way is reset, so that nobody takes it for complete."""
        if self._closed:
            return
        if not self._sent_whole and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._closed = True
        if self._error is None:
            self._error = ConnectionAbortedError("given up on this side")
        self._transport.abort()
        self._wake()

    def check(self, now_s: float, quiet_s: float) -> None:
        """Fail the exchange where its peer has been waited for too long."""
        if self._waiter is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._progress_s = unsent, now_s
        if now_s > self._deadline_s or now_s - self._progress_s > quiet_s:
            self._error = TimeoutError()
            self.abort()

    # one exchange

    def send(self, head: bytes, body: bytes, *, without_body: bool) -> None:
        """Send a request whose body is at hand. `without_body`: the answer to a HEAD has none."""
        self._begin(without_body)
        if len(body) <= _SMALL_BODY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def stream(self, head: bytes, body: AsyncIterator[bytes], size_bytes: int) -> None:
        """Send a request whose body is made while it goes out. Raises WireError, and whatever the iterator raises.

        A chunk goes out only when the next one is there, the last one only after the iterator has ended without an
        error and the sizes add up: so whatever raises in it keeps the body from ever being complete. An answer that
        comes before the end ends the sending; it is the answer, unless it claims success.
        """
        self._begin(without_body=False)
        self._sent_whole = False
        self._transport.write(head)
        left, ready = size_bytes, b""
        async for chunk in body:
            left -= len(chunk)
            if left < 0 and self._head is None:
                raise self._wire_error(BodyLengthMismatch(f"more than the promised {size_bytes} bytes came to be sent"))
            if ready:
                await self._write(ready)
                if self._head is not None:
                    return
            ready = chunk
        if left and self._head is None:
            raise self._wire_error(BodyLengthMismatch(f"{left} of the promised {size_bytes} bytes are missing"))
        if self._head is None:
            self._sent_whole = True
            await self._write(ready)

    async def head(self) -> Head:
        """Return the head of the answer when it is there. Raises WireError."""
        while self._head is None:
            await self._wait()
        if self._head.status < 300 and not self._sent_whole:
            raise self._wire_error(PrematureResponse())
        return self._head

    async def take(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` of the body or more, less at its end only, b"" after it. Raises WireError."""
        self._wanted = size_bytes
        while not self._body.ended and self._pending < size_bytes:
            self._resume_reading()
            await self._wait()
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._pending = 0
        self._resume_reading()
        return taken

    def _begin(self, without_body: bool) -> None:
        if self._closed:
            raise self._lost()
        self._busy = True
        self._without_body = without_body
        self._exchanges += 1

    async def _write(self, chunk: bytes) -> None:
        if self._head is None:
            if self._closed:
                raise self._lost()
            self._transport.write(chunk)
        while self._write_paused and self._head is None:
            await self._wait()

    async def _wait(self) -> None:
        """Wait until something happens on the connection."""
        if self._closed:
            raise self._lost()
        self._progress_s = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _lost(self) -> TransportError:
        error = self._error
        if isinstance(error, TransportError):
            return error
        lost = self._wire_error(TransportTimeout() if isinstance(error, TimeoutError) else ConnectionLost())
        lost.__cause__ = error
        return lost

    def _wire_error(self, error: TransportError) -> TransportError:
        error.sent = self._busy
        error.answered = self._head is not None
        error.kept = self._exchanges > 1
        return error

    def _fail(self, error: ValueError) -> None:
        self._error = self._wire_error(ProtocolError(str(error)))
        self.abort()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a TCP connection
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._progress_s = self._loop.time()
        if self._head is not None:
            self._body_received(data)
        elif self._busy:
            self._raw = self._raw + data if self._raw else data
            self._head_received()
        else:  # nobody asked: a 408 before the server closes, say
            self.abort()

    def eof_received(self) -> None:
        if self._head is not None:
            self._body.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self._error is None:
            self._error = exc
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake()

    def _head_received(self) -> None:
        while (end := self._raw.find(b"\r\n\r\n")) >= 0:
            rest = self._raw[end + 4 :]
            try:
                head = parse_head(self._raw[:end])
                body = body_of(head, without_body=self._without_body)
                if head.status < 200:  # 100 Continue and its like announce the answer
                    self._count_announcement(end)
            except ValueError as error:
                self._fail(error)
                return
            if head.status >= 200:
                self._raw = b""
                self._head, self._body = head, body
                if rest:
                    self._body_received(rest)
                self._wake()
                return
            self._raw = rest
        if len(self._raw) > HEAD_LIMIT_BYTES or not self._raw.startswith(b"HTTP/1."[: len(self._raw)]):
            self._fail(ValueError(f"the answer begins with {self._raw[:40]!r}"))

    def _count_announcement(self, size_bytes: int) -> None:
        self._announced_bytes += size_bytes
        if self._announced_bytes > HEAD_LIMIT_BYTES:
            raise ValueError("an answer that is announced and does not come")

    def _body_received(self, raw: bytes) -> None:
        try:
            content = self._body.feed(raw)
        except ValueError as error:
            self._fail(error)
            return
        if content:
            self._pieces.append(content)
            self._pending += len(content)
        if self._body.ended or self._pending >= self._wanted:
            self._wake()
            if not self._body.ended and self._pending > _READ_AHEAD_BYTES and not self._reading_paused:
                self._transport.pause_reading()
                self._reading_paused = True

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
