"""`s3s3 config`: validate or show the configuration, offline; print its JSON Schema or a template."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import tomlkit

from .. import config as configuration
from ..config import redacted_url, toml_file
from ..config.json_schema import json_schema
from ..config.kinds import Kind, Table, bare, keys_of, kind_of, named_in, table_in
from ..config.reader import FILE_SUFFIX, Reader
from ..config.tables import File
from ..config.toml_file import dotted
from ..config.value_types import toml_default
from ..monitoring.formatting import count_noun
from . import cli, command
from .templates import toml_template

#: The column of the origins in the output of `show`.
_ORIGIN_COLUMN = 50


def main(argv: list[str] | None = None) -> int:
    """Run the action; return the exit status."""
    arguments = cli.parse(command_line(), argv)
    actions = {"validate": _validate, "show": _show, "schema": _schema, "template": _template}
    return command.exit_status(lambda: actions[arguments.action](arguments))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser("config", "Validate or show the configuration, or print its schema or a template.", {})
    actions = cli.Actions(parser, "validate")
    actions.add("validate", "report every problem of the configuration, without connecting to anything", {})
    actions.add("show", "print every value and where it comes from; secrets are masked", {})
    actions.add("schema", "print the JSON Schema of the configuration, for editors", {})
    actions.add("template", "print a configuration with every key and its documentation", {})
    return parser


def _validate(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    settings.need_spool_dir()
    for warning in configuration.config_warnings(settings):
        print(f"warning: {warning}")
    print(f"{settings.path}: valid, {count_noun(len(settings.routes), 'route')}")
    return cli.OK


def _load(arguments: argparse.Namespace) -> configuration.Config:
    return configuration.load(arguments.config, http_bind=_http_bind())


def _http_bind() -> tuple[str, str] | None:
    return cli.http_bind(argparse.Namespace(http=None))


def _schema(_arguments: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return cli.OK


def _template(_arguments: argparse.Namespace) -> int:
    print(toml_template(), end="")
    return cli.OK


def _show(arguments: argparse.Namespace) -> int:
    path = _load(arguments).path  # raises ConfigError for an invalid configuration
    reader = Reader(toml_file.read(path, os.environ), os.environ)
    if bind := _http_bind():
        reader.content.setdefault("http", {})["bind"] = bind[1]
        reader.origins["http", "bind"] = bind[0]
    print("\n".join(_lines(File, (), reader.content, reader)))
    return cli.OK


def _lines(annotation: Any, path: tuple[str, ...], content: Mapping[str, Any], reader: Reader) -> Iterator[str]:
    """Yield the lines of a table, or of a dict of tables, and of the tables in it."""
    table = bare(annotation)
    if get_origin(table) is dict:
        for name, inner in content.items():
            yield from _lines(get_args(table)[1], (*path, name), inner, reader)
        return
    if keys_of(table):
        yield f"[{dotted(path)}]"
        yield from _key_lines(table, path, content, reader)
        yield ""
    for name, field in table.model_fields.items():
        if name != "stores" and table_in(field.annotation) and (name in content or field.default_factory):
            inner_path = path if named_in(field) else (*path, name)
            yield from _lines(field.annotation, inner_path, content.get(name, {}), reader)


def _key_lines(table: type[Table], path: tuple[str, ...], content: Mapping[str, Any], reader: Reader) -> Iterator[str]:
    """Yield a line with its origin for each key that has a value, masked if it is a secret."""
    for name, field in keys_of(table).items():
        default = None if field.is_required() else field.get_default()
        if name in content:
            value, origin = content[name], _origin((*path, name), reader, content)
        else:
            is_plain = toml_default(default) is not None and kind_of(field).words != "a size"
            value, origin = toml_default(default) if is_plain or not default else (field.examples or [""])[0], "default"
        if value is not None:
            yield f"{f'{name} = {_shown(value, kind_of(field))}':<{_ORIGIN_COLUMN}}  # {origin}"


def _origin(path: tuple[str, ...], reader: Reader, content: Mapping[str, Any]) -> str:
    if path in reader.inherited:
        path = ("stores", content["store"], path[-1])
    place = reader.file.place(path) or reader.file.place((*path[:-1], path[-1] + FILE_SUFFIX))
    return ", ".join(filter(None, (reader.origins.get(path), place)))


def _shown(value: Any, kind: Kind) -> str:
    if kind.is_secret and value:
        value = redacted_url(value) if kind.words == "a Redis URL" else "***"
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        value = table
    return str(tomlkit.item(value).as_string())
