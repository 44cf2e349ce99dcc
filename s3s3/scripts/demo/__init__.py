"""`s3s3 demo`: a self-contained demonstration with real servers on this machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ...errors import S3S3Error
from .. import cli
from .keep import keep_running
from .process import ServerMissing
from .screen import Screen
from .servers import HOST
from .tour import MIN_OBJECTS, OBJECTS, do_nothing, tour


def main(argv: list[str] | None = None) -> int:
    """Run `s3s3 demo`; return the exit status."""
    arguments = command_line().parse_args(argv)
    # The servers are on this machine: a configured HTTP proxy does not reach them.
    os.environ.update(NO_PROXY=HOST, no_proxy=HOST)
    screen = Screen()
    with _interruptible():
        try:
            verified = tour(
                screen, objects=arguments.objects, before_stop=keep_running if arguments.keep else do_nothing
            )
        except KeyboardInterrupt:
            screen.end("Interrupted. The servers are stopped and their folders removed.")
            return cli.SOME_FAILED
        except ServerMissing as error:
            print(f"s3s3: {error}", file=sys.stderr)
            return cli.WRONG_USAGE
        except S3S3Error as error:
            print(f"s3s3: {error}", file=sys.stderr)
            return cli.SOME_FAILED
    screen.end("The servers are stopped and their folders removed.")
    return cli.OK if verified else cli.SOME_FAILED


def command_line() -> cli.CommandParser:
    """Return the argument parser."""
    parser = cli.CommandParser(
        prog="s3s3 demo",
        description="Run a self-contained demonstration with real servers on this machine.\nLeaves nothing behind.",
        epilog=cli.exit_statuses({
            cli.OK: "every copy was verified",
            cli.SOME_FAILED: "not every copy was verified, or the demonstration was interrupted",
            cli.WRONG_USAGE: "wrong usage, or something is not installed",
        }),
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the servers running at the end and print what to try")
    parser.add_argument(
        "--objects", type=_objects, default=OBJECTS, metavar="N", help=f"number of objects (default: {OBJECTS})"
    )
    return parser


def _objects(text: str) -> int:
    if not text.isdecimal() or int(text) < MIN_OBJECTS:
        raise argparse.ArgumentTypeError(f"must be a number of at least {MIN_OBJECTS}, not {text!r}")
    return int(text)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
