"""Parse one value into its Python type.

Errors raised here never contain the value itself: only the caller knows whether it may be shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations
from urllib.parse import urlsplit

from ..model import MINUTES_OF_A_DAY, Secret, Window
from .addresses import host_advice, is_host, is_http_url, is_ipv6, is_port, redis_url_advice
from .schema_types import Key, Kind

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")

_NUMBERS = (Kind.INTEGER, Kind.SIZE, Kind.NUMBER, Kind.DURATION, Kind.SIZE_BY_HOUR, Kind.NUMBER_BY_HOUR)

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


def parse(key: Key, value: object) -> object:
    """Return the Python value: sizes in bytes, durations in s, `Secret`s, an address as (host, port) or None.

    Raises:
        InvalidValue: `key` does not accept the value.
    """
    return _PARSERS[key.kind](key, value)


def from_text(key: Key, text: str) -> object:
    """Return the TOML value that a text from the environment represents, or the text itself."""
    if key.kind is Kind.BOOLEAN and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if key.kind in _NUMBERS and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if key.kind in (Kind.NUMBER, Kind.NUMBER_BY_HOUR, Kind.DURATION) and re.fullmatch(
        r"-?[0-9]{1,18}\.[0-9]{1,18}", text
    ):
        return float(text)
    return text


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


def _text(key: Key, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue("text in quotes")
    if not value and not key.may_be_empty:
        raise InvalidValue("at least one character", "" if key.required else "leave it out for the default")
    if key.choices and value not in key.choices:
        similar = nearest(value, key.choices)
        raise InvalidValue(
            " or ".join(f'"{choice}"' for choice in key.choices),
            f'did you mean "{similar}"?' if similar else "",
        )
    if key.at_most is not None and len(value.encode()) > key.at_most:
        raise InvalidValue(f"at most {key.at_most:,} bytes of UTF-8")
    if not key.any_characters and _CONTROL_CHARACTER.search(value):
        raise InvalidValue("text without control characters")
    if key.no_slash and "/" in value:
        raise InvalidValue('a name without "/"', "put the rest of the path into prefix")
    return value


def _secret(key: Key, value: object) -> Secret:
    return Secret(_text(key, value))


def _boolean(_key: Key, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue("true or false")
    return value


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `5m`, `36h` or `7d`.

    Raises:
        InvalidValue: the text is not a duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidValue('a duration such as 90, "90s", "5m", "36h" or "7d"')
    return float(match[1]) * _SECONDS[match[2]]


def _duration(key: Key, value: object) -> float:
    seconds = parse_duration(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidValue('a duration such as 90, "90s", "5m", "36h" or "7d"')
    assert key.at_least is not None and key.at_most is not None
    if not key.at_least <= seconds <= key.at_most:
        raise InvalidValue(f"a duration from {key.at_least} to {key.at_most} s")
    return seconds


def _number(key: Key, value: object) -> float:
    wanted = int if key.kind is Kind.INTEGER else int | float
    what = key.kind.value if key.kind in (Kind.INTEGER, Kind.NUMBER) else Kind.NUMBER.value
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise InvalidValue(what)
    assert isinstance(value, int | float) and key.at_least is not None and key.at_most is not None
    if not key.at_least <= value <= key.at_most:  # also refuses nan
        raise InvalidValue(f"{what} from {key.at_least} to {key.at_most}")
    return value


def _size(key: Key, value: object) -> int:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        unit_bytes = _UNITS_BYTES.get(match[2].lower()) if match else None
        if match is None or unit_bytes is None:
            raise InvalidValue('a size such as "8 GiB", "512 MiB" or a number of bytes')
        value = int(Fraction(match[1]) * unit_bytes)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue('a size such as "8 GiB", "512 MiB" or a number of bytes')
    if key.at_least is not None and value < key.at_least:
        raise InvalidValue(f"a size of {key.at_least} or more bytes")
    return value


def _by_hour(parse_limit: Callable[[Key, object], float], key: Key, value: object) -> tuple[Window, ...]:
    """Return a limit for each window of the day; a limit without hours applies all day."""
    if not isinstance(value, dict):
        return (Window(0, MINUTES_OF_A_DAY, parse_limit(key, value)),)
    windows: list[Window] = []
    for hours, limit in value.items():
        match = _HOURS.fullmatch(hours)
        from_minute, to_minute = (
            (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
        )
        if from_minute == to_minute or to_minute > MINUTES_OF_A_DAY:
            raise InvalidValue(
                'a table of hours such as { "08:00-18:00" = ... }', f"{toml_repr(hours)} is not a time range"
            )
        try:
            windows.append(Window(from_minute, to_minute, parse_limit(key, limit)))
        except InvalidValue as error:
            raise InvalidValue(f"{error.expected} at {toml_repr(hours)}", error.advice) from None
    if not windows:
        raise InvalidValue("a table with at least one line", "leave it out for no limit")
    for first, second in combinations(windows, 2):
        if first.covers(second.from_minute) or second.covers(first.from_minute):
            raise InvalidValue("a table of hours that do not overlap", "each minute of the day can have one limit")
    return tuple(windows)


def _globs(key: Key, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(glob, str) and glob for glob in value):
        example = ", ".join(f'"{glob}"' for glob in key.example) if isinstance(key.example, tuple) else ""
        raise InvalidValue("a list of texts", f"as in {key.name} = [{example}]")
    return tuple(value)


def _patterns(key: Key, value: object) -> tuple[re.Pattern[str], ...]:
    texts = _globs(key, value)
    if not texts:
        raise InvalidValue("a list with at least one pattern")
    patterns = []
    for text in texts:
        # Anchored at both ends: "^https://a.example" would let https://a.example.evil.org/ pass.
        if not (text.startswith("^") and text.endswith("/")):
            raise InvalidValue(
                'a list of patterns that begin with "^" and end with "/"', f"write {toml_repr(_anchored(text))}"
            )
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            raise InvalidValue("a list of regular expressions", f"{toml_repr(text)}: {error}") from None
    return tuple(patterns)


def _anchored(text: str) -> str:
    return "^" + text.removeprefix("^").rstrip("/$") + "/"


def _networks(_key: Key, value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    if isinstance(value, bool):
        return (ip_network("0.0.0.0/0"), ip_network("::/0")) if value else ()
    expected = 'true, false or a list of networks, as in ["10.1.0.0/16"]'
    if not isinstance(value, list | tuple) or not all(isinstance(network, str) for network in value):
        raise InvalidValue(expected)
    try:
        return tuple(ip_network(network) for network in value)
    except ValueError as error:
        raise InvalidValue(expected, str(error)) from None


def _url(key: Key, value: object) -> str:
    text = _text(key, value)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or " " in text:
        raise InvalidValue("a URL", "without user, password and query, as in https://origin.example.org/files/")
    if not parts.path.endswith("/"):
        raise InvalidValue('a URL that ends with "/"', "the key follows it")
    return text


def _host(key: Key, value: object) -> str:
    text = _text(key, value)
    if is_ipv6(text):
        return text
    if not is_host(text):
        raise InvalidValue("a host name only", host_advice(text))
    return text.strip("[]")


def _address(key: Key, value: object) -> tuple[str, int] | None:
    text = _text(key, value)
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not is_host(host) or not is_port(port):
        raise InvalidValue(
            f"HOST:PORT, as in {toml_repr(key.default)}", "" if host else "use 0.0.0.0 as the host for all addresses"
        )
    return host.strip("[]"), int(port)


def _redis_url(key: Key, value: object) -> Secret:
    text = _text(key, value)
    advice = redis_url_advice(text) if text else ""
    if advice:
        raise InvalidValue("a Redis URL", advice)
    return Secret(text)


def _http_url(key: Key, value: object) -> str:
    text = _text(key, value)
    if text and not is_http_url(text):
        raise InvalidValue("a URL", "as in " + toml_repr(key.example or "https://host:4566"))
    return text


_PARSERS: dict[Kind, Callable[[Key, object], object]] = {
    Kind.TEXT: _text,
    Kind.SECRET: _secret,
    Kind.REDIS_URL: _redis_url,
    Kind.PATTERNS: _patterns,
    Kind.NETWORKS: _networks,
    Kind.URL: _url,
    Kind.HTTP_URL: _http_url,
    Kind.HOST: _host,
    Kind.ADDRESS: _address,
    Kind.BOOLEAN: _boolean,
    Kind.INTEGER: _number,
    Kind.NUMBER: _number,
    Kind.DURATION: _duration,
    Kind.SIZE: _size,
    Kind.GLOBS: _globs,
    Kind.SIZE_BY_HOUR: partial(_by_hour, _size),
    Kind.NUMBER_BY_HOUR: partial(_by_hour, _number),
}
