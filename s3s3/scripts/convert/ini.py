"""The INI file of the s3s3 before this one: [source], every [dest*] and [pubsub].

It was read with interpolation, so that no secret could hold a "%", and its own template, whose values are followed by
comments, could not be used as it was. Here both are read as they were meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from configparser import (
    ConfigParser,
    DuplicateOptionError,
    DuplicateSectionError,
    Error,
    MissingSectionHeaderError,
    ParsingError,
)

from ...config.schema import DESTINATION
from .toml_writer import Converted, Value

_PLACEHOLDER = re.compile(r"\{[A-Z0-9_]+\}")
_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")  # of distutils' strtobool
_CALLING_FORMATS = {
    "OrdinaryCallingFormat": "OrdinaryCallingFormat",
    "ProtocolIndependentOrdinaryCallingFormat": "OrdinaryCallingFormat",
    "SubdomainCallingFormat": "SubdomainCallingFormat",
}


def from_ini(text: str) -> Converted:
    """Return what an INI file becomes.

    Raises:
        ValueError: it is no INI file, or has no source or destination. No value stands in the message.
    """
    parser = ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    try:
        parser.read_string(text)
    except (DuplicateSectionError, DuplicateOptionError) as error:
        option = f" {error.option}" if isinstance(error, DuplicateOptionError) else ""
        raise ValueError(f"line {error.lineno}: [{error.section}]{option} is there twice; take one out") from None
    except MissingSectionHeaderError as error:
        raise ValueError(f"line {error.lineno}: a key stands before the first [section]") from None
    except ParsingError as error:
        lines = ", ".join(str(number) for number, _ in error.errors)
        raise ValueError(f"line {lines}: neither a [section] nor a key = value") from None
    except Error as error:
        raise ValueError(f"no INI file: {type(error).__name__}") from None
    names = parser.sections()
    if "source" not in names or not any(name.startswith("dest") for name in names):
        raise ValueError("a section [source] and one whose name starts with dest are what a configuration is about")
    converted = Converted()
    for name in names:
        keys = dict(parser[name])
        if name == "source" or name.startswith("dest"):
            _convert_endpoint(converted, re.sub(r"[^A-Za-z0-9_.-]", "-", name), keys)
        elif name == "pubsub":
            _convert_pubsub(converted, keys)
        else:
            old = "\n".join(f"{key} = {value}" for key, value in keys.items())
            converted.leave((), f"[{name}]", "there is no such table", old)
    return converted


def _convert_endpoint(converted: Converted, name: str, keys: dict[str, str]) -> None:
    converted.table(name)
    for key, value in keys.items():
        known = DESTINATION.key(key)
        convert = _ENDPOINT_KEYS.get(key)
        if convert is None or known is None:
            converted.leave([name], key, "there is no such key", f"{key} = {value}")
            continue
        if _PLACEHOLDER.fullmatch(value) and isinstance(known.example, str):
            converted.remark([name], f"{key}: fill it in; the old file has only the template's placeholder")
            value = known.example  # noqa: PLW2901
        try:
            converted.set([name], key, convert(value))
        except ValueError as error:
            converted.leave([name], key, str(error), f"{key} = {value}")


def _convert_pubsub(converted: Converted, keys: dict[str, str]) -> None:
    converted.table("pubsub")
    for key, value in keys.items():
        if key == "redis":
            on = value.lower() not in _FALSE
            host = value if on and value.lower() not in _TRUE else "localhost"
            converted.set(["pubsub"], "url", f"redis://{host}:6379/0" if on else "")
            if not on:
                converted.remark(["pubsub"], "without Redis there is `s3s3 bucket` only; s3s3 listen needs one")
        elif key == "sns" and value.lower() in _FALSE:
            continue
        else:
            why = "s3s3 takes no notices from SNS directly" if key == "sns" else "there is no such key"
            converted.leave(["pubsub"], key, why, f"{key} = {value}")


def _text(value: str) -> Value:
    if not value:
        raise ValueError("it is empty")
    return value


def _boolean(value: str) -> Value:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("it is neither true nor false")
    return value.lower() in _TRUE


def _port(value: str) -> Value:
    if not (value.isdecimal() and 1 <= int(value) <= 65535):
        raise ValueError("it is no port number")
    return int(value)


def _calling_format(value: str) -> Value:
    if value not in _CALLING_FORMATS:
        raise ValueError("the calling format is to be OrdinaryCallingFormat or SubdomainCallingFormat")
    return _CALLING_FORMATS[value]


_ENDPOINT_KEYS: dict[str, Callable[[str], Value]] = {
    "aws_access_key_id": _text,
    "aws_secret_access_key": _text,
    "bucket_name": _text,
    "host": _text,
    "port": _port,
    "is_secure": _boolean,
    "calling_format": _calling_format,
    "verify_md5": _boolean,
}
