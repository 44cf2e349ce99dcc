"""Keys for `s3s3 publish`, from its arguments or, as they come, from standard input."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from ..notifications.message import BadMessage, parse_message, printable_message
from ..tasks import wait_first

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024
"""What is longer is cut: it is no key, and need not be kept whole to say so."""


class Named(NamedTuple):
    """A message that may name a key, and where it stands: "line 7"."""

    place: str
    message: bytes


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse arguments whose `keys` may stand before, between and after options; all that follows -- are keys."""
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_intermixed_args(argv[:end])
    arguments.keys += argv[end + 1 :]  # parse_intermixed_args itself takes them for options, up to Python 3.13
    return arguments


def of_arguments(arguments: Sequence[str]) -> list[Named]:
    """Return what the arguments name. Bytes that are no UTF-8 come as they were given."""
    return [Named(f"argument {number}", os.fsencode(text)) for number, text in enumerate(arguments, 1)]


def checked(named: Iterable[Named], wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Return the keys that are named, and a line for each that is no possible key or that no route is about.

    Args:
        wanted: whether a route is about this key.
    """
    keys, faults = [], []
    for place, message in named:
        try:
            key = parse_message(message)
        except BadMessage as bad:
            faults.append(f"{place}: {bad}: {printable_message(message)[:60]!r}")
            continue
        if wanted(key):
            keys.append(key)
        else:
            faults.append(f"{place}: no route is about {key!r}: see prefix, include and exclude of its source")
    return keys, faults


async def of_input(descriptor: int, separator: bytes, stop: asyncio.Event) -> AsyncIterator[list[Named]]:
    """Yield what a file, a pipe or a terminal has to give, as soon as it gives it, until its end or `stop`."""
    lines, number = _Lines(separator), 0
    while await _readable(descriptor, stop):
        chunk = os.read(descriptor, READ_BYTES)
        found = lines.feed(chunk) if chunk else lines.rest()
        if found:
            yield [Named(f"line {at}", line) for at, line in enumerate(found, number + 1)]
        number += len(found)
        if not chunk:
            return


class _Lines:
    """Takes chunks apart at a separator."""

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._begun = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in this chunk."""
        *whole, begun = (self._begun + chunk).split(self._separator)
        self._begun = begun[:MAX_LINE_BYTES]
        return whole

    def rest(self) -> list[bytes]:
        """Return the last line, where it was not ended."""
        return [self._begun] if self._begun else []


async def _readable(descriptor: int, stop: asyncio.Event) -> bool:
    """Wait until something can be read; return False where `stop` came first."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # epoll takes no files (epoll_ctl(2)); they never keep anybody waiting
        return not stop.is_set()
    try:
        await wait_first(ready, stop)
    finally:
        loop.remove_reader(descriptor)
    return not stop.is_set()
