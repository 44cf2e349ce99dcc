"""Configuration files for tests to break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest

from s3s3 import config
from s3s3.config import Config

Result = TypeVar("Result")

SOURCE = """
[source]
host = "ceph.example.org"
bucket_name = "images"
"""

SOUND = (
    SOURCE
    + """
[destination]
host = "swift.example.org"
bucket_name = "images"
"""
)


def loaded(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings of a file with this text."""
    return _with_file(text, lambda path: config.load(path, environ=environ or {}))


def problems_in(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the faults of a file with this text, its folder left out."""

    def load(path: Path) -> list[str]:
        with pytest.raises(config.ConfigError) as raised:
            config.load(path, environ=environ or {})
        assert str(raised.value) == "\n".join(raised.value.problems)
        return [problem.removeprefix(f"{path.parent}/") for problem in raised.value.problems]

    return _with_file(text, load)


def _with_file(text: str, use: Callable[[Path], Result]) -> Result:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "s3s3.toml"
        path.write_bytes(text.encode())
        return use(path)
