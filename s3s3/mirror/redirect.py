"""The redirect front: a URL of somebody else's leads to a copy in the region that is asked for.

GET     /v1/redirect/SERVICE/REGION/URL    302 to the copy; to the URL itself where there is none in time
DELETE  /v1/purge/SERVICE/REGION/URL       204: the copy is gone
GET     /v1/ping                           200
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping

from aiohttp import web

from ..config.mirror import RedirectSettings
from ..errors import InvalidKey, RedisUnavailable, StoreError, UrlForbidden
from ..model import KEY_LIMIT_BYTES
from ..s3.transport.pool import ASKED_FOR_S
from ..tasks import timeout
from .access_log import OUTCOME, JsonAccessLog
from .copy_proxy import SIGNED_FOR_S
from .copy_states import DAY_S, CopyState, CopyStates
from .mirror_copy import is_fresh
from .mirrored_route import MirroredRoute
from .redirect_paths import RedirectRequest, asked, path_to_key
from .request_stats import Event, RequestStats
from .upstream.url_policy import UrlRules

log = logging.getLogger(__name__)

TRIED_AGAIN_AFTER_S = 1.0
HSTS = "max-age=7776000"
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With,Content-Type,Authorization,Accept,Origin",
}


class Copies:
    """The copies of one destination: whether one is there, and having one made."""

    def __init__(self, route: MirroredRoute, states: CopyStates, lifespan_days: int, *, is_public: bool) -> None:
        self.route = route
        self.states = states
        self._fresh_for_s = lifespan_days * DAY_S
        self._signed_for_s = None if is_public else SIGNED_FOR_S

    async def is_there(self, key: str) -> bool:
        """Say whether there is a copy that may be served. Raises StoreError and asyncio.TimeoutError."""
        try:
            state = await self.states.read(key)
            if state is not None and state.name == "present":
                return True
        except RedisUnavailable as error:
            log.warning("%s: %s", self.route.name, error)
        async with timeout(ASKED_FOR_S):
            held = await self.route.store.head(key)
        if held is None or not is_fresh(held, self.route.store, self._fresh_for_s):
            return False
        try:
            age_s = (self.route.store.source_time_ms() - held.modified_ms) / 1000
            expires_ms = held.expires_ms or int((time.time() + self._fresh_for_s - age_s) * 1000)
            await self.states.is_present(key, expires_ms)
        except RedisUnavailable as error:
            log.warning("%s: %s", self.route.name, error)
        return True

    async def made(self, key: str, wait_s: float) -> CopyState | None:
        """Have a copy made; try again while the time lasts.

        Returns:
            present, or the error that to try again would bring again; None where it is not known in time.

        Raises:
            RedisUnavailable: nothing can be had made.
        """
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            await self.states.pend(key)
            settled = await self.route.misses.settle(key, left_s)
            if settled is None:
                return None
            if settled.is_there:
                return CopyState("present")
            state = await self.states.read(key)
            if state is not None and state.name == "error" and state.is_final:
                return state
            await asyncio.sleep(min(TRIED_AGAIN_AFTER_S, max(until_s - time.monotonic(), 0)))
        return None

    async def location(self, key: str, method: str) -> str:
        """Return where the copy is to be had. Raises StoreError."""
        return await self.route.store.location(key, method=method, signed_for_s=self._signed_for_s)

    async def purge(self, key: str) -> None:
        """Delete the copy, then what is known of it. Raises StoreError and RedisUnavailable."""
        await self.route.store.delete(key)
        await self.states.forget(key)


class RedirectFrontEnd:
    """Answers requests. `copies` go by service and region."""

    def __init__(
        self,
        settings: RedirectSettings,
        rules: UrlRules,
        copies: Mapping[tuple[str, str], Copies],
        figures: RequestStats,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._copies = copies
        self._figures = figures
        self._began_s = time.monotonic()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        response = self._not_secure(request) or await self._answer(request)
        response.headers.update(_CORS)
        if self._settings.force_https:
            response.headers["Strict-Transport-Security"] = HSTS
        return response

    def _not_secure(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer to a request that came without TLS to the proxy before this front."""
        if not self._settings.force_https or request.headers.get("X-Forwarded-Proto", "https").lower() == "https":
            return None
        if request.method not in ("GET", "HEAD"):
            return _said(403, "use https")
        return web.Response(status=301, headers={"Location": f"https://{request.host}{request.raw_path}"})

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response(status=204)
        path = asked(request.raw_path)
        methods = {"ping": ("GET", "HEAD"), "redirect": ("GET", "HEAD"), "purge": ("DELETE",)}.get(path.verb)
        if methods is None:
            return _said(404, "no such path")
        if request.method not in methods:
            return _said(405, f"only {' and '.join(methods)}", headers={"Allow": ", ".join(methods)})
        if path.verb == "ping":
            return web.json_response({"alive": True, "uptime": round(time.monotonic() - self._began_s, 3)})
        if path.verb == "purge" and not self._may_purge(request):
            return _said(401, "a purge needs the token", headers={"WWW-Authenticate": "Bearer"})
        return await self._of_copy(request, path)

    def _may_purge(self, request: web.BaseRequest) -> bool:
        token = self._settings.purge_token
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return token is not None and secrets.compare_digest(given, f"Bearer {token}".encode())

    async def _of_copy(self, request: web.BaseRequest, path: RedirectRequest) -> web.Response:
        """Answer what is about one copy."""
        if len(path.rest) > 3:
            return _said(400, "too many path segments: the URL has to be percent-encoded, or base64", err="InvalidUrl")
        copies = self._copies.get(path.rest[:2]) if len(path.rest) == 3 else None
        if copies is None:
            return _said(404, "no such service or region")
        try:
            url = self._rules.place(path.url).url
        except UrlForbidden as error:
            return _said(403, error.message, err="InvalidUrl")
        if path.verb == "purge":
            return await _purged(copies, path_to_key(url))
        began_s = time.monotonic()
        event, response = await self._redirected(copies, url, request.method)
        response.headers[OUTCOME] = self._figures.answered(event, time.monotonic() - began_s)
        return response

    async def _redirected(self, copies: Copies, url: str, method: str) -> tuple[Event, web.Response]:
        """Return where the object is to be had, and what led there. Whatever goes wrong, it is at the URL itself."""
        key, wait_s = path_to_key(url), self._settings.max_wait_s
        if len(key) > KEY_LIMIT_BYTES:
            return Event.ERROR, _elsewhere(url, "The URL is too long for a copy's key")
        try:
            if await copies.is_there(key):
                return Event.HIT, _present(await copies.location(key, method))
            state = await copies.made(key, wait_s)
            if state is None:
                return Event.TIMEOUT, _elsewhere(url, f"Cached copy did not show up in {wait_s:g}s")
            if state.name == "present":
                return Event.WAITED, _present(await copies.location(key, method))
        except (StoreError, RedisUnavailable, asyncio.TimeoutError) as error:
            log.warning("%s: a copy cannot be had: %s", copies.route.name, str(error) or "no answer in time")
            return Event.ERROR, _elsewhere(url, "A copy cannot be had now")
        return Event.WAITED_IN_VAIN, _not_made(url, state)


