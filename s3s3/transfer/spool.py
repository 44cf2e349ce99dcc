"""Temporary files for objects whose MD5 is not known beforehand."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO

from ..errors import SpoolUnavailable
from .digest import Digest

READ_BYTES = 1024 * 1024


class SpooledFile(AbstractContextManager["SpooledFile"]):
    """An object in a temporary file; `md5` is its digest (16 bytes)."""

    def __init__(self, directory: str, file: FileIO, md5: bytes) -> None:
        self._directory = directory
        self._file = file
        self.md5 = md5

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content. Concurrent readers are independent of each other. Raises SpoolUnavailable."""
        offset = 0
        while True:
            with _translate_errors(self._directory):
                chunk = await asyncio.to_thread(os.pread, self._file.fileno(), READ_BYTES, offset)
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    def close(self) -> None:
        """Close the file, which removes it. Closing twice has no effect."""
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


async def spool(directory: str, chunks: AsyncIterator[bytes]) -> SpooledFile:
    """Write a stream to a new temporary file; the caller closes it.

    The file never has a name, so it vanishes however the process ends.

    Args:
        directory: "" is the system's temporary directory.

    Raises:
        SpoolUnavailable: the disk is full, or the directory is not writable.
    """
    with _translate_errors(directory):
        file = tempfile.TemporaryFile(dir=directory or None, buffering=0)  # noqa: SIM115  # SpooledFile closes it
    digest = Digest(also=lambda chunk: _write(file, chunk))
    try:
        with _translate_errors(directory):
            async for chunk in chunks:
                await digest.add(chunk)
            return SpooledFile(directory, file, await digest.end())
    except BaseException:
        await digest.wait_for_thread()
        file.close()
        raise


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:  # a disk that becomes full accepts a part before the write fails
        rest = rest[file.write(rest) :]


@contextmanager
def _translate_errors(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = directory or "the system's temporary directory"
        raise SpoolUnavailable(
            f"a temporary file in {place} failed: {error.strerror or error}"
            " (free disk space there, or set another spool_dir or a smaller spool_bytes in [worker])"
        ) from error
