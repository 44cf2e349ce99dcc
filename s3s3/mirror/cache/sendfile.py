"""Send file bodies with sendfile(2): from the page cache to the socket, without a copy in this process.

uvloop has no sendfile, so the system call is made here, on a duplicate of the socket's descriptor.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping

from aiohttp import web

from ...tasks import timeout
from .downloads import Download
from .responses import ByteRange

#: A client that reads nothing for this time is disconnected (s).
STALL_TIMEOUT_S = 30.0
#: Bodies up to this size are sent with the headers in one write, without sendfile.
SINGLE_WRITE_BYTES = 64 * 1024
_SENDFILE_BYTES = 1024 * 1024


class SendfileResponse(web.StreamResponse):
    """A response with a body from a file; `sent_bytes` counts what is sent of it."""

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
    """Respond with a file that `download` may still be writing, or with ranges of it (see `requested_ranges`).

    Raises:
        ConnectionResetError: the client closed its connection or stalled, or the file is too short.
        S3S3Error: the download failed.
    """
    if ranges == []:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
    status, spans = (206, ranges) if ranges else (200, [ByteRange(0, size_bytes)])
    content_ranges = [f"bytes {span.begin}-{span.end - 1}/{size_bytes}" for span in ranges or ()]
    all_headers = dict(headers)
    part_heads, end = [b""], b""
    if len(spans) > 1:  # RFC 9110, 14.6
        boundary = secrets.token_hex(16)
        start = f"\r\n--{boundary}\r\nContent-Type: {headers.get('Content-Type', 'application/octet-stream')}\r\n"
        part_heads = [f"{start}Content-Range: {content_range}\r\n\r\n".encode() for content_range in content_ranges]
        end = f"\r\n--{boundary}--\r\n".encode()
        all_headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    elif ranges:
        all_headers["Content-Range"] = content_ranges[0]
    length = sum(span.size_bytes for span in spans) + sum(map(len, part_heads)) + len(end)
    all_headers["Content-Length"] = str(length)
    if request.method == "HEAD":
        return web.Response(status=status, headers=all_headers)
    if download is None and len(spans) == 1 and length <= SINGLE_WRITE_BYTES:
        return web.Response(status=status, headers=all_headers, body=os.pread(file, length, spans[0].begin) or None)
    response = SendfileResponse(status=status, headers=all_headers)
    await response.prepare(request)
    for part_head, span in zip(part_heads, spans, strict=True):
        if part_head:
            await response.write(part_head)
        await _send_range(request, response, file, span, download)
    if end:
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
    deadline_s, interval_s = loop.time() + STALL_TIMEOUT_S, 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing() or loop.time() > deadline_s:
            raise ConnectionResetError("the client stalled")
        await asyncio.sleep(interval_s)
        interval_s = 0.005
