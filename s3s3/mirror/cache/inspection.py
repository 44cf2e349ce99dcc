"""What is kept, looked at from outside: beside processes that serve from it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .cached_object import CachedObject
from .directory import CacheDirectory
from .writer import filling_count

_READ_AT_ONCE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How much is kept. Times are Unix time; 0 where nothing is kept."""

    objects: int
    size_bytes: int
    filling: int
    oldest_access_s: float


def census(folder: CacheDirectory) -> CacheStats:
    """Count what is kept."""
    objects = size_bytes = 0
    oldest_s = time.time()
    for _, about in folder.descriptions():
        accessed_s = folder.accessed_s(about)
        if accessed_s is None:
            continue
        objects += 1
        size_bytes += about.size_bytes
        oldest_s = min(oldest_s, accessed_s)
    return CacheStats(objects, size_bytes, filling_count(folder), oldest_s if objects else 0.0)


def verify(folder: CacheDirectory) -> Iterator[tuple[str, CachedObject, str]]:
    """Read every body. Yield each object: its name, what is known of it, and what is wrong with it ("" for nothing)."""
    for name, about in folder.descriptions():
        wrong = _wrong(folder, about)
        if wrong is not None:
            yield name, about, wrong


def _wrong(folder: CacheDirectory, about: CachedObject) -> str | None:
    """Return what is wrong; None where the object has been removed meanwhile."""
    path = folder.directory / folder.body_path(about)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)  # to look is no access
    except FileNotFoundError:
        return None
    except PermissionError:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    md5 = hashlib.md5(usedforsecurity=False)
    size_bytes = 0
    with os.fdopen(file, "rb", buffering=0) as opened:
        while chunk := opened.read(_READ_AT_ONCE_BYTES):
            md5.update(chunk)
            size_bytes += len(chunk)
    if size_bytes != about.size_bytes:
        return f"it has {size_bytes} bytes, not {about.size_bytes}"
    return "" if md5.hexdigest() == about.md5 else f"its MD5 is {md5.hexdigest()}, not {about.md5}"
