"""The types used to declare the schema: tables, keys and the kinds of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(str, Enum):
    """The kind of a key's value. The enum's value is the wording in messages."""

    TEXT = "text"
    SECRET = "text, a secret"  # noqa: S105  the wording, not a secret
    REDIS_URL = "a Redis URL"
    HTTP_URL = "an HTTP URL"
    HOST = "a host name"
    ADDRESS = "an address"
    BOOLEAN = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    DURATION = "a duration"
    SIZE = "a size"
    GLOBS = "a list of texts"
    SIZE_BY_HOUR = "a size, or a table of hours"
    NUMBER_BY_HOUR = "a number, or a table of hours"
    PATTERNS = "a list of patterns"
    NETWORKS = "true, false or a list of networks"
    URL = "a URL"

    @property
    def is_text(self) -> bool:
        """Whether `NAME_file` can supply the value."""
        return self in _TEXT_KINDS

    @property
    def is_by_hour(self) -> bool:
        """Whether the value may be a table that maps hours of the day to limits."""
        return self in (Kind.SIZE_BY_HOUR, Kind.NUMBER_BY_HOUR)


_TEXT_KINDS = frozenset({Kind.TEXT, Kind.SECRET, Kind.REDIS_URL, Kind.HTTP_URL, Kind.HOST, Kind.ADDRESS, Kind.URL})

Value = str | bool | int | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    Attributes:
        default: as it would be written in the file; None means that the key may be left out.
        example: shown in the template if the default explains little.
        required: the table is invalid without it.
        shown: the template has it as an active line instead of a comment.
        choices: the only values allowed.
        at_least, at_most: bounds of numbers (both) and sizes (`at_least`); `at_most` limits a text's UTF-8 bytes.
        may_be_empty: "" is a valid value.
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
    """What a missing table means."""

    REQUIRED = "an error"
    DEFAULTS = "its keys have their defaults"
    OFF = "the feature is off"


@dataclass(frozen=True, slots=True)
class Table:
    """One table, or a kind of table with free names such as `[destination*]`.

    Attributes:
        hints: advice for unknown keys that people are likely to write.
        tables: the tables allowed inside it.
        name_prefix: None means that the table is called `name`. Otherwise the name is free: each table with a name
            that begins with this prefix ("": any name) is one, and `name` is the example in messages and template.
        alternatives: if one of these inner tables is present, the required inner tables may all be missing.
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
        """Return the declaration of the inner table called `name`, or None."""
        for table in self.tables:
            if name == table.name if table.name_prefix is None else name.startswith(table.name_prefix):
                return table
        return None

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)
