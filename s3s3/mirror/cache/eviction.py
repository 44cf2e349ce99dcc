"""Room on the disk: taken before a download begins, and made by removing what nobody has asked for the longest."""

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


class Disk(NamedTuple):
    """How much a file system has, and how much of it is in use (bytes)."""

    size_bytes: int
    used_bytes: int


def disk_of(directory: Path) -> Disk:
    """Return what the directory's file system says. What is kept for root alone counts as used."""
    said = os.statvfs(directory)
    size_bytes = said.f_blocks * said.f_frsize
    return Disk(size_bytes, size_bytes - said.f_bavail * said.f_frsize)


@dataclass
class Evicted:
    """What has been removed."""

    objects: int = 0
    size_bytes: int = 0


class DiskSpace:
    """Keeps the disk below its mark. Every method but `reserve_now` is slow: call it in a thread.

    Args:
        max_fill, low_fill: parts of the disk that may be in use after an object is added, and down to where objects
            are removed once there is no more room.
    """

    def __init__(
        self, folder: CacheDirectory, max_fill: float, low_fill: float, disk_of: Callable[[Path], Disk] = disk_of
    ) -> None:
        self._folder = folder
        self._max_fill = max_fill
        self._low_fill = low_fill
        self._disk_of = disk_of

    def reserve_now(self, file: int, size_bytes: int) -> bool:
        """Take the disk that a small file will need, where there is enough and nobody makes room just now."""
        with self._folder.room_locked(waits=False) as is_ours:
            return is_ours and self._takes(file, size_bytes)

    def reserve(self, file: int, size_bytes: int) -> tuple[bool, Evicted]:
        """Take the disk that a file will need, removing older objects where that makes enough room.

        One process at a time: two that look at the same free disk would both take it.
        """
        with self._folder.room_locked():
            evicted = self._make(size_bytes)
            return self._takes(file, size_bytes), evicted

    def evict(self, down_to: float | None = None) -> Evicted:
        """Remove objects until no more than this part of the disk is in use; None: the low mark."""
        with self._folder.room_locked():
            disk = self._disk_of(self._folder.directory)
            allowed_bytes = disk.size_bytes * (self._low_fill if down_to is None else down_to)
            return self._remove(self._oldest_first(), disk.used_bytes - allowed_bytes)

    def _takes(self, file: int, size_bytes: int) -> bool:
        disk = self._disk_of(self._folder.directory)
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

    def _make(self, size_bytes: int) -> Evicted:
        disk = self._disk_of(self._folder.directory)
        if disk.used_bytes + size_bytes <= disk.size_bytes * self._max_fill:
            return Evicted()
        objects = self._oldest_first()
        kept_bytes = sum(about.size_bytes for _, _, about in objects)
        if disk.used_bytes + size_bytes - kept_bytes > disk.size_bytes * self._max_fill:
            return Evicted()  # even without any of them there would not be enough: so none has to go
        return self._remove(objects, disk.used_bytes + size_bytes - disk.size_bytes * self._low_fill)

    def _oldest_first(self) -> list[tuple[float, str, CachedObject]]:
        objects = [(self._folder.accessed_s(about) or 0.0, name, about) for name, about in self._folder.descriptions()]
        return sorted(objects, key=lambda one: one[0])

    def _remove(self, objects: list[tuple[float, str, CachedObject]], wanted_bytes: float) -> Evicted:
        evicted = Evicted()
        for _, name, about in objects:
            if evicted.size_bytes >= wanted_bytes:
                break
            self._folder.remove(name, about)
            evicted.objects += 1
            evicted.size_bytes += about.size_bytes
        return evicted


def folder_of(settings: CacheSettings) -> CacheDirectory:
    """Return the cache's directory. Objects of another store or bucket in it have other names."""
    store = settings.store
    return CacheDirectory(settings.directory, f"{store.host or store.region}:{store.port or ''}/{store.bucket_name}")


def room_in(folder: CacheDirectory, settings: CacheSettings) -> DiskSpace:
    """Return what makes room in it."""
    return DiskSpace(folder, settings.max_fill, settings.low_fill)
