"""Reserve disk space before a download; evict the least recently used objects."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...config.mirror import CacheSettings
from .directory import CacheDirectory, CachedObject


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


@dataclass(frozen=True)
class DiskSpace:
    """Keeps the file system below its limits. All methods but `try_reserve` block: call them in a thread.

    An added object may fill the file system up to the fraction `max_fill`; beyond it, objects are evicted down to
    `low_fill`.
    """

    directory: CacheDirectory
    max_fill: float
    low_fill: float
    disk_usage: Callable[[Path], DiskUsage] = field(default=disk_usage)

    def try_reserve(self, file: int, size_bytes: int) -> bool:
        """Reserve space for a small file; False if space is short or another process reserves or evicts."""
        with self.directory.disk_space_lock(blocking=False) as is_locked:
            return is_locked and self._allocate(file, size_bytes)

    def reserve(self, file: int, size_bytes: int) -> tuple[bool, Evicted]:
        """Reserve space for a file, evicting objects if that frees enough. Return whether it is reserved.

        The lock lets one process at a time count the free space that it then takes.
        """
        with self.directory.disk_space_lock():
            disk = self.disk_usage(self.directory.directory)
            needed_bytes, max_bytes = disk.used_bytes + size_bytes, disk.size_bytes * self.max_fill
            evicted = Evicted()
            if needed_bytes > max_bytes:
                objects = self._least_recent_first()
                # Evicts nothing if evicting every object would not free enough.
                if needed_bytes - sum(metadata.size_bytes for _, _, metadata in objects) <= max_bytes:
                    evicted = self._remove(objects, needed_bytes - disk.size_bytes * self.low_fill)
            return self._allocate(file, size_bytes), evicted

    def evict(self, target_fill: float | None = None) -> Evicted:
        """Evict objects until at most this fraction of the file system is in use; None: `low_fill`."""
        with self.directory.disk_space_lock():
            disk = self.disk_usage(self.directory.directory)
            allowed_bytes = disk.size_bytes * (self.low_fill if target_fill is None else target_fill)
            return self._remove(self._least_recent_first(), disk.used_bytes - allowed_bytes)

    def _allocate(self, file: int, size_bytes: int) -> bool:
        disk = self.disk_usage(self.directory.directory)
        if disk.used_bytes + size_bytes > disk.size_bytes * self.max_fill:
            return False
        try:
            if size_bytes:
                os.posix_fallocate(file, 0, size_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return False
            raise
        return True

    def _least_recent_first(self) -> list[tuple[float, str, CachedObject]]:
        objects = [(self.directory.accessed_s(found) or 0.0, name, found) for name, found in self.directory.scan()]
        return sorted(objects, key=lambda item: item[0])

    def _remove(self, objects: list[tuple[float, str, CachedObject]], target_bytes: float) -> Evicted:
        evicted = Evicted()
        for _, name, metadata in objects:
            if evicted.size_bytes >= target_bytes:
                break
            self.directory.remove(name, metadata)
            evicted.objects += 1
            evicted.size_bytes += metadata.size_bytes
        return evicted


def cache_directory(settings: CacheSettings) -> CacheDirectory:
    """Return the configured directory; its namespace is the configured store and bucket."""
    store = settings.store
    return CacheDirectory(settings.directory, f"{store.host or store.region}:{store.port or ''}/{store.bucket_name}")
