"""Command-line parsers: common options, actions with help of their own, suggestions for misspelt words."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from .. import __version__
from ..config.value_types import InvalidValue, parse_duration
from ..tasks import DRAIN_S

OK, SOME_FAILED, WRONG_USAGE, OUT_OF_REACH = 0, 1, 2, 3


class CommandParser(argparse.ArgumentParser):
    """A parser that accepts options anywhere, and suggests the nearest option or action in its errors."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self._is_intermixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse options between positional arguments, too."""
        has_actions = self._subparsers is not None
        if has_actions or self._is_intermixing:  # parse_known_intermixed_args calls this method
            return super().parse_known_args(args, namespace)
        self._is_intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; exit with status 2 and a message if one is not known."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((text for text in unknown if text.startswith("-")), "").partition("=")[0]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{suggestion(name, self._all_options())}")
        return arguments

    def _all_options(self) -> set[str]:
        options = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    options |= parser._all_options()
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, error.message + suggestion(str(value), action.choices or ())) from None


def suggestion(text: str, known: Iterable[object]) -> str:
    """Return "; did you mean X?" for the nearest known word, or ""."""
    words = sorted(map(str, known)) if text else []
    nearest = [word for word in words if word.startswith(text)] or get_close_matches(text, words, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def exit_statuses(statuses: Mapping[int, str]) -> str:
    """Return the help text of a command's exit statuses. That of wrong usage is added."""
    texts = {OK: "success", WRONG_USAGE: "wrong usage or configuration", **statuses}
    lines = [textwrap.fill(f"{status}  {texts[status]}", 78, initial_indent="  ", subsequent_indent="     ")
             for status in sorted(texts)]  # fmt: skip
    return "\n".join(("exit status:", *lines))


def parser(verb: str, description: str, statuses: Mapping[int, str]) -> CommandParser:
    """Return a parser with the options that every command has.

    `statuses`: the meaning of the command's exit statuses, except for that of wrong usage.
    """
    parser = CommandParser(
        prog=f"s3s3 {verb}", description=textwrap.fill(description, 78), epilog=exit_statuses(statuses)
    )
    _add_common_options(parser)
    parser.add_argument("--version", action="version", version=f"s3s3 {__version__}")
    return parser


class Actions:
    """The actions of a command, such as `retry` of `s3s3 jobs`.

    Args:
        default: the action of a command line without one.
    """

    def __init__(self, parser: CommandParser, default: str) -> None:
        self._actions = parser.add_subparsers(
            dest="action", metavar="ACTION", title="actions", description=f"Without one: {default}."
        )
        parser.set_defaults(action=default)

    def add(self, name: str, help_text: str, statuses: Mapping[int, str]) -> CommandParser:
        """Return the parser of an action, with the common options.

        Options that the command itself has, too, need `default=argparse.SUPPRESS` here, to keep its value.
        """
        parser: CommandParser = self._actions.add_parser(
            name, help=help_text, description=textwrap.fill(f"{help_text[0].upper()}{help_text[1:]}.", 78),
            epilog=exit_statuses(statuses),
        )  # fmt: skip
        _add_common_options(parser, is_action=True)
        return parser


def _add_common_options(parser: argparse.ArgumentParser, *, is_action: bool = False) -> None:
    def default(value: object) -> Any:
        return argparse.SUPPRESS if is_action else value

    common = parser.add_argument_group("common options")
    common.add_argument(
        "--config", metavar="FILE", default=default(None),
        help="configuration file (default: $S3S3_CONFIG, else the first of ./s3s3.toml, /usr/local/etc/s3s3.toml and "
        "/etc/s3s3/s3s3.toml)",
    )  # fmt: skip
    common.add_argument("--log-format", choices=("plain", "json"), default=default("plain"), help="default: plain")
    common.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default(False),
        help="log every notification, object and warning",
    )
    common.add_argument(
        "-q", "--quiet", action="store_true", default=default(False),
        help="print and log only problems and what was asked for: no progress, no result of a success",
    )  # fmt: skip


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments of a console script; if a shell asks for completions, print those instead and exit."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # noqa: PLC0415 - only completion needs it, and it takes 20 ms

        argcomplete.autocomplete(parser)
    return parser.parse_args(argv)


def parse_with_keys(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse arguments with keys; all arguments after -- are keys. `keys` is empty for an action without keys."""
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    if end < len(argv) and not hasattr(arguments, "keys"):
        parser.error(f"{arguments.action} does not accept keys: {' '.join(argv[end + 1 :])}")
    arguments.keys = [*getattr(arguments, "keys", ()), *argv[end + 1 :]]
    return arguments


def add_drain(parser: argparse.ArgumentParser) -> None:
    """Add --drain-timeout, for commands that copy."""
    parser.add_argument(
        "--drain-timeout", dest="drain_s", type=duration_s, default=DRAIN_S, metavar="T",
        help="on SIGTERM, let running copies finish for T (90s, 5m), then put them back on the queue "
        f"(default: {DRAIN_S:g}s)",
    )  # fmt: skip


def add_take_over(parser: argparse.ArgumentParser) -> None:
    """Add --take-over, for commands that write to Redis."""
    parser.add_argument(
        "--take-over", action="store_true",
        help="use the Redis keys of a route although processes with other buckets or another channel use them, or have "
        "left jobs there; those processes stop working on the route",
    )  # fmt: skip


def add_http(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that serve the status page."""
    parser.add_argument(
        "--http", metavar="ADDRESS",
        help='HOST:PORT of the status page, health and metrics; "" for none (default: $S3S3_HTTP_BIND, else [http] '
        "bind)",
    )  # fmt: skip


def http_bind(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return the address that replaces `[http] bind`, after the name of what gave it; None for no replacement."""
    if arguments.http is not None:
        return "--http", arguments.http
    text = environ.get("S3S3_HTTP_BIND")
    return None if text is None else ("environment variable S3S3_HTTP_BIND", text)


def duration_s(text: str) -> float:
    """Parse a duration argument, such as 90, 90s, 5m, 36h or 7d; raise ArgumentTypeError if it is invalid."""
    try:
        return parse_duration(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(error.message(repr(text))) from None


def positive_duration_s(text: str) -> float:
    """Parse a duration argument; raise ArgumentTypeError if it is invalid, or 0."""
    seconds = duration_s(text)
    if seconds == 0:
        raise argparse.ArgumentTypeError("must be more than 0 s")
    return seconds
