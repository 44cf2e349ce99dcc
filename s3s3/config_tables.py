"""The tables of a configuration file, held against the schema: unknown names, wrong values, variables, secret files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from .addresses import redacted
from .config_file import Faults, named
from .config_values import Wrong, from_text, nearest, parse, shown, type_of
from .schema import DESTINATION, HTTP, LATER_TABLES, PUBSUB, SOURCE, TABLES, WORKER, Key, Kind, Table, table_of

LATER = "not available in this version yet"
_FILE = "_file"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DESTINATION_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NEVER_SHOWN = (Kind.SECRET, Kind.REDIS_URL)


@dataclass(frozen=True)
class Settings:
    """What one table says.

    Attributes:
        values: every key of the table's schema, parsed; None for what is left out or has a fault.
        written: keys that stand in the file, with or without a fault.
        meant: keys that a misspelt name is near to; they are not called missing.
        broken: keys that have a fault.
    """

    name: str
    values: Mapping[str, Any]
    written: frozenset[str]
    meant: frozenset[str]
    broken: frozenset[str]


def read_tables(tables: Mapping[str, Any], environ: Mapping[str, str], faults: Faults) -> dict[str, Settings]:
    """Return the settings of every table by name, with the defaults of those that may be left out.

    What is wrong with them is added to `faults`.
    """
    settings = {}
    meant = set()
    for name, content in tables.items():
        table = None if name in LATER_TABLES else table_of(name)
        if table is None:
            meant.add(_refuse_table(name, content, faults))
        elif isinstance(content, dict):
            if table is DESTINATION and not _DESTINATION_NAME.fullmatch(name):
                faults.add((name,), "a destination's name has letters, digits, _ . and - only")
            settings[name] = _TableReader(table, name, content, environ, faults).read()
        else:
            faults.add((name,), f"must be a table, [{named(name)}], not {type_of(content)}")
            meant.add(table.name)
    for table in (PUBSUB, WORKER, HTTP):
        if table.name not in settings:
            settings[table.name] = _TableReader(table, table.name, {}, environ, faults).read()
    present = meant | {table.name for name in settings if (table := table_of(name))}
    for table in (SOURCE, DESTINATION):
        if table.name not in present:
            faults.add((), f"no [{table.name}] table: {table.doc[0].lower()}{table.doc[1:].partition('.')[0]}")
    return settings


def _refuse_table(name: str, content: object, faults: Faults) -> str | None:
    """Add the fault of a name that is no table's. Return the table that is meant, where that is clear."""
    if name in LATER_TABLES:
        faults.add((name,), f"{LATER}; leave it out")
        return None
    meant = nearest(name, [table.name for table in TABLES])
    owner = next((table for table in TABLES if table.key(name)), None)
    if owner and not isinstance(content, dict):
        faults.add((), f"{name} stands outside of every table; it belongs in [{owner.name}]")
        return None
    tables = ", ".join(f"[{table.name}]" for table in TABLES)
    faults.add((name,), "unknown table; " + (f"did you mean [{meant}]?" if meant else f"the tables are {tables}"))
    return meant


