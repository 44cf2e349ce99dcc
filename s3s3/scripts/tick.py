"""`s3s3tick`: supervisord event listener that runs `s3s3 bucket` daily, on supervisord's TICK events.

Standard input and output carry supervisord's event protocol (supervisor manual, "Event Listeners and Event
Notifications"). Everything else, including the output of `s3s3 bucket`, goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from supervisor import childutils  # type: ignore[import-untyped]

from ..tasks import DRAIN_S, run_until_stopped, timeout
from .cli import OK, WRONG_USAGE, positive_duration_s
from .command import run

#: How long a run may take to end after SIGTERM, in seconds; then it is killed.
STOP_TIMEOUT_S = DRAIN_S + 30.0


def main(argv: list[str] | None = None) -> int:
    """Answer ticks until supervisord stops; return the exit status."""
    arguments, bucket_arguments = command_line().parse_known_args(argv)
    if "SUPERVISOR_ENABLED" not in os.environ or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        print(
            "s3s3tick: only supervisord can start this program, as an [eventlistener]; use s3s3 bucket instead",
            file=sys.stderr,
        )
        return WRONG_USAGE
    command = [sys.executable, "-m", "s3s3", "bucket", *bucket_arguments]
    return run(lambda stop: answer_ticks(command, arguments.interval, arguments.max_runtime, stop))


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command's own arguments; the others are those of `s3s3 bucket`."""
    parser = argparse.ArgumentParser(
        prog="s3s3tick",
        usage="s3s3tick [--interval T] [--max-runtime T] [options of s3s3 bucket]",
        description="supervisord event listener: run `s3s3 bucket`, with all other options, at the first TICK event, "
        "and again at the first tick after the interval. A run that fails is repeated at the next tick.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--interval", type=positive_duration_s, default=86400.0, metavar="T",
        help="time between the starts of two runs, such as 6h (default: 1d)",
    )  # fmt: skip
    parser.add_argument(
        "--max-runtime", type=positive_duration_s, default=86400.0, metavar="T",
        help="stop a run that takes longer than T, such as 90m or 1d (default: 1d)",
    )  # fmt: skip
    return parser


async def answer_ticks(command: Sequence[str], interval_s: float, max_runtime_s: float, stop: asyncio.Event) -> int:
    """Run the command at ticks, until `stop` is set or supervisord exits; return the exit status."""
    events = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(events), sys.stdin)
    ended_at_s = due_at_s = 0.0
    while True:
        childutils.listener.ready(sys.stdout)
        tick_s = await run_until_stopped(_next_tick(events), stop)
        if tick_s is None:
            return OK
        if tick_s <= ended_at_s or tick_s < due_at_s:
            # Not due, sent during the last run, or sent again by supervisord because that run failed.
            childutils.listener.ok(sys.stdout)
            continue
        succeeded = await _run(command, max_runtime_s, stop)
        if stop.is_set():
            return OK
        ended_at_s = time.time()
        if succeeded:
            due_at_s = tick_s + interval_s
        (childutils.listener.ok if succeeded else childutils.listener.fail)(sys.stdout)


async def _next_tick(events: asyncio.StreamReader) -> float | None:
    """Return the Unix time of the next tick, or None when supervisord has exited."""
    try:
        header = await events.readuntil(b"\n")
        payload = await events.readexactly(int(childutils.get_headers(header.decode())["len"]))
    except asyncio.IncompleteReadError:
        return None
    return float(childutils.get_headers(payload.decode())["when"])


async def _run(command: Sequence[str], max_runtime_s: float, stop: asyncio.Event) -> bool:
    """Run the command; return whether it succeeded. Stop it after `max_runtime_s`, or when `stop` is set."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr)
    status = None
    try:
        async with timeout(max_runtime_s):
            status = await run_until_stopped(process.wait(), stop)
    except asyncio.TimeoutError:
        message = f"stopping s3s3 bucket, which took more than {max_runtime_s:g} s (--max-runtime)"
        print(f"s3s3tick: {message}", file=sys.stderr)
    if status is None:
        with suppress(ProcessLookupError):  # it has just ended
            process.terminate()
            try:
                async with timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()
    elif status:
        print(f"s3s3tick: s3s3 bucket ended with exit status {status}", file=sys.stderr)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
