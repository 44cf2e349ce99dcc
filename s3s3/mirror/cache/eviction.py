"""Reserve disk space before a download; evict the least recently used objects."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...config.mirror import CacheSettings
from .cached_object import CachedObject
from .directory import CacheDirectory


class DiskUsage(NamedTuple):
    """Size and used bytes of a file system. Blocks reserved for root count as used."""

    size_bytes: int
    used_bytes: int


def disk_usage(directory: Path) -> DiskUsage:
    """Return the usage of the file system that holds a directory."""
    status = os.statvfs(directory)
    size_bytes = status.f_blocks * status.f_frsize
    return DiskUsage(size_bytes, size_bytes - status.f_bavail * status.f_frsize)


@dataclass
class Evicted:
    """Number and total size of evicted objects."""

    objects: int = 0
    size_bytes: int = 0


class DiskSpace:
    """Keeps the file system below its limits. All methods but `try_reserve` block: call them in a thread.

    Args:
        max_fill: fraction of the file system that may be in use after an object is added.
        low_fill: fraction down to which objects are evicted when `max_fill` is reached.
    """

    def __init__(
        self, directory: CacheDirectory, max_fill: float, low_fill: float,
        disk_usage: Callable[[Path], DiskUsage] = disk_usage,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._max_fill = max_fill
        self._low_fill = low_fill
        self._disk_usage = disk_usage

    def try_reserve(self, file: int, size_bytes: int) -> bool:
        """Reserve space for a small file; False if space is short or another process reserves or evicts."""
        with self._directory.disk_space_lock(blocking=False) as is_locked:
            return is_locked and self._allocate(file, size_bytes)

    def reserve(self, file: int, size_bytes: int) -> tuple[bool, Evicted]:
        """Reserve space for a file, evicting objects if that frees enough. Return whether it is reserved.

        The lock lets one process at a time count the free space that it then takes.
        """
        with self._directory.disk_space_lock():
            evicted = self._free(size_bytes)
            return self._allocate(file, size_bytes), evicted

    def evict(self, target_fill: float | None = None) -> Evicted:
        """Evict objects until at most this fraction of the file system is in use; None: `low_fill`."""
        with self._directory.disk_space_lock():
            disk = self._disk_usage(self._directory.directory)
            allowed_bytes = disk.size_bytes * (self._low_fill if target_fill is None else target_fill)
            return self._remove(self._least_recent_first(), disk.used_bytes - allowed_bytes)

    def _allocate(self, file: int, size_bytes: int) -> bool:
        disk = self._disk_usage(self._directory.directory)
        if disk.used_bytes + size_bytes > disk.size_bytes * self._max_fill:
            return False
        try:
            if size_bytes:
                os.posix_fallocate(file, 0, size_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return False
            raise
        return True

    def _free(self, size_bytes: int) -> Evicted:
        disk = self._disk_usage(self._directory.directory)
        if disk.used_bytes + size_bytes <= disk.size_bytes * self._max_fill:
            return Evicted()
        objects = self._least_recent_first()
        cached_bytes = sum(metadata.size_bytes for _, _, metadata in objects)
        if disk.used_bytes + size_bytes - cached_bytes > disk.size_bytes * self._max_fill:
            return Evicted()  # evicting every object would not free enough
        return self._remove(objects, disk.used_bytes + size_bytes - disk.size_bytes * self._low_fill)

    def _least_recent_first(self) -> list[tuple[float, str, CachedObject]]:
        objects = [(self._directory.accessed_s(found) or 0.0, name, found) for name, found in self._directory.scan()]
        return sorted(objects, key=lambda item: item[0])

    def _remove(self, objects: list[tuple[float, str, CachedObject]], target_bytes: float) -> Evicted:
        evicted = Evicted()
        for _, name, metadata in objects:
            if evicted.size_bytes >= target_bytes:
                break
            self._directory.remove(name, metadata)
            evicted.objects += 1
            evicted.size_bytes += metadata.size_bytes
        return evicted


def cache_directory(settings: CacheSettings) -> CacheDirectory:
    """Return the configured directory; its namespace is the configured store and bucket."""
    store = settings.store
    return CacheDirectory(settings.directory, f"{store.host or store.region}:{store.port or ''}/{store.bucket_name}")


def disk_space(directory: CacheDirectory, settings: CacheSettings) -> DiskSpace:
    """Return the disk space of a directory, with the configured limits."""
    return DiskSpace(directory, settings.max_fill, settings.low_fill)
