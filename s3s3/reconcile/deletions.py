"""Collect deletion candidates and apply the max_delete guard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

from ..errors import SpoolTooSmall, SpoolUnavailable
from ..model import Endpoint, Entry

#: Candidates beyond this size are written to disk.
MAX_MEMORY_BYTES = 1024 * 1024


class DeletionCandidates:
    """Objects that a destination lists and the source does not, in order. Close it after use.

    Args:
        spool_dir: directory of the temporary file; "" is the system's. The file has no name, so a killed process leaves
            nothing behind.
        limit_bytes: maximum size of the file.
    """

    def __init__(self, spool_dir: str, limit_bytes: int) -> None:
        self._spool_dir = spool_dir or "the system's temporary directory"
        self._limit_bytes = limit_bytes
        self._file = SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES, dir=spool_dir or None)  # noqa: SIM115  # for `close`
        self.counts: dict[str, int] = {}

    def add(self, destination: str, entry: Entry) -> None:
        """Add a candidate.

        Raises:
            SpoolUnavailable: the disk is full or not writable.
            SpoolTooSmall: the candidates exceed `limit_bytes`.
        """
        line = json.dumps([destination, entry.key, entry.size_bytes, entry.etag]).encode() + b"\n"
        try:
            self._file.write(line)
            size_bytes = self._file.tell()
        except OSError as error:
            raise SpoolUnavailable(
                f"cannot write a temporary file in {self._spool_dir}: {error.strerror or error}"
                " (free some space there, or set another spool_dir in [worker])"
            ) from error
        if size_bytes > self._limit_bytes:
            raise SpoolTooSmall(
                "the list of objects to delete is larger than spool_bytes, so nothing is deleted; set a larger "
                f"spool_bytes in [worker] (now {self._limit_bytes})"
            )
        self.counts[destination] = self.counts.get(destination, 0) + 1

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Yield the destination and the entry of all candidates. None may be added meanwhile."""
        self._file.seek(0)
        for line in self._file:
            destination, *fields = json.loads(line)
            yield destination, Entry(*fields)

    def close(self) -> None:
        self._file.close()


def refusal(destination: Endpoint, count: int, *, entries: int, source_entries: int, allow_empty: bool) -> str:
    """Return why nothing may be deleted at a destination, or "".

    Args:
        count: objects to delete.
        entries: objects that the destination lists.
        source_entries: objects that the source lists; 0 may be an accident.
        allow_empty: the operator confirmed that the source is empty; `max_delete` does not apply then.
    """
    if not count:
        return ""
    if not source_entries:
        return "" if allow_empty else (
            f"the source's listing is empty, so none of its {count} objects is deleted; "
            "if the source is empty on purpose, run s3s3 bucket --allow-empty"
        )  # fmt: skip
    if count / entries <= destination.max_delete:
        return ""
    return (
        f"{count} of its {entries} objects are gone from the source, more than max_delete = {destination.max_delete:g} "
        f"allows, so none is deleted; if the source is right, set a larger max_delete in [{destination.name}]"
    )
