"""Bodies that the kernel moves between two connections, with every failure of either side, on both event loops."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from s3s3.errors import AccessDenied, IntegrityError, LeaseLost, StoreError, StoreUnavailable
from s3s3.model import Window
from s3s3.s3 import PutResult, Store, Timeouts
from s3s3.s3.transport import splice
from s3s3.s3.transport.splice import HELD_BYTES, SplicedBody
from tests.contents import random_bytes
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, eventually, respond, response, tls

pytestmark = pytest.mark.skipif(not splice.is_available(), reason="this system has no splice")

MIB = 1024 * 1024
CONTENT = random_bytes(3 * MIB + 1)

Script = Callable[[ReceivedRequest], Awaitable[None]]


@dataclass
class Copying:
    """A source and a destination on raw sockets.

    Attributes:
        chunked: how many bodies went through this process.
        moved: how many did not.
    """

    source: RawServer
    destination: RawServer
    from_store: Store
    to_store: Store
    chunked: int = 0
    moved: int = 0
    ends: list[int] = field(default_factory=list)

    async def copy(self, before_end: Callable[[], None] = lambda: None) -> PutResult:
        stream = await self.from_store.get("key")
        async with stream:

            async def chunks() -> AsyncIterator[bytes]:
                self.chunked += 1
                async for chunk in stream.chunks(64 * 1024):
                    yield chunk
                before_end()

            def end() -> None:
                self.moved += 1
                self.ends.append(len(self.destination.requests))
                before_end()

            body = stream.spliced(chunks, end)
            md5 = bytes.fromhex(stream.info.etag)
            return await self.to_store.put(
                "key", body, size_bytes=stream.info.size_bytes, md5=md5, headers={}, is_hashed=False
            )

    @property
    def stored(self) -> list[bytes]:
        """The bodies that the destination has received as a whole."""
        return [request.body for request in self.destination.requests if not request.is_truncated]


@asynccontextmanager
async def copying(
    source: Script, destination: Script | None = None, *,
    timeouts: Timeouts = Timeouts(read_s=20, write_s=20),  # noqa: B008  # frozen
    endpoint: dict[str, Any] | None = None, source_tls: ssl.SSLContext | None = None,
    destination_tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Copying]:  # fmt: skip
    async with (
        RawServer([source], tls=source_tls) as there,
        RawServer([destination or respond(response())], tls=destination_tls) as here,
        there.store(timeouts=timeouts) as from_store,
        here.store(timeouts=timeouts, endpoint=endpoint) as to_store,
    ):
        yield Copying(there, here, from_store, to_store)


def descriptors() -> int:
    """Return how many pipes, and further descriptors of sockets, this process has."""
    targets = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the iteration itself
            targets.append(str(path.readlink()))
    sockets = [target for target in targets if target.startswith("socket:")]
    return sum(target.startswith("pipe:") for target in targets) + len(sockets) - len(set(sockets))


def head(content: bytes = CONTENT) -> bytes:
    return response(content_length=str(len(content)), etag=f'"{hashlib.md5(content).hexdigest()}"')


def serve(content: bytes = CONTENT, *, first: int | None = None, pause_s: float = 0.0, step: int = 1 << 30) -> Script:
    """Send the head together with the `first` bytes, and the rest in steps."""

    async def script(received: ReceivedRequest) -> None:
        at = len(content) if first is None else first
        received.write(head(content) + content[:at])
        for start in range(at, len(content), step):
            await received.writer.drain()
            await asyncio.sleep(pause_s)
            received.writer.write(content[start : start + step])
        await received.writer.drain()

    return script


@pytest.mark.parametrize("size_bytes", [1, HELD_BYTES, HELD_BYTES + 1, 300_000, MIB, len(CONTENT)])
@pytest.mark.parametrize("first", [0, 1, 100_000, None], ids=["head alone", "one byte", "some", "all"])
async def test_every_byte_arrives_in_order_and_both_connections_are_used_again(
    size_bytes: int, first: int | None
) -> None:
    content = CONTENT[:size_bytes]
    async with copying(serve(content, first=first, pause_s=0.01, step=1_000_003)) as copy:
        for _ in range(3):
            assert (await copy.copy()).etag == hashlib.md5(content).hexdigest()
        assert copy.stored == [content] * 3
        assert (copy.source.connections, copy.destination.connections) == (1, 1)
        assert (copy.chunked, copy.moved) == (0, 3)


async def test_many_bodies_at_once_leave_no_descriptor_open_and_let_the_loop_run() -> None:
    async with copying(serve()) as copy:
        await asyncio.gather(*(copy.copy() for _ in range(8)))
        before, ticks = descriptors(), 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(copy.copy() for _ in range(8)))
        ticking.cancel()
        assert copy.stored == [CONTENT] * 16
        assert copy.moved == 16
        assert descriptors() == before
        assert ticks > 16


async def test_a_large_body_stays_in_the_socket_until_it_is_read() -> None:
    async with copying(serve()) as copy, await copy.from_store.get("key") as stream:
        connection = stream._body.connection  # type: ignore[attr-defined]
        await eventually(lambda: connection._reading_paused)
        assert connection._buffered_bytes <= 256 * 1024
        assert await stream.body() == CONTENT
        await stream.close()
        async with await copy.from_store.get("key") as again:
            assert b"".join([chunk async for chunk in again.chunks(100_000)]) == CONTENT
        assert copy.source.connections == 1


async def test_a_destination_that_takes_its_time_gets_all_and_the_source_waits() -> None:
    async def take_slowly(received: ReceivedRequest) -> None:
        received.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        while len(received.body) < len(CONTENT):
            received.body += await received.reader.read(700_000)
            await asyncio.sleep(0.01)
        received.write(response())

    async with copying(serve(), take_slowly) as copy:
        await copy.copy()
        assert (copy.stored, copy.moved) == ([CONTENT], 1)


@pytest.mark.parametrize("size_bytes", [300_000, len(CONTENT)])
async def test_the_end_is_held_back_until_it_is_permitted_and_a_refusal_resets_the_put(size_bytes: int) -> None:
    content = CONTENT[:size_bytes]
    async with copying(serve(content, first=1000, pause_s=0.01)) as copy:

        def refuse() -> None:
            raise LeaseLost("another worker has it")

        with pytest.raises(LeaseLost):
            await copy.copy(refuse)
        await eventually(lambda: copy.destination.requests and copy.destination.requests[0].is_truncated)
        assert len(copy.destination.requests[0].body) <= size_bytes - HELD_BYTES
        assert copy.stored == []
        await copy.copy()
        assert copy.stored == [content]
        assert (copy.source.connections, copy.destination.connections) == (1, 2)


# failures of the source


async def stop_early(received: ReceivedRequest, at: int = 2 * MIB) -> None:
    received.write(head() + CONTENT[:at])
    await received.writer.drain()
    await received.close()


async def reset_early(received: ReceivedRequest, at: int = 2 * MIB) -> None:
    received.write(head() + CONTENT[:at])
    await received.writer.drain()
    await asyncio.sleep(0.1)
    await received.reset()


async def fall_silent(received: ReceivedRequest, at: int = 2 * MIB) -> None:
    received.write(head() + CONTENT[:at])
    await asyncio.sleep(3600)


async def drip(received: ReceivedRequest) -> None:
    received.write(head() + CONTENT[: 2 * MIB])
    for at in range(2 * MIB, len(CONTENT)):
        await asyncio.sleep(0.05)
        received.writer.write(CONTENT[at : at + 1])


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (stop_early, IntegrityError, "ended early"),
        (reset_early, StoreUnavailable, "lost"),
        (fall_silent, StoreUnavailable, "no byte in 1 s"),
        (drip, StoreUnavailable, "bytes sent in 2 s"),
        (partial(stop_early, at=len(CONTENT) - 1), IntegrityError, "ended early"),
        (partial(reset_early, at=len(CONTENT) - 1), StoreUnavailable, "lost"),
        (partial(fall_silent, at=len(CONTENT) - HELD_BYTES), StoreUnavailable, "no byte in 1 s"),
        (partial(fall_silent, at=len(CONTENT) - 1), StoreUnavailable, "no byte in 1 s"),
    ],
)
async def test_a_source_that_fails_is_blamed_and_the_put_is_reset(
    script: Script, error: type[StoreError], message: str
) -> None:
    timeouts = Timeouts(read_s=1, write_s=20, rate_window_s=2)
    async with copying(script, timeouts=timeouts) as copy:
        before = descriptors()
        with pytest.raises(error, match=message) as caught:
            await asyncio.wait_for(copy.copy(), 30)
        assert (caught.value.operation, caught.value.indeterminate) == ("GET", False)
        await eventually(lambda: copy.destination.requests and copy.destination.requests[0].is_truncated)
        assert (copy.stored, copy.moved) == ([], 0)
        await eventually(lambda: descriptors() <= before)


@pytest.mark.parametrize("pipe", ["of one page", "with the default size", "of the usual size"])
async def test_a_body_in_small_segments_arrives_through_any_pipe(pipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment occupies a slot of the pipe, however small it is; a user over the limit gets pipes of few slots."""
    if pipe == "of one page":
        monkeypatch.setattr(splice, "PIPE_BYTES", 4096)
    elif pipe == "with the default size":

        def refuse(*_: int) -> int:
            raise PermissionError

        monkeypatch.setattr("fcntl.fcntl", refuse)
    content = CONTENT[:40_000]
    async with copying(serve(content, first=10, pause_s=0.0005, step=50)) as copy:
        for _ in range(2):
            await asyncio.wait_for(copy.copy(), 30)
        assert (copy.stored, copy.moved) == ([content] * 2, 2)
        assert (copy.source.connections, copy.destination.connections) == (1, 1)


