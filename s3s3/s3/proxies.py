"""Find the HTTP proxy for a store in the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl does."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import unquote_to_bytes, urlsplit

from ..errors import ConfigError
from ..model import Secret
from .address import Address
from .transport.connecting import Proxy

_DEFAULT_PORT = 80


def proxy_for(address: Address, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for a store, None for none. Raises ConfigError if its URL is invalid.

    Lower-case names take precedence; an empty value means no proxy.
    """
    name, url = _variable(environ, "https_proxy" if address.is_secure else "http_proxy", "all_proxy")
    if not url or _is_exempt(address, _variable(environ, "no_proxy")[1]):
        return None
    expected = f"{name}: must be the URL of an HTTP proxy, as in http://proxy.example.org:3128"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError([expected]) from None
    if not host or parts.scheme != "http":
        raise ConfigError([expected + (f"; {parts.scheme}:// is not supported" if host else "")])
    authorization = None
    if parts.username is not None:
        login = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        authorization = Secret(f"Basic {b64encode(login).decode()}")
    return Proxy(host, port or _DEFAULT_PORT, authorization, name)


def proxy_urls(url: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the proxies for a URL in botocore's form; {} for none. Raises ConfigError if a proxy's URL is invalid."""
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    address = Address(parts.hostname or "", parts.port or (443 if is_secure else 80), is_secure, "", "", "")
    if proxy_for(address, environ) is None:
        return {}
    _, proxy_url = _variable(environ, f"{parts.scheme}_proxy", "all_proxy")
    return {parts.scheme: proxy_url if "://" in proxy_url else f"http://{proxy_url}"}


def _variable(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Return the first of these variables that is set, in lower or upper case, and its value."""
    for name in names:
        for spelling in (name, name.upper()):
            if spelling in environ:
                return spelling, environ[spelling].strip()
    return "", ""


def _is_exempt(address: Address, no_proxy: str) -> bool:
    """Return whether NO_PROXY lists the host: itself, a domain that contains it, a network, or * for all."""
    host = address.host.lower().rstrip(".")
    for entry in no_proxy.lower().split(","):
        name = entry.strip()
        if name == "*":
            return True
        name, has_port = _without_port(name, address.port)
        name = name.strip("[]").removeprefix("*").strip(".")
        if name and has_port and (host == name or host.endswith(f".{name}") or _is_in_network(host, name)):
            return True
    return False


def _without_port(name: str, port: int) -> tuple[str, bool]:
    """Return an entry of NO_PROXY without its port, and whether it applies to this port."""
    host, colon, digits = name.rpartition(":")
    if not colon or not digits.isdecimal() or (":" in host and not host.endswith("]")):
        return name, True
    return host, int(digits) == port


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
