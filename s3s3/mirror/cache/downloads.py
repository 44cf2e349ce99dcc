"""Downloads into the cache: one for a key, whoever asks for it, at all processes of the directory."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ...errors import IntegrityError, NotCached, S3S3Error, StoreError
from ...model import md5_of_etag
from ...monitoring.log import log_fields
from ...monitoring.metrics import Metrics
from ...s3 import RECORDED_ETAG, ObjectStream, Store
from ...tasks import cancel, timeout
from ...transfer.digest import Digest, md5_of
from .cached_object import CachedObject
from .directory import CacheDirectory
from .eviction import DiskSpace, Evicted
from .writer import EntryWriter, begin, keep

log = logging.getLogger(__name__)

MAX_FILLS = 32
MAX_S = 6 * 3600.0
"""A store that trickles must not keep a key for ever."""
SMALL_BYTES = 64 * 1024
"""To write it takes less time than a thread takes to be asked for it."""
_READERS_FIRST_S = 0.002
"""A thread that begins takes the interpreter from those who could give the body on already."""
_TAKEN_AT_ONCE_BYTES = 64 * 1024
Result = TypeVar("Result")


class Download:
    """One download. Its body can be read along as it grows.

    Attributes:
        about: what the store says of the object; None until it has answered.
        error: why it came to nothing, or is not kept.
        is_right: all of it has come and has the right MD5, so that all may be given on; the disk may not have it yet.
    """

    def __init__(self, filling: EntryWriter) -> None:
        self._filling = filling
        self._written_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._moved: asyncio.Future[None] = self._loop.create_future()
        self.about: CachedObject | None = None
        self.error: Exception | None = None
        self.is_right = False

    @property
    def readable_bytes(self) -> int:
        """How much of the body may be given on: the last byte only once the whole has the right MD5."""
        if self.about is None or self.is_right:
            return self.about.size_bytes if self.about else 0
        return min(self._written_bytes, max(self.about.size_bytes - 1, 0))

    async def moved(self) -> None:
        """Wait until there is something new: what it is about, more bytes, its end. Raises what ended it."""
        if self.error is None and not self.is_right:
            await asyncio.wait([self._moved])
        if self.error is not None and not self.is_right:
            raise self.error

    async def begun(self) -> CachedObject:
        """Return what the store says of the object. Raises StoreError and Unkept."""
        while self.about is None:
            await self.moved()
        return self.about

    async def came(self) -> None:
        """Wait until all of it may be given on. Raises StoreError and Unkept."""
        while not self.is_right:
            await self.moved()

    def open(self) -> int:
        """Return the body's file; it is the caller's to close."""
        return os.dup(self._filling.file)

    async def run(
        self, store: Store, key: str, folder: CacheDirectory, room: DiskSpace, evicted: Callable[[Evicted], None]
    ) -> None:
        """Download it. Raises nothing; `error` tells."""
        is_kept = False
        try:
            async with timeout(MAX_S):
                await self._download(store, key, folder, room, evicted)
            is_kept = True
        except (S3S3Error, OSError, asyncio.TimeoutError) as error:
            self.error = error if isinstance(error, S3S3Error) else NotCached(str(error) or "it took too long")
        finally:
            if not is_kept and self.error is None:
                self.error = NotCached("the cache is about to end")
            self._filling.close()
            self._tell()

    async def _download(
        self, store: Store, key: str, folder: CacheDirectory, room: DiskSpace, evicted: Callable[[Evicted], None]
    ) -> None:
        async with await store.get(key) as reading:
            entry = reading.info
            if entry.size_bytes > SMALL_BYTES or not room.reserve_now(self._filling.file, entry.size_bytes):
                is_there, gone = await _in_thread(partial(room.reserve, self._filling.file, entry.size_bytes))
                evicted(gone)
                if not is_there:
                    raise NotCached(f"there is no room for its {entry.size_bytes} bytes")
            log_fields = _about(reading, store.endpoint.bucket_name, folder.new_body(key))
            self.about = log_fields
            self._tell()
            md5 = await self._take(reading)
        promised = None if reading.info.encrypted else md5_of_etag(entry.etag)
        if self._written_bytes != entry.size_bytes or md5 != (promised or md5):
            raise IntegrityError(
                f"what came has the MD5 {md5}, not {promised}", store=store.name, operation="GET", key=key
            )
        self.is_right = True
        self._tell()  # nobody needs to wait for the disk
        await asyncio.sleep(_READERS_FIRST_S)
        await _in_thread(partial(keep, folder, self._filling, replace(log_fields, md5=md5)))

    async def _take(self, reading: ObjectStream) -> str:
        """Write the body down, and return its MD5 in hex digits."""
        if reading.info.size_bytes <= SMALL_BYTES:
            body = await reading.body()
            self._write(body)
            return (await md5_of(body)).hex()
        digest = Digest(also=self._write_and_tell, eager=True)
        try:
            async for chunk in reading.chunks(_TAKEN_AT_ONCE_BYTES):
                await digest.add(chunk)
            return (await digest.end()).hex()
        finally:
            await digest.wait_for_thread()

    def _write_and_tell(self, chunk: bytes) -> None:
        self._write(chunk)
        self._loop.call_soon_threadsafe(self._tell)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            written = os.pwrite(self._filling.file, left, self._written_bytes)
            self._written_bytes += written
            left = left[written:]

    def _tell(self) -> None:
        moved, self._moved = self._moved, self._loop.create_future()
        moved.set_result(None)


async def _in_thread(work: Callable[[], Result]) -> Result:
    """Work in a thread, and wait for it whatever happens: it has our file, which is closed after that."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def _about(reading: ObjectStream, bucket: str, body: str) -> CachedObject:
    entry = reading.info
    headers = dict(reading.info.headers)
    if reading.info.recorded_etag is not None:
        headers[RECORDED_ETAG] = reading.info.recorded_etag
    return CachedObject(bucket, entry.key, entry.size_bytes, entry.etag, entry.modified_ms, headers, "", body)


