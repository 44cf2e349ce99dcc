"""The directory: each object a body and a description, which is what makes it visible.

    objects/ab/NAME.json             the description; it names its body
    objects/ab/NAME.TOKEN            the body; its access time is when somebody last asked for it, its modification
                                     time the object's own
    filling/NAME                     a body that is being written, under a lock
    room.lock                        held by whoever makes room

NAME is a hash of the store, the bucket and the key. A description is written last and replaced in one step, so
whatever dies in the middle leaves an object that is whole or not there, and files that `sweep` finds unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ...errors import ConfigError

NOTED_EVERY_S = 60.0
"""How exactly the time of the last access is kept."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a kept object.

    Attributes:
        modified_ms: by the store (Unix, ms).
        headers: the object's own, lower-case names.
        md5: of the body, in hex digits.
        body: the file's name.
    """

    bucket: str
    key: str
    size_bytes: int
    etag: str
    modified_ms: int
    headers: Mapping[str, str]
    md5: str
    body: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A kept object that is open: it stays readable whoever removes it.

    Attributes:
        validated_s: when the store last said that it is the same (Unix time).
    """

    about: About
    file: int
    validated_s: float

    def close(self) -> None:
        os.close(self.file)


class Filling:
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


class Folder:
    """The directory of one cache.

    Args:
        of: what its objects are of: store and bucket.
    """

    def __init__(self, directory: Path, of: str) -> None:
        self.directory = directory
        self._objects = directory / "objects"
        self._filling = directory / "filling"
        self._of = of

    def make(self) -> None:
        """Make what is not there. Raises ConfigError."""
        try:
            self._filling.mkdir(parents=True, exist_ok=True)
            self._objects.mkdir(exist_ok=True)
            probe = self._filling / f"probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError([f"[mirror.cache] directory: {self.directory}: {error.strerror}"]) from error

    def name(self, key: str) -> str:
        """Return the name under which a key is kept."""
        return hashlib.sha256(f"{self._of}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()

    def _description(self, name: str) -> Path:
        return self._objects / name[:2] / f"{name}.json"

    def body_path(self, about: About) -> str:
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
        description = self._description(name)
        try:
            with description.open("rb") as opened:
                about = About(**json.load(opened))
                validated_s = os.fstat(opened.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            _remove(description)
            return None
        try:
            file = os.open(self.directory / self.body_path(about), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._described(name) == about:
                _remove(description)
            return None
        if os.fstat(file).st_size != about.size_bytes:
            os.close(file)
            self.remove(name, about)
            return None
        return Stored(about, file, validated_s)

    def note_access(self, stored: Stored) -> None:
        """Keep that somebody has asked for it now. `noatime` is no hindrance: the time is set."""
        told = os.fstat(stored.file)
        now_ns = time.time_ns()
        if now_ns - told.st_atime_ns > NOTED_EVERY_S * 1e9:
            with contextlib.suppress(OSError):  # it may have been removed
                os.utime(self.directory / self.body_path(stored.about), ns=(now_ns, told.st_mtime_ns))

    def accessed_s(self, about: About) -> float | None:
        """Return when somebody has last asked for an object (Unix time); None where it is not whole any more."""
        try:
            return (self.directory / self.body_path(about)).stat().st_atime
        except FileNotFoundError:
            return None

    def note_valid(self, key: str) -> None:
        """Keep that the store has said now that it is the same."""
        with contextlib.suppress(OSError):
            os.utime(self._description(self.name(key)))

    def remove(self, name: str, about: About) -> None:
        """Remove an object. Who reads it reads on."""
        _remove(self._description(name))
        _remove(self.directory / self.body_path(about))

    # -- writing

    def begin(self, key: str) -> Filling | None:
        """Begin to write a body; None where somebody else does. Raises OSError."""
        path = self._filling / self.name(key)
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
            return self.begin(key)
        os.ftruncate(file, 0)
        return Filling(path, file)

    def keep(self, filling: Filling, about: About) -> None:
        """Make a body that has been written whole visible. Raises OSError. Slow: waits for the disk."""
        os.ftruncate(filling.file, about.size_bytes)
        os.fsync(filling.file)
        os.utime(filling.file, ns=(time.time_ns(), about.modified_ms * 1_000_000))
        name = self.name(about.key)
        before = self._described(name)
        folder = self._objects / name[:2]
        folder.mkdir(exist_ok=True)
        description = folder / f".{about.body}.json"
        # By its other name it goes on keeping others away until there is a description for them to find.
        os.link(filling.path, folder / about.body)
        try:
            with description.open("x") as opened:
                json.dump(asdict(about), opened)
                opened.flush()
                os.fsync(opened.fileno())
            description.rename(self._description(name))
        except BaseException:
            _remove(description)
            _remove(folder / about.body)
            raise
        if before is not None and before.body != about.body:
            _remove(folder / before.body)

    def new_body(self, key: str) -> str:
        """Return the name of a body that there has never been."""
        return f"{self.name(key)}.{secrets.token_hex(8)}"

    def _described(self, name: str) -> About | None:
        try:
            return About(**json.loads(self._description(name).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @contextlib.contextmanager
    def room_locked(self) -> Iterator[None]:
        """Hold what only one process at a time may hold. Blocks."""
        file = os.open(self.directory / "room.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    # -- all of it

    def descriptions(self) -> Iterator[tuple[str, About]]:
        """Yield every object: its name, and what is known of it."""
        for path in self._objects.glob("??/*.json"):
            if not path.name.startswith("."):
                about = self._described(path.stem)
                if about is not None:
                    yield path.stem, about

    def filling_count(self) -> int:
        """Return how many bodies are being written, or were when their process died."""
        return sum(1 for _ in self._filling.iterdir())

    def sweep(self) -> int:
        """Remove what dead processes have left; return how many files. What is being written is locked, and stays."""
        removed = 0
        for path in self._filling.iterdir():
            removed += _remove_unlocked(path, lambda: True)
        for folder in self._objects.iterdir():
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                path, object_name = folder / name, name.lstrip(".").partition(".")[0]
                if name.startswith("."):
                    removed += time.time() - _modified_s(path) > NOTED_EVERY_S and _remove(path)
                elif not name.endswith(".json"):
                    removed += _remove_unlocked(path, partial(self._is_orphan, object_name, name))
        return removed

    def _is_orphan(self, name: str, body: str) -> bool:
        about = self._described(name)
        return about is None or about.body != body


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _remove_unlocked(path: Path, is_left: Callable[[], bool]) -> bool:
    """Remove a file that nobody holds a lock on, where `is_left` says so."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_left() and _is_at(file, path) and _remove(path)
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
