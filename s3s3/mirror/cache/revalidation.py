"""Check cached objects against the store."""

from __future__ import annotations

import asyncio
import logging

from ...errors import IntegrityError, StoreError, StoreUnavailable, UnexpectedResponse
from ...monitoring.log import log_fields
from ...s3 import Store
from ...s3.transport.limits import MAX_LOOKUP_S
from ...tasks import timeout
from .directory import CacheDirectory, CachedObject

log = logging.getLogger(__name__)


class Revalidator:
    """Compares cached objects with the store's by HEAD; concurrent checks of a key share one request."""

    def __init__(self, store: Store, directory: CacheDirectory) -> None:
        self._store = store
        self._directory = directory
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def has_changed(self, key: str, metadata: CachedObject) -> bool:
        """Whether the store's object differs or is gone; False while the store is unavailable.

        The download that follows removes a deleted object from the cache: any gateway answers a HEAD with 404.
        """
        check = self._running.get(key)
        if check is None:
            check = self._running[key] = asyncio.create_task(self._check(key, metadata))
            check.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(check)

    async def _check(self, key: str, metadata: CachedObject) -> bool:
        try:
            async with timeout(MAX_LOOKUP_S):
                current = await self._store.head(key)
        except (StoreUnavailable, UnexpectedResponse, IntegrityError, asyncio.TimeoutError) as error:
            log.warning("%s: cannot revalidate %r, serving it from the cache: %s",
                        self._store.name, key, error or "HEAD timed out",
                        extra=log_fields(self._store.name, key))  # fmt: skip
            return False
        except StoreError as error:
            log.warning("%s: revalidation refused, no longer serving %r from the cache: %s",
                        self._store.name, key, error, extra=log_fields(self._store.name, key))  # fmt: skip
            return True
        if current is None:
            return True
        found = (current.etag, current.size_bytes, current.modified_ms // 1000)
        if found != (metadata.etag, metadata.size_bytes, metadata.modified_ms // 1000):
            return True
        self._directory.record_validation(key)
        return False