async def test_more_bytes_than_announced_never_become_another_response() -> None:
    async def say_more(received: ReceivedRequest) -> None:
        received.write(head() + CONTENT + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with copying(say_more) as copy:
        await copy.copy()
        await copy.copy()
        assert copy.stored == [CONTENT] * 2
        assert copy.source.connections == 2


# failures of the destination


async def take_some(received: ReceivedRequest) -> None:
    received.body = await received.reader.readexactly(500_000)


async def close_early(received: ReceivedRequest) -> None:
    await take_some(received)
    await received.close()


async def reset_in_the_middle(received: ReceivedRequest) -> None:
    await take_some(received)
    await received.reset()


async def take_nothing(received: ReceivedRequest) -> None:
    received.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's reads, too
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("script", "message"),
    [(close_early, "the connection to"), (reset_in_the_middle, "the connection to"), (take_nothing, "in time")],
)
async def test_a_destination_that_fails_is_blamed(script: Script, message: str) -> None:
    async with copying(serve(CONTENT * 8), script, timeouts=Timeouts(read_s=1, write_s=20)) as copy:
        before = descriptors()
        with pytest.raises(StoreUnavailable, match=message) as caught:
            await asyncio.wait_for(copy.copy(), 30)
        assert caught.value.operation == "PUT"
        assert copy.moved == 0
        await eventually(lambda: descriptors() <= before)
        copy.destination._scripts[0] = respond(response())
        copy.source._scripts[0] = serve()
        await copy.copy()
        assert copy.stored[-1] == CONTENT


