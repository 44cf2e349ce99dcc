"""Resolve one key from the file, the environment or a referenced file."""

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
        invalid: the names of keys with a problem.
    """

    def __init__(
        self, path: tuple[str, ...], content: Mapping[str, Any], environ: Mapping[str, str], errors: ConfigErrors
    ) -> None:
        self._path = path
        self._content = content
        self._environ = environ
        self._errors = errors
        self.invalid: set[str] = set()

    def add_error(self, key: Key, message: str, name: str | None = None) -> None:
        """Add a problem of a key, with the line of `name` (default: the key itself)."""
        self.invalid.add(key.name)
        self._errors.add(self._path, message, name or key.name)

    def value(self, key: Key) -> object:
        """Return the key's parsed value, or None after adding a problem."""
        by_file = key.name + FILE_SUFFIX
        is_given, is_by_file = key.name in self._content, key.kind.is_text and by_file in self._content
        if is_given and is_by_file:
            self.add_error(key, f"{key.name} and {by_file} are both given; remove one")
            return None
        if is_by_file:
            return self._from_file(key, by_file)
        if not is_given:
            return None if key.default is None else parse(key, key.default)
        try:
            value, variable = self._expanded(self._content[key.name], partly=key.kind is Kind.SECRET)
        except ValueError as error:
            self.add_error(key, str(error))
            return None
        return self._parsed(key, from_text(key, str(value)) if variable else value, variable)

    def _parsed(self, key: Key, value: object, origin: str) -> object:
        """Parse a value. `origin` names its source if that is not this file; messages then do not show the value.

        An empty secret from the environment or another file is an error. Only "" in this file means "no token".
        """
        if origin and key.kind in _NEVER_SHOWN:
            key = replace(key, may_be_empty=False)
        try:
            return parse(key, value)
        except InvalidValue as error:
            if origin:
                self.add_error(key, f"must be {error.expected} ({origin})")
            else:
                self.add_error(key, error.message(found=_found(key, value)))
            return None

    def _from_file(self, key: Key, by_file: str) -> object:
        """Return the content of the file that NAME_file names, without one trailing newline.

        Messages do not show the path: it may be a secret that was written into the wrong key.
        """
        try:
            path, _ = self._expanded(self._content[by_file], partly=False)
            text = (self._errors.file.path.parent / _path(path)).read_bytes().decode()
        except UnicodeDecodeError:
            self.add_error(key, "the referenced file is not UTF-8", by_file)
        except OSError as error:
            self.add_error(key, f"cannot read the referenced file: {error.strerror}", by_file)
        except ValueError as error:
            self.add_error(key, str(error), by_file)
        else:
            return self._parsed(key, re.sub(r"\r?\n\Z", "", text), f"the text of the file in {by_file}")
        return None

    def _expanded(self, value: object, partly: bool) -> tuple[object, str]:
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
            raise ValueError(f"{words} is not set") from None
        except UnicodeEncodeError:
            raise ValueError(f"{words} is not UTF-8") from None
        return text, words


def _found(key: Key, value: object) -> str:
    """Return an invalid value as a message may show it. Credentials are pasted into any key, so they are hidden."""
    if key.kind in _NEVER_SHOWN:
        return "" if isinstance(value, str) else type_of(value)
    return toml_repr(redacted_url(value) if isinstance(value, str) and "@" in value else value)


def _path(value: object) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError(InvalidValue("the path of a file").message(found="" if isinstance(value, str) else type_of(value)))
