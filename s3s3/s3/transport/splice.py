"""Move the body of a response into a request on another connection inside the kernel (splice, Linux).

A chunk that passes through Python costs a read, an object and a write. Here the bytes go from one socket to a pipe and
from there to the other socket; the event loop waits for both. Time limits, cancellation and early responses are those
of `Connection`, whose sockets are used under other descriptors, so that it can be closed at any time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from functools import cache, partial

from .connection import Connection
from .errors import TransportError

#: Size of the pipe. An unprivileged user may have 64 MiB of pipes (pipe(7), pipe-user-pages-soft).
PIPE_BYTES = 1024 * 1024

#: The end of a body, which is sent only after `SplicedBody.before_end`. It does not pass through the pipe: each
#: segment occupies a slot there, so small segments could fill it before it holds this size.
HELD_BYTES = 4096


@cache
def is_available() -> bool:
    """Return whether this system can move bytes from a socket to a pipe and to a socket."""
    if not hasattr(os, "splice"):
        return False
    content = b"s3s3"
    with ExitStack() as stack:
        try:
            ends = (*socket.socketpair(), *socket.socketpair())
            for end in ends:
                stack.enter_context(end)
            pipe = stack.enter_context(_Pipe())
            ends[0].send(content)
            pipe.fill(ends[1].fileno(), len(content))
            pipe.drain(ends[2].fileno(), len(content))
            return ends[3].recv(len(content), socket.MSG_DONTWAIT) == content
        except OSError:  # a sandbox that does not implement it
            return False


class SplicedBody:
    """The body of a response as that of a PUT: `send` moves it, or a call returns an iterator over it.

    Args:
        source: the response's connection, after its head; nothing of the body has been read.
        chunks: opens the iterator, which calls `before_end` itself.
        before_end: called before the last bytes are sent; what it raises is raised by `send`.
        to_error: translates a failure of the source.
    """

    def __init__(
        self, source: Connection, chunks: Callable[[], AsyncIterator[bytes]], before_end: Callable[[], None],
        to_error: Callable[[TransportError], Exception],
    ) -> None:  # fmt: skip
        self._source = source
        self._chunks = chunks
        self._before_end = before_end
        self._to_error = to_error

    def __call__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    def can_move_to(self, destination: Connection) -> bool:
        """Return whether `send` is possible: both connections are plain TCP, and the length is known."""
        return is_available() and self._source.has_plain_body and destination.is_plain

    async def send(self, destination: Connection, head: bytes, size_bytes: int) -> None:
        """Send a request with this body, as `Connection.send_stream` does; return early after an early response.

        Raises TransportError for a failure of the destination, and what `to_error` and `before_end` return or raise.
        """
        mover = Mover(self._source, destination, self._to_error)
        try:
            mover.open()
        except OSError:  # no descriptors left
            await destination.send_stream(head, self._chunks(), size_bytes)
            return
        try:
            ready = self._source.take_received()
            left_bytes = size_bytes - len(ready)
            held_bytes = min(left_bytes, HELD_BYTES)
            end_at = max(len(ready) - (HELD_BYTES - held_bytes), 0)
            is_open = await destination.send_beginning(head + ready[:end_at])
            if not (is_open and await mover.move(left_bytes - held_bytes)):
                return
            end = ready[end_at:] + await mover.read(held_bytes)
        finally:
            mover.close()
        self._before_end()
        await destination.send_end(end)


class _Pipe:
    """A pipe, as a context manager. `fill` and `drain` return how much they moved. They raise OSError."""

    def __enter__(self) -> _Pipe:
        import fcntl  # noqa: PLC0415 - not on Windows

        self._output, self._input = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # the user's limit is used up: a smaller one will do
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.used_bytes = 0
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._input)
        os.close(self._output)

    def fill(self, source: int, size_bytes: int) -> int:
        """Move bytes from a socket; 0 at its end. BlockingIOError: it has none now, or the pipe is full."""
        moved_bytes = os.splice(source, self._input, size_bytes, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        self.used_bytes += moved_bytes
        return moved_bytes

    def drain(self, destination: int, size_bytes: int) -> int:
        """Move bytes to a socket. BlockingIOError: its buffer is full."""
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK | os.SPLICE_F_MORE
        moved_bytes = os.splice(self._output, destination, size_bytes, flags=flags)
        self.used_bytes -= moved_bytes
        return moved_bytes


class Mover:
    """Moves the bytes of one body; owns the pipe and the descriptors between `open` and `close`."""

    def __init__(
        self, source: Connection, destination: Connection, to_error: Callable[[TransportError], Exception]
    ) -> None:
        self._pipe = _Pipe()
        self._source = source
        self._destination = destination
        self._to_error = to_error
        self._loop = asyncio.get_running_loop()
        self._is_reading = False
        self._stack = ExitStack()

    def open(self) -> None:
        """Create the pipe and duplicate the sockets. Raises OSError without free descriptors, and TransportError."""
        with ExitStack() as stack:
            stack.enter_context(self._pipe)
            self._from = self._source.duplicate_socket()
            stack.callback(os.close, self._from)
            self._to = self._destination.duplicate_socket()
            stack.callback(os.close, self._to)
            stack.callback(self._stop_reading)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the descriptors, which a reset of the destination's connection waits for."""
        self._stack.close()

    async def move(self, size_bytes: int) -> bool:
        """Move the next `size_bytes` of the body. Return False after an early response."""
        pipe, destination = self._pipe, self._destination
        left_bytes, since_pause_bytes = size_bytes, 0
        while left_bytes or pipe.used_bytes:
            if destination.is_answered:
                return False
            destination.check_open()
            if left_bytes and pipe.used_bytes < PIPE_BYTES:
                left_bytes -= self._take(partial(pipe.fill, self._from, min(left_bytes, PIPE_BYTES - pipe.used_bytes)))
            if not pipe.used_bytes:
                await self._wait_until_readable()
                continue
            sent_bytes = await self._drain(pipe.used_bytes)
            since_pause_bytes += sent_bytes
            if not sent_bytes and not destination.is_answered:
                await self._wait_until_writable()
            elif since_pause_bytes >= PIPE_BYTES:
                since_pause_bytes = 0
                await asyncio.sleep(0)  # two fast stores must not keep the loop from everything else
        return True

    async def read(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` of the body."""
        content = bytearray(size_bytes)
        at = 0
        while at < size_bytes:
            taken_bytes = self._take(partial(os.readv, self._from, [memoryview(content)[at:]]))
            at += taken_bytes
            if not taken_bytes:
                await self._wait_until_readable()
        return bytes(content)

    def _take(self, take: Callable[[], int]) -> int:
        """Take bytes from the source; return 0 if it has none now. Raises what `to_error` returns."""
        source = self._source
        try:
            source.check_open()
            try:
                taken_bytes = take()
            except BlockingIOError:
                return 0
            except OSError as error:
                raise source.break_off(error) from error
            if taken_bytes == 0:
                raise source.break_off(None)
        except TransportError as error:
            raise self._to_error(error) from error
        source.count_moved(taken_bytes)
        return taken_bytes

    async def _drain(self, size_bytes: int) -> int:
        """Move bytes from the pipe to the destination; 0 if its buffer is full, or it has responded and closed."""
        destination = self._destination
        try:
            sent_bytes = self._pipe.drain(self._to, size_bytes)
        except BlockingIOError:
            return 0
        except OSError as error:
            for _ in range(2):  # a response may have arrived before the reset
                await asyncio.sleep(0)
            if destination.is_answered:
                return 0
            destination.check_open()
            raise destination.break_off(error) from error
        destination.count_sent(sent_bytes)
        return sent_bytes

    async def _wait_until_readable(self) -> None:
        if not self._is_reading:
            self._loop.add_reader(self._from, self._source.on_ready)
            self._is_reading = True
        try:
            await self._source.wait()
        except TransportError as error:
            raise self._to_error(error) from error

    async def _wait_until_writable(self) -> None:
        self._stop_reading()  # it would call back again and again while nothing is taken
        self._loop.add_writer(self._to, self._destination.on_ready)
        try:
            await self._destination.wait()
        finally:
            self._loop.remove_writer(self._to)

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self._from)
            self._is_reading = False