@pytest.mark.parametrize("source", ["fast", "slow"])
@pytest.mark.parametrize("then", ["waits", "closes", "resets"])
async def test_an_early_refusal_is_the_response(then: str, source: str) -> None:
    async def refuse(received: ReceivedRequest) -> None:
        await take_some(received)
        received.write(error_response(403, "AccessDenied", "not here"))
        await received.writer.drain()
        if then == "waits":
            await asyncio.sleep(3600)
        await (received.close() if then == "closes" else received.reset())

    script = serve(CONTENT * 8) if source == "fast" else serve(first=600_000, pause_s=0.3, step=MIB)
    async with copying(script, refuse) as copy:
        with pytest.raises(AccessDenied, match="not here") as caught:
            await asyncio.wait_for(copy.copy(), 30)
        assert not caught.value.indeterminate
        assert copy.moved == 0


async def test_a_refusal_that_arrives_with_the_reset_is_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    async with copying(serve(first=0, pause_s=0.05)) as copy:
        connections = []

        def fail(pipe: object, descriptor: int, size_bytes: int) -> int:
            client = socket.socket(fileno=os.dup(descriptor))
            connections.append(client)
            port = client.getsockname()[1]
            for received in copy.destination.requests:
                peer = received.writer.get_extra_info("socket")
                if received.writer.get_extra_info("peername")[1] == port:
                    os.write(peer.fileno(), error_response(403, "AccessDenied", "not here"))
            raise BrokenPipeError

        monkeypatch.setattr("s3s3.s3.transport.splice._Pipe.drain", fail)
        with pytest.raises(AccessDenied, match="not here"):
            await asyncio.wait_for(copy.copy(), 30)
        for client in connections:
            client.close()


