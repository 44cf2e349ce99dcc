"""Read the tables of a file: names, values from elsewhere, shared keys, then validation by the models."""

from __future__ import annotations

import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..model import Secret
from .addresses import redacted_url
from .kinds import FILE_PATH, SECRET, ConflictError, Kind, Table, bare, keys_of, kind_of, named_in, table_in, tables_of
from .tables import Bucket, Destination, File, all_tables
from .toml_file import ConfigErrors, ConfigFile, dotted
from .value_types import InvalidValue, nearest, toml_repr, type_of

FILE_SUFFIX = "_file"

_PAIR = ("aws_access_key_id", "aws_secret_access_key")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

Path = tuple[str, ...]


class _UnavailableError(ValueError):
    """A variable is not set, or a file cannot be read."""


class Reader:
    """Reads the tables of a file, and validates them.

    Attributes:
        content: the file in the shape of the models: with values from the environment and from files, and with the
            keys of stores. What was reported is left out.
        secret_files: the files that contain a secret, each with the key of the first.
        origins: where a value comes from, in words, if that is not the file itself.
        inherited: the keys that a bucket has from its store.
        excused: by table, the keys that are not missing, because they are misspelled or were reported already.
    """

    def __init__(self, file: ConfigFile, environ: Mapping[str, str], secrets_of: Collection[str] | None = None) -> None:
        self.file = file
        self._secrets_of = secrets_of
        self.errors = ConfigErrors(file)
        self._environ = environ
        self.origins: dict[Path, str] = {}
        self.inherited: set[Path] = set()
        self.secret_files: dict[pathlib.Path, str] = {}
        self._stores: dict[str, tuple[dict[str, Any], set[str]]] = {}
        self.excused: defaultdict[Path, set[str]] = defaultdict(set)
        self.content = self._table(File, file.tables, ())
        self._check_default_route()

    def validated(self) -> File | None:
        """Return the tables, or None after reporting the problems of values."""
        try:
            return File.model_validate(self.content)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                self._report(error)
        return None

    # -- names

    def _table(self, table: type[Table], content: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return the content of a table in the shape of its model."""
        keys = keys_of(table)
        inner = {name: field for name, field in table.model_fields.items() if name not in keys}
        named = next(((name, field, marker) for name, field in inner.items() if (marker := named_in(field))), None)
        known = {name: name for name in keys}
        known |= {name + FILE_SUFFIX: name for name, field in keys.items() if kind_of(field).is_text}
        result: dict[str, Any] = {}
        for name in sorted(content, key=lambda name: name != "stores"):
            value = content[name]
            if name in known and known[name] != name and known[name] in content:
                continue  # NAME_file beside NAME: reported with NAME
            if name in known:
                self._key(keys[known[name]], known[name], content, path, result)
            elif name in inner and (named is None or name != named[0]):
                self._inner(inner[name].annotation, value, (*path, name), known, result)
            elif named and name.startswith(named[2].prefix):
                group = result.setdefault(named[0], {})
                self._inner(get_args(bare(named[1].annotation))[1], value, (*path, name), known, group)
            else:
                self._report_unknown(table, known, name, value, path)
        if issubclass(table, Bucket):
            self._inherit(table, result, path)
        return result

    def _inner(self, annotation: Any, value: Any, path: Path, known: Iterable[str], result: dict[str, Any]) -> None:
        """Add an inner table, or the tables of a dict, to the result."""
        if not isinstance(value, dict):
            key = nearest(path[-1], known)
            advice = f"; did you mean the key {key}?" if key else ""
            self.errors.add(path, f"must be a table, [{dotted(path)}], not {type_of(value)}{advice}")
            self.excused[path[:-1]].add(path[-1])
            return
        annotation = bare(annotation)
        if get_origin(annotation) is not dict:
            result[path[-1]] = self._table(annotation, value, path)
            return
        group = result[path[-1]] = {}
        for name, inner in value.items():
            self._inner(get_args(annotation)[1], inner, (*path, name), (), group)
        if path == ("stores",):
            excused = {place[1]: keys for place, keys in self.excused.items() if place[:1] == path and place[1:]}
            self._stores = {name: (store, excused.get(name, set())) for name, store in group.items()}

    def _report_unknown(
        self, table: type[Table], known: Mapping[str, str], name: str, value: object, path: Path
    ) -> None:
        similar = nearest(name, known)
        if similar:
            self.excused[path].add(known[similar])
        if table is File or (isinstance(value, dict) and name not in _by_hour_keys() and any(tables_of(table))):
            self._report_unknown_table(table, name, value, path)
            return
        inner = next((example for example, _, inner in tables_of(table) if name in keys_of(inner)), None)
        owner = dotted((*path, *inner)) if inner else _owners().get(name, "")
        if name in table.hints:
            message = table.hints[name]
        elif isinstance(value, dict) and table is Destination and known.get(similar or "") not in _by_hour_keys():
            whole = dotted((*path[:-1], f"{path[-1]}.{name}"))
            self.errors.add(path, f"unknown table within [{dotted(path)}]; write [{whole}] for a name with a dot", name)
            return
        elif owner:
            self.errors.add(path, f"unknown key here; it belongs in [{owner}]", name)
            return
        else:
            message = f"did you mean {similar}?" if similar else "echo_s3s3_toml_template prints all keys"
        self.errors.add(path, f"unknown key; {message}", name)

    def _report_unknown_table(self, table: type[Table], name: str, value: object, path: Path) -> None:
        owner = _owners().get(name, "")
        if table is File and owner and not (isinstance(value, dict) and name not in _by_hour_keys()):
            self.errors.add((), f"{name} is outside of every table; it belongs in [{owner}]")
            return
        examples = {example[0]: example for example, _, _ in tables_of(table)}
        similar = nearest(name, examples)
        if similar:
            advice = f"did you mean [{dotted((*path, similar))}]?"
            self.excused[path].add(similar)
        else:
            advice = f"the tables are {', '.join(f'[{dotted((*path, other))}]' for other in examples)}"
        self.errors.add((*path, name), f"unknown table; {advice}")

    def _check_default_route(self) -> None:
        """Report [source] or [dest*] that is missing, unless the file has other routes, or mirrors, and neither."""
        has = {"source": "source" in self.content, "destination": "destinations" in self.content}
        given = [name for name in has if has[name] or name in self.excused[()]]
        if not given and (self.content.get("routes") or self.content.get("mirror")):
            return
        for name in has:
            if name not in given:
                self._report_missing_table((), File.model_fields[name if name == "source" else "destinations"], name)

    def _report_missing_table(self, path: Path, field: FieldInfo, name: str) -> None:
        inner = table_in(field.annotation)
        text = field.description or (inner and inner.__doc__) or ""
        purpose = f"{text[0].lower()}{text[1:].partition('.')[0]}"
        named = named_in(field)
        advice = f"; its name must begin with {named.prefix}" if named and named.prefix else ""
        self.errors.add(path, f"no [{dotted((*path, name))}] table: {purpose}{advice}")

    # -- shared keys

    def _inherit(self, table: type[Table], result: dict[str, Any], path: Path) -> None:
        """Add the keys of the store that a bucket refers to. Half a pair of keys is not filled up."""
        name = result.get("store")
        if name is None and "store" not in self.excused[path]:
            return
        if not isinstance(name, str) or name not in self._stores:
            self.excused[path] |= set(table.model_fields)
            if isinstance(name, str) and name and name.isprintable():  # else reported as invalid
                similar = nearest(name, self._stores)
                advice = f'did you mean "{similar}"?' if similar else f"add [{dotted(('stores', name))}]"
                self.errors.add(path, f"[{dotted(('stores', name))}] does not exist; {advice}", "store")
            return
        store, excused = self._stores[name]
        has_own_pair = any(key in result or key in self.excused[path] for key in _PAIR)
        for key, value in store.items():
            if key in keys_of(table) and key not in result and not (has_own_pair and key in _PAIR):
                result[key] = value
                self.inherited.add((*path, key))
        self.excused[path] |= excused

    # -- values from elsewhere

    def _key(self, field: FieldInfo, key: str, content: Mapping[str, Any], path: Path, result: dict[str, Any]) -> None:
        """Add the value of a key to the result, from the file, the environment or the file that NAME_file names."""
        by_file, kind = key + FILE_SUFFIX, kind_of(field)
        name = key if key in content else by_file
        file = ""
        try:
            if kind.is_text and key in content and by_file in content:
                raise ValueError(f"{key} and {by_file} are both given; remove one")  # noqa: TRY301
            value, variable = self._expanded(content[name], partly=kind == SECRET and name == key)
            if name == by_file:
                file = str(self.file.path.parent / value) if isinstance(value, str) else ""
                value, variable = self._file_text(value), f"the text of the file in {by_file}"
            if variable:
                value = value if kind.is_text or kind == FILE_PATH else literal(str(value))
                self.origins |= {(*path, key): variable}
                # Only "" in this file means "no token": an empty variable or file is an accident.
                if kind.is_secret and value == "":
                    name = key
                    raise _UnavailableError(f"must be at least one character ({variable})")
            if kind == FILE_PATH and isinstance(value, str) and value and value.isprintable():
                value = self._readable_file(value)
        except ValueError as error:
            if isinstance(error, _UnavailableError) and not self._is_used(kind, path):
                result |= _placeholder(kind, path, key, content)
                return
            self.errors.add(path, str(error), name)
            self.excused[path].add(key)
        else:
            result[key] = Secret(value, file) if file and kind == SECRET else value
            if (name == by_file or not variable) and key != _PAIR[0] and _has_secret(value, kind):
                secret_file = self.file.path.parent / content[name] if name == by_file else self.file.path
                self.secret_files.setdefault(secret_file, f"[{dotted(path)}] {key}")

    def _is_used(self, kind: Kind, path: Path) -> bool:
        """Return whether the caller uses a value; the path of a file may be that of a secret."""
        return self._secrets_of is None or path[0] in self._secrets_of or not (kind.is_secret or kind == FILE_PATH)

    def _expanded(self, value: object, partly: bool) -> tuple[Any, str]:
        """Return the value with "${NAME}" replaced, and the name of the variable in words ("" if none).

        Raises:
            ValueError: the variable is not set, or it is only a part of the value and `partly` is False. A secret may
                contain such text.
        """
        variable = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
        if variable is None:
            texts = value if isinstance(value, list) else [value]
            if not partly and any(isinstance(text, str) and _VARIABLE.search(text) for text in texts):
                raise ValueError('"${NAME}" is replaced only if it is the whole value')
            return value, ""
        words = f"environment variable {variable[1]}"
        try:
            text = self._environ[variable[1]]
            text.encode()
        except KeyError:
            raise _UnavailableError(f"{words} is not set") from None
        except UnicodeEncodeError:
            raise ValueError(f"{words} is not UTF-8") from None
        return text, words

    def _file_text(self, name: object) -> str:
        """Return the content of a file, without one trailing newline.

        Messages do not show the path: it may be a secret that was written into the wrong key.
        """
        if not (isinstance(name, str) and name and "\0" not in name):
            found = "" if isinstance(name, str) else type_of(name)
            raise ValueError(InvalidValue("the path of a file").message(found))
        try:
            text = (self.file.path.parent / name).read_bytes().decode()
        except UnicodeDecodeError:
            raise ValueError("the referenced file is not UTF-8") from None
        except OSError as error:
            raise _UnavailableError(f"cannot read the referenced file: {error.strerror}") from None
        return re.sub(r"\r?\n\Z", "", text)

    def _readable_file(self, name: str) -> str:
        """Return the path of a file, which is relative to the configuration file."""
        path = self.file.path.parent / name
        try:
            with path.open("rb"):
                return str(path)
        except OSError as error:
            raise _UnavailableError(f"cannot read {toml_repr(str(path))}: {error.strerror}") from None

    # -- problems of values

    def _report(self, error: Any) -> None:
        """Report an error of pydantic in the words of the configuration."""
        path, field = _located(error["loc"])
        table, key = path[:-1], path[-1]
        cause = error.get("ctx", {}).get("error")
        if error["type"] == "string_pattern_mismatch":
            self.errors.add(path, "a name may contain only letters, digits, _ . and -")
        elif error["type"] in ("missing", "too_short"):
            self._report_missing(table, key, field)
        elif isinstance(cause, ConflictError):
            is_of_store = cause.key in _PAIR and (*table, cause.key) in self.inherited
            if cause.without not in self.excused[table] and not is_of_store:
                self.errors.add(table, str(cause), cause.key)
        elif path not in self.inherited:
            self.errors.add(table, self._sentence(error, path, field), key)

    def _report_missing(self, table: Path, key: str, field: FieldInfo) -> None:
        marker = named_in(field)
        name = marker.example[0] if marker else key
        if name in self.excused[table]:
            return
        if table_in(field.annotation):
            self._report_missing_table(table, field, name)
        else:
            self.errors.add(table, f"{key} is missing")

    def _sentence(self, error: Any, path: Path, field: FieldInfo) -> str:
        """Return the message for an invalid value. Credentials are pasted into any key, so they are hidden."""
        value, kind = error["input"], kind_of(field)
        invalid = error.get("ctx", {}).get("error")
        if not isinstance(invalid, InvalidValue):
            invalid = _expected(error, field, kind, value)
        example = (field.examples or [""])[0]
        if invalid.expected == "HOST:PORT":
            invalid.expected = f"HOST:PORT, as in {toml_repr(example)}"
        if invalid.expected == "a list of texts":
            invalid.advice = f"as in {path[-1]} = {json.dumps(example)}"
        if invalid.expected == "at least one character" and not field.is_required():
            invalid.advice = "leave it out for the default"
        if path in self.origins:
            return f"must be {invalid.expected} ({self.origins[path]})"
        if kind.is_secret:
            return invalid.message("" if isinstance(value, str | Secret) else type_of(value))
        return invalid.message(toml_repr(redacted_url(value) if isinstance(value, str) and "@" in value else value))


def _expected(error: Any, field: FieldInfo, kind: Kind, value: object) -> InvalidValue:
    """Return what a value must be, for an error of pydantic's own validators."""
    if error["type"] == "string_type" or (error["type"] == "literal_error" and not isinstance(value, str)):
        return InvalidValue("text in quotes")
    if error["type"] == "literal_error":
        choices = get_args(bare(field.annotation))
        similar = nearest(str(value), choices)
        advice = f'did you mean "{similar}"?' if similar else ""
        return InvalidValue(" or ".join(f'"{choice}"' for choice in choices), advice)
    if error["type"] == "string_too_short":
        return InvalidValue("at least one character")
    if kind.words == "a size":
        least = next(one.ge for one in field.metadata if isinstance(one, Ge))
        return InvalidValue(f"a size of {least} or more bytes")
    bounds = [getattr(one, "ge", getattr(one, "le", None)) for one in field.metadata if isinstance(one, Ge | Le)]
    wanted = int if kind.words == "a whole number" else int | float
    if len(bounds) == 2 and isinstance(value, wanted) and not isinstance(value, bool):
        return InvalidValue(f"{kind.words} from {bounds[0]} to {bounds[1]}{' s' if kind.words == 'a duration' else ''}")
    return InvalidValue(kind.words)


def _located(location: Sequence[str | int]) -> tuple[Path, FieldInfo]:
    """Return the names that lead to a value in the file, and its field, for a location in the models."""
    path: list[str] = []
    annotation: Any = File
    field: FieldInfo | None = None
    for place, part in enumerate(map(str, location), start=1):
        table = bare(annotation)
        if part == "[key]":  # the name of a table in a dict
            break
        if get_origin(table) is None and isinstance(table, type) and issubclass(table, Table):
            field = table.model_fields[part]
            annotation = field.annotation
            if named_in(field) and place < len(location):
                continue
        elif get_origin(table) is dict:
            annotation = get_args(table)[1]
        else:
            break
        path.append(part)
    assert field is not None
    return tuple(path), field


def literal(text: str) -> object:
    """Return the TOML value that a text from the environment represents, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text) else text


@cache
def _by_hour_keys() -> set[str]:
    """Return the keys that accept a table of hours."""
    tables = all_tables().values()
    return {name for table in tables for name, field in keys_of(table).items() if kind_of(field).is_by_hour}


@cache
def _owners() -> dict[str, str]:
    """Return the name of the table that each key belongs in. The table may itself be inside another one."""
    owners: dict[str, str] = {}
    for path, table in all_tables().items():
        if path[0] not in ("stores", "routes"):
            owners = dict.fromkeys(keys_of(table), path[-1]) | owners
    return owners


def _placeholder(kind: Kind, path: Path, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid value, by its key, for one that is not available; {} for the default."""
    if kind == SECRET:  # each has another one: ids of keys are compared
        return {key: Secret(f"unavailable: [{dotted(path)}] {key}")}
    return {key: content[key]} if kind == FILE_PATH and key in content else {}


def _has_secret(value: object, kind: Kind) -> bool:
    """Whether a value that may be a secret is one: not every Redis URL has a password."""
    if not kind.is_secret or not isinstance(value, str):
        return False
    return bool(value) if kind == SECRET else "@" in value or "password" in value
