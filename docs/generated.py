"""Generate the reference pages from the code: configuration, commands, API, metrics, events of the log, Redis keys."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomlkit
from pydantic.fields import FieldInfo

from s3s3.config.kinds import Table, bare, keys_of, kind_of, tables_of
from s3s3.config.tables import Destination, File, Source
from s3s3.config.value_types import toml_default
from s3s3.events import EVENTS
from s3s3.monitoring.metrics import Counter, Gauge, Histogram, Metrics
from s3s3.operations.http_api import openapi
from s3s3.scripts.main import VERBS

CONFIGURATION_INTRO = """\
One TOML file: `--config FILE`, else `$S3S3_CONFIG`, else the first that exists of `./s3s3.toml`,
`/usr/local/etc/s3s3.toml` and `/etc/s3s3/s3s3.toml`. All errors in it are reported together.

`"${NAME}"` as a whole value reads an environment variable. For any text, `NAME_file = "PATH"` reads it from a file;
the path is relative to the configuration file. Durations are seconds, or `"90s"`, `"5m"`, `"36h"`, `"7d"`.

`s3s3 config show` prints every value and where it comes from. With `s3s3 config schema > s3s3.schema.json` beside the
file and `#:schema ./s3s3.schema.json` as its first line, editors complete its keys."""

#: Modules whose docstrings document the Redis keys that they own.
REDIS_KEY_MODULES = (
    "s3s3.queue.redis_queue",
    "s3s3.queue.store_checks",
    "s3s3.worker.rate_limiter",
    "s3s3.notifications.pubsub",
    "s3s3.notifications.data_watch",
    "s3s3.reconcile.lock",
    "s3s3.reconcile.shared_run",
    "s3s3.monitoring.history",
    "s3s3.monitoring.heartbeat",
    "s3s3.mirror.copy_states",
)

SUFFIXES = {Counter: "_total", Gauge: "", Histogram: "_bucket, _sum, _count"}


def write_reference(folder: Path) -> None:
    """Write the pages into a folder, each only if it has changed."""
    pages = {
        "configuration": _configuration,
        "commands": _commands,
        "metrics": _metrics,
        "api": _api,
        "events": _events,
        "redis": _redis,
    }
    for name, lines in pages.items():
        text = "\n".join(lines()) + "\n"
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _configuration() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield CONFIGURATION_INTRO
    yield from _tables(File, ())


def _tables(outer: type[Table], outer_path: tuple[str, ...], level: int = 2) -> Iterator[str]:
    """Yield a section for each table in another one; `level` is that of their headings."""
    explained = {inner: path for path, _, inner in tables_of(File)}
    for names, field, table in tables_of(outer):
        path = (*outer_path, *names)
        if outer is not File and table in explained:
            yield f"\n`[{'.'.join(path)}]` inside it has the keys of `[{'.'.join(explained[table])}]`."
            continue
        yield ""
        yield f"{'#' * level} `[{'.'.join(path)}]`"
        yield ""
        yield " ".join((field.description or table.__doc__ or "").split())
        keys = keys_of(table)
        if table is Destination:
            yield ""
            yield "The keys of `[source]` except `include` and `exclude`, and:"
            keys = {name: key for name, key in keys.items() if name not in keys_of(Source)}
        for name, key in keys.items():
            yield ""
            yield f"`{name}`"
            yield f": {key.description} {_kind_and_default(key)}"
        yield from _tables(table, path, level + 1)


def _kind_and_default(field: FieldInfo) -> str:
    """Return the kind and the default of a value."""
    choices = get_args(bare(field.annotation)) if get_origin(bare(field.annotation)) is Literal else ()
    kind = " or ".join(f"`{tomlkit.item(choice).as_string()}`" for choice in choices) or kind_of(field).words
    if field.is_required():
        return f"({kind}; required)"
    default = field.get_default()
    if default is None or default == ():
        return f"({kind})"
    is_plain = toml_default(default) is not None and kind != "a size"
    value = toml_default(default) if is_plain else (field.examples or [""])[0]
    return f"({kind}; default `{tomlkit.item(value).as_string()}`)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _commands() -> Iterator[str]:
    yield "# Commands"
    for verb in ("", *VERBS):
        for action in ("", *_actions(verb)):
            words = [word for word in (verb, action) if word]
            yield ""
            yield f"{'###' if action else '##'} `{' '.join(('s3s3', *words))}`"
            yield ""
            yield "```text"
            yield _help(words)
            yield "```"


def _actions(verb: str) -> Sequence[str]:
    """Return the actions of a verb, such as `retry` of `jobs`."""
    if not verb:
        return ()
    parser = importlib.import_module(f"s3s3.scripts.{verb}").command_line()
    return [name for action in parser._actions if action.dest == "action" for name in action.choices]


def _help(words: Sequence[str]) -> str:
    command = [sys.executable, "-m", "s3s3", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "78"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.rstrip()


def _api() -> Iterator[str]:
    description = openapi()
    yield "# API"
    yield ""
    yield "JSON over HTTP at `[http] bind`, for the whole fleet. `/api/v1/openapi.json` describes it in OpenAPI, with"
    yield "the type of each field. Times are Unix times in ms by Redis's clock. An error has `title`, `status` and"
    yield "`detail` (RFC 9457)."
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield ""
            yield f"## `{method.upper()} {path}`"
            yield ""
            yield f"{operation['summary']}.{' Needs the token.' if 'security' in operation else ''}"
            yield ""
            yield from _fields(operation, description["components"]["schemas"])


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield the parameters or the body of an operation, and its answer."""

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        return found

    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    parameters = [each["name"] for each in operation.get("parameters", ())]
    names = list(resolved(body)["properties"]) if body else parameters
    if names:
        yield f"- {'body' if body else 'parameters'}: {', '.join(f'`{name}`' for name in names)}"
    answer = resolved(operation["responses"]["200"]["content"]["application/json"]["schema"])
    yield f"- answer: {', '.join(f'`{name}`' for name in answer['properties'])}"


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "Served as `/metrics` at `[http] bind`, for Prometheus. A key is never a label. The `process_` and `python_`"
    yield "metrics of the Prometheus client are included."
    yield ""
    yield "| metric | labels | meaning |"
    yield "|---|---|---|"
    for series in vars(Metrics()).values():
        if isinstance(series, (Counter, Gauge, Histogram)):
            labels = ", ".join(f"`{label}`" for label in series.labels)
            yield f"| `{series.name}`{_suffix(series)} | {labels} | {_cell(series.documentation)} |"