async def test_a_source_serves_the_next_copy_after_a_put_failed_near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    content, drain, is_failing = CONTENT[:600_000], splice._Pipe.drain, True

    def fail(pipe: splice._Pipe, descriptor: int, size_bytes: int) -> int:
        if not is_failing:
            return drain(pipe, descriptor, size_bytes)
        (connection,) = copy.from_store._requester._pool._open
        if connection._body.left_bytes > HELD_BYTES:
            raise BlockingIOError
        raise BrokenPipeError

    monkeypatch.setattr("s3s3.s3.transport.splice._Pipe.drain", fail)
    async with copying(serve(content, first=0, pause_s=0.01), timeouts=Timeouts(read_s=5, write_s=5)) as copy:
        with pytest.raises(StoreUnavailable, match="the connection to"):
            await asyncio.wait_for(copy.copy(), 30)
        is_failing = False
        await asyncio.wait_for(copy.copy(), 4)
        assert copy.stored == [content]


async def test_an_interim_response_is_not_the_response() -> None:
    async def encourage(received: ReceivedRequest) -> None:
        received.body = await received.reader.readexactly(100_000)
        received.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received.body += await received.reader.readexactly(len(CONTENT) - 100_000)
        received.write(response())

    async with copying(serve(), encourage) as copy:
        for _ in range(2):
            await copy.copy()
        assert (copy.stored, copy.moved, copy.destination.connections) == ([CONTENT] * 2, 2, 1)


async def test_a_success_before_the_end_is_an_error() -> None:
    async def praise(received: ReceivedRequest) -> None:
        received.write(response())
        await received.writer.drain()
        await asyncio.sleep(3600)

    async with copying(serve(CONTENT * 8), praise) as copy:
        with pytest.raises(StoreUnavailable, match="before it had the whole body"):
            await asyncio.wait_for(copy.copy(), 30)
        assert copy.moved == 0


async def test_a_destination_that_never_responds_leaves_the_put_indeterminate() -> None:
    async def keep_silent(received: ReceivedRequest) -> None:
        await received.read_body()
        await asyncio.sleep(3600)

    async with copying(serve(), keep_silent, timeouts=Timeouts(read_s=20, write_s=1)) as copy:
        with pytest.raises(StoreUnavailable, match="in time") as caught:
            await asyncio.wait_for(copy.copy(), 30)
        assert caught.value.indeterminate
        assert (copy.stored, copy.moved) == ([CONTENT], 1)


async def test_waiting_for_the_source_does_not_time_out_the_destination() -> None:
    script = serve(CONTENT, first=1000, pause_s=0.5, step=MIB)
    async with copying(script, timeouts=Timeouts(read_s=2, write_s=20)) as copy:
        await copy.copy()
        assert copy.stored == [CONTENT]


async def test_a_source_that_sends_slowly_but_steadily_does_not_time_out() -> None:
    script = serve(CONTENT, first=1000, pause_s=0.08, step=100_000)
    async with copying(script, timeouts=Timeouts(read_s=20, write_s=20, rate_window_s=0.5)) as copy:
        await copy.copy()
        assert copy.stored == [CONTENT]


@pytest.mark.long
async def test_a_destination_that_takes_slowly_but_steadily_does_not_time_out() -> None:
    content = CONTENT * 8

    async def take_steadily(received: ReceivedRequest) -> None:
        while len(received.body) < len(content):
            received.body += await received.reader.read(700_000)
            await asyncio.sleep(0.05)
        received.write(response())

    timeouts = Timeouts(read_s=20, write_s=20, rate_window_s=0.5)
    async with copying(serve(content), take_steadily, timeouts=timeouts) as copy:
        await copy.copy()
        assert copy.stored == [content]


# the process


