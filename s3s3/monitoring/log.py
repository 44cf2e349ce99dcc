"""The log: lines for people or for a collector, what each is about, and what comes again and again once a minute."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

AGAIN_AFTER_S = 60.0
MAX_REMEMBERED = 1000
"""Kinds of lines that are remembered; with more, the oldest is told again sooner."""


def object_id(route: str, key: str) -> str:
    """Return what each line about an object has, in every process and try, from its notice to its outcome."""
    return hashlib.blake2b(f"{route}\0{key}".encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()


def log_fields(route: str, key: str, repeats: Hashable = None, **more: object) -> dict[str, Any]:
    """Return the `extra` of a line about an object.

    Args:
        repeats: lines for which this is equal say the same of different objects: the first is told, others are counted.
        more: further fields for a collector.
    """
    return {"about": {"id": object_id(route, key), "route": route, "key": key, **more}, "repeats": repeats}


class PlainFormatter(logging.Formatter):
    """Lines for people; one about an object ends with its id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the library's
        fields = getattr(record, "about", None)
        return super().formatMessage(record) + (f" [{fields['id']}]" if fields else "")


class JsonFormatter(logging.Formatter):
    """A JSON object a line, for a collector."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


@dataclass
class _Repeat:
    at_s: float
    count: int = 0
    last: logging.LogRecord | None = None


class RateLimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no StreamHandler[...]
    """Writes lines to standard error. Warnings and errors that come again are counted, and told once a minute.

    Args:
        every_one: nothing is held back.
    """

    def __init__(self, formatter: logging.Formatter, *, every_one: bool = False) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)
        self._every_one = every_one
        self._told: dict[Hashable, _Repeat] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING or self._every_one or self._is_first(record):
            super().emit(record)

    def _is_first(self, record: logging.LogRecord) -> bool:
        repeats = getattr(record, "repeats", None)
        at = (record.name, record.levelno, record.msg, record.getMessage() if repeats is None else repeats)
        told = self._told.get(at)
        if told is None:
            while len(self._told) >= MAX_REMEMBERED:
                self._sum_up(self._told.pop(next(iter(self._told))))
            self._told[at] = _Repeat(time.monotonic())
            return True
        told.count += 1
        told.last = record
        return False

    def tell_due(self, older_than_s: float = AGAIN_AFTER_S) -> None:
        """Tell how often came again what was told a minute ago."""
        self.acquire()
        try:
            now_s = time.monotonic()
            for at, told in list(self._told.items()):
                if now_s - told.at_s >= older_than_s:
                    if told.count:
                        self._told[at] = _Repeat(now_s)
                    else:
                        del self._told[at]
                    self._sum_up(told)
        finally:
            self.release()

    def _sum_up(self, told: _Repeat) -> None:
        if told.last is None:
            return
        span_s = time.monotonic() - told.at_s
        more = f"{told.count:,} more like it" if told.count > 1 else "once more"
        said = logging.makeLogRecord(told.last.__dict__)
        said.msg, said.args = f"{told.last.getMessage()} ({more} within {span_s:.0f} s)", ()
        super().emit(said)
