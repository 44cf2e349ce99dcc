"""Any HTTP(S) server as a source of copies: what `Store.get` and `Store.fetch` are, for a URL and its redirects.

One connection an object: the next object is likely to be elsewhere. The address that the rules have looked at is the
address that is connected to, so a name that changes its mind in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import ssl
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urljoin

from ... import __version__
from ...errors import NoSuchKey, StoreError, StoreUnavailable, UpstreamRefused, UrlForbidden
from ...model import Endpoint, md5_of_etag
from ...s3.objects import KEPT_HEADERS, BodyReader, ObjectInfo, ObjectStream, S3Response
from ...s3.timestamps import http_date_ms
from ...s3.transport.connection import Connection
from ...s3.transport.errors import ConnectFailed, ContentMD5Mismatch, TransportError, TransportTimeout
from ...s3.transport.pool import Timeouts
from ...tasks import timeout
from .url_policy import Place, UrlRules

MAX_HOPS = 20
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TAKEN_AT_ONCE_BYTES = 256 * 1024
_MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


class Hop(NamedTuple):
    """A request that was made on the way to an object, and what came of it."""

    status: int
    url: str
    address: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer with an object in it.

    Attributes:
        hops: the requests that led to it; the last one brought it.
        headers: of the answer, all of them, in lower case.
    """

    hops: tuple[Hop, ...]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """A body whose length nobody announced, read to its end. `md5` in hex digits."""

    content: BodyReader
    size_bytes: int
    md5: str


class Origin:
    """Reads what a URL holds.

    Args:
        name: how messages call it.
        url_of: from a key to its URL. Raises UrlForbidden.
        rules: which URLs and addresses may be asked.
        kept: the headers to be stored with an object. Raises UpstreamRefused where one is lacking.
        keep: reads a body whose length is not announced to its end; None: such a one is refused.
    """

    def __init__(
        self,
        name: str,
        *,
        url_of: Callable[[str], str],
        rules: UrlRules,
        kept: Callable[[str, Fetched], Mapping[str, str]],
        keep: Callable[[AsyncIterator[bytes]], Awaitable[Kept]] | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
    ) -> None:
        self.name = name
        self.endpoint = Endpoint(name, "")
        self._url_of = url_of
        self._rules = rules
        self._kept = kept
        self._keep = keep
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ObjectStream, bytes | None]:
        """Open an object and, where it has at most `limit_bytes`, read it too, as `Store.fetch` does."""
        reading = await self.get(key)
        if reading.info.size_bytes > limit_bytes:
            return reading, None
        return reading, await reading.body()

    async def head(self, key: str) -> ObjectInfo | None:
        """Return None: what a server says to a HEAD need not be what it says to a GET, so it is not asked."""
        return None

    async def get(self, key: str) -> ObjectStream:
        """Open an object.

        Raises:
            UrlForbidden: the rules do not allow the URL, or one that it leads to; that one was not asked for.
            NoSuchKey: a 404.
            UpstreamRefused: any other answer than a 200 with all that a copy needs.
            StoreUnavailable: no answer. It names no store: one host that is away says nothing of the others.
        """
        try:
            url = self._url_of(key)
            hops: list[Hop] = []
            while len(hops) <= MAX_HOPS:
                place = self._rules.place(url)
                address, answer = await self._ask(key, place)
                hops.append(Hop(answer.status, place.url, address))
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None:
                    return await self._read(key, answer, Fetched(tuple(hops), answer.headers))
                answer.close()
                url = urljoin(place.url, location.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        except UrlForbidden as error:
            error.key, error.operation = key, "GET"
            raise
        except ValueError as error:
            raise UpstreamRefused(f"it redirects to what is no URL: {error}", key=key, status=302) from error
        raise UpstreamRefused(f"it redirects more than {MAX_HOPS} times", key=key, status=hops[-1].status)

    async def _ask(self, key: str, place: Place) -> tuple[str, S3Response]:
        """Make one request. Return the address that answered, and the answer."""
        addresses = await self._rules.addresses(place)
        try:
            address, connection = await self._connect(place, addresses)
        except TransportError as error:
            raise self._failure(key, place, error) from error
        watch = _Watch(self._timeouts.read_s)
        watch.begin(connection)
        connection.end_within(self._timeouts.read_s)
        try:
            connection.send(_request(place), b"", without_body=False)
            head = await connection.head()
        except BaseException as error:
            watch.release(connection)
            if isinstance(error, TransportError):
                raise self._failure(key, place, error) from error
            raise
        connection.end_within(math.inf)
        return address, S3Response(head, connection, watch)

    async def _connect(self, place: Place, addresses: list[str]) -> tuple[str, Connection]:
        if place.is_secure and self._tls is None:
            self._tls = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        cause: BaseException | None = None
        for address in addresses:
            try:
                async with timeout(self._timeouts.connect_s):
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop),
                        address,
                        place.port,
                        ssl=self._tls if place.is_secure else None,
                        server_hostname=place.host if place.is_secure else None,
                    )
            except (OSError, asyncio.TimeoutError, ssl.CertificateError) as error:
                cause = error
            else:
                return address, connection
        raise ConnectFailed from cause

    async def _read(self, key: str, answer: S3Response, fetched: Fetched) -> ObjectStream:
        try:
            return await self._reading(key, answer, fetched)
        except BaseException:
            answer.close(abort=True)
            raise

    async def _reading(self, key: str, answer: S3Response, fetched: Fetched) -> ObjectStream:
        place = self._rules.place(fetched.hops[-1].url)
        if answer.status == 404:
            raise NoSuchKey("not found there", operation="GET", key=key, status=404)
        if answer.status != 200:
            raise UpstreamRefused("only a 200 can be copied", key=key, status=answer.status)
        headers = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
        headers.update(self._kept(key, fetched))

        def failed(error: TransportError) -> StoreError:
            return self._failure(key, place, error)

        etag, modified_ms = _md5(answer.headers), http_date_ms(answer.headers.get("last-modified", "")) or 0
        length = answer.headers.get("content-length")
        is_promised = etag and "content-md5" in answer.headers
        if length is not None and "transfer-encoding" not in answer.headers:
            if is_promised and not int(length) and etag != _MD5_OF_NOTHING:
                raise failed(ContentMD5Mismatch())  # an empty body is never taken, so nobody would hold it against that
            content: BodyReader = Promised(answer, int(length), etag) if is_promised else answer
            return ObjectStream(ObjectInfo(key, int(length), etag, modified_ms, headers), content, failed)
        if self._keep is None or "transfer-encoding" not in answer.headers:
            raise UpstreamRefused("it announces no length, so nobody could tell a whole object", key=key, status=200)
        kept = await self._keep(_chunks(answer, failed))
        if is_promised and etag != kept.md5:
            kept.content.close()
            raise failed(ContentMD5Mismatch())
        return ObjectStream(ObjectInfo(key, kept.size_bytes, kept.md5, modified_ms, headers), kept.content, failed)

    def _failure(self, key: str, place: Place, error: TransportError) -> StoreUnavailable:
        cause = error.__cause__
        if isinstance(error, ConnectFailed):
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = f"its certificate is not trusted: {cause.verify_message}"
            else:
                why = f"no connection: {cause}" if str(cause) else "no connection in time"
        elif isinstance(error, TransportTimeout):
            why = "it did not answer in time"
        elif isinstance(error, ContentMD5Mismatch):
            why = "what came does not have the Content-MD5 that was promised"
        else:
            why = f"the connection was lost before the answer was complete ({error or type(error).__name__})"
        return StoreUnavailable(f"{place.host}:{place.port}: {why}", operation="GET", key=key)


