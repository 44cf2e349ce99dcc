"""Shared by the commands: logging, signals, and exit statuses for errors."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RedisTooOld, S3S3Error, StoreError, Unavailable
from ..monitoring.log import REPEAT_INTERVAL_S, PlainFormatter, RateLimitedHandler
from ..tasks import Restarts, run_async
from .cli import OUT_OF_REACH, SOME_FAILED, WRONG_USAGE

#: Allocations between two garbage collections. A copy leaves no cycles; the default took a seventh of its CPU time.
GC_THRESHOLD = 50_000

#: Interval of a whole collection, in s, which takes some milliseconds: failed copies leave cycles, which hold bodies.
COLLECT_EVERY_S = 60.0

FLUSH_REPEATS_EVERY_S = 5.0

#: A second signal within this time is ignored: `timeout` and others signal a process and its group.
DUPLICATE_SIGNAL_S = 0.3


def start_log(arguments: argparse.Namespace) -> None:
    """Log to standard error."""
    formatter: logging.Formatter = PlainFormatter()
    if arguments.log_format == "json":
        from ..monitoring.json_log import JsonFormatter  # noqa: PLC0415 - slow

        formatter = JsonFormatter()
    root = logging.getLogger()
    root.handlers[:] = [RateLimitedHandler(formatter, unlimited=arguments.verbose)]
    root.setLevel(logging.WARNING)
    level = logging.DEBUG if arguments.verbose else logging.WARNING if arguments.quiet else logging.INFO
    logging.getLogger("s3s3").setLevel(level)


def run(command: Callable[[asyncio.Event], Coroutine[Any, Any, int]], *, second_signal_cancels: bool = False) -> int:
    """Run a command's coroutine and return its exit status.

    SIGTERM and SIGINT set the event that the coroutine receives. With `second_signal_cancels`, a second one cancels the
    coroutine: not for daemons, because a supervisor that stops a process group may signal a process twice.
    """

    async def main() -> int:
        stop = asyncio.Event()
        task = asyncio.create_task(command(stop))
        stopped_at_s = 0.0

        def on_signal() -> None:
            nonlocal stopped_at_s
            if not stop.is_set():
                stopped_at_s = time.monotonic()
                stop.set()
            elif second_signal_cancels and time.monotonic() - stopped_at_s > DUPLICATE_SIGNAL_S:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)

        async def flush_periodically() -> None:
            while True:
                await asyncio.sleep(FLUSH_REPEATS_EVERY_S)
                _flush_repeats(REPEAT_INTERVAL_S)

        async def collect_periodically() -> None:
            while True:
                await asyncio.sleep(COLLECT_EVERY_S)
                gc.collect()

        flushing = Restarts("log").run("counting repeated lines", flush_periodically)
        background = [asyncio.create_task(flushing), asyncio.create_task(collect_periodically())]
        try:
            return await task
        except asyncio.CancelledError:
            print("s3s3: aborted by a second signal", file=sys.stderr)
            return SOME_FAILED
        finally:
            for running in background:
                running.cancel()
            _flush_repeats(0.0)

    gc.freeze()  # exempts what is imported
    gc.set_threshold(GC_THRESHOLD)
    return exit_status(lambda: run_async(main()))


def _flush_repeats(older_than_s: float) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RateLimitedHandler):
            handler.flush_repeats(older_than_s)


def exit_status_for(error: S3S3Error) -> int:
    """Return the exit status for an error other than ConfigError."""
    return OUT_OF_REACH if isinstance(error, StoreError | Unavailable | RedisTooOld) else SOME_FAILED


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; print its error instead of a traceback."""
    try:
        status = command()
        sys.stdout.flush()
    except ConfigError as error:
        lines: Iterable[str] = error.problems
        if sys.stderr.isatty():  # in a file each problem stays one line, so that it can be searched
            wrapper = textwrap.TextWrapper(
                shutil.get_terminal_size().columns, subsequent_indent="    ", tabsize=4,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            lines = map(wrapper.fill, lines)
        print(*lines, sep="\n", file=sys.stderr)
        return WRONG_USAGE
    except S3S3Error as error:
        print(f"s3s3: {error}", file=sys.stderr)
        return exit_status_for(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of standard output has ended, as `head` does: prevents an error message at exit
        return SOME_FAILED
    except OSError as error:
        if not _stdout_is_broken():
            raise
        print(f"s3s3: cannot write to standard output: {error.strerror}; the work itself is done", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        return SOME_FAILED
    else:
        return status


def _stdout_is_broken() -> bool:
    """Return whether standard output cannot be written; if so, discard it, or Python would fail to flush it at exit."""
    try:
        print(flush=True)
    except OSError:
        with Path(os.devnull).open("w") as devnull:
            os.dup2(devnull.fileno(), sys.stdout.fileno())
        return True
    return False
