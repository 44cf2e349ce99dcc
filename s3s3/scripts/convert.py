"""`s3s3 convert`: print the old INI file as TOML.

The predecessor interpolated values, so a secret could not contain "%". It also read comments after values, as in its
own template, as parts of these values. Here values are taken literally, without comments.
"""

from __future__ import annotations

import configparser
import re
import sys
import textwrap
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from ..config.tables import Destination
from ..errors import ConfigError
from . import cli, command

HEAD = (
    "Made by `s3s3 convert` from {}. It may contain secrets: chmod 600.",
    "Test it with `s3s3 check`; echo_s3s3_toml_template prints every available key.",
)

MOVING_FROM_S3SYNC = 'docs/how-to/s3sync.md ("Moving from s3sync")'

_SECTION = re.compile(r"^\s*\[(source|dest[^\]\n]*)\]", re.MULTILINE)
_NO_COMMENT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # TOML 1.0: comments contain no control characters but tabs
_PLACEHOLDER = re.compile(r"\{[A-Z0-9_]+\}")
# As distutils.util.strtobool, which the predecessor used.
_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")
_ENDPOINT_KEYS = ("aws_access_key_id", "aws_secret_access_key", "bucket_name", "host", "port", "is_secure",
                  "calling_format", "verify_md5")  # fmt: skip
_CALLING_FORMATS = {
    "OrdinaryCallingFormat": "OrdinaryCallingFormat",
    "ProtocolIndependentOrdinaryCallingFormat": "OrdinaryCallingFormat",
    "SubdomainCallingFormat": "SubdomainCallingFormat",
}


def main(argv: list[str] | None = None) -> int:
    """Print the converted file; return the exit status."""
    arguments = command_line().parse_args(argv)
    return command.exit_status(lambda: _convert(arguments.file))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.CommandParser(
        prog="s3s3 convert",
        description=textwrap.fill("Print an old INI file as TOML: s3s3 convert s3s3.ini > s3s3.toml. Settings without "
                                  "an equivalent are kept as comments and listed on standard error.", 78),
        epilog=cli.exit_statuses({cli.WRONG_USAGE: "wrong usage, or the file cannot be converted"}),
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="the old s3s3.ini")
    return parser


def _convert(name: str) -> int:
    try:
        text = Path(name).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError([f"{name}: not UTF-8"]) from None
    except OSError as error:
        raise ConfigError([f"{name}: cannot read: {error.strerror}"]) from None
    if name.endswith(".js") or (not _SECTION.search(text) and "s3sync" in text):
        raise ConfigError([f"{name}: s3s3 does not convert s3sync's JavaScript: see {MOVING_FROM_S3SYNC}"])
    if name.endswith(".toml"):
        raise ConfigError([f"{name}: is already TOML; s3s3 convert reads the old INI file"])
    try:
        converted = convert_ini(text)
    except ValueError as error:
        raise ConfigError([f"{name}: {error}"]) from None
    sys.stdout.write(converted.toml(Path(name).name))
    for note in converted.notes:
        print(f"{name}: {note}", file=sys.stderr)
    return cli.OK


class ConvertedFile:
    """The TOML file under construction."""

    def __init__(self) -> None:
        #: A line for each setting that was not converted or needs attention, without its value: it may be secret.
        self.notes: list[str] = []
        self._tables: dict[str, Table] = {}

    def add_table(self, name: str) -> None:
        """Add a table, which is written even if it stays empty."""
        self._tables.setdefault(name, tomlkit.table())

    def set(self, table: str, key: str, value: str | bool | int) -> None:
        """Set a key of a table."""
        self._tables[table].add(key, value)

    def skip(self, table: str, what: str, why: str, old: str) -> None:
        """Keep a setting that cannot be converted as a comment; `old` is its text in the old file."""
        self.note(table, f"not converted: {what}: {why}")
        for line in old.splitlines():
            self._tables[table].add(tomlkit.comment(f"    {_NO_COMMENT.sub('?', line)}"))

    def note(self, table: str, text: str) -> None:
        """Add a comment to a table ("" is the top of the file), and a line to `notes`."""
        self.add_table(table)
        self._tables[table].add(tomlkit.comment(text))
        self.notes.append(f"[{tomlkit.key(table).as_string()}]: {text}" if table else text)

    def toml(self, origin: str) -> str:
        """Return the file's text; `origin` is the name of the old file."""
        document = tomlkit.document()
        for line in HEAD:
            document.add(tomlkit.comment(line.format(tomlkit.item(origin).as_string())))
        for _, comment in self._tables.pop("", tomlkit.table()).value.body:
            document.add(comment)
        for name, table in self._tables.items():
            document.add(tomlkit.nl())
            document.add(tomlkit.key(name), table)
        return tomlkit.dumps(document)


