"""Shared by the commands: options, logging, signals and exit statuses."""

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
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from .. import __version__
from ..config.value_types import InvalidValue, parse_duration
from ..errors import ConfigError, RedisTooOld, S3S3Error, StoreError, Unavailable
from ..monitoring.log import REPEAT_INTERVAL_S, PlainFormatter, RateLimitedHandler
from ..tasks import DRAIN_S

#: Allocations between two garbage collections. A copy leaves no cycles; the default took a seventh of its CPU time.
GC_THRESHOLD = 50_000

FLUSH_REPEATS_EVERY_S = 5.0

#: A second signal within this time is ignored: `timeout` and others signal a process and its group.
DUPLICATE_SIGNAL_S = 0.3

OK, SOME_FAILED, WRONG_USAGE, OUT_OF_REACH = 0, 1, 2, 3

EXIT_STATUSES = """exit status:
  0  success
  1  some objects failed, check found a problem, a dry run found differences,
     or the command was interrupted
  2  wrong usage or configuration
  3  a store or Redis is unreachable, or the source refuses access
"""


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    parser = argparse.ArgumentParser(
        prog=f"s3s3 {verb}",
        description=textwrap.fill(description, 78),
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = parser.add_argument_group("common options")
    common.add_argument(
        "--config", metavar="FILE",
        help="configuration file (default: $S3S3_CONFIG, else the first of ./s3s3.toml, /usr/local/etc/s3s3.toml and "
        "/etc/s3s3/s3s3.toml)",
    )  # fmt: skip
    common.add_argument("--log-format", choices=("plain", "json"), default="plain", help="default: plain")
    common.add_argument("-v", "--verbose", action="store_true", help="log every notification, object and warning")
    common.add_argument("--version", action="version", version=f"s3s3 {__version__}")
    return parser


def add_drain(parser: argparse.ArgumentParser) -> None:
    """Add --drain-timeout, for commands that copy."""
    parser.add_argument(
        "--drain-timeout", dest="drain_s", type=duration_s, default=DRAIN_S, metavar="T",
        help="on SIGTERM, let running copies finish for T (90s, 5m), then put them back on the queue "
        f"(default: {DRAIN_S:g}s)",
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


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments of a console script; if a shell asks for completions, print those instead and exit."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # noqa: PLC0415 - only completion needs it, and it takes 20 ms

        argcomplete.autocomplete(parser)
    return parser.parse_args(argv)


def start_log(arguments: argparse.Namespace) -> None:
    """Log to standard error."""
    formatter: logging.Formatter = PlainFormatter()
    if arguments.log_format == "json":
        from ..monitoring.json_log import JsonFormatter  # noqa: PLC0415 - slow

        formatter = JsonFormatter()
    root = logging.getLogger()
    root.handlers[:] = [RateLimitedHandler(formatter, unlimited=arguments.verbose)]
    root.setLevel(logging.WARNING)
    logging.getLogger("s3s3").setLevel(logging.DEBUG if arguments.verbose else logging.INFO)


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

        flusher = asyncio.create_task(flush_periodically())
        try:
            return await task
        except asyncio.CancelledError:
            print("s3s3: aborted by a second signal", file=sys.stderr)
            return SOME_FAILED
        finally:
            flusher.cancel()
            _flush_repeats(0.0)

    gc.freeze()  # exempts what is imported
    gc.set_threshold(GC_THRESHOLD)
    return exit_status(lambda: uvloop.run(main()))


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
