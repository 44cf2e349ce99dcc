"""Decide which URLs and addresses may be requested, to keep clients out of the internal network."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from ...errors import StoreUnavailable, UrlForbidden

Network: TypeAlias = "IPv4Network | IPv6Network"
IpAddress: TypeAlias = "IPv4Address | IPv6Address"
Resolve: TypeAlias = "Callable[[str, int], Awaitable[list[str]]]"

#: IPv4 addresses as seen from an IPv6-only network (RFC 6052).
_NAT64: Network = ip_network("64:ff9b::/96")

#: The longest URL, in characters; RFC 9110, 4.1 recommends 8000 octets. The patterns of the configuration may need more
#: than linear time for a long one.
MAX_URL_CHARACTERS = 8192

_UNQUOTED = "%/:?#[]@!$&'()*+,;=-._~"
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """A parsed URL; `target` is its path and query."""

    #: Normalized: scheme and host in lower case, no fragment.
    url: str
    #: A name, or an address without brackets.
    host: str
    port: int
    is_secure: bool
    #: The host is an address, not a name.
    is_address: bool


def parse_url(url: str) -> ParsedUrl:
    """Parse an absolute HTTP(S) URL. Raises UrlForbidden for other text, and for a URL with a user or a password."""
    if len(url) > MAX_URL_CHARACTERS:
        raise UrlForbidden(f"the URL is longer than {MAX_URL_CHARACTERS} characters")
    try:
        parts = urlsplit(quote(url.strip(), safe=_UNQUOTED))
        port = parts.port
        is_address = _ADDRESS.fullmatch(parts.hostname or "") is not None
        if is_address:
            ip_address(parts.hostname or "")  # 127.1 and 2130706433 are neither names nor addresses
    except ValueError:
        raise UrlForbidden("not a URL") from None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in ("http", "https") or not host:
        raise UrlForbidden("not an http:// or https:// URL")
    bracketed = f"[{host}]" if ":" in host else host
    if "@" in parts.netloc or not _HOST.fullmatch(bracketed):
        raise UrlForbidden("the URL's host is invalid, or the URL contains a user name")
    default_port = 443 if scheme == "https" else 80
    host_header = bracketed if port in (None, default_port) else f"{bracketed}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    normalized = f"{scheme}://{host_header}{target}"
    return ParsedUrl(normalized, host, port or default_port, scheme == "https", is_address)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class UrlRules:
    """Rules for URLs and addresses.

    Attributes:
        patterns: a URL must match one of them from its beginning; empty: every URL is allowed.
        https_only: reject URLs without TLS.
        private: networks that are allowed although they are not global.
        trusted: host and port of the configuration itself, allowed at every address.
    """

    patterns: Sequence[re.Pattern[str]] = ()
    https_only: bool = False
    private: Sequence[Network] = ()
    trusted: tuple[str, int] | None = None
    resolve: Resolve = field(default=resolve)

    def check_url(self, url: str) -> ParsedUrl:
        """Parse and check a URL. Raises UrlForbidden.

        Its host is checked if it is an address; a name by `addresses`.
        """
        parsed = parse_url(url)
        if self.https_only and not parsed.is_secure:
            raise UrlForbidden(f"{redact_query(parsed.url)} is not https, and https_only is set")
        if self.patterns and not any(pattern.match(parsed.url) for pattern in self.patterns):
            raise UrlForbidden(f"{redact_query(parsed.url)} matches none of allowed_patterns")
        if parsed.is_address:
            self._check_addresses(parsed.host, parsed.port, [parsed.host])
        return parsed

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a name and check its addresses. Connect to these only: another lookup may differ.

        Raises:
            UrlForbidden: an address is not global and not allowed.
            StoreUnavailable: the name cannot be resolved.
        """
        try:
            found = await self.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise StoreUnavailable(f"cannot resolve the host name {host}") from error
        self._check_addresses(host, port, found)
        return found

    def _check_addresses(self, host: str, port: int, addresses: Sequence[str]) -> None:
        for address in addresses:
            if (host, port) != self.trusted and not is_allowed(address, self.private):
                raise UrlForbidden(f"{host} has the address {address}, which is not a public Internet address")


def is_allowed(address: str, private: Sequence[Network] = ()) -> bool:
    """Whether an address is global or in one of the `private` networks.

    An IPv6 address that embeds an IPv4 address leads to that one, so both must be allowed.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return all(
        _is_global(found) or any(found in network for network in private)
        for found in (parsed, *_embedded_addresses(parsed))
    )


def _embedded_addresses(address: IpAddress) -> list[IpAddress]:
    if isinstance(address, IPv4Address):
        return []
    nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return [found for found in (address.sixtofour, *(address.teredo or ()), nat64) if found is not None]


def _is_global(address: IpAddress) -> bool:
    if address.is_multicast or address.is_unspecified or (address.is_reserved and address not in _NAT64):
        return False
    return address.is_global


def redact_query(url: str) -> str:
    """Return a URL for messages, with its query replaced: a query may contain a signature."""
    path, query, _ = url.partition("?")
    return f"{path}?***" if query else path
