"""`echo_s3s3_toml_template` and `echo_s3s3_supervisord_conf`: print a configuration to start from.

The TOML template is generated from the schema and has every key; conf/s3s3.toml is a copy of it.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from importlib import resources

import tomlkit

from ..config.schema import DESTINATION, FILE, SOURCE
from ..config.schema_types import Table, WhenAbsent

_HEAD = """\
# Configuration of s3s3. s3s3 reads one file: --config FILE, else $S3S3_CONFIG, else the first of
# ./s3s3.toml, /usr/local/etc/s3s3.toml and /etc/s3s3/s3s3.toml. Test it with `s3s3 check`.
#
# A commented-out key shows its default, or an example if the default is empty. The value "${NAME}"
# is read from the environment; NAME_file = "PATH" reads any text value from a file, whose path is
# relative to this file.
"""

_WIDTH = 100

_EXAMPLES = {
    (DESTINATION.name, "host"): "swift.example.org",
    (DESTINATION.name, "bucket_suffix"): "-copy",
    (DESTINATION.name, "prefix"): "from-ceph/",
}

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
    return "\n".join([_HEAD, *(line for table in FILE.tables for line in _table_lines(table, (table.name,)))])


def _table_lines(table: Table, path: tuple[str, ...], active: bool = True) -> Iterator[str]:
    active = active and table.absent is not WhenAbsent.OFF
    typical = _TYPICAL.get(path)
    if table.keys:
        if typical is None or table not in (SOURCE, DESTINATION):
            yield from _comment(table.doc)
        yield f"{'' if active else '#'}[{'.'.join(path)}]"
        if typical is None:
            yield from _key_lines(table, active)
        else:
            yield "# Has the keys explained above; for example:"
            yield from (f"#{name} = {tomlkit.item(value).as_string()}" for name, value in typical.items())
        yield ""
    for inner in table.tables:
        yield from _table_lines(inner, (*path, inner.name), active)


def _key_lines(table: Table, active: bool) -> Iterator[str]:
    if table is DESTINATION:
        yield "# The keys of [source], except include and exclude:"
    for key in table.keys:
        if table is not DESTINATION or SOURCE.key(key.name) is None:
            yield from _comment(key.doc)
        default = key.default if key.example is None else key.example
        value = tomlkit.item(_EXAMPLES.get((table.name, key.name), default)).as_string()
        yield f"{'' if key.shown and active else '#'}{key.name} = {value}"


def _comment(text: str) -> list[str]:
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
