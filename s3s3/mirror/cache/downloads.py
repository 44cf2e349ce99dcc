"""Download each missing object once, across all processes that share the directory."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ...errors import IntegrityError, NoSuchKey, NotCached, S3S3Error, StoreError
from ...model import md5_of_etag
from ...monitoring.log import log_fields
from ...monitoring.metrics import Metrics
from ...s3 import ObjectStream, Store
from ...tasks import cancel, timeout
from ...transfer.digest import Digest, md5_of
from .directory import CacheDirectory, CachedObject
from .eviction import DiskSpace
from .writer import EntryWriter, commit, open_writer

log = logging.getLogger(__name__)

#: Concurrent downloads of a process.
MAX_DOWNLOADS = 32
#: Time limit of one download (s): a store that sends a few bytes at a time must not occupy a key indefinitely.
MAX_DOWNLOAD_S = 6 * 3600.0
#: Objects up to this size are written in the event loop, because that takes less time than starting a thread.
SMALL_OBJECT_BYTES = 64 * 1024
#: Delay before the thread that commits starts (s). It would hold the GIL while readers could send the body.
_COMMIT_DELAY_S = 0.002
_READ_BYTES = 64 * 1024
Result = TypeVar("Result")


class Download:
    """One download. Its body can be read while it grows.

    Attributes:
        metadata: None until the store responds.
        error: why the download failed, or why its object is not cached.
        is_verified: the whole body has arrived with the right MD5 and may be sent; it may not be on disk yet.
    """

    def __init__(self, writer: EntryWriter) -> None:
        self.writer = writer
        self._loop = asyncio.get_running_loop()
        self._progress: asyncio.Future[None] = self._loop.create_future()
        self.metadata: CachedObject | None = None
        self.error: Exception | None = None
        self.is_verified = False
        self.written_bytes = 0

    @property
    def readable_bytes(self) -> int:
        """How much of the body may be sent: the last byte only after the MD5 of the whole is verified."""
        if self.metadata is None:
            return 0
        if self.is_verified:
            return self.metadata.size_bytes
        return min(self.written_bytes, max(self.metadata.size_bytes - 1, 0))

    async def wait_for_progress(self) -> None:
        """Wait until metadata or more bytes arrive, or the download ends. Raises StoreError and NotCached."""
        if self.error is None and not self.is_verified:
            await asyncio.wait([self._progress])
        if self.error is not None and not self.is_verified:
            raise self.error

    def notify(self) -> None:
        """Wake the requests that wait for progress."""
        progress, self._progress = self._progress, self._loop.create_future()
        progress.set_result(None)

    def write(self, chunk: bytes) -> None:
        """Append to the body."""
        left = memoryview(chunk)
        while left:
            written = os.pwrite(self.writer.file, left, self.written_bytes)
            self.written_bytes += written
            left = left[written:]

    def write_in_thread(self, chunk: bytes) -> None:
        """Append to the body in another thread than the event loop's."""
        self.write(chunk)
        self._loop.call_soon_threadsafe(self.notify)


