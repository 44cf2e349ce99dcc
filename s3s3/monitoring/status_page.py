"""The status page over HTTP: the page, its updates as server-sent events, and what may be done with dead letters."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from redis.asyncio import Redis

from ..config import Config
from ..errors import RedisUnavailable
from ..model import Secret
from ..queue.lease import boottime_s
from ..tasks import wait_with_timeout
from .formatting import count_text
from .page import Page, wish_of
from .snapshot import RouteSnapshotReader, RouteView, watches

log = logging.getLogger(__name__)

EVERY_S = 2.0
"""How often those who look are told; Redis is asked no more often, however many they are."""

MAX_WATCHING = 32
SIGN_OF_LIFE_S = 15.0
WRONG_TOKEN_PAUSE_S = 1.0
KEYS_AT_ONCE = 500

MAX_FORM_BYTES = 64 * 1024
"""More than a button's value, which holds a key, and a token can have."""

_COUNT = re.compile(r"[0-9]{1,9}")

Said = Callable[[int], str]
_DONE: dict[str, Said] = {
    "retry": lambda count: f"{count_text(count, 'dead letter', 'dead letters')} put back to work.",
    "drop": lambda count: f"{count_text(count, 'dead letter', 'dead letters')} dropped.",
}


class StatusPage:
    """The status page.

    Args:
        watches: what reads each route.
        token: who sends it may retry and drop dead letters; None: nobody may.
    """

    def __init__(self, watches: Sequence[RouteSnapshotReader], token: Secret | None = None) -> None:
        self._watches = {watch.route.name: watch for watch in watches}
        self._token = token
        self._page = Page(may_act=token is not None)
        self._parts: dict[str, str] = {}
        self._views: list[RouteView] = []
        self._read_at_s = 0.0
        self._reading = asyncio.Lock()
        self._watching = 0
        self._closing = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add its addresses to an application."""
        app.add_routes(
            [web.get("/", self._show), web.get("/events", self._events), web.post("/dead-letters", self._act)]
        )

        async def close(_: web.Application) -> None:
            self._closing.set()

        app.on_shutdown.append(close)

    async def parts(self) -> dict[str, str]:
        """Return the page's parts, as they were at most `EVERY_S` ago."""
        async with self._reading:
            if boottime_s() - self._read_at_s >= EVERY_S * 0.9:
                wrong = []
                try:
                    self._views = [await watch.read() for watch in self._watches.values()]
                except RedisUnavailable as error:
                    wrong.append(f"{str(error).rstrip(chr(46))}. What stands below is what was known last.")
                self._parts = self._page.parts(self._views, wrong)
                self._read_at_s = boottime_s()
            return self._parts

    # -- looking

    async def _show(self, request: web.Request) -> web.Response:
        done, count = request.query.get("done", ""), request.query.get("count", "")
        return await self._answer(_DONE[done](int(count)) if done in _DONE and _COUNT.fullmatch(count) else "")

    async def _answer(self, said: str = "", status: int = 200) -> web.Response:
        text = self._page.whole(await self.parts(), said)
        headers = {
            "Content-Security-Policy": self._page.policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the parts that changed, again and again."""
        if self._watching >= MAX_WATCHING:
            raise web.HTTPServiceUnavailable(text=f"{MAX_WATCHING} are watching already\n")
        self._watching += 1
        try:
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await answer.prepare(request)
            await self._send_until_closing(answer)
        except ConnectionError:
            pass  # who looked has gone
        finally:
            self._watching -= 1
        return answer

    async def _send_until_closing(self, answer: web.StreamResponse) -> None:
        sent: dict[str, str] = {}
        spoke_at_s = 0.0
        while not self._closing.is_set():
            parts = await self.parts()
            changed = {name: html for name, html in parts.items() if sent.get(name) != html}
            if changed or boottime_s() - spoke_at_s >= SIGN_OF_LIFE_S:  # who has gone is noticed by writing
                await answer.write(f"data: {json.dumps(changed)}\n\n".encode())
                spoke_at_s = boottime_s()
            sent = parts
            await wait_with_timeout(self._closing, EVERY_S)

    # -- doing

    async def _act(self, request: web.Request) -> web.StreamResponse:
        """Do what a button says, for whoever knows the token.

        The token comes with each request and from no cookie, so that no other site can have a browser send it.
        """
        if self._token is None:
            return await self._answer("Read-only: the configuration has no [http] token.", 403)
        form = await request.post()
        token = form.get("token", "")
        if not isinstance(token, str) or not secrets.compare_digest(token.encode(), self._token.encode()):
            await asyncio.sleep(WRONG_TOKEN_PAUSE_S)
            return await self._answer("That is not the token of [http] token; nothing was done.", 403)
        try:
            word, route, destination, *keys = wish_of(str(form.get("wish", "")))
            watch = self._watches[route]
        except (ValueError, KeyError):
            watch = None
        if watch is None or word not in ("retry", "retry all", "drop") or destination not in watch.destinations:
            return await self._answer("That button is not of this page; nothing was done.", 400)
        try:
            count = await self._move(watch, word, destination, keys)
        except RedisUnavailable as error:
            return await self._answer(f"Perhaps not done: {error}.", 503)
        self._read_at_s = 0.0
        done = "drop" if word == "drop" else "retry"
        log.info("route %s: %s: by the status page: %s", route, destination, _DONE[done](count))
        raise web.HTTPSeeOther(f"./?done={done}&count={count}")

    async def _move(self, watch: RouteSnapshotReader, word: str, destination: str, keys: Sequence[str]) -> int:
        jobs = watch.jobs
        move: Callable[[str, Sequence[str]], Awaitable[int]] = jobs.drop if word == "drop" else jobs.redrive
        if word != "retry all":
            return await move(destination, keys)
        count = 0
        found: list[str] = []
        async for letter in jobs.dead_letters(destination):
            found.append(letter.key)
            if len(found) == KEYS_AT_ONCE:
                count += await move(destination, found)
                found = []
        return count + (await move(destination, found) if found else 0)


def status_page_for(settings: Config, client: Redis | None) -> StatusPage | None:
    """Return the page, None where there is none, or no Redis to read it from."""
    if settings.http is None or client is None:
        return None
    lease_s = settings.worker.lease_s
    of_routes = watches(client, settings.routes, lease_s)
    return StatusPage([*of_routes, *watches(client, settings.mirror.routes, lease_s, "mirror")], settings.http.token)
