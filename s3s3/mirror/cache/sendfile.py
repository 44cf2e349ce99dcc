"""A file's bytes to a client, by sendfile(2): they go from the disk's cache to the socket without passing through here.

uvloop has no sendfile of its own, so it is asked of the system, on a second descriptor of the client's socket.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence

from aiohttp import web

from ...tasks import timeout
from .downloads import Download
from .ranges import Part

STALLED_AFTER_S = 30.0
"""A client that takes nothing for so long is dropped."""
SENT_IN_ONE_WRITE_BYTES = 64 * 1024
_SENT_AT_ONCE_BYTES = 1024 * 1024


class FromFile(web.StreamResponse):
    """An answer whose body is sent from a file.

    Attributes:
        sent_bytes: of the body.
    """

    sent_bytes = 0

    @property
    def body_length(self) -> int:
        return self.sent_bytes


async def send(
    request: web.BaseRequest, headers: Mapping[str, str], file: int, size_bytes: int, parts: list[Part] | None,
    growing: Download | None = None,
) -> web.StreamResponse:  # fmt: skip
    """Answer with a file, or parts of it.

    Args:
        parts: as `ranges.parts` gives them.
        growing: what still writes it.
    """
    if parts == []:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
    whole = Part(0, size_bytes)
    wanted = parts or [whole]
    status = 206 if parts else 200
    if len(wanted) > 1:
        return await _several(request, headers, file, size_bytes, wanted)
    (part,) = wanted
    extra = {"Content-Range": f"bytes {part.begin}-{part.end - 1}/{size_bytes}"} if parts else {}
    length = part.end - part.begin
    if request.method == "HEAD" or (growing is None and length <= SENT_IN_ONE_WRITE_BYTES):
        body = b"" if request.method == "HEAD" else os.pread(file, length, part.begin)
        answer = web.Response(status=status, headers={**headers, **extra}, body=body or None)
        if request.method == "HEAD":
            answer.headers["Content-Length"] = str(length)
        return answer
    response = FromFile(status=status, headers={**headers, **extra, "Content-Length": str(length)})
    await response.prepare(request)
    await _send_part(request, response, file, part, growing)
    await response.write_eof()
    return response


async def _several(
    request: web.BaseRequest, headers: Mapping[str, str], file: int, size_bytes: int, parts: Sequence[Part]
) -> web.StreamResponse:
    """Answer with several parts (RFC 9110, 14.6)."""
    boundary = secrets.token_hex(16)
    kind = headers.get("Content-Type", "application/octet-stream")
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
        f"Content-Range: bytes {part.begin}-{part.end - 1}/{size_bytes}\r\n\r\n".encode()
        for part in parts
    ]
    end = f"\r\n--{boundary}--\r\n".encode()
    length = sum(part.end - part.begin for part in parts) + sum(map(len, heads)) + len(end)
    response = FromFile(
        status=206,
        headers={**headers, "Content-Type": f"multipart/byteranges; boundary={boundary}",
                 "Content-Length": str(length)},
    )  # fmt: skip
    await response.prepare(request)
    if request.method != "HEAD":
        for head, part in zip(heads, parts, strict=True):
            await response.write(head)
            await _send_part(request, response, file, part, None)
        await response.write(end)
    await response.write_eof()
    return response


async def _send_part(
    request: web.BaseRequest, response: FromFile, file: int, part: Part, growing: Download | None
) -> None:
    """Send what lies between; of a file that still grows, as it comes in. An end too soon resets the connection."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    try:
        await _written_out(transport)
        socket = os.dup(transport.get_extra_info("socket").fileno())
        try:
            sent = part.begin
            while sent < part.end:
                until = part.end if growing is None else min(part.end, growing.readable_bytes)
                if growing is not None and until <= sent:
                    await growing.moved()
                    continue
                await _send_span(transport, socket, file, sent, until)
                response.sent_bytes += until - sent
                sent = until
        finally:
            os.close(socket)
    except BaseException:
        transport.abort()  # nobody may take it for the whole
        raise


async def _send_span(transport: asyncio.BaseTransport, socket: int, file: int, begin: int, end: int) -> None:
    while begin < end:
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        try:
            sent = os.sendfile(socket, file, begin, min(end - begin, _SENT_AT_ONCE_BYTES))
        except BlockingIOError:
            await _takes_more(socket)
            continue
        if not sent:
            raise ConnectionResetError("the file is shorter than it was")
        begin += sent
        await asyncio.sleep(0)


async def _takes_more(socket: int) -> None:
    """Wait until the client has taken some of what was sent."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(socket, lambda: None if ready.done() else ready.set_result(None))
    try:
        async with timeout(STALLED_AFTER_S):
            await ready
    except asyncio.TimeoutError:
        raise ConnectionResetError("the client takes nothing") from None
    finally:
        loop.remove_writer(socket)


async def _written_out(transport: asyncio.WriteTransport) -> None:
    """Wait until what was written before has left: what sendfile sends would overtake it."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + STALLED_AFTER_S
    pause_s = 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing() or loop.time() > until_s:
            raise ConnectionResetError("the client takes nothing")
        await asyncio.sleep(pause_s)
        pause_s = 0.005
