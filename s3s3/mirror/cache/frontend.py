"""What the cache answers: as the store would, from the disk where it can."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from aiohttp import web

from ...config.mirror import CacheSettings
from ...errors import AccessDenied, S3S3Error, SignatureRejected
from ...monitoring.log import log_fields
from ...s3 import Store
from ..access_log import OUTCOME
from ..request_stats import Event, RequestStats
from .authorization import AuthorizationCache
from .directory import CacheDirectory, Stored
from .downloads import SMALL_BYTES, Download, Downloads
from .presigned import Authorization, Verifier
from .ranges import parts
from .responses import conditional, headers_of, is_for_nginx, said
from .revalidation import Revalidator, Validity
from .sendfile import send

log = logging.getLogger(__name__)

WAITED_FOR_OTHERS_S = 10.0
"""How long a client waits for what another process downloads, before it is sent to the store."""
_LOOKED_AFTER_S = 0.05
_LOOKED_AT_LEAST_EVERY_S = 1.0
_ALLOWED = ("GET", "HEAD")
_NO_REQUEST = ("KeyTooLongError", "InvalidURI", "InvalidArgument")


class CacheFrontEnd:
    """Answers requests. `store` is what is asked while a client waits."""

    def __init__(
        self,
        settings: CacheSettings,
        verifier: Verifier,
        store: Store,
        folder: CacheDirectory,
        fills: Downloads,
        figures: RequestStats,
    ) -> None:
        self._settings = settings
        self._grants = AuthorizationCache(verifier)
        self._store = store
        self._folder = folder
        self._fills = fills
        self._figures = figures
        self._validation = Revalidator(store, folder)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
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

    async def _answer(self, request: web.BaseRequest) -> tuple[Event, web.StreamResponse]:
        try:
            grant = await self._grants.grant(request)
        except SignatureRejected as error:
            status = 400 if error.code in _NO_REQUEST else 403
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
                        error or type(error).__name__,
                        extra=log_fields(self._store.name, grant.key))  # fmt: skip
            return Event.ERROR, await self._elsewhere(request, grant)

    async def _of_object(self, request: web.BaseRequest, grant: Authorization) -> tuple[Event, web.StreamResponse]:
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
            if is_old and await self._validation.of(key, stored.about) is Validity.CHANGED:
                stored.close()
                return None, stored.about.body
        except BaseException:
            stored.close()
            raise
        self._folder.note_access(stored)
        return stored, ""

    async def _from_disk(self, request: web.BaseRequest, grant: Authorization, stored: Stored) -> web.StreamResponse:
        log_fields = stored.about
        headers = headers_of(log_fields, grant.overrides, "hit")
        try:
            early = conditional(request, log_fields, headers)
            if early is not None:
                return early
            if self._settings.accel_prefix and is_for_nginx(request, headers):
                there = self._settings.accel_prefix + self._folder.body_path(log_fields)
                del headers["Accept-Ranges"]  # nginx says that itself
                return web.Response(headers={**headers, "X-Accel-Redirect": there})
            wanted_parts = parts(request.headers, log_fields.size_bytes, log_fields.etag, log_fields.modified_ms)
            return await send(request, headers, stored.file, log_fields.size_bytes, wanted_parts)
        finally:
            stored.close()

    # -- misses

    async def _along(
        self, request: web.BaseRequest, grant: Authorization, seen_body: str
    ) -> tuple[Event, web.StreamResponse]:
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

    async def _growing(
        self, request: web.BaseRequest, grant: Authorization, fill: Download
    ) -> tuple[Event, web.StreamResponse]:
        file = fill.open()
        try:
            try:
                log_fields = await fill.begun()
                if log_fields.size_bytes <= SMALL_BYTES:
                    await fill.came()  # so that what is damaged leads to the store rather than to a broken answer
            except S3S3Error:  # it is logged where it is worth it, and the store tells the client itself
                return Event.MISS, await self._elsewhere(request, grant)
            headers = headers_of(log_fields, grant.overrides, "streamed")
            early = conditional(request, log_fields, headers)
            if early is not None:
                return Event.STREAMED, early
            wanted_parts = parts(request.headers, log_fields.size_bytes, log_fields.etag, log_fields.modified_ms)
            if wanted_parts and len(wanted_parts) > 1:
                wanted_parts = None  # a server may always answer with the whole
            growing = None if fill.is_right else fill
            return Event.STREAMED, await send(request, headers, file, log_fields.size_bytes, wanted_parts, growing)
        except S3S3Error as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            os.close(file)

    async def _elsewhere(self, request: web.BaseRequest, grant: Authorization) -> web.Response:
        """Send the client to the store, by its own signature where that is good there."""
        left_s = max(int(grant.expires_s - time.time()), 1)
        location = grant.at_store or await self._store.location(
            grant.key, method=request.method, signed_for_s=left_s, query=grant.rest
        )
        return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})
