"""Redirect front end: redirect a URL to its copy in the requested region.

GET     /v1/redirect/SERVICE/REGION/URL    302 to the copy, or to the URL itself if there is none in time
DELETE  /v1/purge/SERVICE/REGION/URL       204: the copy is deleted
GET     /v1/ping                           200
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from ..config.mirror import RedirectSettings
from ..errors import InvalidKey, RedisUnavailable, StoreError, UrlForbidden
from ..model import MAX_KEY_BYTES
from .access_log import OUTCOME, JsonAccessLog
from .copy_states import CopyState, CopyStates
from .mirrored_route import MirroredRoute, is_fresh
from .request_stats import Event, RequestStats
from .upstream.url_policy import UrlRules

log = logging.getLogger(__name__)

#: Delay before a failed copy is requested again for the same client (s).
RETRY_DELAY_S = 1.0
_WHITESPACE = re.compile(r"\s+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HSTS = "max-age=7776000"
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With,Content-Type,Authorization,Accept,Origin",
}


@dataclass(frozen=True, slots=True)
class RedirectRequest:
    """A parsed `/v1/VERB/SERVICE/REGION/URL`. `rest` holds the decoded segments after the verb."""

    verb: str
    rest: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL; "" if the path has none."""
        return decode_url(self.rest[2]) if len(self.rest) == 3 else ""


def parse_target(target: str) -> RedirectRequest:
    """Parse a request target; the verb is "" if the path does not begin with `/v1/`."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path
    segments = [unquote(segment, errors="replace") for segment in path.split("/")[1:]]
    if len(segments) < 2 or segments[0] != "v1":
        return RedirectRequest("", ())
    return RedirectRequest(segments[1], tuple(segments[2:]))


def decode_url(segment: str) -> str:
    """Return the URL in a percent-decoded segment: plain, or base64.

    Accepts both base64 alphabets, with or without padding and line breaks. Returns other text unchanged; it is not a
    URL and is rejected later.
    """
    if _SCHEME.match(segment):
        return segment
    text = _WHITESPACE.sub("", segment).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except ValueError:  # not base64, or not UTF-8
        return segment


def url_to_key(url: str) -> str:
    """Return the key of a URL's copy: the URL, percent-encoded, because only its server can interpret its path."""
    return quote(url, safe="")


def key_to_url(key: str) -> str:
    """Return the URL of a copy's key."""
    return unquote(key)


@dataclass(frozen=True)
class Copies:
    """The copies at one destination: find, make and purge them. Older ones than `fresh_for_s` are made again."""

    route: MirroredRoute
    states: CopyStates
    fresh_for_s: float

    async def exists(self, key: str) -> bool:
        """Whether there is a copy that may be served. Raises StoreError and asyncio.TimeoutError."""
        state = await self.states.read(key)
        if state is not None and state.name == "present":
            return True
        info = await self.route.head(key)
        if info is None or not is_fresh(info, self.route.store, self.fresh_for_s):
            return False
        age_s = (self.route.store.source_time_ms() - info.modified_ms) / 1000
        expires_ms = info.expires_ms or int((time.time() + self.fresh_for_s - age_s) * 1000)
        await self.states.set_present(key, expires_ms)
        return True

    async def make(self, key: str, wait_s: float) -> CopyState | None:
        """Make a copy; retry until `wait_s` has passed. Raises RedisUnavailable.

        Returns the state "present", an error that a retry would repeat, or None if neither is known in time.
        """
        deadline_s = time.monotonic() + wait_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            await self.states.set_pending(key)
            is_copied = await self.route.misses.copy(key, left_s)
            if is_copied is None:
                return None
            if is_copied:
                return CopyState("present")
            state = await self.states.read(key)
            if state is not None and state.name == "error" and state.is_final:
                return state
            await asyncio.sleep(min(RETRY_DELAY_S, max(deadline_s - time.monotonic(), 0)))
        return None

    async def purge(self, key: str) -> None:
        """Delete a copy, then its state. Raises StoreError and RedisUnavailable."""
        await self.route.store.delete(key)
        await self.states.delete(key)