class RedirectAccessLog(JsonAccessLog):
    """The access log of the redirect front: the URL decoded, and without its query."""

    def shown(self, request: web.BaseRequest) -> str:
        path = asked(request.raw_path)
        if not path.url:
            return super().shown(request)
        return f"/v1/{path.verb}/{path.rest[0]}/{path.rest[1]}/{path.url.partition('?')[0]}"


async def _purged(copies: Copies, key: str) -> web.Response:
    try:
        await copies.purge(key)
    except InvalidKey:
        pass  # a key that no copy can have
    except (StoreError, RedisUnavailable) as error:
        log.warning("%s: a purge failed: %s", copies.route.name, error)
        return _said(503, "the copy could not be deleted; try again")
    return web.Response(status=204)


def _present(location: str) -> web.Response:
    return web.json_response({"status": "present", "url": location}, status=302, headers={"Location": location})


def _elsewhere(url: str, why: str) -> web.Response:
    return web.json_response({"url": url, "msg": why}, status=302, headers={"Location": url})


def _not_made(url: str, state: CopyState) -> web.Response:
    if state.status is not None:
        return _said(state.status, state.reason, err=state.err)
    return _elsewhere(url, f"No copy can be made: {state.reason}")


def _said(status: int, message: str, *, err: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"msg": message, **({"err": err} if err else {})}, status=status, headers=headers)
