"""The parts of a presigned URL, taken from what was sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from urllib.parse import quote, unquote, unquote_plus

from ...errors import SignatureRejected
from ...model import KEY_LIMIT_BYTES
from ...s3.keys import Query

_V4_TIME = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")


def is_text(target: str) -> bool:
    """Whether it is text; bytes that are no UTF-8 stand in it as surrogates."""
    try:
        target.encode()
    except UnicodeEncodeError:
        return False
    return True


def query_of(raw: str) -> Query:
    """Take a query apart. boto writes a space as "+"; where "+" itself is meant, everybody writes %2B."""
    found: list[tuple[str, str | None]] = []
    for part in raw.split("&") if raw else []:
        name, equals, value = part.partition("=")
        found.append((_decoded(name), _decoded(value) if equals else None))
    return found


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text  # most of it says what it means


def spellings(sent: str) -> Iterator[tuple[str, str]]:
    """Yield a path as it was sent and as S3 would encode it, each with the key: clients sign the one or the other."""
    key = key_in(sent)
    for spelling in dict.fromkeys((sent, quote(key, safe="/"))):
        yield spelling, key


def key_in(encoded: str) -> str:
    """Return the key that a path's part is. Raises Denied for what is none."""
    try:
        key = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise SignatureRejected("InvalidURI", "the path is not UTF-8") from None
    if not key or len(key.encode()) > KEY_LIMIT_BYTES:
        raise SignatureRejected("KeyTooLongError" if key else "AccessDenied", "the path names no object")
    return key


def v4_time_s(text: str) -> float:
    """Return a V4 signature's time (Unix time). Raises Denied for what is none."""
    found = _V4_TIME.fullmatch(text)  # strptime takes ten times as long
    try:
        year, month, day, hour, minute, second = map(int, found.groups() if found else ())
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise SignatureRejected("AuthorizationQueryParametersError", "X-Amz-Date is no time") from None
