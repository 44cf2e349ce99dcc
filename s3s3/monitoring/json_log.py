"""Log lines as JSON objects; a module of its own, because loading the library takes 17 ms."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from functools import partial
from typing import Any

from pythonjsonlogger.defaults import unknown_default
from pythonjsonlogger.json import JsonFormatter as BaseJsonFormatter

from ..errors import without_queries

#: The fields of every line, by the names that `logging` gives them.
_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger", "message": "message"}


class JsonFormatter(BaseJsonFormatter):
    """Formats each line as a JSON object, for a log collector.

    Fields: time (RFC 3339, UTC), level, logger, message, those of `log_fields`, and exception. A value without a
    counterpart in JSON becomes text.
    """

    def __init__(self) -> None:
        super().__init__(
            list(_FIELDS),
            rename_fields={**_FIELDS, "exc_info": "exception"},
            json_serializer=partial(json.dumps, allow_nan=False),
            json_default=unknown_default,  # the library's own one would write out a dataclass with its secrets
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - overrides
        return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        log_data["level"] = log_data["level"].lower()
        log_data["message"] = without_queries(log_data["message"])
        for internal in ("repeats", "burst"):
            log_data.pop(internal, None)
        fields: dict[str, Any] = log_data.pop("fields", {})
        return log_data | fields

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            return super().jsonify_log_record(log_data)
        except (TypeError, ValueError, RecursionError):  # a key that is not text, NaN, a container of itself
            return super().jsonify_log_record({str(name): unknown_default(value) for name, value in log_data.items()})
