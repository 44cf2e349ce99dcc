"""What every command has in common: its options, its log, its exit status, its event loop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import uvloop

from .. import __version__
from ..errors import ConfigError, RedisTooOld, S3S3Error, StoreError, Unavailable
from ..monitoring.log import AGAIN_AFTER_S, JsonFormatter, PlainFormatter, RateLimitedHandler
from ..tasks import DRAIN_S

ALLOCATIONS_BETWEEN_COLLECTIONS = 50_000

TELL_REPEATS_EVERY_S = 5.0

SAME_SIGNAL_S = 0.3
"""Some send a process and its group the same signal, as `timeout` does: what comes so soon is no second one."""

OK, SOME_FAILED, WRONG_USAGE, OUT_OF_REACH = 0, 1, 2, 3

EXIT_STATUSES = """exit status:
  0  all well
  1  some objects failed, `check` found something wrong, a dry run found
     differences, or it was interrupted
  2  wrong usage or configuration
  3  a store or Redis could not be reached, or the source refuses s3s3
"""


def parser(verb: str, does: str, **settings: Any) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    made = argparse.ArgumentParser(
        prog=f"s3s3 {verb}" if verb else "s3s3",
        description=does,
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )
    made.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration; without it $S3S3_CONFIG, ./s3s3.toml, /usr/local/etc/s3s3.toml or "
        "/etc/s3s3/s3s3.toml, the first that exists",
    )
    made.add_argument("--log-format", choices=("plain", "json"), default="plain", help="default: plain")
    made.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="log every notice, object and warning",
    )
    made.add_argument("--version", action="version", version=f"s3s3 {__version__}")
    return made


def add_drain(made: argparse.ArgumentParser) -> None:
    """Add the option of commands that copy."""
    made.add_argument(
        "--drain-timeout", dest="drain_s", type=span_s, default=DRAIN_S, metavar="S",
        help=f"when told to stop, hand back what still runs after S seconds (default: {DRAIN_S:g})",
    )  # fmt: skip


def add_http(made: argparse.ArgumentParser) -> None:
    """Add the option of commands that serve the status page."""
    made.add_argument(
        "--http",
        metavar="ADDRESS",
        help='HOST:PORT of the status page, health and metrics; "" for none (default: $S3S3_HTTP_BIND, else [http] '
        "bind)",
    )


def http_bind(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Return the address that replaces `[http] bind`, after the name of what gave it; None for no replacement."""
    if arguments.http is not None:
        return "--http", arguments.http
    text = environ.get("S3S3_HTTP_BIND")
    return None if text is None else ("environment variable S3S3_HTTP_BIND", text)


def span_s(text: str) -> float:
    """Return an argument that is a number of seconds, or none at all.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of seconds")
    return seconds


def interval_s(text: str) -> float:
    """Return an argument that is a number of seconds, more than 0. Raises what `span_s` raises."""
    seconds = span_s(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of seconds, more than 0")
    return seconds


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments of a console script; if a shell asks for completions, print those instead and exit."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # noqa: PLC0415 - 20 ms that only a completion needs

        argcomplete.autocomplete(parser)
    return parser.parse_args(argv)


def start_log(arguments: argparse.Namespace) -> None:
    """Log to standard error, for supervisord, systemd or a collector to pick up."""
    lines = JsonFormatter() if arguments.log_format == "json" else PlainFormatter()
    root = logging.getLogger()
    root.handlers[:] = [RateLimitedHandler(lines, every_one=arguments.verbose)]
    root.setLevel(logging.WARNING)
    logging.getLogger("s3s3").setLevel(logging.DEBUG if arguments.verbose else logging.INFO)


def run(command: Callable[[asyncio.Event], Coroutine[Any, Any, int]], *, ends_at_second_signal: bool = False) -> int:
    """Run a command's coroutine and return its exit status; SIGTERM and SIGINT set the event that it is given.

    `ends_at_second_signal`: a second one cancels it. A daemon has better not: who tells a whole group of processes
    to stop may tell some of them twice.
    """

    async def until_stopped() -> int:
        stop = asyncio.Event()
        running = asyncio.ensure_future(command(stop))
        told = _Told(stop, running if ends_at_second_signal else None)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told)
        telling = asyncio.create_task(_keep_telling_repeats())
        try:
            return await running
        except asyncio.CancelledError:
            print("s3s3: ended at once, as asked for twice", file=sys.stderr)
            return SOME_FAILED
        finally:
            telling.cancel()
            _tell_repeats(older_than_s=0.0)

    _collect_seldom()
    return exit_status(lambda: uvloop.run(until_stopped()))


class _Told:
    """Told to stop: once by an event, and the second time by the end of a task."""

    def __init__(self, stop: asyncio.Event, running: asyncio.Future[int] | None) -> None:
        self._stop = stop
        self._running = running
        self._told_at_s = 0.0

    def __call__(self) -> None:
        now_s = time.monotonic()
        if not self._stop.is_set():
            self._told_at_s = now_s
            self._stop.set()
        elif self._running is not None and now_s - self._told_at_s > SAME_SIGNAL_S:
            self._running.cancel()


async def _keep_telling_repeats() -> None:
    while True:
        await asyncio.sleep(TELL_REPEATS_EVERY_S)
        _tell_repeats()


def _tell_repeats(older_than_s: float = AGAIN_AFTER_S) -> None:
    for one in logging.getLogger().handlers:
        if isinstance(one, RateLimitedHandler):
            one.tell_due(older_than_s)


def _collect_seldom() -> None:
    """Look for cycles of garbage less often: there are next to none, and the search was a seventh of a copy's CPU."""
    gc.freeze()  # what is imported stays
    gc.set_threshold(ALLOCATIONS_BETWEEN_COLLECTIONS)


def _wrapped(fault: str) -> str:
    """Return a line as a terminal shows it best; a file gets it whole, for whoever searches it."""
    if not sys.stderr.isatty():
        return fault
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(
        fault, columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, tabsize=4
    )


def exit_status_for(error: S3S3Error) -> int:
    """Return the exit status that an error other than ConfigError means."""
    return OUT_OF_REACH if isinstance(error, StoreError | Unavailable | RedisTooOld) else SOME_FAILED


def exit_status(command: Callable[[], int]) -> int:
    """Return the command's exit status, or the one that its error means, after telling the error."""
    try:
        return _flushed(command())
    except ConfigError as error:
        for fault in error.problems:
            print(_wrapped(fault), file=sys.stderr)
        return WRONG_USAGE
    except S3S3Error as error:
        print(f"s3s3: {error}", file=sys.stderr)
        return exit_status_for(error)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Nothing more can be said to it.
        sys.stderr.close()
        return SOME_FAILED
    except OSError as error:
        if not _output_is_lost():
            raise
        print(f"s3s3: standard output cannot be written to: {error.strerror}; the work itself is done", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        return SOME_FAILED


def _flushed(status: int) -> int:
    sys.stdout.flush()
    return status


def _output_is_lost() -> bool:
    """Whether standard output takes nothing. If so it is given up, or Python would complain of it once more."""
    try:
        print(flush=True)
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False
