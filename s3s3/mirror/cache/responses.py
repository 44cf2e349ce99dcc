"""What an answer says beside the bytes: errors as S3 words them, headers, and when there is nothing to send."""

from __future__ import annotations

import html
from collections.abc import Mapping

from aiohttp import web

from ..access_log import OUTCOME
from .cached_object import CachedObject, sendable
from .ranges import Wanted, wanted

_NOT_FOR_NGINX = frozenset(("if-range", "if-match", "x-s3s3-sendfile"))
"""Requests that name the ETag, which nginx does not know; and those of an nginx that could not open the file."""
_OF_NGINX = frozenset(("content-type", "content-disposition", "cache-control", "expires", "content-encoding",
                       "content-language"))  # fmt: skip
"""Headers that the nginx configuration in conf/ carries over; whatever has others is sent from here."""


def said(status: int, code: str, message: str) -> web.Response:
    """Return an error as S3 words it (S3 API reference, "Error responses")."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{html.escape(code)}</Code><Message>{html.escape(message)}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")


def headers_of(about: CachedObject, overrides: Mapping[str, str], outcome: str) -> dict[str, str]:
    """Return the headers of an answer with the object."""
    headers = {**about.answered, OUTCOME: outcome}
    for name, value in overrides.items():
        headers[name.title()] = sendable(value)
    return headers


def conditional(request: web.BaseRequest, about: CachedObject, headers: Mapping[str, str]) -> web.Response | None:
    """Return the answer without the object that the request's conditions ask for; None where it is to have it."""
    disposition = wanted(request.headers, about.etag, about.modified_ms)
    if disposition is Wanted.FAILED:
        return said(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if disposition is Wanted.NOT_MODIFIED:
        kept = ("ETag", "Last-Modified", "Cache-Control", "Expires", OUTCOME)
        return web.Response(status=304, headers={name: headers[name] for name in kept if name in headers})
    return None


def is_for_nginx(request: web.BaseRequest, headers: Mapping[str, str]) -> bool:
    """Whether nginx can send it with all its headers."""
    own = {name.lower() for name in headers} - {"etag", "last-modified", "accept-ranges", OUTCOME.lower()}
    return own <= _OF_NGINX and not _NOT_FOR_NGINX.intersection(name.lower() for name in request.headers)
