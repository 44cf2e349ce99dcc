"""One HTTP/1.1 connection with precise knowledge of what was sent.

It replaces aiohttp's client, which repeats a PUT on its own if a kept connection turns out to be dead: a write without
a check of the lease. aiohttp also takes five times the CPU time for a small object.
"""

from __future__ import annotations

import asyncio
import math
import os
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
from .framing import EMPTY_BODY, HEAD_LIMIT_BYTES, Body, Head, ParseHead, body_of, parse_head
from .limits import RateWindow, Timeouts

_READ_AHEAD_BYTES = 512 * 1024
#: A body with more than this left is not read before `read` asks for it: the kernel may be able to move it.
_UNREAD_BYTES = 256 * 1024
_WRITE_BUFFER_BYTES = 256 * 1024
_SMALL_BODY_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """A connection for one request at a time: `send` or `send_stream`, then `head`, then `read` until b"".

    Attributes:
        closed: no request can be sent.
        progress_s: when a byte was last sent or received, by the loop's clock.
    """

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, parse_head: ParseHead = parse_head) -> None:
        self._loop = loop
        self._parse_head = parse_head
        self._waiter: asyncio.Future[None] | None = None
        self._wait_from_s = 0.0
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
        self._timeout_s = math.inf
        self._may_be_silent = False
        self._waited_s = 0.0
        self._received_bytes = 0
        self._written_bytes = 0
        self._rate: RateWindow | None = None

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
        self._timeout_s = timeout_s
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

    def check_timeouts(self, now_s: float, timeouts: Timeouts, min_bytes_per_s: float) -> None:
        """Fail the request with TransportTimeout if it has exceeded a limit.

        That is its deadline, silence for `read_s`, or less than `min_bytes_per_s` of a body for `rate_window_s`.
        """
        if self._waiter is None:
            return
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self.progress_s = unsent_bytes, now_s
        head, is_streaming = self._head, not self._sent_whole
        if now_s > self._deadline_s:
            received_bytes = len(self._raw) + self._informational_bytes if head is None else self._received_bytes
            self._time_out(f"{received_bytes} bytes of the response in {self._timeout_s:g} s")
        elif now_s - self.progress_s > timeouts.read_s and not (head is None and self._may_be_silent):
            self._time_out(f"no byte in {timeouts.read_s:g} s")
        elif head is not None or is_streaming:
            moved_bytes = self._written_bytes - unsent_bytes if head is None else self._received_bytes
            waited_s = self._waited_s + now_s - self._wait_from_s
            if self._rate is None:
                self._rate = RateWindow(waited_s, moved_bytes)
            elif self._rate.is_too_slow(waited_s, moved_bytes, timeouts.rate_window_s, min_bytes_per_s):
                direction = "taken" if head is None else "sent"
                self._time_out(f"{self._rate.window_bytes} bytes {direction} in {timeouts.rate_window_s:g} s")

    def _time_out(self, message: str) -> None:
        self._error = TimeoutError(message)
        self.abort()

    # one request

    def send(
        self, head: bytes, body: bytes, *, size_bytes: int, is_head: bool, timeout_s: float, may_be_silent: bool = False
    ) -> None:
        """Send a request with its whole body.

        TransportTimeout if the response is not complete after `timeout_s`; `end_within` changes that.

        Args:
            size_bytes: as the head announces it. BodyLengthMismatch, and nothing is sent, if the body has another size.
            may_be_silent: the response's head may take all of `timeout_s`, also without a byte for `read_s`.
        """
        if len(body) != size_bytes:
            raise BodyLengthMismatch(f"the body has {len(body)} bytes instead of the announced {size_bytes}")
        self._start(is_head)
        self._may_be_silent = may_be_silent
        self._timeout_s = timeout_s
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
            self._written_bytes += len(chunk)
        while self._write_paused and self._head is None:
            await self._wait()

    def _wait(self) -> asyncio.Future[None]:
        """Return a future that `_wake` completes at the next event of the connection. Raises TransportError."""
        if self.closed:
            raise self._lost()
        self.progress_s = self._wait_from_s = self._loop.time()
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._waited_s += self.progress_s - self._wait_from_s
            if not waiter.done():
                waiter.set_result(None)

    def _lost(self) -> TransportError:
        error = self._error
        if isinstance(error, TransportError):
            return error
        lost = self._mark(TransportTimeout(str(error)) if isinstance(error, TimeoutError) else ConnectionLost())
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

    # a body that is moved from socket to socket: `splice.SplicedBody`

    @property
    def is_plain(self) -> bool:
        """Whether it is open, and its socket itself carries the bytes of HTTP."""
        return not self.closed and not self.transport.is_closing() and not self.transport.get_extra_info("sslcontext")

    @property
    def has_plain_body(self) -> bool:
        """Whether the rest of the body can be taken from the socket."""
        return self._head is not None and type(self._body) is Body and self.is_plain

    @property
    def is_answered(self) -> bool:
        """Whether the head of the response was received."""
        return self._head is not None

    def check_open(self) -> None:
        """Raise TransportError if the connection was lost or aborted."""
        if self.closed:
            raise self._lost()

    def break_off(self, error: OSError | None) -> TransportError:
        """Close the connection after an error of its socket; return what to raise. None: the peer has closed it."""
        lost = self._mark(ConnectionLost())
        lost.__cause__ = error
        if self._error is None:
            self._error = lost
        self.abort()
        return lost

    def duplicate_socket(self) -> int:
        """Return a new descriptor of the socket, which stays valid when the connection is closed.

        Raises TransportError if it is closed already: its number may belong to another file by now.
        """
        if self.closed or self.transport.is_closing():
            raise self._lost()
        return os.dup(self.transport.get_extra_info("socket").fileno())

    def take_received(self) -> bytes:
        """Stop reading the body; return what was received of it. The rest stays in the socket."""
        if not self._reading_paused and not self._body.ended:
            self.transport.pause_reading()
            self._reading_paused = True
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        return content

    def count_moved(self, size_bytes: int) -> None:
        """Count bytes of the body that were taken from the socket. After its last one, the connection reads again."""
        self._received_bytes += size_bytes
        self._body.skip(size_bytes)
        if self._body.ended:
            self._resume_reading()

    async def send_beginning(self, beginning: bytes) -> bool:
        """Send a request's head and the start of its body to the socket. Return False after an early response."""
        self._start(is_head=False)
        self._sent_whole = False
        self.transport.set_write_buffer_limits(high=0)
        self.transport.write(beginning)
        self._written_bytes += len(beginning)
        while self._head is None:
            self.check_open()
            if not self.transport.get_write_buffer_size():
                self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
                return True
            if self._write_paused:
                await self._wait()
            else:
                await asyncio.sleep(0)  # uvloop writes at the end of an iteration
        return False

    def count_sent(self, size_bytes: int) -> None:
        """Count bytes of the body that were written to the socket."""
        self._written_bytes += size_bytes

    async def send_end(self, end: bytes) -> None:
        """Send the last bytes of the body."""
        if self._head is None:
            self._sent_whole = True
            await self._write(end)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that completes with `on_ready`, or at another event. Raises TransportError."""
        return self._wait()

    def on_ready(self) -> None:
        """Continue after `wait`: the socket can be read or written."""
        self.progress_s = self._loop.time()
        self._wake()

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
        start = searched = 0
        if self._raw:  # the head comes in pieces
            searched = max(len(self._raw) - 3, 0)
            self._raw += data
            raw = self._raw
        while (end := raw.find(b"\r\n\r\n", searched)) >= 0:
            try:
                head = self._parse_head(raw[start:end])
                body = body_of(head, is_head=self._is_head)
            except ValueError as error:
                self._fail(str(error))
                return
            head_bytes = end - start
            start = searched = end + 4
            if head.status >= 200:
                rest = bytes(raw[start:])
                self._raw.clear()
                self._head, self._body, self._rate = head, body, None
                if rest:
                    self._body_received(rest)
                if self._waiter is not None:
                    self._wake()
                return
            self._informational_bytes += head_bytes  # 100 Continue, for example, which precedes the response
            if self._informational_bytes > HEAD_LIMIT_BYTES:
                self._fail("too many informational responses")
                return
        if start:
            raw = bytes(raw[start:])
            self._raw.clear()
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
        self.progress_s = self._loop.time()
        self._wake()

    def _body_received(self, raw: bytes) -> None:
        self._received_bytes += len(raw)
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
            if self._body.ended or self._reading_paused:
                return
            if self._buffered_bytes > _READ_AHEAD_BYTES or (
                not self._wanted_bytes and self._body.left_bytes > _UNREAD_BYTES
            ):
                self.transport.pause_reading()
                self._reading_paused = True

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
