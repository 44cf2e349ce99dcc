"""List buckets of any number of keys at little cost: PORT COUNT [DELAY_MS]. All buckets have the same keys.

Signatures are ignored. Pages are generated on request, by marker, start-after or continuation token, which may be any
name.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from bisect import bisect_right
from urllib.parse import parse_qs, unquote, urlsplit

import uvloop

PAGE_KEYS = 1000
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
OK_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: %d\r\n\r\n%b"


def _key(number: int) -> str:
    return f"2026/{number // 10_000:03}/object-{number:07}.bin"


def _entry(number: int) -> str:
    etag = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return (
        f"<Contents><Key>{_key(number)}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{4096 + number % 1000}</Size><StorageClass>STANDARD</StorageClass>"
        "<Owner><ID>bench</ID><DisplayName>bench</DisplayName></Owner><Type>Normal</Type></Contents>"
    )


def page(query: dict[str, list[str]], count: int) -> bytes:
    """Return the page for a query, as Ceph writes it."""
    after = next((query[name][0] for name in ("continuation-token", "start-after", "marker") if name in query), "")
    first = bisect_right(range(count), unquote(after), key=_key)
    last = min(first + min(int(query.get("max-keys", ["1000"])[0]), PAGE_KEYS), count)
    truncated = last < count
    about = (
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated><MaxKeys>{PAGE_KEYS}</MaxKeys><Name>bucket</Name>"
        f"<Prefix></Prefix><KeyCount>{last - first}</KeyCount>"
    )
    if "encoding-type" in query:
        about += "<EncodingType>url</EncodingType>"
    if truncated:
        about += f"<NextContinuationToken>{_key(last - 1)}</NextContinuationToken>"
        about += f"<NextMarker>{_key(last - 1)}</NextMarker>"
    entries = "".join(map(_entry, range(first, last)))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{about}{entries}</ListBucketResult>"
    ).encode()


class Listings(asyncio.Protocol):
    """One connection; requests have no bodies."""

    def __init__(self, count: int, delay_s: float, pages: dict[str, bytes]) -> None:
        self._count = count
        self._delay_s = delay_s
        self._pages = pages
        self._raw = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._raw += data
        while (end := self._raw.find(b"\r\n\r\n")) >= 0:
            line, self._raw = self._raw[: self._raw.find(b"\r\n")].decode(), self._raw[end + 4 :]
            body = self._response(*line.split(" ")[:2])
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, body)  # type: ignore[attr-defined]

    def _response(self, method: str, target: str) -> bytes:
        parts = urlsplit(target)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        if method == "HEAD" and not key:
            return OK_RESPONSE % (0, b"")
        if method != "GET" or not bucket or key:
            return NOT_FOUND
        if parts.query not in self._pages:
            self._pages[parts.query] = page(parse_qs(parts.query), self._count)
        body = self._pages[parts.query]
        return OK_RESPONSE % (len(body), body)


async def serve(port: int, count: int, delay_ms: int = 0) -> None:
    """Serve until cancelled; each response is delayed by `delay_ms`."""
    pages: dict[str, bytes] = {}
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Listings(count, delay_ms / 1000, pages), "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:])))