class Downloads:
    """The downloads of one process."""

    def __init__(
        self, store: Store, directory: CacheDirectory, disk_space: DiskSpace, metrics: Metrics, mirror: str
    ) -> None:
        self._store = store
        self._directory = directory
        self._disk_space = disk_space
        self._metrics = metrics
        self._mirror = mirror
        self._running: dict[str, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for outcome in ("cached", "not_cached", "failed"):
            metrics.mirror_cache_fills[mirror, outcome] += 0

    @property
    def running(self) -> int:
        """How many downloads are running."""
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether `MAX_DOWNLOADS` are running."""
        return len(self._running) >= MAX_DOWNLOADS

    def start(self, key: str, stale_body: str) -> Download | None:
        """Return the running download of a key, or start one. Raises OSError if the directory cannot be written to.

        Returns None if another process downloads the key or has replaced `stale_body` ("": the key was not cached),
        or if `MAX_DOWNLOADS` are running.
        """
        download = self._running.get(key)
        if download is not None or self.is_full:
            return download
        writer = open_writer(self._directory, key)
        if writer is None:
            return None
        cached = self._directory.open(key)
        if cached is not None:
            cached.close()
            if cached.metadata.body != stale_body:
                writer.close()
                return None
        download = self._running[key] = Download(writer)
        task = asyncio.create_task(self._run(key, stale_body, download))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return download

    async def close(self) -> None:
        """Cancel all downloads."""
        await cancel(self._tasks)

    def _remove(self, key: str, stale_body: str) -> None:
        """Remove an object that the store does not have: its revalidation got the same answer before."""
        cached = self._directory.open(key)
        if cached is not None:
            cached.close()
            if cached.metadata.body == stale_body:
                self._directory.remove(self._directory.name(key), cached.metadata)

    async def _run(self, key: str, stale_body: str, download: Download) -> None:
        try:
            async with timeout(MAX_DOWNLOAD_S):
                await self._download(key, download)
        except asyncio.TimeoutError:
            download.error = NotCached(f"the download took more than {MAX_DOWNLOAD_S:.0f} s")
        except OSError as error:
            download.error = NotCached(str(error) or type(error).__name__)
        except S3S3Error as error:
            download.error = error
            if isinstance(error, NoSuchKey):
                self._remove(key, stale_body)
        except BaseException:
            download.error = NotCached("the cache is shutting down")
            raise
        finally:
            download.writer.close()
            download.notify()
            del self._running[key]
            failure = download.error
            outcome = "cached" if failure is None else "not_cached" if isinstance(failure, NotCached) else "failed"
            self._metrics.mirror_cache_fills[self._mirror, outcome] += 1
            if failure is not None and (not isinstance(failure, StoreError) or failure.retriable):
                log.warning("%s: cannot cache %r: %s", self._mirror, key, failure,
                            extra=log_fields(self._store.name, key))  # fmt: skip

    async def _download(self, key: str, download: Download) -> None:
        file = download.writer.file
        async with await self._store.get(key) as stream:
            info, size_bytes = stream.info, stream.info.size_bytes
            if not info.etag:
                raise NotCached("the store returned no ETag, so the object could not be revalidated")
            if size_bytes > SMALL_OBJECT_BYTES or not self._disk_space.try_reserve(file, size_bytes):
                is_reserved, evicted = await _in_thread(partial(self._disk_space.reserve, file, size_bytes))
                self._metrics.mirror_cache_evicted[self._mirror] += evicted.objects
                self._metrics.mirror_cache_evicted_bytes[self._mirror] += evicted.size_bytes
                if not is_reserved:
                    raise NotCached(f"not enough disk space for {size_bytes} bytes")
            metadata = download.metadata = CachedObject(
                self._store.endpoint.bucket_name, info.key, size_bytes, info.etag, info.modified_ms,
                {**info.headers, **info.records}, "", self._directory.new_body_name(key),
            )  # fmt: skip
            download.notify()
            md5 = await _receive(stream, download)
        expected = None if info.encrypted else md5_of_etag(info.etag)
        if download.written_bytes != size_bytes or md5 != (expected or md5):
            message = f"the received MD5 is {md5}, not {expected}"
            raise IntegrityError(message, store=self._store.name, operation="GET", key=key)
        download.is_verified = True
        download.notify()  # readers need not wait for the disk
        await asyncio.sleep(_COMMIT_DELAY_S)
        await _in_thread(partial(commit, self._directory, download.writer, replace(metadata, md5=md5)))


async def _receive(stream: ObjectStream, download: Download) -> str:
    """Write the body to its file; return its MD5 in hex digits."""
    if stream.info.size_bytes <= SMALL_OBJECT_BYTES:
        body = await stream.body()
        download.write(body)
        return (await md5_of(body)).hex()
    digest = Digest(also=download.write_in_thread, eager=True)
    try:
        async for chunk in stream.chunks(_READ_BYTES):
            await digest.add(chunk)
        return (await digest.end()).hex()
    finally:
        await digest.wait_for_thread()


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Run in a thread, and wait for its end even when cancelled: it uses a file that is closed afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
