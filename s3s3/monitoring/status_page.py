"""Serve the status page, its event stream and dead-letter actions."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Sequence
from functools import cached_property

from aiohttp import web
from redis.asyncio import Redis

from ..config import Config
from ..errors import RedisUnavailable
from ..model import Secret
from ..tasks import wait_with_timeout
from . import fleet
from .actions import Actions, Selection, UnknownTarget
from .fleet import Fleet
from .formatting import count_noun
from .page import Page, decode_command
from .snapshot import RouteSnapshotReader, snapshot_readers

MAX_CLIENTS = 32

#: How often an unchanged page is sent, in seconds; writing detects closed connections.
KEEP_ALIVE_S = 15.0

#: The delay of the response to a wrong token, in seconds.
WRONG_TOKEN_DELAY_S = 1.0

#: Larger than a token and a button's value, which contains a key.
MAX_FORM_BYTES = 64 * 1024

_COUNT = re.compile(r"[0-9]{1,9}")

_RESULTS: dict[str, str] = {"retry": "put back on the queue", "drop": "dropped"}


class StatusPage:
    """The status page as handlers of an aiohttp application.

    Args:
        readers: a reader for each route.
        token: lets a client retry and drop dead letters; None makes the page read-only.
    """

    def __init__(self, readers: Sequence[RouteSnapshotReader], token: Secret | None = None) -> None:
        self.fleet = Fleet(readers)
        self.actions = Actions(readers)
        self._token = token
        self._clients = 0
        self._closing = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add `/`, `/events` and `/dead-letters` to an application."""
        app.add_routes(
            [web.get("/", self._show), web.get("/events", self._events), web.post("/dead-letters", self._act)]
        )

        async def close(_: web.Application) -> None:
            self._closing.set()

        app.on_shutdown.append(close)

    @cached_property
    def _page(self) -> Page:
        return Page(can_act=self._token is not None)

    async def _current_parts(self) -> dict[str, str]:
        """Return the parts of the page."""
        return self._page.parts(await self.fleet.state())

    async def _show(self, request: web.Request) -> web.Response:
        done, count = request.query.get("done", ""), request.query.get("count", "")
        is_result = done in _RESULTS and _COUNT.fullmatch(count)
        return await self._response(_result_text(done, int(count)) if is_result else "")

    async def _response(self, message: str = "", status: int = 200) -> web.Response:
        routes = {reader.route.name: reader.jobs.stores for reader in self.fleet.readers}
        text = self._page.render(await self._current_parts(), routes, message)
        headers = {
            "Content-Security-Policy": self._page.policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)

    # -- server-sent events

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the parts that changed, until the client disconnects."""
        if self._clients >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"too many clients: {MAX_CLIENTS} receive updates already\n")
        self._clients += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            sent: dict[str, str] = {}
            sent_at_s = 0.0
            while not self._closing.is_set():
                parts = await self._current_parts()
                changed = {name: html for name, html in parts.items() if sent.get(name) != html}
                if changed or time.monotonic() - sent_at_s >= KEEP_ALIVE_S:
                    await response.write(f"data: {json.dumps(changed)}\n\n".encode())
                    sent_at_s = time.monotonic()
                sent = parts
                await wait_with_timeout(self._closing, fleet.UPDATE_INTERVAL_S)
        except ConnectionError:
            pass  # the client has disconnected
        finally:
            self._clients -= 1
        return response

    # -- dead letters

    async def _act(self, request: web.Request) -> web.StreamResponse:
        """Retry or drop dead letters.

        Each request carries the token in its form, and no cookie does: another site cannot forge a request.
        """
        if self._token is None:
            return await self._response("Read-only: the configuration has no [http] token", 403)
        form = await request.post()
        token = form.get("token", "")
        if not isinstance(token, str) or not secrets.compare_digest(
            token.encode(), self._token.get_secret_value().encode()
        ):
            await asyncio.sleep(WRONG_TOKEN_DELAY_S)
            return await self._response("Nothing changed: the token is not the one in [http] token", 403)
        try:
            verb, route, destination, *keys = decode_command(str(form.get("command", "")))
            reason = keys.pop() if verb.endswith(" group") else None
            selection = Selection(route, destination, keys, reason)
            apply = _ACTIONS[verb.removesuffix(" group")]
            count = await apply(self.actions, selection, str(request.remote))
        except (ValueError, KeyError, IndexError, UnknownTarget):
            return await self._response("Nothing changed: unknown command", 400)
        except RedisUnavailable as error:
            return await self._response(f"The result is unknown: {error}", 503)
        self.fleet.expire()
        raise web.HTTPSeeOther(f"./?done={verb.removesuffix(' group')}&count={count}")


_ACTIONS = {"retry": Actions.retry, "drop": Actions.drop}


def _result_text(done: str, count: int) -> str:
    return f"{count_noun(count, 'dead letter')} {_RESULTS[done]}"


def status_page_for(settings: Config, client: Redis | None) -> StatusPage | None:
    """Return the status page, or None without HTTP or Redis."""
    if settings.http is None or client is None:
        return None
    lease_s = settings.worker.lease_s
    readers = snapshot_readers(client, settings.routes, lease_s)
    readers += snapshot_readers(client, settings.mirror.routes, lease_s, "mirror")
    return StatusPage(readers, settings.http.token)
