"""Sample objects: real files with types and metadata, odd names, and a few larger ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import mimetypes
import os
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import S3S3Error

LARGE_SIZES_BYTES = (2 * 1024**2, 4 * 1024**2, 8 * 1024**2)

#: Names that are difficult for signatures and XML. `rclone serve s3` accepts them; it refuses `//` and `..`.
ODD_NAMES = (
    "odd names/50% off + 1 = ?.txt",
    "odd names/naïve café & <friends>.txt",
    "odd names/雪だるま ☃.txt",
    "odd names/quote ' and \" and #.txt",
)

_NOT_SOURCES = frozenset({"__pycache__", "dist-packages", "idlelib", "site-packages", "test", "tests"})


@dataclass(frozen=True)
class Sample:
    """A source object; every copy must equal it."""

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
        """Return a sample with the same key and other content."""
        return dataclasses.replace(self, body=self.body + b"\n# changed\n", metadata={**self.metadata, "revision": "2"})


def first_samples(files: Iterator[Sample], count: int) -> list[Sample]:
    """Return `count` objects; larger ones near the middle, so that some are in progress at the kill."""
    odd = [_sample(name, f"The name of this object is {name!r}.\n".encode(), "odd names") for name in ODD_NAMES]
    small = [*odd, *itertools.islice(files, count - len(odd) - len(LARGE_SIZES_BYTES))]
    middle = len(small) // 3
    return [*small[:middle], *(_archive(small, size_bytes) for size_bytes in LARGE_SIZES_BYTES), *small[middle:]]


def real_files() -> Iterator[Sample]:
    """Yield the sources of Python's standard library, endlessly; later rounds have other names."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = _sources(folder)
    if not paths:
        raise S3S3Error(f"Python's standard library has no sources in {folder}, which the demo copies")
    for round_number in itertools.count(1):
        prefix = folder.name if round_number == 1 else f"{folder.name}-{round_number}"
        for path in paths:
            name = path.relative_to(folder)
            yield _sample(f"{prefix}/{name.as_posix()}", path.read_bytes(), name.parts[0])


def _sources(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_SOURCES]
        found += [Path(place, name) for name in files if name.endswith(".py")]
    return sorted(found)


def _sample(key: str, body: bytes, part: str) -> Sample:
    content_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
    return Sample(key, body, content_type, {"part-of": part, "lines": str(body.count(b"\n"))})


def _archive(samples: Sequence[Sample], size_bytes: int) -> Sample:
    """Return an archive of at least `size_bytes` with the samples, repeated as needed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, sample in enumerate(itertools.cycle(samples)):
            member = tarfile.TarInfo(f"{number // len(samples)}/{sample.key}")
            member.size = sample.size_bytes
            archive.addfile(member, io.BytesIO(sample.body))
            if buffer.tell() >= size_bytes:
                break
    return _sample(f"archives/sources-{size_bytes // 1024**2}-MiB.tar", buffer.getvalue(), "archives")
