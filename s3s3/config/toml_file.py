"""Locate and parse the TOML file; collect problems with line numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Searched in this order when neither --config nor $S3S3_CONFIG names a file. Only the first one found is read.
SEARCHED = ("./s3s3.toml", "/usr/local/etc/s3s3.toml", "/etc/s3s3/s3s3.toml")

_TEMPLATE_ADVICE = "to create one, run echo_s3s3_toml_template > s3s3.toml"

_INI_ADVICE = (
    "this is an INI file, and s3s3 reads TOML. Convert it with `s3s3 convert OLD.ini > s3s3.toml`. By hand: put every "
    "text into double quotes "
    '(host = "ceph.example.org"), write true and false in lower case, replace the keys of [pubsub] by '
    'url = "redis://HOST:6379/0", and name the file s3s3.toml; echo_s3s3_toml_template prints an example'
)

_UNQUOTED_TEXT = re.compile(r"^\s*([a-z_0-9]+)\s*[=:]\s*(?!true\b|false\b|[-+0-9.])[^\s\"'\[{]", re.MULTILINE)
_QUOTED_TEXT = re.compile(r"=\s*[\"']")
#: Parts of a dotted name that are followed. The schema's names have fewer; a file's may have any number.
_MAX_DEPTH = 8
_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file that was read and is valid TOML."""

    path: Path
    text: str
    tables: Mapping[str, Any]

    @cached_property
    def lines(self) -> Mapping[tuple[str, ...], int]:
        """The first line of each table and key, by the names that lead to it: (table, table, key)."""
        lines: dict[tuple[str, ...], int] = {}
        for line, path in _statements(self.text):
            for depth in range(1, len(path) + 1):
                lines.setdefault(path[:depth], line)
        return lines

    def place(self, path: tuple[str, ...]) -> str:
        """Return FILE:LINE of a table or key, "" if the file does not have it."""
        line = self.lines.get(path)
        return f"{self.path}:{line}" if line else ""


@dataclass
class ConfigErrors:
    """The problems of a file, collected so that all are reported together."""

    file: ConfigFile
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, table: tuple[str, ...], message: str, key: str = "") -> None:
        """Add a problem of a table or of its key. `table` has the names that lead to it; () is the file itself."""
        path = (*table, key) if key else table
        lines = (self.file.lines.get(path[:depth]) for depth in range(len(path), 0, -1))
        line = next(filter(None, lines), 0)
        place = f"{self.file.path}:{line}" if line else str(self.file.path)
        label = (f" [{dotted(table)}]" if table else "") + (f" {named(key)}" if key else "")
        self.found.append((line, f"{place}:{label}{':' if label else ''} {message}"))

    def raise_if_any(self) -> None:
        """Raise ConfigError with all problems in the order of the file, if there are any."""
        if self.found:
            raise ConfigError([problem for _, problem in sorted(self.found, key=lambda problem: problem[0])])


def named(name: str) -> str:
    """Return the name of a table or key as TOML writes it, shortened and printable."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else repr(name[:60])


def dotted(table: tuple[str, ...]) -> str:
    """Return the full name of a table as TOML writes it between brackets."""
    return ".".join(map(named, table))


def read(path: str | Path | None, environ: Mapping[str, str]) -> ConfigFile:
    """Find the configuration file and parse it.

    Raises:
        ConfigError: the file does not exist, cannot be read, or is not TOML.
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
        # tomllib raises plain ValueError or RecursionError for huge numbers and deep nesting.
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
            raise ConfigError([f"{candidate}: cannot read the configuration: {reason}"]) from None
    if named_file:
        origin = "" if path else " (named by $S3S3_CONFIG)"
        raise ConfigError([f"{named_file}: no such configuration file{origin}; {_TEMPLATE_ADVICE}"])
    searched = f"--config and $S3S3_CONFIG are not set, and none of these exists: {', '.join(SEARCHED)}"
    raise ConfigError([f"no configuration file: {searched}; {_TEMPLATE_ADVICE}"])


def _syntax_problem(path: Path, text: str, error: Exception) -> str:
    """Return the message for a text that is not TOML. It quotes nothing of the text, which may contain a secret."""
    if path.suffix == ".ini" or (_UNQUOTED_TEXT.search(text) and not _QUOTED_TEXT.search(text)):
        return f"{path}: {_INI_ADVICE}"
    if isinstance(error, RecursionError):
        return f"{path}: not TOML: nested too deeply"
    if not isinstance(error, tomllib.TOMLDecodeError):  # from int(), which limits the number of digits
        return f"{path}: not TOML: a number has too many digits"
    match = _PLACE.fullmatch(str(error))
    if match is None:  # "(at end of document)"
        return f"{path}: not TOML: {error}"
    message, line, column = match.groups()
    unquoted = _UNQUOTED_TEXT.match(text.split("\n")[int(line) - 1])
    advice = f"; put the text of {unquoted[1]} into double quotes" if unquoted else ""
    if message == "Cannot overwrite a value":
        advice = "; this name is already used"
    return f"{path}:{line}:{column}: not TOML: {message[0].lower()}{message[1:]}{advice}"


def _statements(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line and the full name of every table and key.

    tomllib does not report line numbers. Lines are therefore collected until tomllib can parse them: that is one
    statement. A "[x]" inside a multi-line string is not mistaken for a table.
    """
    table: tuple[str, ...] = ()
    collected: list[str] = []
    first = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        collected.append(line)
        statement = "\n".join(collected)
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
        collected, first = [], number + 1


def _paths(content: Mapping[str, Any], depth: int = _MAX_DEPTH) -> Iterator[tuple[str, ...]]:
    """Yield the full names that a statement defines."""
    for name, value in content.items():
        if isinstance(value, dict) and value and depth > 1:
            yield from ((name, *path) for path in _paths(value, depth - 1))
        else:
            yield (name,)
