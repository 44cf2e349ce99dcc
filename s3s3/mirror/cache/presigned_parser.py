"""Parse presigned URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from urllib.parse import quote, unquote, unquote_plus

from ...errors import SignatureRejected
from ...model import MAX_KEY_BYTES
from ...s3.keys import Query

_AMZ_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")


def is_utf8(target: str) -> bool:
    """Whether a request target is UTF-8; aiohttp decodes other bytes to surrogates."""
    try:
        target.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_query(raw: str) -> Query:
    """Return names and values. "+" is a space, because boto writes it so; every client sends a real plus as %2B."""
    query: list[tuple[str, str | None]] = []
    for part in raw.split("&") if raw else []:
        name, equals, value = part.partition("=")
        query.append((_decode(name), _decode(value) if equals else None))
    return query


def _decode(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text  # most names and values are plain


def spellings(encoded: str) -> Iterator[tuple[str, str]]:
    """Yield a path as sent and as S3 encodes it, each with its key: some clients sign the first, some the second."""
    key = decode_key(encoded)
    for spelling in dict.fromkeys((encoded, quote(key, safe="/"))):
        yield spelling, key


def decode_key(encoded: str) -> str:
    """Return the key of a percent-encoded path. Raises SignatureRejected if it is not a valid key."""
    try:
        key = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise SignatureRejected("InvalidURI", "the path is not UTF-8") from None
    if not key:
        raise SignatureRejected("AccessDenied", "the path has no key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise SignatureRejected("KeyTooLongError", f"the key is longer than {MAX_KEY_BYTES} bytes")
    return key


def parse_amz_date(text: str) -> float:
    """Return the Unix time of an X-Amz-Date. Raises SignatureRejected for an invalid one."""
    match = _AMZ_DATE.fullmatch(text)  # ten times as fast as strptime
    try:
        year, month, day, hour, minute, second = map(int, match.groups() if match else ())
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise SignatureRejected("AuthorizationQueryParametersError", "X-Amz-Date is not a valid time") from None
