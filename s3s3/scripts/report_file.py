"""Write the report file of `s3s3 bucket --report` atomically."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import ConfigError

#: Suffix of the file until it is complete.
UNFINISHED = ".part"


class ReportFile:
    """Writes report lines to a temporary file, which replaces the report once it is complete.

    A pipe or device is written directly, as is standard output, whose name is "-".
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
            with self._translate_errors():
                self._file = self._written_path.open("w", encoding="utf-8")
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if self._name == "-":
            return
        with self._translate_errors() if error is None else suppress(OSError):
            self._file.close()
            if self._complete and self._is_file:
                self._written_path.replace(self._path)
        if not self._complete and self._is_file:
            print(f"s3s3: the report is incomplete; its lines so far are in {self._written_path}", file=sys.stderr)

    def line(self, fields: dict[str, Any]) -> None:
        """Write a line. Raises ConfigError if the file cannot be written."""
        with self._translate_errors():
            print(json.dumps(fields), file=self._file)

    def complete(self) -> None:
        """Declare the report complete after its last line. Raises ConfigError if the file cannot be written."""
        with self._translate_errors():
            self._file.flush()
            if self._is_file:
                os.fsync(self._file.fileno())
        self._complete = True

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._name == "-":
                raise
            reason = error.strerror or error
            raise ConfigError([f"--report {self._name}: cannot write {self._written_path}: {reason}"]) from error
