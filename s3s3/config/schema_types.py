"""What tables and keys are declared with: what a key's value is, and what may be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(str, Enum):
    """What a key's value is. The value of the enum is how messages call it."""

    TEXT = "text"
    SECRET = "text, a secret"  # noqa: S105  the words for it, not one
    REDIS_URL = "a Redis URL"
    HTTP_URL = "an HTTP URL"
    HOST = "a host name"
    ADDRESS = "an address"
    BOOLEAN = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    SIZE = "a size"
    GLOBS = "a list of texts"
    SIZE_BY_HOUR = "a size, or a table of hours"
    NUMBER_BY_HOUR = "a number, or a table of hours"
    PATTERNS = "a list of patterns"
    NETWORKS = "true, false or a list of networks"
    URL = "a URL"

    @property
    def is_text(self) -> bool:
        """Whether `NAME_file` can give it."""
        return self in _TEXT_KINDS

    @property
    def is_by_hour(self) -> bool:
        """Whether it may be a table, of hours of the day."""
        return self in (Kind.SIZE_BY_HOUR, Kind.NUMBER_BY_HOUR)


_TEXT_KINDS = frozenset({Kind.TEXT, Kind.SECRET, Kind.REDIS_URL, Kind.HTTP_URL, Kind.HOST, Kind.ADDRESS, Kind.URL})

Value = str | bool | int | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    Attributes:
        default: as it would stand in the file; None is "left out".
        example: what the template shows where the default says little.
        required: the table means nothing without it.
        shown: the template has it as a line in force rather than as a comment.
        choices: the only values there are.
        at_least, at_most: bounds of numbers (both) and sizes (`at_least`); `at_most` bounds a text's UTF-8 bytes.
        may_be_empty: "" means something.
        any_characters: control characters are allowed, as in an object's key.
        no_slash: "/" is not allowed.
    """

    name: str
    kind: Kind
    default: Value
    doc: str
    example: Value = None
    required: bool = False
    shown: bool = False
    choices: tuple[str, ...] = ()
    at_least: int | None = None
    at_most: int | None = None
    may_be_empty: bool = False
    any_characters: bool = False
    no_slash: bool = False


class WhenAbsent(str, Enum):
    """What it means that a table is not in the file."""

    REQUIRED = "a fault"
    DEFAULTS = "its keys have their defaults"
    OFF = "what it is about is off"


@dataclass(frozen=True, slots=True)
class Table:
    """One table; or, where its name is free, one kind of table, as `[destination*]`.

    Attributes:
        hints: advice for keys that there are not, and that people write all the same.
        tables: those that may stand within it.
        begins: the name is free: every table is one whose name begins so ("": every one there). It is `name` then
            that messages and the template show, as an example. None: only the table called `name` is one.
        alternatives: where one of these is within it, those within it whose absence is a fault may all be absent.
    """

    name: str
    doc: str
    keys: tuple[Key, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    name_prefix: str | None = None
    absent: WhenAbsent = WhenAbsent.DEFAULTS
    alternatives: tuple[str, ...] = ()

    def key(self, name: str) -> Key | None:
        """Return the key called `name`, or None."""
        return next((key for key in self.keys if key.name == name), None)

    def inner_table(self, name: str) -> Table | None:
        """Return what describes the table within this one that is called `name`, or None."""
        return next(
            (table for table in self.tables
             if (name == table.name if table.name_prefix is None else name.startswith(table.name_prefix))), None)  # fmt: skip

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)
