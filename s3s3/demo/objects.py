"""What the demonstration copies: real files with types and metadata, some odd names, and a few bigger ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import mimetypes
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from s3s3.errors import S3S3Error

BIGGER_BYTES = (2 * 1024**2, 4 * 1024**2, 8 * 1024**2)

ODD_NAMES = (
    "odd names/50% off + 1 = ?.txt",
    "odd names/naïve café & <friends>.txt",
    "odd names/雪だるま ☃.txt",
    "odd names/quote ' and \" and #.txt",
)
"""Among them what signatures and XML trip over. `rclone serve s3` takes them all; it would not take `//` or `..`."""

_NOT_SOURCES = frozenset({"__pycache__", "dist-packages", "site-packages", "test", "tests"})


@dataclass(frozen=True)
class Sample:
    """An object as it is put: what every copy of it has to be."""

    key: str
    body: bytes = field(repr=False)
    content_type: str
    metadata: Mapping[str, str]
    cache_control: str = "max-age=3600"
    md5: str = field(init=False)

    @property
    def size_bytes(self) -> int:
        return len(self.body)

    def __post_init__(self) -> None:
        object.__setattr__(self, "md5", hashlib.md5(self.body, usedforsecurity=False).hexdigest())

    def changed(self) -> Sample:
        """Return another content under the same key."""
        return dataclasses.replace(self, body=self.body + b"\n# changed\n", metadata={**self.metadata, "revision": "2"})


def first_samples(files: Iterator[Sample], count: int) -> list[Sample]:
    """Return `count` objects, the bigger ones near the middle, so that some are under way when it is reached."""
    special = [*_oddly_named(), *_bigger()][: count // 3]
    small = list(itertools.islice(files, count - len(special)))
    middle = len(small) // 3
    return [*small[:middle], *special, *small[middle:]]


def real_files() -> Iterator[Sample]:
    """Yield the sources of Python's standard library; after the last one the first again, under another name."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = _sources(folder)
    if not paths:
        raise S3S3Error(f"Python's standard library has no sources in {folder}, and the demonstration copies those")
    for turn in itertools.count(1):
        prefix = folder.name if turn == 1 else f"{folder.name}-{turn}"
        for path in paths:
            name = path.relative_to(folder)
            yield _sample(f"{prefix}/{name.as_posix()}", path.read_bytes(), name.parts[0])


def _sources(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*.py") if _NOT_SOURCES.isdisjoint(path.relative_to(folder).parts))
    return sorted(path for path in found if path.is_file())


def _sample(key: str, body: bytes, part: str) -> Sample:
    content_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
    return Sample(key, body, content_type, {"part-of": part, "lines": str(body.count(b"\n"))})


def _oddly_named() -> list[Sample]:
    return [_sample(name, f"The name of this object is {name!r}.\n".encode(), "odd names") for name in ODD_NAMES]


def _bigger() -> list[Sample]:
    """Return archives of sources, each at least as large as `BIGGER_BYTES` says."""
    return [
        _sample(f"archives/sources-{size_bytes // 1024**2}-MiB.tar", _archive(size_bytes), "archives")
        for size_bytes in BIGGER_BYTES
    ]


def _archive(size_bytes: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in real_files():
            member = tarfile.TarInfo(file.key)
            member.size = len(file.body)
            archive.addfile(member, io.BytesIO(file.body))
            if buffer.tell() >= size_bytes:
                break
    return buffer.getvalue()
