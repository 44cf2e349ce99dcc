"""Write cache entries atomically; remove leftovers of dead processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from .directory import ACCESS_TIME_RESOLUTION_S, CacheDirectory, CachedObject, remove


class EntryWriter:
    """A body that is being written. The lock on its file keeps other writers of the key away."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self.file = file

    def close(self) -> None:
        """Release the lock and remove the file; a committed body stays under its own name."""
        if self.file >= 0:
            if _is_at(self.file, self.path):
                self.path.unlink()
            os.close(self.file)
            self.file = -1


def open_writer(directory: CacheDirectory, key: str) -> EntryWriter | None:
    """Start to write a body; None if another writer has the key. Raises OSError."""
    path = directory.downloads / directory.name(key)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    if not _is_at(file, path):  # another writer committed it between the two steps: writing would damage its body
        os.close(file)
        return None
    if os.fstat(file).st_nlink > 1:  # committed by a writer that died before its close: readers may have it open
        path.unlink()
        os.close(file)
        return open_writer(directory, key)
    os.ftruncate(file, 0)
    return EntryWriter(path, file)


def commit(directory: CacheDirectory, writer: EntryWriter, metadata: CachedObject) -> None:
    """Make a complete body visible. Blocks until it is on disk. Raises OSError."""
    os.ftruncate(writer.file, metadata.size_bytes)
    os.fsync(writer.file)
    os.utime(writer.file, ns=(time.time_ns(), metadata.modified_ms * 1_000_000))
    name = directory.name(metadata.key)
    previous = directory.read_metadata(name)
    final = directory.metadata_path(name)
    final.parent.mkdir(exist_ok=True)
    temporary = final.parent / f".{metadata.body}.json"
    body = final.parent / metadata.body
    # A link, not a rename: the download's name keeps other writers away until the metadata is visible.
    os.link(writer.path, body)
    try:
        with temporary.open("x") as opened:
            json.dump(asdict(metadata), opened)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.rename(final)
    except BaseException:
        remove(temporary)
        remove(body)
        raise
    if previous is not None and previous.body != metadata.body:
        remove(final.parent / previous.body)


def sweep(directory: CacheDirectory) -> int:
    """Remove leftovers of dead processes; return the number of files. Locked files are in use and stay."""
    removed = sum(_remove_unlocked(directory, path) for path in directory.downloads.iterdir())
    for folder in directory.objects.iterdir():
        with os.scandir(folder) as files:
            names = [file.name for file in files]
        for name in names:
            path = folder / name
            if name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    removed += time.time() - path.stat().st_mtime > ACCESS_TIME_RESOLUTION_S and remove(path)
            elif not name.endswith(".json"):
                removed += _remove_unlocked(directory, path)
    return removed


def _remove_unlocked(directory: CacheDirectory, path: Path) -> bool:
    """Remove a file if no process has locked it and, while it is locked here, no metadata names it as a body."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        metadata = directory.read_metadata(path.name.partition(".")[0])
        is_leftover = metadata is None or metadata.body != path.name
        return is_leftover and _is_at(file, path) and remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