@dataclass(frozen=True)
class RedirectFrontEnd:
    """Request handler of the redirect front end. `copies` are by service and region."""

    settings: RedirectSettings
    rules: UrlRules
    copies: Mapping[tuple[str, str], Copies]
    stats: RequestStats
    start_s: float = field(default_factory=time.monotonic)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # The proxy in front of s3s3 names the scheme that the client used.
        if not self.settings.force_https or request.headers.get("X-Forwarded-Proto", "https").lower() == "https":
            response = await self._answer(request)
        elif request.method in ("GET", "HEAD"):
            response = web.Response(status=301, headers={"Location": f"https://{request.host}{request.raw_path}"})
        else:
            response = _error(403, "use https")
        response.headers.update(_CORS)
        if self.settings.force_https:
            response.headers["Strict-Transport-Security"] = HSTS
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response(status=204)
        target = parse_target(request.raw_path)
        methods = {"ping": ("GET", "HEAD"), "redirect": ("GET", "HEAD"), "purge": ("DELETE",)}.get(target.verb)
        if methods is None:
            return _error(404, "unknown path")
        if request.method not in methods:
            return _error(405, f"only {' and '.join(methods)} allowed", headers={"Allow": ", ".join(methods)})
        if target.verb == "ping":
            return web.json_response({"alive": True, "uptime": round(time.monotonic() - self.start_s, 3)})
        if target.verb == "purge" and not self._may_purge(request):
            return _error(401, "purge requires the token", headers={"WWW-Authenticate": "Bearer"})
        return await self._redirect_or_purge(request, target)

    def _may_purge(self, request: web.BaseRequest) -> bool:
        token = self.settings.purge_token
        received = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return token is not None and secrets.compare_digest(received, f"Bearer {token.get_secret_value()}".encode())

    async def _redirect_or_purge(self, request: web.BaseRequest, target: RedirectRequest) -> web.Response:
        if len(target.rest) > 3:
            return _error(400, "too many path segments: percent-encode the URL, or send it as base64", err="InvalidUrl")
        copies = self.copies.get(target.rest[:2]) if len(target.rest) == 3 else None
        if copies is None:
            return _error(404, "unknown service or region")
        try:
            url = self.rules.check_url(target.url).url
        except UrlForbidden as error:
            return _error(403, error.message, err="InvalidUrl")
        if target.verb == "purge":
            return await _purge(copies, url_to_key(url))
        start_s = time.monotonic()
        event, response = await self._redirect(copies, url, request.method)
        response.headers[OUTCOME] = self.stats.record_request(event, time.monotonic() - start_s)
        return response

    async def _redirect(self, copies: Copies, url: str, method: str) -> tuple[Event, web.Response]:
        """Redirect to the copy if there is one in time, else to the URL itself."""
        key, wait_s = url_to_key(url), self.settings.max_wait_s
        if len(key) > MAX_KEY_BYTES:
            return Event.ERROR, _to_url(url, "The URL is too long for the key of a copy")
        try:
            if await copies.exists(key):
                return Event.HIT, _to_copy(await copies.route.location(key, method))
            state = await copies.make(key, wait_s)
            if state is None:
                return Event.TIMEOUT, _to_url(url, f"Cached copy did not show up in {wait_s:g}s")
            if state.name == "present":
                return Event.WAITED, _to_copy(await copies.route.location(key, method))
        except (StoreError, RedisUnavailable, asyncio.TimeoutError) as error:
            log.warning("%s: no copy, redirecting to the URL itself: %s", copies.route.name,
                        str(error) or "the destination did not respond in time")  # fmt: skip
            return Event.ERROR, _to_url(url, "A copy is not available now")
        if state.status is not None:
            response = _error(state.status, state.reason, err=state.err)
        else:
            response = _to_url(url, f"The URL cannot be copied: {state.reason}")
        return Event.WAITED_NOT_COPIED, response


class RedirectAccessLog(JsonAccessLog):
    """Access log of the redirect front end, with the URL decoded and without its query."""

    def safe_path(self, request: web.BaseRequest) -> str:
        target = parse_target(request.raw_path)
        if not target.url:
            return super().safe_path(request)
        return f"/v1/{target.verb}/{target.rest[0]}/{target.rest[1]}/{target.url.partition('?')[0]}"


async def _purge(copies: Copies, key: str) -> web.Response:
    try:
        await copies.purge(key)
    except InvalidKey:
        pass  # no copy can have this key
    except (StoreError, RedisUnavailable) as error:
        log.warning("%s: purge failed: %s", copies.route.name, error)
        return _error(503, "the copy could not be deleted; try again")
    return web.Response(status=204)


def _to_copy(location: str) -> web.Response:
    return web.json_response({"status": "present", "url": location}, status=302, headers={"Location": location})


def _to_url(url: str, reason: str) -> web.Response:
    return web.json_response({"url": url, "msg": reason}, status=302, headers={"Location": url})


def _error(status: int, message: str, *, err: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"msg": message, **({"err": err} if err else {})}, status=status, headers=headers)