class _TableReader:
    """Reads one table."""

    def __init__(
        self, table: Table, name: str, content: Mapping[str, Any], environ: Mapping[str, str], faults: Faults
    ) -> None:
        self._table = table
        self._name = name
        self._content = content
        self._environ = environ
        self._faults = faults
        self._broken: set[str] = set()

    def read(self) -> Settings:
        known = set(self._table.key_names) | {key.name + _FILE for key in self._table.keys if key.kind.is_text}
        unknown = list(self._refuse_unknown(known))
        written = self._keys_of(set(self._content))
        meant = self._keys_of({nearest(name, known) for name in unknown})
        for key in self._table.keys:
            if key.required and key.name not in written | meant:
                self._broken.add(key.name)
                self._faults.add((self._name,), f"{key.name} is missing")
        values = {key.name: self._value(key) for key in self._table.keys}
        return Settings(self._name, values, written, meant, frozenset(self._broken))

    def _keys_of(self, names: Set[str | None]) -> frozenset[str]:
        """Return the keys that these names give, by themselves or as NAME_file."""
        return frozenset(key.name for key in self._table.keys if names & {key.name, key.name + _FILE})

    def _refuse_unknown(self, known: set[str]) -> Iterator[str]:
        """Add a fault for each name that is no key, and yield it."""
        for name, value in self._content.items():
            if name not in known:
                self._faults.add((self._name, name), self._unknown(name, value, known))
                yield name

    def _unknown(self, name: str, value: object, known: set[str]) -> str:
        if name in self._table.hints:
            return f"unknown key; {self._table.hints[name]}"
        if isinstance(value, dict) and self._table is DESTINATION:
            whole = named(f"{self._name}.{name}")
            return f"unknown table within [{named(self._name)}]; write [{whole}] for a name with a dot"
        owner = next((table for table in TABLES if table.key(name)), None)
        if owner:
            return f"unknown key here; it belongs in [{owner.name}]"
        meant = nearest(name, known)
        return (
            f"unknown key; did you mean {meant}?" if meant else "unknown key; echo_s3s3_toml_template prints them all"
        )

    def _fault(self, key: Key, message: str, name: str | None = None) -> None:
        self._broken.add(key.name)
        self._faults.add((self._name, name or key.name), message)

    def _value(self, key: Key) -> object:
        """Return the key's parsed value, or None with a fault added."""
        by_file = key.name + _FILE
        is_given, is_by_file = key.name in self._content, key.kind.is_text and by_file in self._content
        if key.later:
            self._refuse_later(key, by_file if is_by_file else key.name)
            return None
        if is_given and is_by_file:
            self._fault(key, f"{key.name} and {by_file} are both given; one of them has to go")
            return None
        if is_by_file:
            return self._from_file(key, by_file)
        if not is_given:
            return None if key.default is None else parse(key, key.default)
        try:
            value, variable = self._expanded(self._content[key.name], partly=key.kind is Kind.SECRET)
        except ValueError as error:
            self._fault(key, str(error))
            return None
        return self._parsed(key, from_text(key, str(value)) if variable else value, variable)

    def _parsed(self, key: Key, value: object, origin: str) -> object:
        """Parse a value; `origin` says where it comes from if that is not the file itself, and then it is not shown."""
        try:
            return parse(key, value)
        except Wrong as wrong:
            if origin:
                self._fault(key, f"must be {wrong.expected} ({origin})")
            else:
                self._fault(key, wrong.message(found=_found(key, value)))
            return None

    def _refuse_later(self, key: Key, name: str) -> None:
        """Add a fault unless the key is left out or says what holds without it anyhow."""
        value = self._content.get(name, key.default)
        if type(value) is not type(key.default) or value != key.default:
            off = "" if key.default is None else f", or at {shown(key.default)}"
            self._fault(key, f"{LATER}; leave it out{off}", name)

    def _from_file(self, key: Key, by_file: str) -> object:
        """Return the key's value from the file that NAME_file names, without one newline at its end.

        The path is not shown: it may be the secret itself, written into the wrong key.
        """
        try:
            path, _ = self._expanded(self._content[by_file], partly=False)
            text = (self._faults.file.path.parent / _path(path)).read_bytes().decode()
        except UnicodeDecodeError:
            self._fault(key, "the file that it names is not UTF-8", by_file)
        except OSError as error:
            self._fault(key, f"the file that it names cannot be read: {error.strerror}", by_file)
        except ValueError as error:
            self._fault(key, str(error), by_file)
        else:
            return self._parsed(key, re.sub(r"\r?\n\Z", "", text), f"the text of the file in {by_file}")
        return None

    def _expanded(self, value: object, partly: bool) -> tuple[object, str]:
        """Return a value with "${NAME}" replaced, and which variable that was, in words.

        Raises:
            ValueError: the variable is not set; or it is only a part of the value, and not `partly`: a secret may well
                hold such text.
        """
        variable = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
        if variable is None:
            texts = value if isinstance(value, list) else [value]
            if not partly and any(isinstance(text, str) and _VARIABLE.search(text) for text in texts):
                raise ValueError('"${NAME}" is replaced only where it is the whole value')
            return value, ""
        words = f"environment variable {variable[1]}"
        try:
            text = self._environ[variable[1]]
            text.encode()
        except KeyError:
            raise ValueError(f"{words} is not set") from None
        except UnicodeEncodeError:
            raise ValueError(f"{words} is not UTF-8") from None
        return text, words


def _found(key: Key, value: object) -> str:
    """Return how a message may show a value that is not what the key takes; credentials get into every place."""
    if key.kind in _NEVER_SHOWN:
        return "" if isinstance(value, str) else type_of(value)
    return shown(redacted(value) if isinstance(value, str) and "@" in value else value)


def _path(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(Wrong("the path of a file").message(found="" if isinstance(value, str) else type_of(value)))
