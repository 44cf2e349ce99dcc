"""Write the report file of `s3s3 bucket --report` atomically."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import ConfigError

#: Suffix of the file until it is complete.
UNFINISHED = ".part"


class ReportFile:
    """Writes report lines to a temporary file, which replaces the report once it is complete.

    A pipe or device is written directly, as standard output is.

    Args:
        name: a path; "-" is standard output.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(os.path.realpath(name))
        self._is_file = name != "-" and (self._path.is_file() or not self._path.exists())
        self._written_path = self._path.with_name(self._path.name + UNFINISHED) if self._is_file else self._path
        self._file: TextIO = sys.stdout
        self._complete = False

    def __enter__(self) -> ReportFile:
        if self._name != "-":
            try:
                self._file = self._written_path.open("w", encoding="utf-8")
            except OSError as error:
                raise self._write_error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._name == "-":
            return
        try:
            self._file.close()
            if self._complete and self._is_file:
                self._written_path.replace(self._path)
        except OSError as write_error:
            if error is None:
                raise self._write_error(write_error) from write_error
        if not self._complete and self._is_file:
            print(f"s3s3: the report is incomplete; its lines so far are in {self._written_path}", file=sys.stderr)

    def line(self, fields: dict[str, Any]) -> None:
        """Write a line. Raises ConfigError if the file cannot be written."""
        try:
            print(json.dumps(fields), file=self._file)
        except OSError as error:
            if self._name == "-":
                raise
            raise self._write_error(error) from error

    def complete(self) -> None:
        """Declare the report complete after its last line. Raises ConfigError if the file cannot be written."""
        try:
            self._file.flush()
            if self._is_file:
                os.fsync(self._file.fileno())
        except OSError as error:
            if self._name == "-":
                raise
            raise self._write_error(error) from error
        self._complete = True

    def _write_error(self, error: OSError) -> ConfigError:
        return ConfigError([f"--report {self._name}: cannot write {self._written_path}: {error.strerror or error}"])
