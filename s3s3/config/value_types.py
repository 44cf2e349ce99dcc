"""Parse one value of the configuration into its Python type.

Errors raised here never contain the value itself: only the caller knows whether it may be shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations
from typing import NamedTuple
from urllib.parse import urlsplit

from ..model import MAX_KEY_BYTES, MINUTES_OF_A_DAY, Secret, Window
from .addresses import host_advice, is_host, is_http_url, is_port, redis_url_advice, store_host

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_UNITS_BYTES = {"": 1, "b": 1} | {
    prefix + unit: base**power
    for unit, base in (("b", 1000), ("ib", 1024))
    for power, prefix in enumerate(("k", "m", "g", "t"), start=1)
}


class InvalidValue(ValueError):
    """An invalid value. `expected` completes the sentence "must be ..."; `advice` says what to write instead."""

    def __init__(self, expected: str, advice: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.advice = advice

    def message(self, found: str) -> str:
        """Return the whole message; `found` is the invalid value, "" if it must not be shown."""
        text = f"must be {self.expected}" + (f", not {found}" if found else "")
        return f"{text}; {self.advice}" if self.advice else text


class Address(NamedTuple):
    """An address to listen on; `host` has no brackets around an IPv6 address."""

    host: str
    port: int


def toml_repr(value: object) -> str:
    """Return a value as TOML writes it, shortened for messages."""
    if isinstance(value, str):
        text = value if len(value) <= 40 else f"{value[:40]}..."
        return f'"{text}"' if text.isprintable() else repr(text)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    if isinstance(value, int | float):
        return str(value)
    return type_of(value)


def type_of(value: object) -> str:
    """Return the type of a TOML value in words."""
    words = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return words.get(type(value), "a date or time")


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most similar to `word`, or None."""
    by_lower = {choice.lower(): choice for choice in choices}
    return by_lower.get(next(iter(difflib.get_close_matches(word[:100].lower(), by_lower, n=1)), ""))


# -- texts


def without_control_characters(text: str) -> str:
    """Return a text that may be part of a header."""
    if _CONTROL_CHARACTER.search(text):
        raise InvalidValue("text without control characters")
    return text


def parse_namespace(text: str) -> str:
    """Return the first part of Redis keys."""
    without_control_characters(text)
    if set("{}") & set(text):
        raise InvalidValue("text without braces", "they mark the route's name in Redis keys")
    return text


def parse_secret(value: object) -> Secret:
    """Return a secret, which may be ""; a `Secret` was read from a file."""
    if isinstance(value, Secret):
        without_control_characters(value.get_secret_value())
        return value
    if not isinstance(value, str):
        raise InvalidValue("text in quotes")
    return Secret(without_control_characters(value))


def parse_filled_secret(value: object) -> Secret:
    """Return a secret that is not empty."""
    if value == "":
        raise InvalidValue("at least one character")
    return parse_secret(value)


def parse_prefix(text: str) -> str:
    """Return the prefix of keys."""
    if len(text.encode()) > MAX_KEY_BYTES:
        raise InvalidValue(f"at most {MAX_KEY_BYTES:,} bytes of UTF-8")
    return text


def parse_name(text: str) -> str:
    """Return a part of a bucket's name."""
    without_control_characters(text)
    if "/" in text:
        raise InvalidValue('a name without "/"', "put the rest of the path into prefix")
    return text


def parse_host(text: str) -> str:
    """Return a store's host name, its IP address without brackets, or its URL."""
    without_control_characters(text)
    if store_host(text) is None:
        raise InvalidValue("a host name or a URL", host_advice(text))
    return text.strip("[]")


def parse_address(text: object) -> Address:
    """Return the address HOST:PORT."""
    if not isinstance(text, str):
        raise InvalidValue("text in quotes")
    if not text:
        raise InvalidValue("at least one character")
    host, _, port = text.rpartition(":")
    if not is_host(host) or not is_port(port):
        advice = "" if host else "use 0.0.0.0 as the host for all addresses"
        raise InvalidValue("HOST:PORT", advice)
    return Address(host.strip("[]"), int(port))


def parse_optional_address(text: object) -> Address | None:
    """Return the address HOST:PORT; None for ""."""
    return None if text == "" else parse_address(text)


def parse_redis_url(value: object) -> Secret:
    """Return the URL of a Redis, or ""."""
    url = parse_secret(value)
    advice = redis_url_advice(url.get_secret_value()) if url else ""
    if advice:
        raise InvalidValue("a Redis URL", advice)
    return url


def parse_http_url(text: str) -> str:
    """Return an HTTP URL, or ""."""
    without_control_characters(text)
    if text and not is_http_url(text):
        raise InvalidValue("a URL", 'as in "https://host:4566"')
    return text


