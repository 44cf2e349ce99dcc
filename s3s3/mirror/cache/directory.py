"""On-disk layout and lookup of the cache.

    objects/ab/NAME.json       metadata of an object; makes it visible and names its body
    objects/ab/NAME.TOKEN      the body. Access time: last request for it. Modification time: the object's own
    downloads/NAME             a body that is being written; its writer holds a lock on the file
    disk-space.lock            lock of the process that reserves disk space or evicts

NAME is a hash of the store, the bucket and the key. The metadata is written last and replaced by a rename: a crash
leaves either a complete object or none, and files without a lock that `writer.sweep` removes.

This module finds, reads and removes objects; `writer` creates them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigError

#: Resolution of the recorded access times (s).
ACCESS_TIME_RESOLUTION_S = 60.0
#: Number of metadata files that a process keeps in memory, about 3 KB each.
MAX_IN_MEMORY = 4096


@dataclass(frozen=True)
class CachedObject:
    """Metadata of a cached object, as stored in its JSON file. `body`: name of the body's file; `md5`: hex digits."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    modified_ms: int
    headers: Mapping[str, str]
    md5: str
    body: str

    @cached_property
    def response_headers(self) -> Mapping[str, str]:
        """Headers of a response that carries the object."""
        headers = {name.title(): valid_utf8(value) for name, value in self.headers.items()}
        headers["ETag"] = f'"{self.etag}"'
        headers["Last-Modified"] = formatdate(self.modified_ms // 1000, usegmt=True)
        headers["Accept-Ranges"] = "bytes"
        headers.setdefault("Content-Type", "binary/octet-stream")
        return headers


class OpenObject(NamedTuple):
    """A cached object with its body open. It stays readable after it is removed; the caller closes it.

    The store last confirmed it at `validated_s`; clients last requested it at `accessed_s` (Unix time).
    """

    metadata: CachedObject
    file: int
    validated_s: float
    accessed_s: float

    def close(self) -> None:
        os.close(self.file)


class _LoadedMetadata(NamedTuple):
    """Metadata in memory, with inode, mtime and size of its file to detect that another process replaced it."""

    metadata: CachedObject
    stamp: tuple[int, int, int]
    body_path: str


class CacheDirectory:
    """The directory of one cache. `open` must be called in one thread only; processes may share the directory.

    Objects of another `namespace`, the store and the bucket, are not found.
    """

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.objects = directory / "objects"
        self.downloads = directory / "downloads"
        self._namespace = namespace
        self._in_memory: OrderedDict[str, _LoadedMetadata] = OrderedDict()

    def create(self) -> None:
        """Create missing directories. Raises ConfigError if the cache cannot be written to."""
        try:
            self.downloads.mkdir(parents=True, exist_ok=True)
            self.objects.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=self.downloads):
                pass
        except OSError as error:
            raise ConfigError([f"[mirror.cache] directory: {self.directory}: {error.strerror}"]) from error

    def name(self, key: str) -> str:
        """Return the name under which a key is cached."""
        return hashlib.sha256(f"{self._namespace}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()

    def new_body_name(self, key: str) -> str:
        """Return a unique name for a new body."""
        return f"{self.name(key)}.{secrets.token_hex(8)}"

    def metadata_path(self, name: str) -> Path:
        """Return the path of an object's metadata."""
        return self.objects / name[:2] / f"{name}.json"

    def body_path(self, metadata: CachedObject) -> str:
        """Return the path of a body, relative to the directory."""
        return f"objects/{metadata.body[:2]}/{metadata.body}"

    def open(self, key: str) -> OpenObject | None:
        """Open an object; None if it is not cached. Removes an incomplete one. Raises OSError."""
        name = self.name(key)
        for _ in range(2):  # another process may replace it between reading the metadata and opening the body
            loaded = self._load(name)
            if loaded is None:
                continue
            metadata = loaded.metadata
            try:
                file = os.open(loaded.body_path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._in_memory.pop(name, None)
                if self.read_metadata(name) == metadata:
                    remove(self.metadata_path(name))
                continue
            status = os.fstat(file)
            if status.st_size == metadata.size_bytes:
                return OpenObject(metadata, file, loaded.stamp[1] / 1e9, status.st_atime)
            os.close(file)
            self.remove(name, metadata)
        return None

    def _load(self, name: str) -> _LoadedMetadata | None:
        """Return metadata, from memory if its file is unchanged: most hits are for few objects."""
        path = f"{self.objects}/{name[:2]}/{name}.json"
        loaded = self._in_memory.get(name)
        try:
            if loaded is not None and _stamp(os.stat(path)) == loaded.stamp:  # noqa: PTH116  as below
                self._in_memory.move_to_end(name)
                return loaded
            with open(path, "rb") as opened:  # noqa: PTH123  # on every hit: a Path costs more than the call
                metadata = CachedObject(**json.load(opened))
                stamp = _stamp(os.fstat(opened.fileno()))
        except FileNotFoundError:
            self._in_memory.pop(name, None)
            return None
        except (ValueError, TypeError):
            remove(Path(path))
            return None
        loaded = _LoadedMetadata(metadata, stamp, f"{self.directory}/{self.body_path(metadata)}")
        self._in_memory[name] = loaded
        if len(self._in_memory) > MAX_IN_MEMORY:
            self._in_memory.popitem(last=False)
        return loaded

    def read_metadata(self, name: str) -> CachedObject | None:
        """Read an object's metadata from disk, whether or not its body is complete; None if there is none."""
        try:
            return CachedObject(**json.loads(self.metadata_path(name).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def scan(self) -> Iterator[tuple[str, CachedObject]]:
        """Yield the name and the metadata of every object."""
        for path in self.objects.glob("??/*.json"):
            if not path.name.startswith("."):
                metadata = self.read_metadata(path.stem)
                if metadata is not None:
                    yield path.stem, metadata

    def record_access(self, opened: OpenObject) -> None:
        """Set the access time to now. Works on file systems mounted with noatime, too."""
        now_s = time.time()
        if now_s - opened.accessed_s > ACCESS_TIME_RESOLUTION_S:
            with contextlib.suppress(OSError):  # it may have been removed
                modified_ns = os.fstat(opened.file).st_mtime_ns
                os.utime(self.directory / self.body_path(opened.metadata), ns=(int(now_s * 1e9), modified_ns))

    def accessed_s(self, metadata: CachedObject) -> float | None:
        """Return an object's last access (Unix time); None if its body is gone."""
        try:
            return (self.directory / self.body_path(metadata)).stat().st_atime
        except FileNotFoundError:
            return None

    def record_validation(self, key: str) -> None:
        """Record that the store has confirmed the object now."""
        with contextlib.suppress(OSError):
            os.utime(self.metadata_path(self.name(key)))

    def remove(self, name: str, metadata: CachedObject) -> None:
        """Remove an object. Open copies of it stay readable."""
        remove(self.metadata_path(name))
        remove(self.directory / self.body_path(metadata))

    @contextlib.contextmanager
    def disk_space_lock(self, *, blocking: bool = True) -> Iterator[bool]:
        """Hold the lock for reserving and evicting. Yields False if not `blocking` and another process holds it."""
        file = os.open(self.directory / "disk-space.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(file)


def valid_utf8(value: str) -> str:
    """Return a header's value with bytes that are not UTF-8 replaced."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def remove(path: Path) -> bool:
    """Remove a file; return whether it existed."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size
