"""Log formatters and rate limiting of repeated warnings."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import shown_key, without_queries
from ..events import object_id
from .formatting import duration_text, escaped

#: How long repeats of a warning are only counted, in seconds.
REPEAT_INTERVAL_S = 60.0

#: Maximum number of warnings with counted repeats; beyond it, the oldest is dropped.
MAX_REMEMBERED = 1000


def log_fields(route: str, key: str, repeats: Hashable = None, **fields: object) -> dict[str, Any]:
    """Return the `extra` argument for a log line about an object.

    Args:
        repeats: lines with an equal value report the same problem of different objects; only the first is written.
        fields: further fields of the JSON line.
    """
    shown = {"id": object_id(route, key), "route": route, "key": shown_key(key), **fields}
    return {"fields": shown, "repeats": repeats}


class PlainFormatter(logging.Formatter):
    """Formats lines for people, with local time and its offset from UTC.

    A line of an event ends with its fields as `key=value`, another line about an object with its id.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - as below
        return datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides logging.Formatter
        # Text from outside must not begin a line, nor control a terminal.
        record.message = escaped(without_queries(record.message))
        line, fields = super().formatMessage(record), getattr(record, "fields", None)
        if not fields:
            return line
        if not hasattr(record, "event"):
            return f"{line} [{fields['id']}]"
        return " ".join((line, *(f"{name}={_field_text(value)}" for name, value in fields.items())))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        return "\n".join(map(escaped, without_queries(super().formatException(ei)).split("\n")))


def _field_text(value: object) -> str:
    """Return a value for `key=value`; a text with spaces, quotes or control characters becomes a JSON string."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_bare = text.isprintable() and text and not any(character in ' "=' for character in text)
    return text if is_bare else json.dumps(text, ensure_ascii=not text.isprintable())


@dataclass
class _Repeats:
    """Lines that report the same problem since `since_s`: how many are written, how many only counted, the last one."""

    since_s: float
    written: int = 1
    count: int = 0
    last: logging.LogRecord | None = None


class RateLimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no StreamHandler[...]
    """Writes to standard error; counts repeated warnings and errors instead of writing them.

    `flush_repeats` writes the counts; the caller runs it every few seconds.

    Args:
        unlimited: write every line.
    """

    def __init__(self, formatter: logging.Formatter, *, unlimited: bool = False) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)
        self._unlimited = unlimited
        self._repeats: dict[Hashable, _Repeats] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not self._unlimited:
            same = getattr(record, "repeats", None)
            identity = (record.name, record.levelno, record.msg, record.getMessage() if same is None else same)
            repeats = self._repeats.get(identity)
            if repeats is not None and repeats.written < getattr(record, "burst", 1):
                repeats.written += 1
                super().emit(record)
                return
            if repeats is not None:
                repeats.count += 1
                # Kept as text: an exception among the arguments would keep its frames, and what they hold.
                record.msg, record.args, record.exc_info = record.getMessage(), (), None
                repeats.last = record
                return
            while len(self._repeats) >= MAX_REMEMBERED:
                self._write(self._repeats.pop(next(iter(self._repeats))))
            self._repeats[identity] = _Repeats(time.monotonic())
        super().emit(record)

    def flush_repeats(self, older_than_s: float = REPEAT_INTERVAL_S) -> None:
        """Write the last repeat and the count of each line first written more than `older_than_s` ago."""
        self.acquire()
        try:
            now_s = time.monotonic()
            for identity, repeats in list(self._repeats.items()):
                if now_s - repeats.since_s >= older_than_s:
                    if repeats.count:
                        self._repeats[identity] = _Repeats(now_s)
                    else:
                        del self._repeats[identity]
                    self._write(repeats)
        finally:
            self.release()

    def _write(self, repeats: _Repeats) -> None:
        if repeats.last is None:
            return
        lines = "1 similar line" if repeats.count == 1 else f"{repeats.count:,} similar lines"
        record = logging.makeLogRecord(repeats.last.__dict__)
        record.created = time.time()
        record.msg = f"{repeats.last.msg} ({lines} in {duration_text(time.monotonic() - repeats.since_s)})"
        super().emit(record)
