"""What the cache answers: as the store would, from the disk where it can."""

from __future__ import annotations

import asyncio
import html
import logging
import os
import time
from collections.abc import Mapping
from email.utils import formatdate
from enum import Enum

from aiohttp import web

from ...config.mirror import CacheSettings
from ...errors import AccessDenied, S3S3Error, StoreError, StoreUnavailable
from ...store import Denied, Grant, Store, Verifier
from ...web.access_log import OUTCOME
from ..figures import Event, Figures
from .fills import Fill, Fills
from .folder import About, Folder, Stored
from .ranges import Wanted, parts, wanted
from .sending import send

log = logging.getLogger(__name__)

ASKED_FOR_S = 8.0
WAITED_FOR_OTHERS_S = 10.0
"""How long a client waits for what another process downloads, before it is sent to the store."""
_LOOKED_AFTER_S = 0.05
_LOOKED_AT_LEAST_EVERY_S = 1.0
_ALLOWED = ("GET", "HEAD")
_NOT_FOR_NGINX = frozenset(("if-range", "if-match", "x-s3s3-sendfile"))
"""Requests that name the ETag, which nginx does not know; and those of an nginx that could not open the file."""
_OF_NGINX = frozenset(("content-type", "content-disposition", "cache-control", "expires", "content-encoding",
                       "content-language"))  # fmt: skip
"""Headers that the nginx configuration in conf/ carries over; whatever has others is sent from here."""


class Validity(Enum):
    """What the store says of a kept object."""

    SAME = "same"
    CHANGED = "changed"
    UNKNOWN = "unknown"