def _suffix(series: Counter | Gauge | Histogram) -> str:
    suffix = SUFFIXES[type(series)]
    return f" `{suffix}`" if suffix else ""


EVENTS_INTRO = """\
A line about an event begins with its name. `grep 'circuit opened'` finds it in plain lines and in those of
`--log-format json`. A plain line ends with the fields as `name=value`; a JSON line has them beside `event` and
`message`. The text after the name is the reason.

| field | meaning |
|---|---|
| `route`, `destination` | destinations with the same problem are one line, with commas between their names |
| `key`, `id` | the object; its `id` is the same in every process and line: `grep ID` shows its history |
| `attempt` | number of this attempt |
| `next_attempt` | when the next one is due |
| `request_id` | the store's name for the request (`x-amz-request-id`), for the store's own log |
| `duration_s`, `bytes` | of the copy, or of what ended |
| `channel`, `outcome`, `enqueued` | explained at the event |

Warnings and errors that repeat are written once, and then once a minute with their count. Changes of state, and the
first 100 dead letters of a minute with the same reason, are always written."""


def _events() -> Iterator[str]:
    yield "# Events of the log"
    yield ""
    yield EVENTS_INTRO
    for event in EVENTS.values():
        yield ""
        yield f"## {event.name}"
        yield ""
        yield f"{event.meaning} (level: {logging.getLevelName(event.level).lower()})"
        yield ""
        yield f"**What to do:** {event.action}"


def _redis() -> Iterator[str]:
    yield "# Redis keys"
    yield ""
    yield "For operators who inspect a queue. Only s3s3 may change them."
    for name in REDIS_KEY_MODULES:
        summary, _, rest = inspect.cleandoc(importlib.import_module(name).__doc__ or "").partition("\n\n")
        yield ""
        yield f"## {summary.splitlines()[0].rstrip('.')}"
        yield ""
        yield "```text"
        yield rest
        yield "```"
