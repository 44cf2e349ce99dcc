"""Writing into the directory: a body under a lock, made visible in one step; and what dead processes have left."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from .cached_object import CachedObject
from .directory import NOTED_EVERY_S, CacheDirectory, remove


class EntryWriter:
    """A body that this process writes and no other."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self.file = file

    def close(self) -> None:
        """End it; what was not kept is removed."""
        if self.file >= 0:
            if _is_at(self.file, self.path):
                self.path.unlink()
            os.close(self.file)
            self.file = -1


def begin(folder: CacheDirectory, key: str) -> EntryWriter | None:
    """Begin to write a body; None where somebody else does. Raises OSError."""
    path = folder.filling / folder.name(key)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    if not _is_at(file, path):  # it was finished between the two steps, and must not be written to
        os.close(file)
        return None
    if os.fstat(file).st_nlink > 1:  # whoever finished it died right then: it is a body that others may read
        path.unlink()
        os.close(file)
        return begin(folder, key)
    os.ftruncate(file, 0)
    return EntryWriter(path, file)


def keep(folder: CacheDirectory, filling: EntryWriter, about: CachedObject) -> None:
    """Make a body that has been written whole visible. Raises OSError. Slow: waits for the disk."""
    os.ftruncate(filling.file, about.size_bytes)
    os.fsync(filling.file)
    os.utime(filling.file, ns=(time.time_ns(), about.modified_ms * 1_000_000))
    name = folder.name(about.key)
    before = folder.described(name)
    visible = folder.description(name)
    there = visible.parent
    there.mkdir(exist_ok=True)
    description = there / f".{about.body}.json"
    # By its other name it goes on keeping others away until there is a description for them to find.
    os.link(filling.path, there / about.body)
    try:
        with description.open("x") as opened:
            json.dump(asdict(about), opened)
            opened.flush()
            os.fsync(opened.fileno())
        description.rename(visible)
    except BaseException:
        remove(description)
        remove(there / about.body)
        raise
    if before is not None and before.body != about.body:
        remove(there / before.body)


def filling_count(folder: CacheDirectory) -> int:
    """Return how many bodies are being written, or were when their process died."""
    return sum(1 for _ in folder.filling.iterdir())


def sweep(folder: CacheDirectory) -> int:
    """Remove what dead processes have left; return how many files. What is being written is locked, and stays."""
    removed = 0
    for path in folder.filling.iterdir():
        removed += _remove_unlocked(path, lambda: True)
    for inner in folder.objects.iterdir():
        with os.scandir(inner) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path, object_name = inner / name, name.lstrip(".").partition(".")[0]
            if name.startswith("."):
                removed += time.time() - _modified_s(path) > NOTED_EVERY_S and remove(path)
            elif not name.endswith(".json"):
                removed += _remove_unlocked(path, partial(_is_orphan, folder, object_name, name))
    return removed


def _is_orphan(folder: CacheDirectory, name: str, body: str) -> bool:
    about = folder.described(name)
    return about is None or about.body != body


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _remove_unlocked(path: Path, is_left: Callable[[], bool]) -> bool:
    """Remove a file that nobody holds a lock on, where `is_left` says so."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_left() and _is_at(file, path) and remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