class Cache:
    """Answers requests. `store` is what is asked while a client waits."""

    def __init__(
        self, settings: CacheSettings, verifier: Verifier, store: Store, folder: Folder, fills: Fills, figures: Figures
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._store = store
        self._folder = folder
        self._fills = fills
        self._figures = figures
        self._asking: dict[str, asyncio.Task[Validity]] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in _ALLOWED:
            refused = said(405, "MethodNotAllowed", "only GET and HEAD")
            refused.headers["Allow"] = ", ".join(_ALLOWED)
            return refused
        began_s = time.monotonic()
        event, response = await self._answer(request)
        outcome = self._figures.answered(event, time.monotonic() - began_s)
        if not response.prepared:
            response.headers[OUTCOME] = outcome
        return response

    async def _answer(self, request: web.Request) -> tuple[Event, web.StreamResponse]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            grant = await self._verifier.grant(request.method, request.raw_path, headers)
        except Denied as error:
            status = 400 if error.code in ("KeyTooLongError", "InvalidURI") else 403
            return Event.REFUSED, said(status, error.code, str(error))
        except AccessDenied as error:
            log.warning("%s", error)
            return Event.ERROR, said(503, "ServiceUnavailable", "the cache has no keys to verify signatures with")
        try:
            return await self._of_object(request, grant)
        except (S3S3Error, OSError, asyncio.TimeoutError) as error:
            if isinstance(error, ConnectionError):
                raise
            log.warning("%s: %r is to be had from the store alone: %s", self._store.name, grant.key,
                        error or type(error).__name__)  # fmt: skip
            return Event.ERROR, await self._elsewhere(request, grant)

    async def _of_object(self, request: web.Request, grant: Grant) -> tuple[Event, web.StreamResponse]:
        if not grant.is_plain:
            return Event.MISS, await self._elsewhere(request, grant)
        found, seen_body = await self._fresh(grant.key)
        if found is not None:
            return Event.HIT, await self._from_disk(request, grant, found)
        if request.method == "HEAD":
            return Event.MISS, await self._elsewhere(request, grant)
        if not self._settings.streams:
            self._fills.fill(grant.key, seen_body)
            return Event.MISS, await self._elsewhere(request, grant)
        return await self._along(request, grant, seen_body)

    # -- hits

    async def _fresh(self, key: str) -> tuple[Stored | None, str]:
        """Return what is kept and may be given out; else the name of the body that may not be, "" for none."""
        stored = self._folder.open(key)
        if stored is None:
            return None, ""
        try:
            is_old = time.time() - stored.validated_s > self._settings.revalidate_s
            if is_old and await self._validity(key, stored.about) is Validity.CHANGED:
                stored.close()
                return None, stored.about.body
        except BaseException:
            stored.close()
            raise
        self._folder.note_access(stored)
        return stored, ""

    async def _validity(self, key: str, about: About) -> Validity:
        """Ask the store, once however many want to know."""
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, about))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, key: str, about: About) -> Validity:
        try:
            held = await asyncio.wait_for(self._store.head(key), ASKED_FOR_S)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            log.warning("%s: whether %r is still the same is not known, and it is given out as it was: %s",
                        self._store.name, key, error or "no answer in time")  # fmt: skip
            return Validity.UNKNOWN
        except StoreError as error:
            log.warning("%s: %r may not be given out any more: %s", self._store.name, key, error)
            return Validity.CHANGED
        if held is None:
            self._folder.remove(self._folder.name(key), about)
            return Validity.CHANGED
        entry = held.entry
        now = (entry.etag, entry.size_bytes, entry.modified_ms // 1000)
        if now != (about.etag, about.size_bytes, about.modified_ms // 1000):
            return Validity.CHANGED
        self._folder.note_valid(key)
        return Validity.SAME

    async def _from_disk(self, request: web.Request, grant: Grant, stored: Stored) -> web.StreamResponse:
        about = stored.about
        headers = _headers(about, grant.overrides)
        headers[OUTCOME] = "hit"
        try:
            early = _conditional(request, about, headers)
            if early is not None:
                return early
            if self._settings.accel_prefix and _is_for_nginx(request, headers):
                there = self._settings.accel_prefix + self._folder.body_path(about)
                del headers["Accept-Ranges"]  # nginx says that itself
                return web.Response(headers={**headers, "X-Accel-Redirect": there})
            wanted_parts = parts(request.headers, about.size_bytes, about.etag, about.modified_ms)
            return await send(request, headers, stored.file, about.size_bytes, wanted_parts)
        finally:
            stored.close()

    # -- misses

    async def _along(self, request: web.Request, grant: Grant, seen_body: str) -> tuple[Event, web.StreamResponse]:
        """Have the client read what is being downloaded, by whichever process."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WAITED_FOR_OTHERS_S
        pause_s = _LOOKED_AFTER_S
        while loop.time() < until_s:
            fill = self._fills.fill(grant.key, seen_body)
            if fill is not None:
                return await self._growing(request, grant, fill)
            if self._fills.is_full:
                break
            stored = self._folder.open(grant.key)
            if stored is not None:
                if stored.about.body != seen_body:
                    return Event.HIT, await self._from_disk(request, grant, stored)
                stored.close()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LOOKED_AT_LEAST_EVERY_S)
        return Event.MISS, await self._elsewhere(request, grant)

    async def _growing(self, request: web.Request, grant: Grant, fill: Fill) -> tuple[Event, web.StreamResponse]:
        try:
            about = await fill.begun()
        except S3S3Error:  # it is logged where it is worth it, and the store tells the client itself
            return Event.MISS, await self._elsewhere(request, grant)
        headers = _headers(about, grant.overrides)
        headers[OUTCOME] = "streamed"
        early = _conditional(request, about, headers)
        if early is not None:
            return Event.STREAMED, early
        wanted_parts = parts(request.headers, about.size_bytes, about.etag, about.modified_ms)
        if wanted_parts and len(wanted_parts) > 1:
            wanted_parts = None  # a server may always answer with the whole
        file = fill.open()
        try:
            return Event.STREAMED, await send(request, headers, file, about.size_bytes, wanted_parts, fill)
        except S3S3Error as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            os.close(file)

    async def _elsewhere(self, request: web.Request, grant: Grant) -> web.Response:
        """Send the client to the store, by its own signature where that is good there."""
        left_s = max(int(grant.expires_s - time.time()), 1)
        location = grant.at_store or await self._store.location(
            grant.key, method=request.method, signed_for_s=left_s, query=grant.rest
        )
        return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})


def said(status: int, code: str, message: str) -> web.Response:
    """Return an error as S3 words it (S3 API reference, "Error responses")."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{html.escape(code)}</Code><Message>{html.escape(message)}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")


def _headers(about: About, overrides: Mapping[str, str]) -> dict[str, str]:
    headers = {name.title(): _sendable(value) for name, value in {**about.headers, **overrides}.items()}
    headers["ETag"] = f'"{about.etag}"'
    headers["Last-Modified"] = formatdate(about.modified_ms // 1000, usegmt=True)
    headers["Accept-Ranges"] = "bytes"
    headers.setdefault("Content-Type", "binary/octet-stream")
    return headers


def _sendable(value: str) -> str:
    """Return a header's value without the bytes in it that are no UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _conditional(request: web.Request, about: About, headers: Mapping[str, str]) -> web.Response | None:
    verdict = wanted(request.headers, about.etag, about.modified_ms)
    if verdict is Wanted.FAILED:
        return said(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if verdict is Wanted.NOT_MODIFIED:
        kept = ("ETag", "Last-Modified", "Cache-Control", "Expires", OUTCOME)
        return web.Response(status=304, headers={name: headers[name] for name in kept if name in headers})
    return None


def _is_for_nginx(request: web.Request, headers: Mapping[str, str]) -> bool:
    """Whether nginx can send it with all its headers."""
    own = {name.lower() for name in headers} - {"etag", "last-modified", "accept-ranges", OUTCOME.lower()}
    return own <= _OF_NGINX and not _NOT_FOR_NGINX.intersection(name.lower() for name in request.headers)
