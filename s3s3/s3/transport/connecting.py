"""Open a connection to a store: directly or through an HTTP proxy, with TLS or without."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ...model import Secret
from ...tasks import connect_socket
from .connection import Connection
from .errors import ProxyRefused, TlsFileInvalid
from .framing import HEAD_LIMIT_BYTES, parse_head


class Proxy(NamedTuple):
    """An HTTP proxy. `authorization` is the value of Proxy-Authorization; `origin` is the variable that names it."""

    host: str
    port: int
    authorization: Secret | None = None
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that a request to the proxy needs."""
        return {} if self.authorization is None else {"proxy-authorization": self.authorization.get_secret_value()}


class TlsSettings(NamedTuple):
    """How to verify a store's certificate, and the client's own certificate; files in PEM format.

    Attributes:
        ca_file: trusted certificates; None: the system's, or those of SSL_CERT_FILE.
        verify: accept only a trusted certificate with the store's name.
        cert_file: the client's certificate; None: it has none.
        key_file: its key; None: it is in `cert_file`.
    """

    ca_file: str | None = None
    verify: bool = True
    cert_file: str | None = None
    key_file: str | None = None


class TlsContext:
    """The TLS context for a store. Files that were rewritten are read again."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._files = [name for name in (settings.ca_file, settings.cert_file, settings.key_file) if name is not None]
        self._versions: list[tuple[int, int] | None] = []
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Return the context. Raises TlsFileInvalid."""
        versions = [_version(name) for name in self._files]
        if self._context is None or versions != self._versions:
            self._context = tls_context(self._settings)
            self._versions = versions
        return self._context


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a new context. Raises TlsFileInvalid."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise TlsFileInvalid("ca_file", settings.ca_file or "", error) from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file is not None:
        try:  # without a password OpenSSL would ask for one on the terminal
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            raise TlsFileInvalid("client_cert_file", settings.cert_file, error) from error
    return context


def _version(name: str) -> tuple[int, int] | None:
    """Return what changes when a file is rewritten or replaced; None if it cannot be found."""
    try:
        stat = Path(name).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


async def connect(
    new_connection: Callable[[], Connection], host: str, port: int, tls: ssl.SSLContext | None, proxy: Proxy | None
) -> Connection:
    """Return a new connection to host:port, with TLS through a tunnel of the proxy, without TLS to the proxy itself.

    Raises OSError, UnicodeError for a name that DNS does not allow, and ProxyRefused.
    """
    loop = asyncio.get_running_loop()
    if proxy is None:
        sock = await connect_socket(host, port=port)
    else:
        sock = await connect_socket(proxy.host, port=proxy.port)
        if tls is not None:
            try:
                await _open_tunnel(loop, sock, host, port, proxy)
            except BaseException:
                sock.close()
                raise
    server_hostname = None if tls is None else host.partition("%")[0]  # without the zone of an IPv6 address
    _, connection = await loop.create_connection(new_connection, sock=sock, ssl=tls, server_hostname=server_hostname)
    return connection


async def _open_tunnel(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, host: str, port: int, proxy: Proxy
) -> None:
    """Have the proxy connect to host:port (RFC 9110, 9.3.6)."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers.items())
    await loop.sock_sendall(sock, f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{lines}\r\n".encode())
    raw = b""
    while b"\r\n\r\n" not in raw:
        received = await loop.sock_recv(sock, 4096)
        raw += received
        if not received or len(raw) > HEAD_LIMIT_BYTES:
            raise ProxyRefused("it did not answer CONNECT with HTTP")
    head, _, rest = raw.partition(b"\r\n\r\n")
    try:
        status = parse_head(head).status
    except ValueError as error:
        raise ProxyRefused(f"it did not answer CONNECT with HTTP: {error}") from None
    if not 200 <= status < 300:
        raise ProxyRefused(f"it answered CONNECT with status {status}", status)
    if rest:  # the store speaks only after the client, in TLS
        raise ProxyRefused("it sent more than the response to CONNECT")
