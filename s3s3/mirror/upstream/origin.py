"""Use any HTTP(S) server as a source of copies: the methods of a `Source`, for URLs and their redirects.

Each request gets its own connection, so none is sent again on another one. It goes to an address that the rules have
checked, so DNS rebinding has no effect; through a proxy, to that.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from yarl import URL

from ... import __version__
from ...errors import NoSuchKey, StoreUnavailable, UpstreamRefused, UrlForbidden
from ...model import Endpoint, md5_of_etag
from ...s3.objects import (
    KEPT_HEADERS,
    BodyReader,
    ObjectInfo,
    ObjectStream,
    body_chunks,
    drop_transport_codings,
    http_date_ms,
    is_page,
    strong_etag,
)
from ...s3.proxies import proxy_urls
from ...s3.transport.errors import (
    ConnectionLost,
    ContentMD5Mismatch,
    TransportError,
    TransportTimeout,
)
from ...s3.transport.limits import RateWindow, Timeouts
from ...tasks import timeout
from ...transfer.budget import CopyBudget
from ...transfer.unsized_body import spool_body
from .url_policy import ParsedUrl, UrlRules

#: Redirects that are followed.
MAX_REDIRECTS = 20
_REDIRECT_STATUSES = frozenset((301, 302, 303, 307, 308))
#: aiohttp stops to read ahead of the copy at twice this size.
_READ_AHEAD_BYTES = 256 * 1024
#: The longest line of a response's head.
_MAX_LINE_BYTES = 64 * 1024
#: All headers of a request, beside Host. It contains none of the client: no Range, Authorization or condition.
_HEADERS = {
    "User-Agent": f"s3s3/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
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
    """Reads objects from URLs, as an async context manager.

    The proxies of the environment are used; see `s3s3.s3.proxies`. Behind a proxy, that decides which addresses can be
    reached; what is known here to be a forbidden address is not requested from it.

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

    async def __aenter__(self) -> Origin:
        """Raises ConfigError if the URL of a proxy is invalid."""
        for scheme in ("http", "https"):
            proxy_urls(f"{scheme}://host")
        tls = ssl.create_default_context()
        self._direct = self._session(tls, _CheckingResolver(self._rules))
        self._proxied = self._session(tls, aiohttp.ThreadedResolver())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._direct.close()
        await self._proxied.close()

    def _session(self, tls: ssl.SSLContext, resolver: AbstractResolver) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(resolver=resolver, ssl=tls, use_dns_cache=False, force_close=True, limit=0)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            response_class=_Response,
            timeout=aiohttp.ClientTimeout(connect=self._timeouts.connect_s, sock_read=self._timeouts.read_s),
            read_bufsize=_READ_AHEAD_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
        )

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
                response = await self._request(key, parsed)
                headers = {name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers}
                hops.append(Hop(response.status, parsed.url, response.peer))
                location = headers.get("location")
                if response.status not in _REDIRECT_STATUSES or location is None:
                    try:
                        return await self._open(key, parsed, response, Fetched(tuple(hops), headers))
                    except BaseException:
                        response.close()
                        raise
                response.close()
                url = urljoin(parsed.url, location.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        except UrlForbidden as error:
            error.key, error.operation = key, "GET"
            raise
        except ValueError as error:
            raise UpstreamRefused(f"it redirects to an invalid URL: {error}", key=key, status=302) from error
        raise UpstreamRefused(f"it redirects more than {MAX_REDIRECTS} times", key=key, status=hops[-1].status)

    async def _request(self, key: str, url: ParsedUrl) -> _Response:
        """Send one request; return its response with the body unread."""
        proxy = proxy_urls(url.url).get("https" if url.is_secure else "http")
        if proxy is not None:
            with suppress(StoreUnavailable):  # a name that only the proxy can resolve
                await self._rules.addresses(url.host, url.port)
        session = self._direct if proxy is None else self._proxied
        limit_s = self._timeouts.connect_s + self._timeouts.read_s
        try:
            async with timeout(limit_s):
                response = await session.get(URL(url.url, encoded=True), proxy=proxy, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise _unavailable(key, url, error) from error
        except asyncio.TimeoutError:
            raise _unavailable(key, url, TransportTimeout(f"no response in {limit_s:g} s")) from None
        assert isinstance(response, _Response)
        return response

    async def _open(self, key: str, url: ParsedUrl, response: _Response, fetched: Fetched) -> ObjectStream:
        received = fetched.headers
        if response.status == 404:
            raise NoSuchKey("not found upstream", operation="GET", key=key, status=404)
        if response.status != 200:
            raise UpstreamRefused("only a response with status 200 can be copied", key=key, status=response.status)
        if is_page(received) and not (strong_etag(received) or _expected_md5(received)):
            message = "an HTML page without a strong ETag is not copied: a gateway or portal may have sent it"
            raise UpstreamRefused(message, key=key, status=200)
        headers = {name: value for name, value in received.items() if name in KEPT_HEADERS}
        if "content-encoding" in headers:
            drop_transport_codings(headers)
        headers.update(self._headers_for(key, fetched))
        to_store_error = partial(_unavailable, key, url)
        etag = _expected_md5(received)
        modified_ms = http_date_ms(received.get("last-modified", "")) or 0
        length = response.content_length
        content: BodyReader = _Body(response, self._timeouts)
        must_match = etag and "content-md5" in received
        if length is not None:
            if must_match and not length and etag != _EMPTY_MD5:
                raise to_store_error(ContentMD5Mismatch())  # an empty body is never read, so never checked later
            content = _CheckedBody(content, length, etag) if must_match else content
            return ObjectStream(ObjectInfo(key, length, etag, modified_ms, headers), content, to_store_error)
        coding = received.get("transfer-encoding")
        if not etag if coding is None else coding.lower() != "chunked" or response.version == (1, 0):
            message = "the response has neither a Content-Length, nor chunks, nor an MD5 to check its end by"
            raise UpstreamRefused(message, key=key, status=200)
        body = await spool_body(self._spool_budget, body_chunks(content, key, to_store_error))
        if (must_match or coding is None) and etag != body.md5:
            body.content.close()
            raise to_store_error(ContentMD5Mismatch())
        info = ObjectInfo(key, body.size_bytes, body.md5, modified_ms, headers)
        return ObjectStream(info, body.content, to_store_error)


class _CheckingResolver(AbstractResolver):
    """Resolves the names of hosts as the rules allow it. Raises UrlForbidden and StoreUnavailable."""

    def __init__(self, rules: UrlRules) -> None:
        self._rules = rules

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._rules.addresses(host, port)
        ]

    async def close(self) -> None:
        pass


class _Response(aiohttp.ClientResponse):
    """A response that knows which address sent it (`peer`), also after its connection was closed."""

    peer = ""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        if connection.transport is not None:
            self.peer = connection.transport.get_extra_info("peername")[0]
        return await super().start(connection)


class _Body(BodyReader):
    """The body of a response. Fails if it comes more slowly than the timeouts allow."""

    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts) -> None:
        self._response = response
        self._timeouts = timeouts
        self._interval_s = min(timeouts.rate_window_s / 4, 1.0)
        self._waited_s = 0.0
        self._received_bytes = 0
        self._rate = RateWindow(0.0, 0)

    async def read(self, size_bytes: int) -> bytes:
        chunks: list[bytes] = []
        while size_bytes > 0 and (chunk := await self._next()):
            chunks.append(chunk)
            size_bytes -= len(chunk)
        return b"".join(chunks)

    async def _next(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        loop, timeouts, chunk = asyncio.get_running_loop(), self._timeouts, b""
        while not chunk and not self._response.content.at_eof():
            began_s = loop.time()
            try:
                async with timeout(self._interval_s):
                    chunk = await self._response.content.readany()
            except aiohttp.ServerTimeoutError:
                raise TransportTimeout(f"no byte in {timeouts.read_s:g} s") from None
            except aiohttp.ClientError:
                raise ConnectionLost from None
            except asyncio.TimeoutError:
                pass  # of this interval: look at the rate
            self._waited_s += loop.time() - began_s
            self._received_bytes += len(chunk)
            if self._rate.is_too_slow(
                self._waited_s, self._received_bytes, timeouts.rate_window_s, timeouts.min_bytes_per_s
            ):
                raise TransportTimeout(f"{self._rate.window_bytes} bytes sent in {timeouts.rate_window_s:g} s")
        return chunk

    def close(self, *, abort: bool = False) -> None:
        self._response.close()


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
    return md5_of_etag(strong_etag(headers)) or ""


def _unavailable(key: str, url: ParsedUrl, error: aiohttp.ClientError | TransportError) -> StoreUnavailable:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        reason = f"its certificate is not trusted: {getattr(cause, 'verify_message', cause)}"
    elif isinstance(error, aiohttp.ClientConnectorError):
        to = " to the proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        reason = f"cannot connect{to}: {error.os_error}"
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        reason = "connecting timed out"
    elif isinstance(error, (TransportTimeout, aiohttp.ServerTimeoutError)):
        reason = f"it did not respond in time: {error}"
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        reason = f"the proxy refuses to connect: {error.status} {error.message}"
    elif isinstance(error, aiohttp.ClientResponseError):
        reason = f"it does not respond with HTTP: {error.message}"
    elif isinstance(error, ContentMD5Mismatch):
        reason = "the body does not have the MD5 of its Content-MD5 header"
    else:
        reason = f"the connection was lost before the response was complete ({str(error) or type(error).__name__})"
    return StoreUnavailable(f"{url.host}:{url.port}: {reason}", operation="GET", key=key)
