"""The tables of a configuration file, held against the schema: unknown names, missing tables and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from .schema import DESTINATION, FILE, STORE_KEY, STORES, all_tables
from .schema_types import Key, Table, WhenAbsent
from .toml_file import ConfigErrors, dotted
from .value_reader import FILE_SUFFIX, KeyReader
from .value_types import nearest, type_of

_FREE_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class ParsedTable:
    """What one table says.

    Attributes:
        path: all names that lead to it; () is the file itself.
        values: every key of the table's schema, parsed; None for what is left out or has a fault.
        own: keys that stand in the table, with or without a fault.
        written: those, and those of the store whose keys it shares.
        meant: keys that a misspelt name is near to; they are not called missing.
        broken: keys that have a fault.
        tables: those within it, by name, and those that may be left out.
    """

    path: tuple[str, ...]
    table: Table
    values: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    near_misses: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    tables: Mapping[str, ParsedTable] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True)
class _Reading:
    """What all tables of a file are read with. `stores` is filled when [stores] is read, which is first."""

    environ: Mapping[str, str]
    errors: ConfigErrors
    stores: dict[str, ParsedTable] = field(default_factory=dict)


def read_tables(content: Mapping[str, Any], environ: Mapping[str, str], errors: ConfigErrors) -> ParsedTable:
    """Return the settings of the whole file. What is wrong with them is added to `errors`."""
    return _TableReader(FILE, (), content, _Reading(environ, errors)).read()


class _TableReader:
    """Reads one table, and those within it."""

    def __init__(self, table: Table, path: tuple[str, ...], content: Mapping[str, Any], reading: _Reading) -> None:
        self._table = table
        self._path = path
        self._content = content
        self._reading = reading
        self._errors = reading.errors
        self._keys = KeyReader(path, content, reading.environ, reading.errors)
        self._known = set(table.key_names) | {key.name + FILE_SUFFIX for key in table.keys if key.kind.is_text}
        self._near_tables: list[Table | None] = []

    def read(self) -> ParsedTable:
        tables = self._read_inner_tables()
        near_misses = self._keys_of({nearest(name, self._known) for name in self._refuse_unknown()})
        self._refuse_missing()
        shared = self._shared()
        own = self._keys_of(set(self._content))
        near_misses |= shared.near_misses
        for key in self._table.keys:
            if key.required and key.name not in own | shared.written | near_misses:
                self._keys.broken.add(key.name)
                self._errors.add(self._path, f"{key.name} is missing")
        values = {key.name: self._value(key, own, shared) for key in self._table.keys if key.name != STORE_KEY}
        return ParsedTable(self._path, self._table, values, own, own | shared.written, near_misses,
                        frozenset(self._keys.broken), tables)  # fmt: skip

    # -- the tables within it

    def _read_inner_tables(self) -> dict[str, ParsedTable]:
        settings = {}
        for name in sorted(self._content, key=lambda name: name != STORES.name):
            table = self._table.inner_table(name)
            if table and name not in self._known:
                content = self._content[name]
                if isinstance(content, dict):
                    settings[name] = self._read_inner_table(table, name, content)
                else:
                    whole = (*self._path, name)
                    near_misses = nearest(name, self._known)
                    key = f"; did you mean the key {near_misses}?" if near_misses else ""
                    self._errors.add(whole, f"must be a table, [{dotted(whole)}], not {type_of(content)}{key}")
                self._near_tables.append(table)
        for table in self._table.tables:
            if table.absent is WhenAbsent.DEFAULTS and table.name_prefix is None and table.name not in settings:
                settings[table.name] = self._read_inner_table(table, table.name, {})
        return settings

    def _read_inner_table(self, table: Table, name: str, content: Mapping[str, Any]) -> ParsedTable:
        path = (*self._path, name)
        if table.name_prefix is not None and not _FREE_NAME.fullmatch(name):
            self._errors.add(path, "a name has letters, digits, _ . and - only")
        settings = _TableReader(table, path, content, self._reading).read()
        if table is STORES:
            self._reading.stores.update(settings.tables)
        return settings

    def _refuse_missing(self) -> None:
        """Add a fault for each table that has to be there and is not."""
        wanted = [table for table in self._table.tables if table.absent is WhenAbsent.REQUIRED]
        missing = [table for table in wanted if not any(table is near_misses for near_misses in self._near_tables)]
        if missing == wanted and any(self._content.get(name) for name in self._table.alternatives):
            return
        for table in missing:
            name = dotted((*self._path, table.name))
            about = f"{table.doc[0].lower()}{table.doc[1:].partition('.')[0]}"
            self._errors.add(self._path, f"no [{name}] table: {about}")

    # -- names that are none

    def _refuse_unknown(self) -> Iterator[str]:
        """Add a fault for each name that is no key and no table, and yield it."""
        for name, content in self._content.items():
            if name not in self._known and not self._table.inner_table(name):
                if self._table is FILE:
                    self._refuse_in_file(name, content)
                elif _is_table(name, content) and self._table.tables:
                    self._refuse_table(name)
                else:
                    self._errors.add(self._path, self._unknown(name, content), name)
                yield name

    def _refuse_in_file(self, name: str, content: object) -> None:
        """Add the fault of a name in the file that is no table's."""
        owner = _owner(name)
        if owner and not _is_table(name, content):
            self._errors.add((), f"{name} stands outside of every table; it belongs in [{owner}]")
        else:
            self._refuse_table(name)

    def _refuse_table(self, name: str) -> None:
        tables = self._table.tables
        near_misses = next(
            (table for table in tables if table.name == nearest(name, [one.name for one in tables])), None
        )
        self._near_tables.append(near_misses)
        destination = ", ".join(f"[{dotted((*self._path, table.name))}]" for table in tables)
        advice = (
            f"did you mean [{dotted((*self._path, near_misses.name))}]?"
            if near_misses
            else f"the tables are {destination}"
        )
        self._errors.add((*self._path, name), f"unknown table; {advice}")

    def _unknown(self, name: str, value: object) -> str:
        if name in self._table.hints:
            return f"unknown key; {self._table.hints[name]}"
        near_misses = nearest(name, self._known)
        by_hour = {key.name for key in self._table.keys if key.kind.is_by_hour}
        if isinstance(value, dict) and self._table is DESTINATION and near_misses not in by_hour:
            whole = dotted((*self._path[:-1], f"{self._path[-1]}.{name}"))
            return f"unknown table within [{dotted(self._path)}]; write [{whole}] for a name with a dot"
        inner_table = next((table for table in self._table.tables if table.key(name)), None)
        owner = dotted((*self._path, inner_table.name)) if inner_table else _owner(name)
        if owner:
            return f"unknown key here; it belongs in [{owner}]"
        return (
            f"unknown key; did you mean {near_misses}?"
            if near_misses
            else "unknown key; echo_s3s3_toml_template prints them all"
        )

    # -- its keys

    def _keys_of(self, names: Set[str | None]) -> frozenset[str]:
        """Return the keys that these names give, by themselves or as NAME_file."""
        return frozenset(key.name for key in self._table.keys if names & {key.name, key.name + FILE_SUFFIX})

    def _value(self, key: Key, own: Set[str], shared: ParsedTable) -> object:
        if key.name in own or key.name not in shared.written:
            return self._keys.value(key)
        if key.name in shared.broken:
            self._keys.broken.add(key.name)
        return shared.values[key.name]

    def _shared(self) -> ParsedTable:
        """Return the store whose keys are this table's, too; an empty one where it shares none."""
        key = self._table.key(STORE_KEY)
        stores = self._reading.stores
        name = self._keys.value(key) if key else None
        if key is None or (name is None and key.name not in self._keys.broken):
            return ParsedTable((), self._table)
        if name in stores:
            return stores[str(name)]
        if name is not None:
            near_misses = nearest(str(name), stores)
            advice = f'did you mean "{near_misses}"?' if near_misses else f"add [{dotted((STORES.name, str(name)))}]"
            self._keys.problem(key, f"there is no [{dotted((STORES.name, str(name)))}]; {advice}")
        return ParsedTable((), self._table, near_misses=frozenset(self._table.key_names))


def _is_table(name: str, content: object) -> bool:
    """Whether a name that is unknown here is a table's; a limit by hours is written as one, too, and is a key."""
    by_hour = (key.name for table in all_tables() for key in table.keys if key.kind.is_by_hour)
    return isinstance(content, dict) and name not in by_hour


def _owner(key: str) -> str:
    """Return the table that a key stands in, "" where there is none. It may be within another: only its name."""
    return next((table.name for table in all_tables() if table.name_prefix != "" and table.key(key)), "")
