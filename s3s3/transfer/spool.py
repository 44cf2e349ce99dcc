"""The room that copies take: memory, and temporary files for big objects whose MD5 is not known beforehand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from io import FileIO
from types import TracebackType

from ..errors import SpoolUnavailable

READ_BYTES = 1024 * 1024


class SpooledFile:
    """An object on disk. `md5` is its digest (16 bytes)."""

    def __init__(self, directory: str, file: FileIO, md5: bytes) -> None:
        self._directory = directory
        self._file = file
        self.md5 = md5

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content; several may read it at once. Raises SpoolUnavailable."""
        offset = 0
        while True:
            with _translated(self._directory):
                chunk = await asyncio.to_thread(os.pread, self._file.fileno(), READ_BYTES, offset)
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    def close(self) -> None:
        """Remove it. Closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> SpooledFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(file: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:  # a disk that becomes full takes what it can before it says so
        left = left[file.write(left) :]


@contextmanager
def _translated(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpoolUnavailable(
            f"a temporary file in {directory} failed: {error.strerror or error}"
            " (make room there, or set another spool_dir or a smaller spool_bytes in [worker])"
        ) from error
