"""`echo_s3s3_toml_template` and `echo_s3s3_supervisord_conf`: print a file to start from.

The TOML is made from the schema, so it has every key there is; conf/s3s3.toml is what was printed.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from importlib import resources

from ..config.schema import DESTINATION, FILE, SOURCE
from ..config.schema_types import Key, Table, WhenAbsent
from .output import toml_literal

_HEAD = """\
# The configuration of s3s3. s3s3 reads one file: --config FILE, else $S3S3_CONFIG, ./s3s3.toml,
# /usr/local/etc/s3s3.toml, /etc/s3s3/s3s3.toml, whichever exists first. `s3s3 check` tries it out.
#
# Lines that begin with "#" and a key show its default, or an example where the default is empty.
# "${NAME}" as a value is taken from the environment; NAME_file = "PATH" reads any text from a file,
# whose path is relative to this one.
"""

_WIDTH = 100

_EXAMPLES = {
    (DESTINATION.name, "host"): "swift.example.org",
    (DESTINATION.name, "bucket_suffix"): "-copy",
    (DESTINATION.name, "prefix"): "from-ceph/",
}


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
"""Tables whose keys another table shows already: what of them stands in the template."""


def toml_template() -> str:
    """Return a whole configuration, every key explained; it can be loaded as it is."""
    return "\n".join([_HEAD, *(line for table in FILE.tables for line in _table_lines(table, (table.name,)))])


def _table_lines(table: Table, path: tuple[str, ...], in_force: bool = True) -> Iterator[str]:
    in_force = in_force and table.absent is not WhenAbsent.OFF
    typical = _TYPICAL.get(path)
    if table.keys:
        if typical is None or table not in (SOURCE, DESTINATION):
            yield from _comment(table.doc)
        yield f"{'' if in_force else '#'}[{'.'.join(path)}]"
        yield from _key_lines(table, in_force) if typical is None else _typical_lines(typical)
        yield ""
    for inner in table.tables:
        yield from _table_lines(inner, (*path, inner.name), in_force)


def _key_lines(table: Table, in_force: bool) -> Iterator[str]:
    if table is DESTINATION:
        yield "# The keys of [source], but for include and exclude:"
    for key in table.keys:
        if table is not DESTINATION or SOURCE.key(key.name) is None:
            yield from _comment(key.doc)
        yield _key_line(table, key, in_force)


def _typical_lines(keys: Mapping[str, str]) -> Iterator[str]:
    yield "# Every key of such tables, as above; for example:"
    for name, value in keys.items():
        yield f"#{name} = {toml_literal(value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _key_line(table: Table, key: Key, in_force: bool) -> str:
    default = key.default if key.example is None else key.example
    value = toml_literal(_EXAMPLES.get((table.name, key.name), default))
    return f"{'' if key.shown and in_force else '#'}{key.name} = {value}"


def supervisord_conf() -> str:
    """Return the configuration that has supervisord run s3s3."""
    return (resources.files(__package__) / "supervisord.conf").read_text("utf-8")


def echo_toml_template(argv: list[str] | None = None) -> int:
    """Run `echo_s3s3_toml_template`."""
    return _echo("Print a configuration to start from: echo_s3s3_toml_template > s3s3.toml", toml_template(), argv)


def echo_supervisord_conf(argv: list[str] | None = None) -> int:
    """Run `echo_s3s3_supervisord_conf`."""
    does = "Print what has supervisord run s3s3: echo_s3s3_supervisord_conf > /etc/supervisor/conf.d/s3s3.conf"
    return _echo(does, supervisord_conf(), argv)


def _echo(does: str, text: str, argv: list[str] | None) -> int:
    argparse.ArgumentParser(description=does).parse_args(argv)
    print(text, end="")
    return 0
