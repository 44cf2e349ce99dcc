"""Use any HTTP(S) server as a source of copies: the methods of a `Source`, for URLs and their redirects.

Each object gets its own connection, because the next one is probably on another host. The connection goes to the
address that the rules have checked, so DNS rebinding has no effect.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import ssl
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import urljoin

from ... import __version__
from ...errors import NoSuchKey, StoreUnavailable, UpstreamRefused, UrlForbidden
from ...model import Endpoint, md5_of_etag
from ...s3.objects import (
    KEPT_HEADERS,
    BodyReader,
    ObjectInfo,
    ObjectStream,
    S3Response,
    body_chunks,
    drop_transport_codings,
    http_date_ms,
    is_page,
    strong_etag,
)
from ...s3.transport.connection import Connection
from ...s3.transport.errors import ConnectFailed, ContentMD5Mismatch, TransportError, TransportTimeout
from ...s3.transport.limits import Timeouts
from ...tasks import timeout
from ...transfer.budget import CopyBudget
from ...transfer.unsized_body import spool_body
from .url_policy import ParsedUrl, UrlRules

#: Redirects that are followed.
MAX_REDIRECTS = 20
_REDIRECT_STATUSES = frozenset((301, 302, 303, 307, 308))
_EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


class Hop(NamedTuple):
    """One request of a chain of redirects, and its result."""

    status: int
    url: str
    address: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response that carries an object: all requests in order, and all headers, with lower-case names."""

    hops: tuple[Hop, ...]
    headers: Mapping[str, str]


class Origin:
    """Reads objects from URLs.

    Args:
        name: name for messages.
        key_to_url: returns the URL of a key. Raises UrlForbidden.
        headers_for: returns headers to store with an object. Raises UpstreamRefused if a required one is missing.
        spool_budget: for bodies without Content-Length.
    """

    def __init__(
        self,
        name: str,
        *,
        key_to_url: Callable[[str], str],
        rules: UrlRules,
        headers_for: Callable[[str, Fetched], Mapping[str, str]],
        spool_budget: CopyBudget,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
    ) -> None:
        self.name = name
        self.endpoint = Endpoint(name, "")
        self._key_to_url = key_to_url
        self._rules = rules
        self._headers_for = headers_for
        self._spool_budget = spool_budget
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object and read it if it has at most `limit_bytes`, as `Store.fetch` does."""
        stream = await self.get(key)
        return stream, await stream.body() if stream.info.size_bytes <= limit_bytes else None

    async def head(self, key: str) -> ObjectInfo | None:
        """Return None: a server may answer HEAD differently from GET, so no HEAD is sent."""
        return None

    async def confirm_missing(self, key: str) -> ObjectInfo | None:
        """Return None: nothing is deleted because an origin has no object."""
        return None

    async def get(self, key: str) -> ObjectStream:
        """Open an object. An HTML page needs a strong ETag or Content-MD5: portals answer any request with a page.

        Raises:
            UrlForbidden: the rules forbid the URL or one that it redirects to; that one was not requested.
            NoSuchKey: status 404.
            UpstreamRefused: another status than 200, or a response that lacks what a copy needs.
            StoreUnavailable: no response. Its `store` is "", because the failure of a host is not that of the source.
        """
        try:
            url = self._key_to_url(key)
            hops: list[Hop] = []
            while len(hops) <= MAX_REDIRECTS:
                parsed = self._rules.check_url(url)
                address, response = await self._request(key, parsed)
                hops.append(Hop(response.status, parsed.url, address))
                location = response.headers.get("location")
                if response.status not in _REDIRECT_STATUSES or location is None:
                    try:
                        return await self._open(key, parsed, response, Fetched(tuple(hops), response.headers))
                    except BaseException:
                        response.close(abort=True)
                        raise
                response.close()
                url = urljoin(parsed.url, location.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        except UrlForbidden as error:
            error.key, error.operation = key, "GET"
            raise
        except ValueError as error:
            raise UpstreamRefused(f"it redirects to an invalid URL: {error}", key=key, status=302) from error
        raise UpstreamRefused(f"it redirects more than {MAX_REDIRECTS} times", key=key, status=hops[-1].status)

    async def _request(self, key: str, url: ParsedUrl) -> tuple[str, S3Response]:
        """Send one request. Return the address that responded, and the response."""
        addresses = await self._rules.addresses(url)
        try:
            address, connection = await self._connect(url, addresses)
        except TransportError as error:
            raise _unavailable(key, url, error) from error
        owner = _SingleUse(self._timeouts)
        owner.watch(connection)
        try:
            # Contains no header of the client: no Range, Authorization or condition.
            request = (
                f"GET {url.target} HTTP/1.1\r\nhost: {url.host_header}\r\nuser-agent: s3s3/{__version__}\r\n"
                "accept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n"
            )
            connection.send(request.encode("ascii"), b"", size_bytes=0, is_head=False, timeout_s=self._timeouts.read_s)
            head = await connection.head()
        except BaseException as error:
            owner.release(connection)
            if isinstance(error, TransportError):
                raise _unavailable(key, url, error) from error
            raise
        connection.end_within(math.inf)
        return address, S3Response(head, connection, owner)

    async def _connect(self, url: ParsedUrl, addresses: list[str]) -> tuple[str, Connection]:
        if url.is_secure and self._tls is None:
            self._tls = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        cause: BaseException | None = None
        for address in addresses:
            try:
                async with timeout(self._timeouts.connect_s):
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop),
                        address,
                        url.port,
                        ssl=self._tls if url.is_secure else None,
                        server_hostname=url.host if url.is_secure else None,
                    )
            except (OSError, asyncio.TimeoutError, ssl.CertificateError) as error:
                cause = error
            else:
                return address, connection
        raise ConnectFailed from cause

    async def _open(self, key: str, url: ParsedUrl, response: S3Response, fetched: Fetched) -> ObjectStream:
        if response.status == 404:
            raise NoSuchKey("not found upstream", operation="GET", key=key, status=404)
        if response.status != 200:
            raise UpstreamRefused("only a response with status 200 can be copied", key=key, status=response.status)
        if is_page(response.headers) and not (strong_etag(response.headers) or _expected_md5(response.headers)):
            message = "an HTML page without a strong ETag is not copied: a gateway or portal may have sent it"
            raise UpstreamRefused(message, key=key, status=200)
        headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
        if "content-encoding" in headers:
            drop_transport_codings(headers)
        headers.update(self._headers_for(key, fetched))
        to_store_error = partial(_unavailable, key, url)
        etag = _expected_md5(response.headers)
        modified_ms = http_date_ms(response.headers.get("last-modified", "")) or 0
        length = response.length
        must_match = etag and "content-md5" in response.headers
        if length is not None:
            if must_match and not length and etag != _EMPTY_MD5:
                raise to_store_error(ContentMD5Mismatch())  # an empty body is never read, so never checked later
            content: BodyReader = _CheckedBody(response, length, etag) if must_match else response
            return ObjectStream(ObjectInfo(key, length, etag, modified_ms, headers), content, to_store_error)
        ends_with_connection = "transfer-encoding" not in response.headers
        if ends_with_connection and not etag:
            message = "the response has neither a Content-Length, nor chunks, nor an MD5 to check its end by"
            raise UpstreamRefused(message, key=key, status=200)
        body = await spool_body(self._spool_budget, body_chunks(response, key, to_store_error))
        if (must_match or ends_with_connection) and etag != body.md5:
            body.content.close()
            raise to_store_error(ContentMD5Mismatch())
        info = ObjectInfo(key, body.size_bytes, body.md5, modified_ms, headers)
        return ObjectStream(info, body.content, to_store_error)


class _SingleUse:
    """Owner of a connection that serves one request: checks its timeouts, and aborts it when released."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        timeouts = self._timeouts
        connection.check_timeouts(loop.time(), timeouts, timeouts.min_bytes_per_s)
        interval_s = min(timeouts.read_s / 4, timeouts.rate_window_s / 4, 1.0)
        self._timer = loop.call_later(interval_s, self.watch, connection)

    def release(self, connection: Connection) -> None:
        if self._timer is not None:
            self._timer.cancel()
        connection.abort()


