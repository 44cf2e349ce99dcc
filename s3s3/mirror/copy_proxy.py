"""The copy-proxy: a path is a key of the destination, and what is not there comes from the source."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from ..errors import RedisUnavailable, StoreError
from ..monitoring.log import log_fields
from ..s3.transport.pool import ASKED_FOR_S
from ..tasks import timeout
from .access_log import OUTCOME
from .mirrored_route import MirroredRoute
from .request_stats import Event, RequestStats

log = logging.getLogger(__name__)

SIGNED_FOR_S = 3600
_ALLOWED = ("GET", "HEAD")
_DOTS = re.compile(r"(^|/)\.\.?(/|$)")


class CopyProxy:
    """Answers with a redirect, to the copy or to the source.

    Args:
        source: a URL; a key follows it.
        max_wait_s: how long a client waits for a copy at most.
        is_public: whoever asks may read the destination, so nothing needs to be signed.
    """

    def __init__(
        self, route: MirroredRoute, source: str, max_wait_s: float, figures: RequestStats, *, is_public: bool
    ) -> None:
        self._route = route
        self._source = source
        self._max_wait_s = max_wait_s
        self._figures = figures
        self._signed_for_s = None if is_public else SIGNED_FOR_S

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in _ALLOWED:
            return web.json_response({"msg": "only GET and HEAD"}, status=405, headers={"Allow": ", ".join(_ALLOWED)})
        began_s = time.monotonic()
        try:
            key = url_to_key(request.raw_path)
        except ValueError as error:
            return web.json_response({"msg": str(error)}, status=400)
        wait_s = wait_s_of(request.headers.get("x-max-wait-duration"), self._max_wait_s)
        event, location = await self._find(key, request.method, wait_s)
        took_s = time.monotonic() - began_s
        outcome = self._figures.answered(event, took_s)
        return web.Response(status=302, headers={"Location": location, OUTCOME: outcome})

    async def _find(self, key: str, method: str, wait_s: float) -> tuple[Event, str]:
        """Return where the object is to be had, and what led there. Whatever goes wrong, the source has it."""
        event = Event.ERROR
        try:
            event = await self._event(key, wait_s)
            if event in (Event.HIT, Event.WAITED):
                return event, await self._route.store.location(key, method=method, signed_for_s=self._signed_for_s)
        except (StoreError, RedisUnavailable, asyncio.TimeoutError) as error:
            why = str(error) or "the destination did not answer in time"
            log.warning("%s: %r is to be had from the source alone: %s", self._route.name, key, why,
                        extra=log_fields(self._route.name, key))  # fmt: skip
            event = Event.ERROR
        return event, source_url(self._source, key)

    async def _event(self, key: str, wait_s: float) -> Event:
        began_s = time.monotonic()
        async with timeout(ASKED_FOR_S):
            if await self._route.store.head(key) is not None:
                return Event.HIT
        settled = await self._route.misses.settle(key, max(wait_s - (time.monotonic() - began_s), 0))
        if settled is None:
            return Event.TIMEOUT
        return Event.WAITED if settled.is_there else Event.WAITED_IN_VAIN


def url_to_key(target: str) -> str:
    """Return the key that a request's target names; a query is no part of it.

    Raises:
        ValueError: there is no key that it could name: a "." or ".." in it would lead out of the source's own folder.
    """
    path = target.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path or "/"
    try:
        key = unquote(path[1:], errors="strict")
    except UnicodeDecodeError:
        raise ValueError("the path is not UTF-8") from None
    if not key:
        raise ValueError("the path names no object")
    if _DOTS.search(key) or "\0" in key:
        raise ValueError('a path with "." or ".." in it names no object')
    return key


def source_url(source: str, key: str) -> str:
    """Return where the source has a key."""
    return source + quote(key, safe="/~!$&'()*+,;=:@")


_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


_UNIT_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def wait_s_of(text: str | None, longest_s: float) -> float:
    """Return the seconds that a duration says; `longest_s` for none, a longer one, and what is no duration.

    The syntax is that of time.ParseDuration in Go's standard library, without a sign.
    """
    if text is None or len(text) > 64:
        return longest_s
    parts = list(_PART.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return 0.0 if text == "0" else longest_s
    return min(sum(float(part[1]) * _UNIT_S[part[2]] for part in parts), longest_s) if parts else longest_s
