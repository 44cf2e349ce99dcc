"""Answer presigned GET and HEAD from disk, or redirect to the store."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass

from aiohttp import web

from ...config.mirror import CacheSettings
from ...errors import InvalidCredentials, S3S3Error, SignatureRejected
from ...monitoring.log import log_fields
from ...s3 import Store
from ..access_log import OUTCOME
from ..request_stats import Event, RequestStats
from .authorization import AuthorizationCache
from .directory import CacheDirectory, OpenObject
from .downloads import SMALL_OBJECT_BYTES, Download, Downloads
from .presigned import Authorization
from .responses import can_nginx_send, conditional_response, error_response, object_headers, requested_ranges
from .revalidation import Revalidator
from .sendfile import send_file

log = logging.getLogger(__name__)

#: How long a client waits for another process's download before it is redirected to the store (s).
MAX_DOWNLOAD_WAIT_S = 10.0
_INITIAL_POLL_INTERVAL_S = 0.05
_MAX_POLL_INTERVAL_S = 1.0
_ALLOWED_METHODS = ("GET", "HEAD")
#: Error codes that S3 sends with status 400; the others are sent with 403.
_BAD_REQUEST_CODES = ("KeyTooLongError", "InvalidURI", "InvalidArgument")


@dataclass(frozen=True)
class CacheFrontEnd:
    """Request handler of the cache. `store` is for requests while a client waits."""

    settings: CacheSettings
    authorizations: AuthorizationCache
    store: Store
    directory: CacheDirectory
    downloads: Downloads
    revalidator: Revalidator
    stats: RequestStats

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in _ALLOWED_METHODS:
            refusal = error_response(405, "MethodNotAllowed", "only GET and HEAD are allowed")
            refusal.headers["Allow"] = ", ".join(_ALLOWED_METHODS)
            return refusal
        start_s = time.monotonic()
        event, response = await self._answer(request)
        outcome = self.stats.record_request(event, time.monotonic() - start_s)
        if not response.prepared:
            response.headers[OUTCOME] = outcome
        return response

    async def _answer(self, request: web.BaseRequest) -> tuple[Event, web.StreamResponse]:
        try:
            authorization = await self.authorizations.authorize(request)
        except SignatureRejected as error:
            status = 400 if error.code in _BAD_REQUEST_CODES else 403
            return Event.REFUSED, error_response(status, error.code, str(error))
        except InvalidCredentials as error:
            log.warning("%s", error)
            message = "the cache has no credentials to verify signatures with"
            return Event.ERROR, error_response(503, "ServiceUnavailable", message)
        try:
            return await self._answer_authorized(request, authorization)
        except (S3S3Error, OSError, asyncio.TimeoutError) as error:
            if isinstance(error, ConnectionError):
                raise
            log.warning("%s: cannot serve %r from the cache, redirecting to the store: %s", self.store.name,
                        authorization.key, error or type(error).__name__,
                        extra=log_fields(self.store.name, authorization.key))  # fmt: skip
            return Event.ERROR, await self._redirect(request, authorization)

    async def _answer_authorized(
        self, request: web.BaseRequest, authorization: Authorization
    ) -> tuple[Event, web.StreamResponse]:
        if not authorization.is_plain:
            return Event.MISS, await self._redirect(request, authorization)
        key, stale_body = authorization.key, ""
        cached = self.directory.open(key)
        if cached is not None:
            try:
                is_due = time.time() - cached.validated_s > self.settings.revalidate_s
                has_changed = is_due and await self.revalidator.has_changed(key, cached.metadata)
            except BaseException:
                cached.close()
                raise
            if not has_changed:
                self.directory.record_access(cached)
                return Event.HIT, await self._send_cached(request, authorization, cached)
            cached.close()
            stale_body = cached.metadata.body
        if request.method == "HEAD":
            return Event.MISS, await self._redirect(request, authorization)
        if not self.settings.streams:
            self.downloads.start(key, stale_body)
            return Event.MISS, await self._redirect(request, authorization)
        return await self._download_and_send(request, authorization, stale_body)

    async def _send_cached(
        self, request: web.BaseRequest, authorization: Authorization, cached: OpenObject
    ) -> web.StreamResponse:
        metadata = cached.metadata
        headers = object_headers(metadata, authorization.header_overrides, "hit")
        try:
            response = conditional_response(request, metadata, headers)
            if response is not None:
                return response
            if self.settings.accel_prefix and can_nginx_send(request, headers):
                location = self.settings.accel_prefix + self.directory.body_path(metadata)
                del headers["Accept-Ranges"]  # nginx adds it
                return web.Response(headers={**headers, "X-Accel-Redirect": location})
            ranges = requested_ranges(request, metadata)
            return await send_file(request, headers, cached.file, metadata.size_bytes, ranges)
        finally:
            cached.close()

    async def _download_and_send(
        self, request: web.BaseRequest, authorization: Authorization, stale_body: str
    ) -> tuple[Event, web.StreamResponse]:
        """Send an object while it is downloaded here, or once another process has downloaded it."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + MAX_DOWNLOAD_WAIT_S
        interval_s = _INITIAL_POLL_INTERVAL_S
        while loop.time() < deadline_s:
            download = self.downloads.start(authorization.key, stale_body)
            if download is not None:
                return await self._send_download(request, authorization, download)
            if self.downloads.is_full:
                break
            cached = self.directory.open(authorization.key)
            if cached is not None:
                if cached.metadata.body != stale_body:
                    return Event.HIT, await self._send_cached(request, authorization, cached)
                cached.close()
            await asyncio.sleep(interval_s)
            interval_s = min(interval_s * 1.5, _MAX_POLL_INTERVAL_S)
        return Event.MISS, await self._redirect(request, authorization)

    async def _send_download(
        self, request: web.BaseRequest, authorization: Authorization, download: Download
    ) -> tuple[Event, web.StreamResponse]:
        file = os.dup(download.writer.file)
        try:
            try:
                while (metadata := download.metadata) is None:
                    await download.wait_for_progress()
                # A damaged small object leads to a redirect, not to a response that breaks off.
                while metadata.size_bytes <= SMALL_OBJECT_BYTES and not download.is_verified:
                    await download.wait_for_progress()
            except S3S3Error:  # `Downloads` logs it, and the store answers the client itself
                return Event.MISS, await self._redirect(request, authorization)
            headers = object_headers(metadata, authorization.header_overrides, "streamed")
            response = conditional_response(request, metadata, headers)
            if response is not None:
                return Event.STREAMED, response
            ranges = requested_ranges(request, metadata)
            if ranges and len(ranges) > 1:
                ranges = None  # a server may ignore Range (RFC 9110, 14.2)
            running = None if download.is_verified else download
            return Event.STREAMED, await send_file(request, headers, file, metadata.size_bytes, ranges, running)
        except S3S3Error as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            os.close(file)

    async def _redirect(self, request: web.BaseRequest, authorization: Authorization) -> web.Response:
        """Redirect to the store, with the client's own signature if the store accepts it."""
        left_s = max(int(authorization.expires_s - time.time()), 1)
        location = authorization.store_url or await self.store.object_url(
            authorization.key, method=request.method, expires_s=left_s, query=authorization.query
        )
        return web.Response(status=302, headers={"Location": location, "Cache-Control": "no-store"})
