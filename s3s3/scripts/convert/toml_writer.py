"""A configuration in the making: tables with keys, comments for what has no counterpart, and TOML of all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Value = str | bool | int

_BARE = re.compile(r"[A-Za-z0-9_-]+")

HEAD = """\
# Made by `s3s3 convert` from {}. It may hold secrets: chmod 600.
# `s3s3 check` tries it out; echo_s3s3_toml_template prints every key there is.
"""


@dataclass
class Converted:
    """What became of an old configuration.

    Attributes:
        notes: a line for each thing that was not taken over, or needs a look. No value stands there: it may be secret.
    """

    notes: list[str] = field(default_factory=list)
    _tables: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def table(self, *path: str) -> None:
        """Begin a table; it is there even where no key follows."""
        self._tables.setdefault(path, [])

    def set(self, path: Sequence[str], key: str, value: Value) -> None:
        """Give a key of a table its value."""
        self._tables.setdefault(tuple(path), []).append(f"{key} = {toml(value)}")

    def leave(self, path: Sequence[str], what: str, why: str, old: str = "") -> None:
        """Say that something is not taken over; `old` is how it stood in the old file."""
        self.remark(path, f"not taken over: {what}: {why}")
        self._tables[tuple(path)] += [f"#     {line}" for line in old.splitlines()]

    def remark(self, path: Sequence[str], text: str) -> None:
        """Say something, in the file and on the terminal."""
        self._tables.setdefault(tuple(path), []).append(f"# {text}")
        self.notes.append(f"{dotted(path)}: {text}" if path else text)

    def text(self, origin: str) -> str:
        """Return the whole file. `origin` is the old one's name."""
        return "\n".join([HEAD.format(json.dumps(origin)), *self._lines()])

    def _lines(self) -> Iterator[str]:
        for path, lines in sorted(self._tables.items(), key=lambda table: bool(table[0])):
            if path:
                yield dotted(path)
            yield from lines
            yield ""


def dotted(path: Sequence[str]) -> str:
    """Return a table's header."""
    return f"[{'.'.join(name if _BARE.fullmatch(name) else toml(name) for name in path)}]"


def toml(value: Value) -> str:
    """Return a value as TOML writes it: but for DEL, JSON's strings are TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
