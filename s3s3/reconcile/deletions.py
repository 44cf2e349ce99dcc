"""What a run would delete: kept on disk until every listing has come to its end, and then let go, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import NamedTuple

from ..errors import SpoolTooSmall, SpoolUnavailable
from ..model import Endpoint, Entry

IN_MEMORY_BYTES = 1024 * 1024


class DeletionCandidate(NamedTuple):
    """A key that a destination lists and the source does not."""

    destination: str
    there: Entry


class DeletionCandidates:
    """Keys that may have to be deleted, in the order in which they came; beyond 1 MiB they are on disk.

    Args:
        spool_dir: where; the file has no name, so nothing is left behind.
        limit_bytes: how much room they may take.
    """

    def __init__(self, spool_dir: str, limit_bytes: int) -> None:
        self._spool_dir = spool_dir
        self._limit_bytes = limit_bytes
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=spool_dir)  # noqa: SIM115  # closed by __exit__
        self.counts: dict[str, int] = {}

    def add(self, candidate: DeletionCandidate) -> None:
        """Keep one.

        Raises:
            SpoolUnavailable: the disk is full, or nothing can be written there.
            SpoolTooSmall: they take more room than they may.
        """
        name, there = candidate
        line = json.dumps([name, there.key, there.size_bytes, there.etag]).encode() + b"\n"
        try:
            self._file.write(line)
            taken_bytes = self._file.tell()
        except OSError as error:
            raise SpoolUnavailable(
                f"a temporary file in {self._spool_dir} failed: {error.strerror or error}"
                " (make room there, or set another spool_dir in [worker])"
            ) from error
        if taken_bytes > self._limit_bytes:
            raise SpoolTooSmall(
                f"what the source lacks and destinations have is more than spool_bytes = {self._limit_bytes} holds the "
                "names of: nothing is deleted; set a larger spool_bytes in [worker]"
            )
        self.counts[name] = self.counts.get(name, 0) + 1

    def __iter__(self) -> Iterator[DeletionCandidate]:
        """Yield them all. None may be added meanwhile."""
        self._file.seek(0)
        for line in self._file:
            name, key, size_bytes, etag = json.loads(line)
            yield DeletionCandidate(name, Entry(key, size_bytes, etag))

    def __enter__(self) -> DeletionCandidates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def refusal(destination: Endpoint, count: int, *, entries: int, source_entries: int, allow_empty: bool) -> str:
    """Return why nothing may be deleted, or "" where the deletions may go on.

    Args:
        count: objects that would be deleted.
        entries: objects that the destination holds.
        source_entries: objects that the source holds; none looks like an accident.
        allow_empty: a person says that it is none; then `max_delete` is no bound either.
    """
    if not count:
        return ""
    if not source_entries:
        return "" if allow_empty else (
            f"the source's listing is empty, so none of the {count} objects there is deleted; "
            "if the source is meant to be empty, run s3s3 bucket --allow-empty"
        )  # fmt: skip
    if count / entries <= destination.max_delete:
        return ""
    return (
        f"{count} of {entries} objects there are gone from the source, which is more than "
        f"max_delete = {destination.max_delete:g} allows: nothing is deleted; "
        f"if they are meant to go, set a larger max_delete in [{destination.name}]"
    )
