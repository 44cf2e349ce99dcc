"""The directory: each object a body and a description, which is what makes it visible.

    objects/ab/NAME.json             the description; it names its body
    objects/ab/NAME.TOKEN            the body; its access time is when somebody last asked for it, its modification
                                     time the object's own
    filling/NAME                     a body that is being written, under a lock
    room.lock                        held by whoever makes room

NAME is a hash of the store, the bucket and the key. A description is written last and replaced in one step, so
whatever dies in the middle leaves an object that is whole or not there, and files that `sweep` finds unlocked.

Here is what is kept, and reading it; `filling` writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...errors import ConfigError
from .cached_object import CachedObject

NOTED_EVERY_S = 60.0
"""How exactly the time of the last access is kept."""
MAX_REMEMBERED = 4096
"""Descriptions that a process has at hand; each takes some 3 KB."""


class Stored(NamedTuple):
    """A kept object that is open: it stays readable whoever removes it.

    Attributes:
        validated_s: when the store last said that it is the same (Unix time).
        accessed_s: when somebody last asked for it, by `NOTED_EVERY_S` (Unix time).
    """

    about: CachedObject
    file: int
    validated_s: float
    accessed_s: float

    def close(self) -> None:
        os.close(self.file)


class _Described(NamedTuple):
    """A description as it was read, and what tells that it is still the one that is there."""

    about: CachedObject
    stamp: tuple[int, int, int]
    body: str


class CacheDirectory:
    """The directory of one cache. `open` is for one thread alone; the rest, and other processes, may go on beside it.

    Args:
        of: what its objects are of: store and bucket.
    """

    def __init__(self, directory: Path, of: str) -> None:
        self.directory = directory
        self.objects = directory / "objects"
        self.filling = directory / "filling"
        self._of = of
        self._remembered: OrderedDict[str, _Described] = OrderedDict()

    def make(self) -> None:
        """Make what is not there. Raises ConfigError."""
        try:
            self.filling.mkdir(parents=True, exist_ok=True)
            self.objects.mkdir(exist_ok=True)
            probe = self.filling / f"probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError([f"[mirror.cache] directory: {self.directory}: {error.strerror}"]) from error

    def name(self, key: str) -> str:
        """Return the name under which a key is kept."""
        return hashlib.sha256(f"{self._of}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()

    def new_body(self, key: str) -> str:
        """Return the name of a body that there has never been."""
        return f"{self.name(key)}.{secrets.token_hex(8)}"

    def description(self, name: str) -> Path:
        """Return where a description is."""
        return self.objects / name[:2] / f"{name}.json"

    def body_path(self, about: CachedObject) -> str:
        """Return where a body is, from the directory on."""
        return f"objects/{about.body[:2]}/{about.body}"

    # -- reading

    def open(self, key: str) -> Stored | None:
        """Return the object where it is whole. What is not is removed. Raises OSError."""
        name = self.name(key)
        for _ in range(2):  # it may be replaced between the two steps
            stored = self._open(name)
            if stored is not None:
                return stored
        return None

    def _open(self, name: str) -> Stored | None:
        described = self._read(name)
        if described is None:
            return None
        about = described.about
        try:
            file = os.open(described.body, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._remembered.pop(name, None)
            if self.described(name) == about:
                remove(self.description(name))
            return None
        told = os.fstat(file)
        if told.st_size != about.size_bytes:
            os.close(file)
            self.remove(name, about)
            return None
        return Stored(about, file, described.stamp[1] / 1e9, told.st_atime)

    def _read(self, name: str) -> _Described | None:
        """Return a description: as it is remembered where the file is still the same, since most hits are of few."""
        path = f"{self.objects}/{name[:2]}/{name}.json"
        remembered = self._remembered.get(name)
        try:
            if remembered is not None and _stamp(os.stat(path)) == remembered.stamp:  # noqa: PTH116  as below
                self._remembered.move_to_end(name)
                return remembered
            with open(path, "rb") as opened:  # noqa: PTH123  # at each hit, a Path costs more than the call
                about = CachedObject(**json.load(opened))
                stamp = _stamp(os.fstat(opened.fileno()))
        except FileNotFoundError:
            self._remembered.pop(name, None)
            return None
        except (ValueError, TypeError):
            remove(Path(path))
            return None
        described = _Described(about, stamp, f"{self.directory}/{self.body_path(about)}")
        self._remembered[name] = described
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return described

    def described(self, name: str) -> CachedObject | None:
        """Return what is known of an object, whole or not; None where nothing is."""
        try:
            return CachedObject(**json.loads(self.description(name).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def descriptions(self) -> Iterator[tuple[str, CachedObject]]:
        """Yield every object: its name, and what is known of it."""
        for path in self.objects.glob("??/*.json"):
            if not path.name.startswith("."):
                about = self.described(path.stem)
                if about is not None:
                    yield path.stem, about

    # -- what is noted

    def note_access(self, stored: Stored) -> None:
        """Keep that somebody has asked for it now. `noatime` is no hindrance: the time is set."""
        now_s = time.time()
        if now_s - stored.accessed_s > NOTED_EVERY_S:
            with contextlib.suppress(OSError):  # it may have been removed
                modified_ns = os.fstat(stored.file).st_mtime_ns
                os.utime(self.directory / self.body_path(stored.about), ns=(int(now_s * 1e9), modified_ns))

    def accessed_s(self, about: CachedObject) -> float | None:
        """Return when somebody has last asked for an object (Unix time); None where it is not whole any more."""
        try:
            return (self.directory / self.body_path(about)).stat().st_atime
        except FileNotFoundError:
            return None

    def note_valid(self, key: str) -> None:
        """Keep that the store has said now that it is the same."""
        with contextlib.suppress(OSError):
            os.utime(self.description(self.name(key)))

    # -- removing

    def remove(self, name: str, about: CachedObject) -> None:
        """Remove an object. Who reads it reads on."""
        remove(self.description(name))
        remove(self.directory / self.body_path(about))

    @contextlib.contextmanager
    def room_locked(self, *, waits: bool = True) -> Iterator[bool]:
        """Hold what only one process at a time may hold, and yield True; False where it does not wait for others."""
        file = os.open(self.directory / "room.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(file)


def remove(path: Path) -> bool:
    """Remove a file; return whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _stamp(told: os.stat_result) -> tuple[int, int, int]:
    return told.st_ino, told.st_mtime_ns, told.st_size
