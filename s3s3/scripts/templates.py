"""`echo_s3s3_toml_template` and `echo_s3s3_supervisord_conf`: print a configuration to start from.

The TOML template is generated from the models of the tables and has every key; conf/s3s3.toml is a copy of it.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from importlib import resources

import tomlkit

from ..config.kinds import Table, keys_of, tables_of
from ..config.tables import Destination, File, MirrorTable, RouteTable, Source
from ..config.value_types import toml_default

_HEAD = """\
#:schema ./s3s3.schema.json
#
# Configuration of s3s3. s3s3 reads one file: --config FILE, else $S3S3_CONFIG, else the first of
# ./s3s3.toml, /usr/local/etc/s3s3.toml and /etc/s3s3/s3s3.toml. Test it with `s3s3 check`.
#
# A commented-out key shows its default, or an example if the default is empty. The value "${NAME}"
# is read from the environment; NAME_file = "PATH" reads any text value from a file, whose path is
# relative to this file. With `s3s3 config schema > s3s3.schema.json`, editors complete the keys.
"""

_WIDTH = 100

#: The tables that every file has; those with other names are commented out.
_ACTIVE = ("source", "destination", "pubsub", "worker", "http")
_ACTIVE_KEYS = ("host", "aws_access_key_id", "aws_secret_access_key", "bucket_name")

_DESTINATION_EXAMPLES = {"host": "swift.example.org", "prefix": "from-ceph/"}

#: Tables whose keys are explained in another table: their keys in the template.
_TYPICAL: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("stores", "ceph"): {
        "host": "ceph.example.org",
        "aws_access_key_id": "ACCESS-KEY",
        "aws_secret_access_key": "SECRET-KEY",
    },
    ("routes", "raw", "source"): {"store": "ceph", "bucket_name": "raw"},
    ("routes", "raw", "destination"): {"store": "ceph", "bucket_name": "raw-copy"},
    ("mirror", "redirect", "s3", "us-west-1"): {"store": "ceph", "bucket_name": "artifacts"},
    ("mirror", "proxy", "destination"): {"store": "ceph", "bucket_name": "files", "acl": "public-read"},
    ("mirror", "cache", "store"): {"store": "ceph", "bucket_name": "files"},
}


def toml_template() -> str:
    """Return a complete, valid configuration that explains every key."""
    return "\n".join([_HEAD, *_tables_lines(File, ())])


def _tables_lines(outer: type[Table], outer_path: tuple[str, ...]) -> Iterator[str]:
    for names, field, table in tables_of(outer):
        path = (*outer_path, *names)
        typical = _TYPICAL.get(path)
        if table is not MirrorTable:
            if typical is None or outer is not RouteTable:
                yield from _comment(field.description or table.__doc__ or "")
            yield f"{'' if path[0] in _ACTIVE else '#'}[{'.'.join(path)}]"
            if typical is None:
                yield from _key_lines(table, path)
            else:
                yield "# Has the keys explained above; for example:"
                yield from (f"#{name} = {tomlkit.item(value).as_string()}" for name, value in typical.items())
            yield ""
        yield from _tables_lines(table, path)


def _key_lines(table: type[Table], path: tuple[str, ...]) -> Iterator[str]:
    if table is Destination:
        yield "# The keys of [source], except include and exclude:"
    for name, field in keys_of(table).items():
        examples = [toml_default(field.get_default()), *(field.examples or [])]
        value = examples[-1]
        if table is Destination and name in keys_of(Source):
            value = _DESTINATION_EXAMPLES.get(name, value)
        else:
            yield from _comment(field.description or "")
        is_active = name in _ACTIVE_KEYS and path in (("source",), ("destination",))
        yield f"{'' if is_active else '#'}{name} = {tomlkit.item(value).as_string()}"


def _comment(text: str) -> list[str]:
    text = " ".join(text.split())
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def supervisord_conf() -> str:
    """Return a supervisord configuration that runs s3s3."""
    return (resources.files(__package__) / "supervisord.conf").read_text("utf-8")


def echo_toml_template(argv: list[str] | None = None) -> int:
    """Run `echo_s3s3_toml_template`."""
    return _echo("Print a configuration to start from: echo_s3s3_toml_template > s3s3.toml", toml_template(), argv)


def echo_supervisord_conf(argv: list[str] | None = None) -> int:
    """Run `echo_s3s3_supervisord_conf`."""
    description = "Print a supervisord configuration: echo_s3s3_supervisord_conf > /etc/supervisor/conf.d/s3s3.conf"
    return _echo(description, supervisord_conf(), argv)


def _echo(description: str, text: str, argv: list[str] | None) -> int:
    argparse.ArgumentParser(description=description).parse_args(argv)
    print(text, end="")
    return 0
