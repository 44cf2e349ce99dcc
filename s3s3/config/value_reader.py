"""The value of one key of a table: from the configuration file itself, the environment, or a file of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .addresses import redacted_url
from .schema_types import Key, Kind
from .toml_file import ConfigErrors
from .value_types import InvalidValue, from_text, parse, toml_repr, type_of

FILE_SUFFIX = "_file"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NEVER_SHOWN = (Kind.SECRET, Kind.REDIS_URL)


class KeyReader:
    """Reads the keys of one table.

    Attributes:
        broken: the keys that have a fault.
    """

    def __init__(
        self, path: tuple[str, ...], content: Mapping[str, Any], environ: Mapping[str, str], errors: ConfigErrors
    ) -> None:
        self._path = path
        self._content = content
        self._environ = environ
        self._errors = errors
        self.broken: set[str] = set()

    def problem(self, key: Key, message: str, name: str | None = None) -> None:
        """Add a fault of a key, told where `name` stands."""
        self.broken.add(key.name)
        self._errors.add(self._path, message, name or key.name)

    def value(self, key: Key) -> object:
        """Return the key's parsed value, or None with a fault added."""
        by_file = key.name + FILE_SUFFIX
        is_given, is_by_file = key.name in self._content, key.kind.is_text and by_file in self._content
        if is_given and is_by_file:
            self.problem(key, f"{key.name} and {by_file} are both given; one of them has to go")
            return None
        if is_by_file:
            return self._from_file(key, by_file)
        if not is_given:
            return None if key.default is None else parse(key, key.default)
        try:
            value, variable = self._expanded(self._content[key.name], partly=key.kind is Kind.SECRET)
        except ValueError as error:
            self.problem(key, str(error))
            return None
        return self._parsed(key, from_text(key, str(value)) if variable else value, variable)

    def _parsed(self, key: Key, value: object, origin: str) -> object:
        """Parse a value; `origin` says where it comes from if that is not the file itself, and then it is not shown.

        A secret that is empty elsewhere is an accident, and never "": who means that no token is needed writes so here.
        """
        if origin and key.kind in _NEVER_SHOWN:
            key = replace(key, may_be_empty=False)
        try:
            return parse(key, value)
        except InvalidValue as wrong:
            if origin:
                self.problem(key, f"must be {wrong.expected} ({origin})")
            else:
                self.problem(key, wrong.message(found=_found(key, value)))
            return None

    def _from_file(self, key: Key, by_file: str) -> object:
        """Return the key's value from the file that NAME_file names, without one newline at its end.

        The path is not shown: it may be the secret itself, written into the wrong key.
        """
        try:
            path, _ = self._expanded(self._content[by_file], partly=False)
            text = (self._errors.file.path.parent / _path(path)).read_bytes().decode()
        except UnicodeDecodeError:
            self.problem(key, "the file that it names is not UTF-8", by_file)
        except OSError as error:
            self.problem(key, f"the file that it names cannot be read: {error.strerror}", by_file)
        except ValueError as error:
            self.problem(key, str(error), by_file)
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
    return toml_repr(redacted_url(value) if isinstance(value, str) and "@" in value else value)


def _path(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(InvalidValue("the path of a file").message(found="" if isinstance(value, str) else type_of(value)))