class _Watch:
    """Watches one connection while it is waited for, and drops it when it is given back."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.check(loop.time(), self._quiet_s)
        self._timer = loop.call_later(min(self._quiet_s / 4, 1.0), self.begin, connection)

    def release(self, connection: Connection) -> None:
        if self._timer is not None:
            self._timer.cancel()
        connection.abort()


def _request(place: Place) -> bytes:
    """Return the request. Nothing of the client's own is in it: neither Range nor Authorization nor a condition."""
    return (
        f"GET {place.target} HTTP/1.1\r\nhost: {place.host_header}\r\nuser-agent: s3s3/{__version__}\r\n"
        "accept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n"
    ).encode("ascii")


async def _chunks(answer: S3Response, failed: Callable[[TransportError], StoreError]) -> AsyncIterator[bytes]:
    try:
        while chunk := await answer.read(_TAKEN_AT_ONCE_BYTES):
            yield chunk
    except TransportError as error:
        raise failed(error) from error
    finally:
        answer.close()


def _md5(headers: Mapping[str, str]) -> str:
    """Return the MD5 that the answer promises for its body, in hex digits; "" where it promises none."""
    try:
        promised = b64decode(headers.get("content-md5", ""), validate=True)
    except (NoBase64, ValueError):
        promised = b""
    if len(promised) == 16:
        return promised.hex()
    etag = headers.get("etag", "")
    return md5_of_etag(etag.strip('"')) or ""


class Promised(BodyReader):
    """Gives the body, but its last bytes only where the whole has the MD5. An ETag may be none; this header is one."""

    def __init__(self, content: BodyReader, size_bytes: int, md5: str) -> None:
        self._content = content
        self._left = size_bytes
        self._promised = md5
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def read(self, size_bytes: int) -> bytes:
        chunk = await self._content.read(size_bytes)
        self._md5.update(chunk)
        self._left -= len(chunk)
        if chunk and self._left <= 0 and self._md5.hexdigest() != self._promised:
            self.close(abort=True)
            raise ContentMD5Mismatch
        return chunk

    def close(self, *, abort: bool = False) -> None:
        self._content.close(abort=abort)
