"""`s3s3 convert`: a configuration of today from one of the systems that s3s3 replaces."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ...errors import ConfigError
from .. import command
from .ini import from_ini
from .s3sync import from_s3sync

_INI = re.compile(r"^\s*\[(source|dest[^\]\n]*)\]", re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Convert; return the exit status."""
    arguments = command_line().parse_args(argv)
    return command.exit_status(lambda: _convert(arguments.file))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="s3s3 convert",
        description="Print an old configuration as TOML: s3s3 convert s3s3.ini > s3s3.toml. What has no counterpart "
        "stands in it as a comment, and is told on standard error.",
    )
    parser.add_argument("file", metavar="FILE", help="the old s3s3.ini, or s3sync's config.js, or the same as JSON")
    return parser


def _convert(name: str) -> int:
    try:
        text = Path(name).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError([f"{name}: not UTF-8"]) from None
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read: {error.strerror}"]) from None
    try:
        converted = from_ini(text) if _INI.search(text) else from_s3sync(text)
    except ValueError as error:
        raise ConfigError([f"{name}: {error}"]) from None
    sys.stdout.write(converted.text(Path(name).name))
    for note in converted.notes:
        print(f"{name}: {note}", file=sys.stderr)
    return command.OK