def parse_folder_url(text: str) -> str:
    """Return an HTTP URL to which keys can be appended."""
    without_control_characters(text)
    if not is_http_url(text) or urlsplit(text).query or " " in text:
        raise InvalidValue("a URL", "without user, password and query, as in https://origin.example.org/files/")
    if not urlsplit(text).path.endswith("/"):
        raise InvalidValue('a URL that ends with "/"', "the key follows it")
    return text


# -- numbers


def parse_duration(value: object) -> float:
    """Return the seconds of `90`, `90s`, `5m`, `36h` or `7d`.

    durationpy, which reads Go's durations, takes no plain number and takes "1h!2m" for an hour and two minutes.

    Raises:
        InvalidValue: the value is not a duration.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match:
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue('a duration such as 90, "90s", "5m", "36h" or "7d"')
    return value


def parse_size(value: object) -> int:
    """Return the bytes of `8 GiB`, `512 MiB`, `20 MB` or of a number.

    pydantic's ByteSize takes true and 1.5 for numbers, "8 G" for 10^9 bytes, and is not exact above 2^53.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    unit_bytes = _UNITS_BYTES.get(match[2].lower()) if match else None
    if match is None or unit_bytes is None:
        raise InvalidValue('a size such as "8 GiB", "512 MiB" or a number of bytes')
    return int(Fraction(match[1]) * unit_bytes)


def parse_limit_bytes(value: object) -> int:
    """Return a rate limit in bytes per second."""
    size_bytes = parse_size(value)
    if size_bytes < 65_536:
        raise InvalidValue("a size of 65536 or more bytes")
    return size_bytes


def parse_limit(value: object) -> float:
    """Return a rate limit in requests per second."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue("a number")
    if not 1 <= value <= 1_000_000:  # also refuses nan
        raise InvalidValue("a number from 1 to 1000000")
    return value


def parse_windows(parse: Callable[[object], float], value: object) -> tuple[Window, ...]:
    """Return a limit for each window of the day; a limit without hours applies all day."""
    if not isinstance(value, dict):
        return (Window(0, MINUTES_OF_A_DAY, parse(value)),)
    windows: list[Window] = []
    for hours, limit in value.items():
        match = _HOURS.fullmatch(hours)
        from_minute, to_minute = (
            (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
        )
        if from_minute == to_minute or to_minute > MINUTES_OF_A_DAY:
            advice = f"{toml_repr(hours)} is not a time range"
            raise InvalidValue('a table of hours such as { "08:00-18:00" = ... }', advice)
        try:
            windows.append(Window(from_minute, to_minute, parse(limit)))
        except InvalidValue as error:
            raise InvalidValue(f"{error.expected} at {toml_repr(hours)}", error.advice) from None
    if not windows:
        raise InvalidValue("a table with at least one line", "leave it out for no limit")
    for first, second in combinations(windows, 2):
        if first.covers(second.from_minute) or second.covers(first.from_minute):
            raise InvalidValue("a table of hours that do not overlap", "each minute of the day can have one limit")
    return tuple(windows)


# -- lists


def parse_globs(value: object) -> tuple[str, ...]:
    """Return a list of globs."""
    if not isinstance(value, list | tuple) or not all(isinstance(glob, str) and glob for glob in value):
        raise InvalidValue("a list of texts")
    return tuple(value)


def parse_patterns(value: object) -> tuple[re.Pattern[str], ...]:
    """Return a list of regular expressions that match the beginning of a URL up to a slash."""
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
        raise InvalidValue("a list of texts")
    if not value:
        raise InvalidValue("a list with at least one pattern")
    patterns = []
    for text in value:
        # Anchored at both ends: "^https://a.example" would let https://a.example.evil.org/ pass.
        if not (text.startswith("^") and text.endswith("/")):
            anchored = "^" + text.removeprefix("^").rstrip("/$") + "/"
            raise InvalidValue(
                'a list of patterns that begin with "^" and end with "/"', f"write {toml_repr(anchored)}"
            )
        try:
            patterns.append(re.compile(text))
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidValue("a list of regular expressions", f"{toml_repr(text)}: {error}") from None
    return tuple(patterns)


def parse_networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return a list of networks: all for true, none for false."""
    if isinstance(value, bool):
        return (ip_network("0.0.0.0/0"), ip_network("::/0")) if value else ()
    expected = 'true, false or a list of networks, as in ["10.1.0.0/16"]'
    if not isinstance(value, list | tuple) or not all(isinstance(network, str) for network in value):
        raise InvalidValue(expected)
    try:
        return tuple(ip_network(network) for network in value)
    except ValueError as error:
        raise InvalidValue(expected, str(error)) from None


def toml_default(value: object) -> object:
    """Return a default as the file would write it; None if it cannot be written or is explained by an example."""
    if isinstance(value, tuple):
        return None if isinstance(value, Address) or not value else list(value)
    return value if isinstance(value, str | bool | int | float) and not isinstance(value, Secret) else None