def convert_ini(text: str) -> ConvertedFile:
    """Convert the text of an INI file.

    Raises ValueError if it is not one, or has no source or destination; the message contains no value of the file.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    try:
        parser.read_string(text)
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        name = f"[{error.section}] {getattr(error, 'option', '')}".rstrip()
        raise ValueError(f"line {error.lineno}: duplicate {name}: remove one of the two") from None
    except configparser.MissingSectionHeaderError as error:
        raise ValueError(f"line {error.lineno}: text before the first [section]") from None
    except configparser.ParsingError as error:
        lines = ", ".join(str(number) for number, _ in error.errors)
        raise ValueError(f"line {lines}: neither a [section] nor key = value") from None
    except configparser.Error as error:
        raise ValueError(f"not an INI file: {type(error).__name__}") from None
    sections = parser.sections()
    if "source" not in sections or not any(name.startswith("dest") for name in sections):
        raise ValueError("not an INI file of s3s3: it needs the sections [source] and [destination]")
    converted = ConvertedFile()
    for name in sections:
        keys = dict(parser[name])
        if name == "source" or name.startswith("dest"):
            _convert_endpoint(converted, re.sub(r"[^A-Za-z0-9_.-]", "-", name), keys)
        elif name == "pubsub":
            _convert_pubsub(converted, keys)
        else:
            old = "\n".join(f"{key} = {value}" for key, value in keys.items())
            converted.skip("", f"[{name}]", "unknown table", old)
    return converted


def _convert_endpoint(converted: ConvertedFile, table: str, keys: dict[str, str]) -> None:
    converted.add_table(table)
    for key, value in keys.items():
        if key not in _ENDPOINT_KEYS:
            converted.skip(table, key, "unknown key", f"{key} = {value}")
            continue
        examples = Destination.model_fields[key].examples
        if _PLACEHOLDER.fullmatch(value) and examples:
            converted.note(table, f"{key}: fill it in; the old file contains the template's placeholder")
            value = examples[0]  # noqa: PLW2901
        try:
            converted.set(table, key, _endpoint_value(key, value))
        except ValueError as error:
            converted.skip(table, key, str(error), f"{key} = {value}")


def _convert_pubsub(converted: ConvertedFile, keys: dict[str, str]) -> None:
    converted.add_table("pubsub")
    for key, value in keys.items():
        if key == "redis":
            enabled = value.lower() not in _FALSE
            host = value if enabled and value.lower() not in _TRUE else "localhost"
            converted.set("pubsub", "url", f"redis://{host}:6379/0" if enabled else "")
            if not enabled:
                converted.note("pubsub", "only s3s3 bucket works without Redis; s3s3 listen needs it")
        elif key == "sns" and value.lower() in _FALSE:
            continue
        else:
            why = "not supported: subscribe an SQS queue to the topic and add [sqs]" if key == "sns" else "unknown key"
            converted.skip("pubsub", key, why, f"{key} = {value}")


def _endpoint_value(key: str, value: str) -> str | bool | int:
    """Convert a value of an endpoint's table; raise ValueError if it is not valid for the key."""
    match key:
        case "is_secure" | "verify_md5":
            if value.lower() not in (*_TRUE, *_FALSE):
                raise ValueError("neither true nor false")
            return value.lower() in _TRUE
        case "port":
            if not (value.isdecimal() and 1 <= int(value) <= 65535):
                raise ValueError("not a port number")
            return int(value)
        case "calling_format" if value not in _CALLING_FORMATS:
            raise ValueError("must be OrdinaryCallingFormat or SubdomainCallingFormat")
        case "calling_format":
            return _CALLING_FORMATS[value]
    if not value:
        raise ValueError("empty")
    return value
