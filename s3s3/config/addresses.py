"""Validate host names, ports and Redis URLs; redact URLs for messages.

Advice quotes only the host and the port of a URL, and nothing of a Redis URL, which may contain a password.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^:]*)(?::(.*))?", re.DOTALL)
_URL_WITH_SECRETS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)?(.*@)?([^?#]*)([?#].*)?", re.DOTALL)

_REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")

_REDIS_PATHS = {
    "": (r"/?|/[0-9]+/?", "the path is a database number: redis://localhost:6379/0"),
    "sentinel": (r"/[^/]+(/[0-9]*)?", "the path names the service: redis+sentinel://host:26379/mymaster"),
    "cluster": (r"/?|/0", "a cluster has only database 0: redis+cluster://host:6379"),
}


def is_host(text: str) -> bool:
    """Whether the text is a host name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return is_ipv6(text[1:-1])
    return _HOST_NAME.fullmatch(text) is not None


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 address, or an IPv6 address without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_ipv6(text: str) -> bool:
    """Whether the text is an IPv6 address without brackets."""
    return ":" in text and is_ip(text)


def is_port(text: str) -> bool:
    """Whether the text is a number from 1 to 65535."""
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def is_http_url(text: str) -> bool:
    """Whether the text is an http:// or https:// URL without a user name."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and (is_host(host) or is_ipv6(host)) and "@" not in parts.netloc


class StoreHost(NamedTuple):
    """The parts of a store's `host`, which is a name or a URL.

    Attributes:
        name: without brackets around an IPv6 address.
        port: None: not given.
        is_secure: None: not given.
        path: encoded, without a slash at its end.
    """

    name: str
    port: int | None
    is_secure: bool | None
    path: str


def store_host(text: str) -> StoreHost | None:
    """Return the parts of a `host`; None if it is neither a host name, nor an address, nor the URL of a store."""
    if is_host(text) or is_ipv6(text):
        return StoreHost(text.strip("[]"), None, None, "")
    if not is_http_url(text) or not text.isprintable() or " " in text or set("?#") & set(text):
        return None
    parts = urlsplit(text)
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return StoreHost(parts.hostname or "", parts.port, parts.scheme == "https", path)


def host_advice(text: str) -> str:
    """Return the settings to write for a text, often a URL, that was given as a host."""
    if "@" in text:
        return "put the keys into aws_access_key_id and aws_secret_access_key"
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "without scheme, port and path"
    if not (is_host(host) or is_ipv6(host)) or "?" in text or "#" in text:
        return "without scheme, port and path"
    if parts.path.strip("/"):
        return f'write host = "{host}", or "https://{text.rstrip("/")}" if the store\'s URL has this path'
    settings = f'write host = "{host}"' + (f", port = {port}" if port else "")
    return f"{settings}, and is_secure = false if it is not HTTPS" if port else settings


def redis_url_advice(url: str) -> str:
    """Return what to change in a Redis URL, "" if it is well-formed.

    The forms are those of redis-py's `from_url` and, for sentinel and cluster, of `s3s3.queue.connection`.
    """
    scheme = url.partition("://")[0]
    if scheme not in _REDIS_SCHEMES or "://" not in url:
        return f"begin it with one of {', '.join(_REDIS_SCHEMES)}, then ://"
    try:
        parts = urlsplit(url)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return _encoding_advice(url) or "write NAME=VALUE after the ?"
    hosts = parts.netloc.rpartition("@")[2]
    kind = scheme.partition("+")[2]
    rest = parts.path + parts.query + parts.fragment
    if scheme == "unix":
        return (
            ""
            if not hosts and parts.path.strip("/")
            else "write three slashes, then the socket: unix:///run/redis.sock"
        )
    if not all(_is_host_and_port(address) for address in (hosts.split(",") if kind else [hosts])):
        return _encoding_advice(rest) or "write HOST or HOST:PORT after the //"
    pattern, advice = _REDIS_PATHS[kind]
    if parts.fragment or not re.fullmatch(pattern, parts.path):
        return _encoding_advice(rest) or advice
    return ""


def _is_host_and_port(text: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(text)
    return match is not None and is_host(match[1]) and (match[2] is None or is_port(match[2]))


def _encoding_advice(rest: str) -> str:
    """Return advice for an "@" after the host: an unencoded character of the password ended the host too early."""
    return "in a password, write / ? # and @ as %2F %3F %23 and %40" if "@" in rest else ""


def redacted_url(url: str) -> str:
    """Return a URL without user, password and query, for messages.

    An unencoded password can contain any character, so everything before the last "@" is removed.
    """
    match = _URL_WITH_SECRETS.fullmatch(url)
    assert match is not None  # the pattern matches any text
    return f"{match[1] or ''}{'***@' if match[2] else ''}{match[3]}{'?***' if match[4] else ''}"


def bind_error_text(error: OSError) -> str:
    """Return the reason why bind() failed, without the address, which the event loop's own text repeats."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)  # e.g. a host name that cannot be resolved
