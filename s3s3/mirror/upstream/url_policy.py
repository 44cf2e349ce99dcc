"""Which URLs may be asked for, and at which addresses: what stands between a client's URL and the inner network."""

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
from ...tasks import timeout

Network: TypeAlias = "IPv4Network | IPv6Network"
IpAddress: TypeAlias = "IPv4Address | IPv6Address"
Resolve: TypeAlias = "Callable[[str, int], Awaitable[list[str]]]"

EVERY_ADDRESS: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_NAT64: Network = ip_network("64:ff9b::/96")
"""IPv4 addresses as an IPv6-only network reaches them (RFC 6052)."""

_RESOLVE_TIMEOUT_S = 10.0
_KEPT_IN_URL = "%/:?#[]@!$&'()*+,;=-._~"
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, slots=True)
class Place:
    """A URL taken apart.

    Attributes:
        url: as it is asked for: scheme and host in lower case, no fragment.
        host: without brackets; a name or an address.
        target: path and query, as sent.
    """

    url: str
    host: str
    port: int
    is_secure: bool
    host_header: str
    target: str


def place_of(url: str) -> Place:
    """Take a URL apart. Raises UrlForbidden for what is no absolute HTTP(S) URL, or holds a user or a password."""
    try:
        parts = urlsplit(quote(url.strip(), safe=_KEPT_IN_URL))
        port = parts.port
    except ValueError:
        raise UrlForbidden("it is no URL") from None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in ("http", "https") or not host:
        raise UrlForbidden("it is no http:// or https:// URL")
    bracketed = f"[{host}]" if ":" in host else host
    if "@" in parts.netloc or not _HOST.fullmatch(bracketed):
        raise UrlForbidden("its host is none, or a user name stands before it")
    usual_port = 443 if scheme == "https" else 80
    host_header = bracketed if port in (None, usual_port) else f"{bracketed}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(
        url=f"{scheme}://{host_header}{target}",
        host=host,
        port=port or usual_port,
        is_secure=scheme == "https",
        host_header=host_header,
        target=target,
    )


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses that a name has now. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class UrlRules:
    """What may be asked for.

    Attributes:
        patterns: one of them matches every URL from its beginning; none: any URL will do.
        https_only: nothing is asked for without TLS.
        private: networks that may be asked although they are private, loopback, link-local or the like.
        trusted: host and port that may be asked whatever their address: those that the configuration itself names.
        resolve: from a host and a port to its addresses.
    """

    patterns: Sequence[re.Pattern[str]] = ()
    https_only: bool = False
    private: Sequence[Network] = ()
    trusted: tuple[str, int] | None = None
    resolve: Resolve = field(default=resolve)

    def place(self, url: str) -> Place:
        """Return the URL taken apart. Raises UrlForbidden."""
        place = place_of(url)
        if self.https_only and not place.is_secure:
            raise UrlForbidden(f"{shown(place.url)} is not https, and https_only is set")
        if self.patterns and not any(pattern.match(place.url) for pattern in self.patterns):
            raise UrlForbidden(f"{shown(place.url)} matches none of allowed_patterns")
        return place

    async def addresses(self, place: Place) -> list[str]:
        """Return the addresses to connect to. It is these that have to be connected to: a name may change its mind.

        Raises:
            UrlForbidden: one of them is private, and not allowed.
            StoreUnavailable: the name has none.
        """
        try:
            async with timeout(_RESOLVE_TIMEOUT_S):
                found = await self.resolve(place.host, place.port)
        except (OSError, UnicodeError, asyncio.TimeoutError) as error:
            raise StoreUnavailable(f"the name {place.host} cannot be resolved") from error
        if (place.host, place.port) != self.trusted:
            for address in found:
                if not is_allowed(address, self.private):
                    raise UrlForbidden(f"{place.host} has the address {address}, which is none of the public Internet")
        return found


def is_allowed(address: str, private: Sequence[Network] = ()) -> bool:
    """Whether an address may be asked: a global one, or one within `private`.

    An IPv6 address that carries an IPv4 address reaches that one, so both have to be allowed.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return all(_is_global(one) or any(one in network for network in private) for one in (parsed, *_carried(parsed)))


def _carried(address: IpAddress) -> list[IpAddress]:
    if isinstance(address, IPv4Address):
        return []
    carried: list[IpAddress] = []
    if address.sixtofour is not None:
        carried.append(address.sixtofour)
    if address.teredo is not None:
        carried.extend(address.teredo)
    if address in _NAT64:
        carried.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return carried


def _is_global(address: IpAddress) -> bool:
    if address.is_multicast or address.is_unspecified or (address.is_reserved and address not in _NAT64):
        return False
    return address.is_global


def shown(url: str) -> str:
    """Return a URL as messages may show it: a query may hold a signature."""
    path, query, _ = url.partition("?")
    return f"{path}?***" if query else path