class Downloads:
    """The downloads of one process."""

    def __init__(self, store: Store, folder: CacheDirectory, room: DiskSpace, metrics: Metrics, mirror: str) -> None:
        self._store = store
        self._folder = folder
        self._room = room
        self._metrics = metrics
        self._mirror = mirror
        self._fills: dict[str, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for outcome in ("kept", "not kept", "failed"):
            metrics.mirror_cache_fills[mirror, outcome] += 0

    @property
    def under_way(self) -> int:
        """How many there are."""
        return len(self._fills)

    @property
    def is_full(self) -> bool:
        """Whether there may be no more for now."""
        return len(self._fills) >= MAX_FILLS

    def fill(self, key: str, seen_body: str) -> Download | None:
        """Return the download of a key, a new one where there is none.

        None: another process downloads it, or has done so, or there are too many.

        Args:
            seen_body: the body that is kept and does not do any more; "" where none is kept.

        Raises:
            OSError: the directory cannot be written to.
        """
        fill = self._fills.get(key)
        if fill is not None or self.is_full:
            return fill
        filling = begin(self._folder, key)
        if filling is None:
            return None
        stored = self._folder.open(key)
        if stored is not None:
            stored.close()
            if stored.about.body != seen_body:
                filling.close()
                return None
        fill = self._fills[key] = Download(filling)
        task = asyncio.create_task(self._run(key, fill))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fill

    async def close(self) -> None:
        """End them all."""
        await cancel(self._tasks)

    async def _run(self, key: str, fill: Download) -> None:
        try:
            await fill.run(self._store, key, self._folder, self._room, self.evicted)
        finally:
            del self._fills[key]
            self._count(key, fill)

    def evicted(self, evicted: Evicted) -> None:
        """Count what has been removed to make room."""
        self._metrics.mirror_cache_evicted[self._mirror] += evicted.objects
        self._metrics.mirror_cache_evicted_bytes[self._mirror] += evicted.size_bytes

    def _count(self, key: str, fill: Download) -> None:
        error = fill.error
        outcome = "kept" if error is None else "not kept" if isinstance(error, NotCached) else "failed"
        self._metrics.mirror_cache_fills[self._mirror, outcome] += 1
        if error is not None and (not isinstance(error, StoreError) or error.retriable):
            log.warning("%s: %r is not kept: %s", self._mirror, key, error, extra=log_fields(self._store.name, key))
