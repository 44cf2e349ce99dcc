"""Objects as JavaScript writes them: what a config.js holds beside its code; JSON is the same, only stricter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MAX_NESTED = 50

_TOKEN = re.compile(
    r"""(?:\s|//[^\n]*|/\*.*?\*/)*
    (?:(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<number>-?[0-9]+(?:\.[0-9]+)?)
      |(?P<name>[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*)
      |(?P<sign>[{}\[\]:,])
      |(?P<other>\S))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ENVIRONMENT = "process.env."
_WORDS = {"true": True, "false": False, "null": None, "undefined": None}


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yield each object that a text holds, the outer ones first; what is code, and no plain object, is passed over.

    `process.env.NAME` as a value becomes "${NAME}".
    """
    for start in re.finditer(r"\{", text):
        try:
            found = _Reader(text, start.start()).value()
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


class _Reader:
    """Reads one value."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._at = at
        self._depth = 0

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise ValueError("it ends too early")
        self._at = match.end()
        return match.lastgroup, match[match.lastgroup]

    def value(self) -> Any:
        """Return the value that begins here. Raises ValueError where there is none."""
        kind, word = self._next()
        if word in ("{", "["):
            self._depth += 1
            if self._depth > MAX_NESTED:
                raise ValueError("nested too deeply")
            found = self._object() if word == "{" else self._list()
            self._depth -= 1
            return found
        if kind == "text":
            return _unquoted(word)
        if kind == "number":
            return float(word) if "." in word else int(word)
        if word.startswith(_ENVIRONMENT):
            return f"${{{word.removeprefix(_ENVIRONMENT)}}}"
        if kind == "name" and word in _WORDS:
            return _WORDS[word]
        raise ValueError("no plain value")

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            kind, word = self._next()
            if (kind, word) == ("sign", "}"):
                return found
            if kind in ("sign", "other") or self._next() != ("sign", ":"):
                raise ValueError("no plain object")
            found[_unquoted(word) if kind == "text" else word] = self.value()
            if self._ended("}"):
                return found

    def _list(self) -> list[Any]:
        found: list[Any] = []
        while not self._closes("]"):
            found.append(self.value())
            if self._ended("]"):
                break
        return found

    def _closes(self, sign: str) -> bool:
        at = self._at
        if self._next() == ("sign", sign):
            return True
        self._at = at
        return False

    def _ended(self, sign: str) -> bool:
        """Take what follows a value: a comma, or the end, and then return True."""
        kind, word = self._next()
        if kind != "sign" or word not in (",", sign):
            raise ValueError("no plain value")
        return word == sign


def _unquoted(quoted: str) -> str:
    def meant(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        return chr(int(code, 16)) if code else _ESCAPES.get(match[3], match[3])

    # JavaScript's characters beyond 16 bits are pairs of escapes; half of one is no character (UnicodeError).
    return _ESCAPE.sub(meant, quoted[1:-1]).encode("utf-16", "surrogatepass").decode("utf-16")
