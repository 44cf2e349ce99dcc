"""Statistics and verification for `s3s3 cache`; safe while other processes serve from the directory."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .cached_object import CachedObject
from .directory import CacheDirectory
from .writer import count_downloads

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Number, size and age of the cached objects. Times are Unix time, 0 if the cache is empty."""

    objects: int
    size_bytes: int
    downloads: int
    oldest_access_s: float


def cache_stats(directory: CacheDirectory) -> CacheStats:
    """Count the cached objects."""
    objects = size_bytes = 0
    oldest_s = time.time()
    for _, metadata in directory.scan():
        accessed_s = directory.accessed_s(metadata)
        if accessed_s is None:
            continue
        objects += 1
        size_bytes += metadata.size_bytes
        oldest_s = min(oldest_s, accessed_s)
    return CacheStats(objects, size_bytes, count_downloads(directory), oldest_s if objects else 0.0)


def verify(directory: CacheDirectory) -> Iterator[tuple[str, CachedObject, str]]:
    """Read every body. Yield name, metadata and problem of each object; the problem is "" for a good one."""
    for name, metadata in directory.scan():
        problem = _problem(directory, metadata)
        if problem is not None:
            yield name, metadata, problem


def _problem(directory: CacheDirectory, metadata: CachedObject) -> str | None:
    """Return what is wrong with a body; None if another process has removed it."""
    path = directory.directory / directory.body_path(metadata)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)  # verification is not an access
    except FileNotFoundError:
        return None
    except PermissionError:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    md5 = hashlib.md5(usedforsecurity=False)
    size_bytes = 0
    with os.fdopen(file, "rb", buffering=0) as opened:
        while chunk := opened.read(_READ_BYTES):
            md5.update(chunk)
            size_bytes += len(chunk)
    if size_bytes != metadata.size_bytes:
        return f"it has {size_bytes} bytes, not {metadata.size_bytes}"
    return "" if md5.hexdigest() == metadata.md5 else f"its MD5 is {md5.hexdigest()}, not {metadata.md5}"
