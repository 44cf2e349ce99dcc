"""Send file bodies with sendfile(2): from the page cache to the socket, without a copy in this process.

uvloop has no sendfile, so the system call is made here, on a duplicate of the socket's descriptor.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence

from aiohttp import web

from ...tasks import timeout
from .downloads import Download
from .ranges import ByteRange

#: A client that reads nothing for this time is disconnected (s).
STALL_TIMEOUT_S = 30.0
#: Bodies up to this size are sent with the headers in one write, without sendfile.
SINGLE_WRITE_BYTES = 64 * 1024
_SENDFILE_BYTES = 1024 * 1024


class SendfileResponse(web.StreamResponse):
    """A response with a body from a file.

    Attributes:
        sent_bytes: bytes of the body sent so far.
    """

    sent_bytes = 0

    @property
    def body_length(self) -> int:
        return self.sent_bytes


async def send_file(
    request: web.BaseRequest,
    headers: Mapping[str, str],
    file: int,
    size_bytes: int,
    ranges: list[ByteRange] | None,
    download: Download | None = None,
) -> web.StreamResponse:
    """Respond with a file, or with ranges of it.

    Args:
        ranges: as returned by `requested_ranges`.
        download: the download that is still writing the file.

    Raises:
        ConnectionResetError: the client closed its connection or stalled, or the file is too short.
        S3S3Error: the download failed.
    """
    if ranges == []:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
    if ranges and len(ranges) > 1:
        return await _send_multipart(request, headers, file, size_bytes, ranges)
    span = ranges[0] if ranges else ByteRange(0, size_bytes)
    status = 206 if ranges else 200
    length = span.size_bytes
    all_headers = {**headers, "Content-Length": str(length)}
    if ranges:
        all_headers["Content-Range"] = f"bytes {span.begin}-{span.end - 1}/{size_bytes}"
    if request.method == "HEAD":
        return web.Response(status=status, headers=all_headers)
    if download is None and length <= SINGLE_WRITE_BYTES:
        return web.Response(status=status, headers=all_headers, body=os.pread(file, length, span.begin) or None)
    response = SendfileResponse(status=status, headers=all_headers)
    await response.prepare(request)
    await _send_range(request, response, file, span, download)
    await response.write_eof()
    return response


async def _send_multipart(
    request: web.BaseRequest, headers: Mapping[str, str], file: int, size_bytes: int, ranges: Sequence[ByteRange]
) -> web.StreamResponse:
    """Respond with several ranges (RFC 9110, 14.6)."""
    boundary = secrets.token_hex(16)
    content_type = headers.get("Content-Type", "application/octet-stream")
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
        f"Content-Range: bytes {span.begin}-{span.end - 1}/{size_bytes}\r\n\r\n".encode()
        for span in ranges
    ]
    end = f"\r\n--{boundary}--\r\n".encode()
    length = sum(span.size_bytes for span in ranges) + sum(map(len, heads)) + len(end)
    response = SendfileResponse(
        status=206,
        headers={**headers, "Content-Type": f"multipart/byteranges; boundary={boundary}",
                 "Content-Length": str(length)},
    )  # fmt: skip
    await response.prepare(request)
    if request.method != "HEAD":
        for head, span in zip(heads, ranges, strict=True):
            await response.write(head)
            await _send_range(request, response, file, span, None)
        await response.write(end)
    await response.write_eof()
    return response


async def _send_range(
    request: web.BaseRequest, response: SendfileResponse, file: int, span: ByteRange, download: Download | None
) -> None:
    """Send a range, waiting for a download that still writes it. A failure resets the connection."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client closed the connection")
    try:
        await _flush(transport)
        socket = os.dup(transport.get_extra_info("socket").fileno())
        try:
            sent = span.begin
            while sent < span.end:
                until = span.end if download is None else min(span.end, download.readable_bytes)
                if download is not None and until <= sent:
                    await download.wait_for_progress()
                    continue
                await _sendfile(transport, socket, file, sent, until)
                response.sent_bytes += until - sent
                sent = until
        finally:
            os.close(socket)
    except BaseException:
        transport.abort()  # a client must not mistake a part for the whole
        raise


async def _sendfile(transport: asyncio.BaseTransport, socket: int, file: int, begin: int, end: int) -> None:
    while begin < end:
        if transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        try:
            sent = os.sendfile(socket, file, begin, min(end - begin, _SENDFILE_BYTES))
        except BlockingIOError:
            await _writable(socket)
            continue
        if not sent:
            raise ConnectionResetError("the file is shorter than expected")
        begin += sent
        await asyncio.sleep(0)


async def _writable(socket: int) -> None:
    """Wait until the socket accepts more bytes."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(socket, lambda: None if ready.done() else ready.set_result(None))
    try:
        async with timeout(STALL_TIMEOUT_S):
            await ready
    except asyncio.TimeoutError:
        raise ConnectionResetError("the client stalled") from None
    finally:
        loop.remove_writer(socket)


async def _flush(transport: asyncio.WriteTransport) -> None:
    """Wait until the transport's buffer is empty, so that sendfile does not overtake earlier writes."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + STALL_TIMEOUT_S
    interval_s = 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing() or loop.time() > deadline_s:
            raise ConnectionResetError("the client stalled")
        await asyncio.sleep(interval_s)
        interval_s = 0.005