class _CheckedBody(BodyReader):
    """Passes a body on, but its last bytes only if its MD5 is that of Content-MD5."""

    def __init__(self, content: BodyReader, size_bytes: int, md5: str) -> None:
        self._content = content
        self._left_bytes = size_bytes
        self._expected_md5 = md5
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def read(self, size_bytes: int) -> bytes:
        chunk = await self._content.read(size_bytes)
        self._md5.update(chunk)
        self._left_bytes -= len(chunk)
        if chunk and self._left_bytes <= 0 and self._md5.hexdigest() != self._expected_md5:
            self.close(abort=True)
            raise ContentMD5Mismatch
        return chunk

    def close(self, *, abort: bool = False) -> None:
        self._content.close(abort=abort)


def _expected_md5(headers: Mapping[str, str]) -> str:
    """Return the MD5 that Content-MD5, or else the ETag, announces for the body, in hex digits; "" for none."""
    try:
        content_md5 = b64decode(headers.get("content-md5", ""), validate=True)
    except ValueError:
        content_md5 = b""
    if len(content_md5) == 16:
        return content_md5.hex()
    return md5_of_etag(headers.get("etag", "").strip('"')) or ""


def _unavailable(key: str, url: ParsedUrl, error: TransportError) -> StoreUnavailable:
    cause = error.__cause__
    if isinstance(error, ConnectFailed):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {cause.verify_message}"
        else:
            reason = f"cannot connect: {cause}" if str(cause) else "connecting timed out"
    elif isinstance(error, TransportTimeout):
        reason = f"it did not respond in time: {error}"
    elif isinstance(error, ContentMD5Mismatch):
        reason = "the body does not have the MD5 of its Content-MD5 header"
    else:
        reason = f"the connection was lost before the response was complete ({error or type(error).__name__})"
    return StoreUnavailable(f"{url.host}:{url.port}: {reason}", operation="GET", key=key)
