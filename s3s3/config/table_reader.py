"""Check tables against the schema: unknown, missing and misspelled names, then the values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
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
    """The parsed content of one table.

    Attributes:
        path: the names that lead to the table; () is the file itself.
        values: each key of the table's schema with its parsed value; None if it is left out or invalid.
        own: keys written in the table itself, valid or not.
        given: `own`, and the keys of the store that the table refers to.
        invalid: keys with an invalid value, and keys of which the file has a misspelled form.
        tables: the inner tables by name, including those that have only defaults.
    """

    path: tuple[str, ...]
    table: Table
    values: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()
    invalid: frozenset[str] = frozenset()
    tables: Mapping[str, ParsedTable] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True)
class _Context:
    """Shared by all tables of a file. `stores` is filled first, when [stores] is read."""

    environ: Mapping[str, str]
    errors: ConfigErrors
    stores: dict[str, ParsedTable] = field(default_factory=dict)


def read_tables(content: Mapping[str, Any], environ: Mapping[str, str], errors: ConfigErrors) -> ParsedTable:
    """Return the parsed tables of the whole file; problems are added to `errors`."""
    return _TableReader(FILE, (), content, _Context(environ, errors)).read()


class _TableReader:
    """Reads one table: inner tables first, then the names, then the values."""

    def __init__(self, table: Table, path: tuple[str, ...], content: Mapping[str, Any], context: _Context) -> None:
        self._table = table
        self._path = path
        self._content = content
        self._context = context
        self._errors = context.errors
        self._keys = KeyReader(path, content, context.environ, context.errors)
        self._known = set(table.key_names) | {key.name + FILE_SUFFIX for key in table.keys if key.kind.is_text}

    def read(self) -> ParsedTable:
        tables, present = self._read_inner_tables()
        misspelled = self._check_names(present)
        own = self._keys_of(self._content)
        store = self._store(own)
        misspelled |= store.invalid - store.given
        for key in self._table.keys:
            if key.required and key.name not in own | store.given | misspelled:
                self._keys.invalid.add(key.name)
                self._errors.add(self._path, f"{key.name} is missing")
        values = {key.name: self._value(key, own, store) for key in self._table.keys if key.name != STORE_KEY}
        invalid = misspelled | self._keys.invalid
        return ParsedTable(self._path, self._table, values, own, own | store.given, invalid, tables)

    # -- inner tables

    def _read_inner_tables(self) -> tuple[dict[str, ParsedTable], list[Table]]:
        """Return the inner tables by name, and the declarations of those that are in the file."""
        parsed: dict[str, ParsedTable] = {}
        present = []
        for name in sorted(self._content, key=lambda name: name != STORES.name):
            table = self._table.inner_table(name)
            if not table or name in self._known:
                continue
            present.append(table)
            content = self._content[name]
            if isinstance(content, dict):
                parsed[name] = self._read_inner_table(table, name, content)
            else:
                path = (*self._path, name)
                key = nearest(name, self._known)
                advice = f"; did you mean the key {key}?" if key else ""
                self._errors.add(path, f"must be a table, [{dotted(path)}], not {type_of(content)}{advice}")
        for table in self._table.tables:
            if table.absent is WhenAbsent.DEFAULTS and table.name_prefix is None and table.name not in parsed:
                parsed[table.name] = self._read_inner_table(table, table.name, {})
        return parsed, present

    def _read_inner_table(self, table: Table, name: str, content: Mapping[str, Any]) -> ParsedTable:
        path = (*self._path, name)
        if table.name_prefix is not None and not _FREE_NAME.fullmatch(name):
            self._errors.add(path, "a name may contain only letters, digits, _ . and -")
        parsed = _TableReader(table, path, content, self._context).read()
        if table is STORES:
            self._context.stores.update(parsed.tables)
        return parsed

    # -- pass 1: names

    def _check_names(self, present: list[Table]) -> frozenset[str]:
        """Report unknown names and missing tables; return the keys of which a misspelled form was found."""
        unknown = [name for name in self._content if name not in self._known and not self._table.inner_table(name)]
        for name in unknown:
            if self._table is FILE or (_is_table(name, self._content[name]) and self._table.tables):
                present += self._report_unknown_table(name)
            else:
                self._errors.add(self._path, self._unknown_key(name, self._content[name]), name)
        self._report_missing_tables(present)
        return self._keys_of(nearest(name, self._known) or "" for name in unknown)

    def _report_unknown_table(self, name: str) -> list[Table]:
        """Report a name that is not a table here; return the table that it resembles, if any."""
        owner = _owner(name)
        if self._table is FILE and owner and not _is_table(name, self._content[name]):
            self._errors.add((), f"{name} is outside of every table; it belongs in [{owner}]")
            return []
        by_name = {table.name: table for table in self._table.tables}
        similar = nearest(name, by_name)
        if similar:
            advice = f"did you mean [{dotted((*self._path, similar))}]?"
        else:
            advice = f"the tables are {', '.join(f'[{dotted((*self._path, other))}]' for other in by_name)}"
        self._errors.add((*self._path, name), f"unknown table; {advice}")
        return [by_name[similar]] if similar else []

    def _report_missing_tables(self, present: list[Table]) -> None:
        required = [table for table in self._table.tables if table.absent is WhenAbsent.REQUIRED]
        missing = [table for table in required if not any(table is other for other in present)]
        if missing == required and any(self._content.get(name) for name in self._table.alternatives):
            return
        for table in missing:
            purpose = f"{table.doc[0].lower()}{table.doc[1:].partition('.')[0]}"
            self._errors.add(self._path, f"no [{dotted((*self._path, table.name))}] table: {purpose}")

    def _unknown_key(self, name: str, value: object) -> str:
        """Return the message for a key that the table does not have."""
        if name in self._table.hints:
            return f"unknown key; {self._table.hints[name]}"
        similar = nearest(name, self._known)
        by_hour = {key.name for key in self._table.keys if key.kind.is_by_hour}
        if isinstance(value, dict) and self._table is DESTINATION and similar not in by_hour:
            whole = dotted((*self._path[:-1], f"{self._path[-1]}.{name}"))
            return f"unknown table within [{dotted(self._path)}]; write [{whole}] for a name with a dot"
        inner = next((table for table in self._table.tables if table.key(name)), None)
        owner = dotted((*self._path, inner.name)) if inner else _owner(name)
        if owner:
            return f"unknown key here; it belongs in [{owner}]"
        return f"unknown key; {f'did you mean {similar}?' if similar else 'echo_s3s3_toml_template prints all keys'}"

    # -- pass 2: values

    def _keys_of(self, names: Iterable[str]) -> frozenset[str]:
        """Return the keys that these names set, directly or as NAME_file."""
        given = set(names)
        return frozenset(key.name for key in self._table.keys if given & {key.name, key.name + FILE_SUFFIX})

    def _value(self, key: Key, own: Set[str], store: ParsedTable) -> object:
        if key.name in own or key.name not in store.given:
            return self._keys.value(key)
        if key.name in store.invalid:
            self._keys.invalid.add(key.name)
        return store.values[key.name]

    def _store(self, own: Set[str]) -> ParsedTable:
        """Return the store that the table refers to; an empty one if there is none."""
        key = self._table.key(STORE_KEY)
        if key is None or STORE_KEY not in own:
            return ParsedTable((), self._table)
        name = self._keys.value(key)
        stores = self._context.stores
        if name in stores:
            return stores[str(name)]
        if name is not None:
            similar = nearest(str(name), stores)
            advice = f'did you mean "{similar}"?' if similar else f"add [{dotted((STORES.name, str(name)))}]"
            self._keys.add_error(key, f"[{dotted((STORES.name, str(name)))}] does not exist; {advice}")
        return ParsedTable((), self._table, invalid=frozenset(self._table.key_names))


def _is_table(name: str, content: object) -> bool:
    """Whether an unknown name is a table's. A limit by hours is written as a table as well, and is a key."""
    by_hour = (key.name for table in all_tables() for key in table.keys if key.kind.is_by_hour)
    return isinstance(content, dict) and name not in by_hour


def _owner(key: str) -> str:
    """Return the name of the table that has such a key, "" if none. It may itself be inside another table."""
    return next((table.name for table in all_tables() if table.name_prefix != "" and table.key(key)), "")
