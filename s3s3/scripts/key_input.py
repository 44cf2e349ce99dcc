"""Read keys from arguments or standard input."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from ..notifications.message import BadMessage, parse_message, printable_message
from ..tasks import wait_first

READ_BYTES = 64 * 1024

#: An unfinished line is cut to this length: it is longer than any key.
MAX_LINE_BYTES = 64 * 1024


class KeyInput(NamedTuple):
    """An unvalidated key, and where it was read: "argument 2", "line 7"."""

    place: str
    message: bytes


def keys_from_arguments(arguments: Sequence[str]) -> list[KeyInput]:
    """Return the keys in the arguments, with bytes that are not UTF-8 as they were given."""
    return [KeyInput(f"argument {number}", os.fsencode(text)) for number, text in enumerate(arguments, 1)]


def validate_keys(inputs: Iterable[KeyInput], is_routed: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Return the valid keys that a route matches, and a problem for each other input."""
    keys, problems = [], []
    for place, message in inputs:
        try:
            key = parse_message(message)
        except BadMessage as bad:
            problems.append(f"{place}: {bad}: {printable_message(message)[:60]!r}")
            continue
        if is_routed(key):
            keys.append(key)
        else:
            problems.append(f"{place}: no route matches {key!r}: see prefix, include and exclude of its source")
    return keys, problems


async def keys_from_descriptor(descriptor: int, separator: bytes, stop: asyncio.Event) -> AsyncIterator[list[KeyInput]]:
    """Yield the lines of a file, pipe or terminal as soon as they can be read, until its end or `stop`."""
    rest, number = b"", 0
    while await _wait_readable(descriptor, stop):
        chunk = os.read(descriptor, READ_BYTES)
        *lines, rest = (rest + chunk).split(separator)
        if not chunk and rest:  # the last line without a separator
            lines.append(rest)
        rest = rest[:MAX_LINE_BYTES]
        if lines:
            yield [KeyInput(f"line {at}", line) for at, line in enumerate(lines, number + 1)]
        number += len(lines)
        if not chunk:
            return


async def _wait_readable(descriptor: int, stop: asyncio.Event) -> bool:
    """Wait until the descriptor is readable; return False if `stop` was set first."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file (epoll_ctl(2)): always readable
        return not stop.is_set()
    try:
        await wait_first(ready, stop)
    finally:
        loop.remove_reader(descriptor)
    return not stop.is_set()
