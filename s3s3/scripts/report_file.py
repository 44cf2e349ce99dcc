"""The file of `s3s3 bucket --report`. Until it is whole it has another name, so that none takes half of it for all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import ConfigError

UNFINISHED = ".part"
"""What is added to the file's name until it is whole."""


class ReportFile:
    """Takes report lines. What is no regular file (a pipe, /dev/stdout) is written to as it stands, as "-" is.

    Args:
        name: a path; "-" is standard output.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(os.path.realpath(name))
        self._is_file = name != "-" and (self._path.is_file() or not self._path.exists())
        self._written_to = self._path.with_name(self._path.name + UNFINISHED) if self._is_file else self._path
        self._file: TextIO = sys.stdout
        self._ended = False

    def __enter__(self) -> ReportFile:
        if self._name != "-":
            try:
                self._file = self._written_to.open("w", encoding="utf-8")
            except OSError as error:
                raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._name == "-":
            return
        try:
            self._file.close()
            if self._ended and self._is_file:
                self._written_to.replace(self._path)
        except OSError as broken:
            if error is None:
                raise self._unwritable(broken) from broken
        if not self._ended and self._is_file:
            print(f"s3s3: the report is not whole; what there is of it stands in {self._written_to}", file=sys.stderr)

    def line(self, fields: dict[str, Any]) -> None:
        """Write a line. Raises ConfigError where it cannot be written."""
        try:
            print(json.dumps(fields), file=self._file)
        except OSError as error:
            if self._name == "-":
                raise
            raise self._unwritable(error) from error

    def end(self) -> None:
        """Say that all lines have come: the file may have its name. Raises ConfigError where it cannot be written."""
        try:
            self._file.flush()
            if self._is_file:
                os.fsync(self._file.fileno())
        except OSError as error:
            if self._name == "-":
                raise
            raise self._unwritable(error) from error
        self._ended = True

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError([f"--report {self._name}: {self._written_to} cannot be written: {error.strerror or error}"])
