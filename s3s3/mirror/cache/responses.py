"""Responses as S3 sends them: errors, preconditions and ranges (RFC 9110, sections 13 and 14), object headers."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from aiohttp import ETag, web

from ..access_log import OUTCOME
from .directory import CachedObject, valid_utf8

#: Ranges in one request; with more, the whole object is sent, which costs less.
MAX_RANGES = 32

_RANGES = re.compile(r"bytes=[\t ]*(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")

#: Headers of requests that are not passed to nginx: those compare the ETag, which nginx does not know, or report that
#: nginx could not open the file.
_NOT_FOR_NGINX = frozenset(("if-range", "if-match", "x-s3s3-sendfile"))
#: Headers that conf/nginx copies from our response; an object with others is sent from here.
_NGINX_HEADERS = frozenset(("content-type", "content-disposition", "cache-control", "expires", "content-encoding",
                            "content-language"))  # fmt: skip


class ByteRange(NamedTuple):
    """Bytes of an object, from `begin` to before `end`."""

    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def error_response(status: int, code: str, message: str) -> web.Response:
    """Return an error in S3's format (S3 API reference, "Error responses")."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{html.escape(code)}</Code><Message>{html.escape(message)}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")


def object_headers(metadata: CachedObject, overrides: Mapping[str, str], outcome: str) -> dict[str, str]:
    """Return the headers of a response that carries the object."""
    headers = {**metadata.response_headers, OUTCOME: outcome}
    for name, value in overrides.items():
        headers[name.title()] = valid_utf8(value)
    return headers


def conditional_response(
    request: web.BaseRequest, metadata: CachedObject, headers: Mapping[str, str]
) -> web.Response | None:
    """Return the 304 or 412 that the request's conditions demand; None if the object is to be sent."""
    status = check_preconditions(request, metadata)
    if status == 412:
        return error_response(
            412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"
        )
    if status == 304:
        names = ("ETag", "Last-Modified", "Cache-Control", "Expires", OUTCOME)
        return web.Response(status=304, headers={name: headers[name] for name in names if name in headers})
    return None


def can_nginx_send(request: web.BaseRequest, headers: Mapping[str, str]) -> bool:
    """Whether nginx can send the object with all its headers."""
    own = {name.lower() for name in headers} - {"etag", "last-modified", "accept-ranges", OUTCOME.lower()}
    return own <= _NGINX_HEADERS and not _NOT_FOR_NGINX.intersection(name.lower() for name in request.headers)


def check_preconditions(request: web.BaseRequest, metadata: CachedObject) -> int:
    """Return the status that a request's preconditions demand: 200, 304 or 412 (RFC 9110, 13.2.2)."""
    headers, modified = request.headers, _modified(metadata)
    if request.if_match is not None:
        if not _includes(request.if_match, headers["If-Match"], metadata.etag):
            return 412
    elif request.if_unmodified_since is not None and modified > request.if_unmodified_since:
        return 412
    if request.if_none_match is not None:
        return 304 if _includes(request.if_none_match, headers["If-None-Match"], metadata.etag) else 200
    return 304 if request.if_modified_since is not None and modified <= request.if_modified_since else 200


def requested_ranges(request: web.BaseRequest, metadata: CachedObject) -> list[ByteRange] | None:
    """Return the ranges that a request asks for; [] if the object has none of them, None for the whole object."""
    header = _RANGES.fullmatch(request.headers.get("Range", "").strip())
    if_range, size_bytes = request.headers.get("If-Range"), metadata.size_bytes
    if not header or not (
        if_range is None or request.if_range == _modified(metadata) or if_range.strip() == f'"{metadata.etag}"'
    ):
        return None
    texts = [text.strip(" \t") for text in header[1].split(",")]
    if len(texts) > MAX_RANGES:
        return None
    ranges = []
    for text in texts:
        match = _RANGE.fullmatch(text)
        if not match or text == "-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
            return None
        if match[1]:
            found = ByteRange(int(match[1]), min(int(match[2]) + 1 if match[2] else size_bytes, size_bytes))
        else:
            found = ByteRange(max(size_bytes - int(match[2]), 0), size_bytes)
        if found.begin < found.end:
            ranges.append(found)
    if sum(found.size_bytes for found in ranges) > size_bytes:
        return None  # overlapping ranges must not multiply the response
    return ranges


def _includes(tags: tuple[ETag, ...], header: str, etag: str) -> bool:
    """Return whether a list of entity tags contains one. Without quotes it matches, too, as at S3."""
    return any(tag.value in ("*", etag) for tag in tags) or header.strip() == etag


def _modified(metadata: CachedObject) -> datetime:
    return datetime.fromtimestamp(metadata.modified_ms // 1000, timezone.utc)
