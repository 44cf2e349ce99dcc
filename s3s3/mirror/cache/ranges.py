"""Which part of an object a request is about, and whether it wants it at all (RFC 9110, 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from ...s3 import http_date_ms

MAX_PARTS = 32
"""More ranges in one request are no range: the whole object costs less."""

_RANGES = re.compile(r"bytes=[\t ]*(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")
_LIST_OF_TAGS = re.compile(r'(?:W/)?"([^"]*)"')


class Part(NamedTuple):
    """Bytes of an object, from `begin` to before `end`."""

    begin: int
    end: int


class Wanted(Enum):
    """Whether a request's conditions let it have the object."""

    YES = 200
    NOT_MODIFIED = 304
    FAILED = 412


def wanted(headers: Mapping[str, str], etag: str, modified_ms: int) -> Wanted:
    """Evaluate a request's conditions, in the order of RFC 9110, 13.2.2."""
    modified_s = modified_ms // 1000
    if (tags := headers.get("If-Match")) is not None:
        if not _has(tags, etag):
            return Wanted.FAILED
    elif (since_s := _time_s(headers.get("If-Unmodified-Since"))) is not None and modified_s > since_s:
        return Wanted.FAILED
    if (tags := headers.get("If-None-Match")) is not None:
        return Wanted.NOT_MODIFIED if _has(tags, etag) else Wanted.YES
    since_s = _time_s(headers.get("If-Modified-Since"))
    return Wanted.NOT_MODIFIED if since_s is not None and modified_s <= since_s else Wanted.YES


def parts(headers: Mapping[str, str], size_bytes: int, etag: str, modified_ms: int) -> list[Part] | None:
    """Return the parts that a request asks for; [] where none of them is there, None for the whole object."""
    found = _RANGES.fullmatch(headers.get("Range", "").strip())
    if not found or not _is_same(headers.get("If-Range"), etag, modified_ms):
        return None
    asked = [text.strip(" \t") for text in found[1].split(",")]
    if len(asked) > MAX_PARTS:
        return None
    there = []
    for text in asked:
        one = _RANGE.fullmatch(text)
        if not one or text == "-" or (one[1] and one[2] and int(one[1]) > int(one[2])):
            return None
        if one[1]:
            part = Part(int(one[1]), min(int(one[2]) + 1 if one[2] else size_bytes, size_bytes))
        else:
            part = Part(max(size_bytes - int(one[2]), 0), size_bytes)
        if part.begin < part.end:
            there.append(part)
    if sum(part.end - part.begin for part in there) > size_bytes:
        return None  # they overlap: nobody is to get more than there is
    return there


def _has(tags: str, etag: str) -> bool:
    return tags.strip() == "*" or etag in _LIST_OF_TAGS.findall(tags) or tags.strip() == etag


def _is_same(if_range: str | None, etag: str, modified_ms: int) -> bool:
    """Whether the object is still the one of which a client has a part. A weak tag proves nothing."""
    if if_range is None:
        return True
    said_s = _time_s(if_range)
    return modified_ms // 1000 == said_s if said_s is not None else if_range.strip() == f'"{etag}"'


def _time_s(text: str | None) -> int | None:
    time_ms = http_date_ms(text) if text else None
    return None if time_ms is None else time_ms // 1000
