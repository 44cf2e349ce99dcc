"""The configuration file: found, read as TOML, and its faults collected, each with the line that it stands in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .schema import all_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SEARCHED = ("./s3s3.toml", "/usr/local/etc/s3s3.toml", "/etc/s3s3/s3s3.toml")
"""Where the file is looked for when neither --config nor $S3S3_CONFIG names one. The first that exists, alone."""

_TEMPLATE_ADVICE = "echo_s3s3_toml_template prints one to start from"

_INI_ADVICE = (
    "this is an INI file, and s3s3 reads TOML now. `s3s3 convert OLD.ini > s3s3.toml` makes it. By hand: put every "
    "text into double quotes "
    '(host = "ceph.example.org"), write true and false in lower case, replace the keys of [pubsub] by '
    'url = "redis://HOST:6379/0", and name the file s3s3.toml; echo_s3s3_toml_template prints an example'
)

_TEXT_KEYS = "|".join(sorted({key.name for table in all_tables() for key in table.keys if key.kind.is_text}))
_UNQUOTED_TEXT = re.compile(rf"^\s*({_TEXT_KEYS})\s*[=:]\s*[^\s\"'\[]", re.MULTILINE)
_QUOTED_TEXT = re.compile(r"=\s*[\"']")
_DEEPEST = 8
"""No name of the schema has more parts; a file's may have any number."""
_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read and is TOML."""

    path: Path
    text: str
    tables: Mapping[str, Any]

    @cached_property
    def lines(self) -> Mapping[tuple[str, ...], int]:
        """The line where each table and each key first stands, by the names that lead there: (table, table, key)."""
        lines: dict[tuple[str, ...], int] = {}
        for line, path in _statements(self.text):
            for depth in range(1, len(path) + 1):
                lines.setdefault(path[:depth], line)
        return lines


@dataclass
class ConfigErrors:
    """What is wrong with a file. Collected, so that all of it is reported at once."""

    file: ConfigFile
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, table: tuple[str, ...], message: str, key: str = "") -> None:
        """Add a fault of a table, or of its key; a table's name is all names that lead to it, () is the file itself."""
        path = (*table, key) if key else table
        lines = (self.file.lines.get(path[:depth]) for depth in range(len(path), 0, -1))
        line = next(filter(None, lines), 0)
        place = f"{self.file.path}:{line}" if line else str(self.file.path)
        label = (f" [{dotted(table)}]" if table else "") + (f" {named(key)}" if key else "")
        self.found.append((line, f"{place}:{label}{':' if label else ''} {message}"))

    def raise_if_any(self) -> None:
        """Raise ConfigError with every fault, in the file's order, if there is one."""
        if self.found:
            raise ConfigError([problem for _, problem in sorted(self.found, key=lambda problem: problem[0])])


def named(name: str) -> str:
    """Return a table's or key's name as TOML writes it, short and safe to print."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else repr(name[:60])


def dotted(table: tuple[str, ...]) -> str:
    """Return a table's whole name as TOML writes it between brackets."""
    return ".".join(map(named, table))


def read(path: str | Path | None, environ: Mapping[str, str]) -> ConfigFile:
    """Find the one file and read it.

    Raises:
        ConfigError: there is none, it cannot be read, or it is not TOML.
    """
    found, content = _find(path, environ)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{found}:{line}: not UTF-8: byte 0x{content[error.start]:02x}"]) from None
    try:
        return ConfigFile(found, text, tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        # An absurd number, or absurd nesting, has no error of tomllib's own.
        raise ConfigError([_syntax_problem(found, text, error)]) from None


def _find(path: str | Path | None, environ: Mapping[str, str]) -> tuple[Path, bytes]:
    by_variable = environ.get("S3S3_CONFIG")
    named_file = path or by_variable
    for candidate in (named_file,) if named_file else SEARCHED:
        try:
            return Path(candidate), Path(candidate).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError([f"{candidate}: the configuration cannot be read: {reason}"]) from None
    if named_file:
        origin = "" if path else " ($S3S3_CONFIG names it)"
        raise ConfigError([f"{named_file}: no such configuration file{origin}; {_TEMPLATE_ADVICE}"])
    looked_at = f"neither --config nor $S3S3_CONFIG names one, and there is no {', '.join(SEARCHED)}"
    raise ConfigError([f"no configuration file: {looked_at}; {_TEMPLATE_ADVICE}"])


def _syntax_problem(path: Path, text: str, error: Exception) -> str:
    """Return the fault of a text that is no TOML. Nothing of the text stands in it: the line may hold a secret."""
    if path.suffix == ".ini" or (_UNQUOTED_TEXT.search(text) and not _QUOTED_TEXT.search(text)):
        return f"{path}: {_INI_ADVICE}"
    if isinstance(error, RecursionError):
        return f"{path}: not TOML: nested too deeply"
    if not isinstance(error, tomllib.TOMLDecodeError):  # of int(), which takes no text without end
        return f"{path}: not TOML: a number has too many digits"
    match = _PLACE.fullmatch(str(error))
    if match is None:  # "(at end of document)"
        return f"{path}: not TOML: {error}"
    message, line, column = match.groups()
    unquoted = _UNQUOTED_TEXT.match(text.split("\n")[int(line) - 1])
    advice = f"; {unquoted[1]} is text, which stands in double quotes" if unquoted else ""
    if message == "Cannot overwrite a value":
        advice = "; this name is there already"
    return f"{path}:{line}:{column}: not TOML: {message[0].lower()}{message[1:]}{advice}"


def _statements(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line and the full name of every table and key.

    tomllib tells no lines, so the text is taken line by line until tomllib can read what was taken: that is one
    statement. So a "[x]" within a text of several lines misleads nobody.
    """
    table: tuple[str, ...] = ()
    taken: list[str] = []
    first = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        taken.append(line)
        statement = "\n".join(taken)
        try:
            content = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        if statement.lstrip().startswith("["):
            table = next(_paths(content))
            yield first, table
        else:
            for path in _paths(content):
                yield first, table + path
        taken, first = [], number + 1


def _paths(content: Mapping[str, Any], depth: int = _DEEPEST) -> Iterator[tuple[str, ...]]:
    """Yield the full names in a statement."""
    for name, value in content.items():
        if isinstance(value, dict) and value and depth > 1:
            yield from ((name, *path) for path in _paths(value, depth - 1))
        else:
            yield (name,)
