"""`s3s3 demo`: everything on this machine, with real parts and no configuration."""

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
from .. import command
from .keep import keep_running
from .process import ServerMissing
from .screen import Screen
from .servers import HOST
from .tour import MIN_OBJECTS, OBJECTS, nothing, tour


def main(argv: list[str] | None = None) -> int:
    """Show everything; return the exit status."""
    arguments = command_line().parse_args(argv)
    # All of it is on this machine, and no proxy of the network around it leads there.
    os.environ.update(NO_PROXY=HOST, no_proxy=HOST)
    screen = Screen()
    with _interruptible():
        try:
            verified = tour(screen, objects=arguments.objects, at_the_end=keep_running if arguments.keep else nothing)
        except KeyboardInterrupt:
            screen.end("Interrupted. The servers are stopped, and their folders removed.")
            return command.SOME_FAILED
        except ServerMissing as error:
            print(f"s3s3: {error}", file=sys.stderr)
            return command.WRONG_USAGE
        except S3S3Error as error:
            print(f"s3s3: {error}", file=sys.stderr)
            return command.SOME_FAILED
    screen.end("The servers are stopped, and their folders removed.")
    return command.OK if verified else command.SOME_FAILED


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="s3s3 demo",
        description="Show everything on this machine, with real servers and no configuration. Leaves nothing behind.",
        epilog="exit status: 0 if every copy was verified, 1 if not, 2 if something is not installed",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running at the end, and say how to use it"
    )
    parser.add_argument(
        "--objects", type=_objects, default=OBJECTS, metavar="N", help=f"how many objects (default: {OBJECTS})"
    )
    return parser


def _objects(text: str) -> int:
    if not text.isdecimal() or int(text) < MIN_OBJECTS:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number, {MIN_OBJECTS} or more")
    return int(text)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, do what a Ctrl-C does."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
