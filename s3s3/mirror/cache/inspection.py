"""Statistics and verification for `s3s3 cache`; safe while other processes serve from the directory."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .directory import CacheDirectory, CachedObject

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
        if (accessed_s := directory.accessed_s(metadata)) is not None:
            objects += 1
            size_bytes += metadata.size_bytes
            oldest_s = min(oldest_s, accessed_s)
    downloads = sum(1 for _ in directory.downloads.iterdir())  # leftovers of dead processes included
    return CacheStats(objects, size_bytes, downloads, oldest_s if objects else 0.0)


def verify(directory: CacheDirectory) -> Iterator[tuple[str, CachedObject, str]]:
    """Read every body. Yield name, metadata and problem of each object; the problem is "" for a good one."""
    for name, metadata in directory.scan():
        path = directory.directory / directory.body_path(metadata)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)  # verification is not an access
        except FileNotFoundError:
            continue  # another process has removed it
        except PermissionError:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        md5 = hashlib.md5(usedforsecurity=False)
        size_bytes = 0
        with os.fdopen(file, "rb", buffering=0) as opened:
            while chunk := opened.read(_READ_BYTES):
                md5.update(chunk)
                size_bytes += len(chunk)
        problem = "" if md5.hexdigest() == metadata.md5 else f"its MD5 is {md5.hexdigest()}, not {metadata.md5}"
        if size_bytes != metadata.size_bytes:
            problem = f"it has {size_bytes} bytes, not {metadata.size_bytes}"
        yield name, metadata, problem