async def test_a_cancelled_copy_resets_the_put_and_leaves_nothing_open() -> None:
    async with copying(fall_silent) as copy:
        before = descriptors()
        task = asyncio.create_task(copy.copy())
        await eventually(lambda: copy.destination.requests)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: copy.destination.requests and copy.destination.requests[0].is_truncated)
        assert copy.stored == []
        await eventually(lambda: descriptors() <= before)


async def take_steadily(received: ReceivedRequest) -> None:
    received.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    size_bytes = int(received.headers["content-length"])
    received.is_truncated = True
    while len(received.body) < size_bytes:
        part = await received.reader.read(min(size_bytes - len(received.body), 100_000))
        if not part:
            return
        received.body += part
        await asyncio.sleep(0.001)
    received.is_truncated = False
    received.write(response())


@pytest.mark.parametrize(
    ("source", "destination"),
    [(serve(CONTENT[:400_000], first=1000, pause_s=0.001, step=40_000), None), (serve(CONTENT * 3), take_steadily)],
    ids=["slow source", "slow destination"],
)
async def test_a_copy_can_be_cancelled_at_every_step(source: Script, destination: Script | None) -> None:
    async with copying(source, destination) as copy:
        await copy.copy()
        content, before = copy.stored[0], descriptors()
        for step in range(40):
            task = asyncio.create_task(copy.copy())
            await asyncio.sleep(step * 0.0005)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert descriptors() == before
        await copy.copy()
        await eventually(lambda: set(copy.stored) == {content})
        assert copy.destination.requests[-1].body == content


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_closing_a_store_ends_the_copy(side: str) -> None:
    async with copying(fall_silent) as copy:
        task = asyncio.create_task(copy.copy())
        await eventually(lambda: copy.destination.requests)
        await asyncio.sleep(0.1)
        await (copy.from_store if side == "source" else copy.to_store).close()
        if side == "destination":  # noticed when the source sends more, or is silent for too long
            await copy.from_store.close()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(task, 10)
        await eventually(lambda: copy.destination.requests and copy.destination.requests[0].is_truncated)


# what does not go this way


async def test_a_limit_in_bytes_per_second_needs_the_bytes_here() -> None:
    limits = {"max_bytes_per_s": (Window(0, 24 * 60, 1e9),)}
    async with copying(serve(), endpoint=limits) as copy:
        await copy.copy()
        assert (copy.stored, copy.chunked, copy.moved) == ([CONTENT], 1, 0)


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_encrypted_bytes_go_through_this_process(
    side: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = tls(certificate)
    by_side = (context, None) if side == "source" else (None, context)
    async with copying(serve(), source_tls=by_side[0], destination_tls=by_side[1]) as copy:
        await copy.copy()
        assert (copy.stored, copy.chunked, copy.moved) == ([CONTENT], 1, 0)


async def test_without_descriptors_the_bytes_go_through_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(24, "Too many open files")

    async with copying(serve()) as copy:
        monkeypatch.setattr("s3s3.s3.transport.splice.os.pipe2", refuse)
        before = descriptors()
        await copy.copy()
        assert (copy.stored, copy.chunked, copy.moved) == ([CONTENT], 1, 0)
        assert descriptors() == before


async def test_a_system_without_splice_needs_the_bytes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "is_available", lambda: False)
    async with copying(serve()) as copy:
        await copy.copy()
        assert (copy.stored, copy.chunked, copy.moved) == ([CONTENT], 1, 0)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EAGAIN])
async def test_a_sandbox_that_refuses_splice_is_noticed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("s3s3.s3.transport.splice.os.splice", refuse)
    assert splice.is_available.__wrapped__() is False


async def test_a_body_in_chunks_is_not_moved() -> None:
    async def in_chunks(received: ReceivedRequest) -> None:
        received.write(response(content_length=None, transfer_encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n")

    async with RawServer([in_chunks]) as server, server.store() as store:
        response_ = await store._requester.send(_get())
        connection = response_.connection
        assert connection is not None and not connection.has_plain_body
        assert not SplicedBody(connection, iter, lambda: None, lambda error: error).can_move_to(connection)  # type: ignore[arg-type]
        response_.close(abort=True)


def _get() -> Any:
    from s3s3.s3.request import Request  # noqa: PLC0415

    return Request("GET", "key", "key")
