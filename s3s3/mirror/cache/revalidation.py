"""Whether what is kept is still what the store has."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum

from ...errors import StoreError, StoreUnavailable
from ...monitoring.log import log_fields
from ...s3 import Store
from ...s3.transport.pool import ASKED_FOR_S
from ...tasks import timeout
from .cached_object import CachedObject
from .directory import CacheDirectory

log = logging.getLogger(__name__)


class Validity(Enum):
    """What the store says of a kept object."""

    SAME = "same"
    CHANGED = "changed"
    UNKNOWN = "unknown"


class Revalidator:
    """Asks the store."""

    def __init__(self, store: Store, folder: CacheDirectory) -> None:
        self._store = store
        self._folder = folder
        self._asking: dict[str, asyncio.Task[Validity]] = {}

    async def of(self, key: str, about: CachedObject) -> Validity:
        """Ask the store, once however many want to know."""
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, about))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, key: str, about: CachedObject) -> Validity:
        try:
            async with timeout(ASKED_FOR_S):
                held = await self._store.head(key)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            log.warning("%s: whether %r is still the same is not known, and it is given out as it was: %s",
                        self._store.name, key, error or "no answer in time",
                        extra=log_fields(self._store.name, key))  # fmt: skip
            return Validity.UNKNOWN
        except StoreError as error:
            log.warning("%s: %r may not be given out any more: %s", self._store.name, key, error,
                        extra=log_fields(self._store.name, key))  # fmt: skip
            return Validity.CHANGED
        if held is None:
            self._folder.remove(self._folder.name(key), about)
            return Validity.CHANGED
        entry = held
        now = (entry.etag, entry.size_bytes, entry.modified_ms // 1000)
        if now != (about.etag, about.size_bytes, about.modified_ms // 1000):
            return Validity.CHANGED
        self._folder.note_valid(key)
        return Validity.SAME
