"""Error and conditional responses as S3 sends them, and the headers of an object."""

from __future__ import annotations

import html
from collections.abc import Mapping

from aiohttp import web

from ..access_log import OUTCOME
from .directory import CachedObject, valid_utf8
from .ranges import check_preconditions

#: Headers of requests that are not passed to nginx: those compare the ETag, which nginx does not know, or report that
#: nginx could not open the file.
_NOT_FOR_NGINX = frozenset(("if-range", "if-match", "x-s3s3-sendfile"))
#: Headers that conf/nginx copies from our response; an object with others is sent from here.
_NGINX_HEADERS = frozenset(("content-type", "content-disposition", "cache-control", "expires", "content-encoding",
                            "content-language"))  # fmt: skip


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
    status = check_preconditions(request.headers, metadata.etag, metadata.modified_ms)
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
