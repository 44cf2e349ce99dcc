"""Generate the reference pages from the code: configuration, commands, API, metrics, events of the log, Redis keys."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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

ROOT = Path(__file__).parents[1]

CONFIGURATION_INTRO = """\
One TOML file: `--config FILE`, else `$S3S3_CONFIG`, else the first that exists of `./s3s3.toml`,
`/usr/local/etc/s3s3.toml` and `/etc/s3s3/s3s3.toml`. All errors in it are reported together.

`"${NAME}"` as a whole value reads an environment variable. For any text, `NAME_file = "PATH"` reads it from a file;
the path is relative to the configuration file. Durations are seconds, or `"90s"`, `"5m"`, `"36h"`, `"7d"`.

`s3s3 config show` prints every value and where it comes from. With `s3s3 config schema > s3s3.schema.json` beside the
file and `#:schema ./s3s3.schema.json` as its first line, editors complete its keys."""

#: Sections of the man pages, as terms and their explanations.
FILES = {
    "`./s3s3.toml`, `/usr/local/etc/s3s3.toml`, `/etc/s3s3/s3s3.toml`": "The configuration: the first that exists, if "
    "neither `--config` nor `$S3S3_CONFIG` names one.",
    "`/etc/s3s3/s3s3.env`": 'Variables for `"${NAME}"` in the configuration, for the systemd units and the crontab.',
    "`PREFIX/share/s3s3/conf`": "Templates for systemd, cron, containers, Kubernetes, nginx, Prometheus and Grafana.",
    "`FILE.part`": "An unfinished report of `s3s3 bucket --report FILE`.",
}
ENVIRONMENT = {
    "`S3S3_CONFIG`": "The configuration file. `--config` takes precedence.",
    "`S3S3_HTTP_BIND`": "HOST:PORT of the status page, health and metrics, instead of `[http] bind`.",
    "`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`": "Proxies for stores, SQS and the URLs of `s3s3 mirror`.",
    "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, ...": "boto3's credential chain, for stores without "
    "`aws_access_key_id` and for SQS.",
    "`SSL_CERT_FILE`, `SSL_CERT_DIR`": "Trusted certificates, instead of the system's.",
    "`TMPDIR`": "Where large objects are spooled, if `[worker] spool_dir` is not set.",
    "`NO_COLOR`": "If set, progress on a terminal is not coloured.",
    "`INFLUXDB_URL`": "Where `s3s3 mirror` sends statistics.",
    "`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`": "Set by systemd, to learn that a daemon is ready and alive.",
    "`SUPERVISOR_ENABLED`": "Set by supervisord, for `s3s3tick`.",
    "`SHELL`": "The shell for which `s3s3 completion` prints a script, if none is named.",
}
STATUSES = {
    "`0`": "Success. Of `bucket`: every object is proven equal. Of `check`: no problem was found.",
    "`1`": "Some keys failed, differ, or have a problem.",
    "`2`": "Wrong usage or configuration.",
    "`3`": "A source, store or Redis is unreachable, or refuses access.",
}
#: Commands, each with what it does. A test runs them.
EXAMPLES = {
    "s3s3 check": "Try every store and Redis",
    "s3s3 bucket --dry-run": "Show what differs, and copy nothing",
    "s3s3 bucket --report proof.jsonl": "Make all destinations equal, with a line for each object as a proof",
    "s3s3 listen --reconcile-interval 1d": "Copy what is notified, and compare everything once a day",
    "s3s3 publish --wait images/m31.fits": "Copy one object now, and show the outcome",
    "s3s3 explain images/m31.fits": "Show what became of an object, and why",
    "s3s3 jobs": "Show what waits and what failed, by reason",
    "s3s3 jobs retry --reason AccessDenied": "After a cause is fixed, retry what failed because of it",
    "s3s3 jobs pause --destination dest-swift": "Copy nothing to a destination for a time",
    "s3s3 jobs resume --destination dest-swift": "Continue",
    "s3s3 config show": "Show each setting and where it comes from, without secrets",
}

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
    yield from _section("Synopsis", "s3s3.toml")
    yield ""
    yield "## Description"
    yield ""
    yield CONFIGURATION_INTRO
    yield from _tables(File, ())
    yield from _terms("Files", FILES)
    yield from _terms("Environment", ENVIRONMENT)
    yield from _section("Examples", (ROOT / "conf" / "s3s3-minimal.toml").read_text(), "toml")
    yield ""
    yield "`s3s3 config template` prints a file with every key."


def _section(title: str, text: str, language: str = "text") -> Iterator[str]:
    """Yield a section with a block."""
    yield f"\n## {title}\n"
    yield f"```{language}\n{text.rstrip()}\n```"


def _terms(title: str, terms: Mapping[str, str]) -> Iterator[str]:
    """Yield a section with terms and their explanations."""
    yield f"\n## {title}"
    for term, text in terms.items():
        yield f"\n{term}\n: {text}"


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
    yield from _section("Synopsis", "s3s3 VERB [options]\ns3s3 VERB ACTION [options]\ns3s3 --help | --version")
    for verb in ("", *VERBS):
        for action in ("", *_actions(verb)):
            words = [word for word in (verb, action) if word]
            yield ""
            yield f"{'###' if action else '##'} `{' '.join(('s3s3', *words))}`"
            yield ""
            yield "```text"
            yield _help(words)
            yield "```"
    yield from _terms("Exit status", STATUSES)
    yield from _terms("Files", FILES)
    yield from _terms("Environment", ENVIRONMENT)
    yield "\n## Examples"
    for command, text in EXAMPLES.items():
        yield f"\n{text}:\n\n```sh\n{command}\n```"


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
