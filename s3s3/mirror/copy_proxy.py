"""Copy-proxy: redirect to the copy or to the source. The request's path is the key."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from ..errors import RedisUnavailable, StoreError
from ..monitoring.log import log_fields
from .access_log import OUTCOME
from .mirrored_route import MirroredRoute
from .request_stats import Event, RequestStats

log = logging.getLogger(__name__)

_ALLOWED_METHODS = ("GET", "HEAD")
_DOT_SEGMENT = re.compile(r"(^|/)\.\.?(/|$)")


@dataclass(frozen=True)
class CopyProxy:
    """Request handler of the copy-proxy. A key is appended to the URL `source`."""

    route: MirroredRoute
    source: str
    max_wait_s: float
    stats: RequestStats

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in _ALLOWED_METHODS:
            headers = {"Allow": ", ".join(_ALLOWED_METHODS)}
            return web.json_response({"msg": "only GET and HEAD are allowed"}, status=405, headers=headers)
        start_s = time.monotonic()
        try:
            key = path_to_key(request.raw_path)
        except ValueError as error:
            return web.json_response({"msg": str(error)}, status=400)
        wait_s = parse_wait(request.headers.get("x-max-wait-duration"), self.max_wait_s)
        event, location = await self._find(key, request.method, wait_s)
        outcome = self.stats.record_request(event, time.monotonic() - start_s)
        return web.Response(status=302, headers={"Location": location, OUTCOME: outcome})

    async def _find(self, key: str, method: str, wait_s: float) -> tuple[Event, str]:
        """Return where to redirect the client: to the copy if possible, else to the source."""
        start_s = time.monotonic()
        try:
            if await self.route.head(key) is not None:
                return Event.HIT, await self.route.location(key, method)
            is_copied = await self.route.misses.copy(key, max(wait_s - (time.monotonic() - start_s), 0))
            if is_copied:
                return Event.WAITED, await self.route.location(key, method)
            event = Event.TIMEOUT if is_copied is None else Event.WAITED_NOT_COPIED
        except (StoreError, RedisUnavailable, asyncio.TimeoutError) as error:
            reason = str(error) or "the destination did not respond in time"
            log.warning("%s: no copy of %r, redirecting to the source: %s", self.route.name, key, reason,
                        extra=log_fields(self.route.name, key))  # fmt: skip
            event = Event.ERROR
        return event, source_url(self.source, key)


def path_to_key(target: str) -> str:
    """Return the key of a request target, without its query. Raises ValueError for a path that is not a key.

    Keys with "." or ".." segments are rejected, because they would leave the source's own path.
    """
    path = target.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path or "/"
    try:
        key = unquote(path[1:], errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the path is not UTF-8") from None
    if not key:
        raise ValueError("the path has no key")
    if _DOT_SEGMENT.search(key) or "\0" in key:
        raise ValueError('the path contains "." or "..", or a NUL byte')
    return key


def source_url(source: str, key: str) -> str:
    """Return the URL of a key at the source."""
    return source + quote(key, safe="/~!$&'()*+,;=:@")


_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_wait(text: str | None, max_s: float) -> float:
    """Return a duration in seconds; `max_s` if it is longer, missing or invalid.

    The syntax is that of time.ParseDuration in Go's standard library, without a sign.
    """
    if text is None or len(text) > 64:
        return max_s
    parts = list(_DURATION_PART.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return 0.0 if text == "0" else max_s
    return min(sum(float(part[1]) * _UNIT_S[part[2]] for part in parts), max_s) if parts else max_s
