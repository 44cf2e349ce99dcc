"""`s3s3tick`: answers each of supervisord's TICK events with a run of `s3s3 bucket`.

supervisord speaks through standard input and output (supervisor's manual, "Event Listeners and Event Notifications"),
so neither this program nor the run may print anything else there: all they have to say goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import time
from collections.abc import Sequence

from supervisor import childutils  # type: ignore[import-untyped]

from ..tasks import DRAIN_S
from .command import OK, WRONG_USAGE, positive_duration_s, run

ENDS_WITHIN_S = DRAIN_S + 30.0
"""How long a run may take to end when it is told to."""


def main(argv: list[str] | None = None) -> int:
    """Answer ticks until supervisord stops; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="s3s3tick",
        usage="s3s3tick [--max-runtime T] [options of s3s3 bucket]",
        description="An event listener of supervisord: runs `s3s3 bucket` at each TICK event. "
        "All other options are handed to that.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--max-runtime", type=positive_duration_s, default=86400.0, metavar="T",
        help="stop a run that takes longer than T, such as 90m or 1d (default: 1d)",
    )  # fmt: skip
    arguments, of_bucket = parser.parse_known_args(argv)
    if "SUPERVISOR_ENABLED" not in os.environ or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        print("s3s3tick is started by supervisord, as an [eventlistener]; by hand: s3s3 bucket", file=sys.stderr)
        return WRONG_USAGE
    command = [sys.executable, "-m", "s3s3.scripts.main", "bucket", *of_bucket]
    return run(lambda stop: answer_ticks(command, arguments.max_runtime, stop))


async def answer_ticks(command: Sequence[str], limit_s: float, stop: asyncio.Event) -> int:
    """Run the command at each tick, until `stop` is set or supervisord has gone; return the exit status."""
    events = await _supervisord()
    stopped = asyncio.create_task(stop.wait())
    ended_at_s = 0.0
    while True:
        childutils.listener.ready(sys.stdout)
        tick = asyncio.create_task(_next_tick(events))
        await asyncio.wait([tick, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not tick.done():
            tick.cancel()
            return OK
        tick_s = tick.result()
        if tick_s is None:
            return OK
        if tick_s <= ended_at_s:
            # It came while the last run was under way; or that run failed, and supervisord sends its tick again at
            # once, and would for as long as it fails. The next tick is soon enough for either.
            childutils.listener.ok(sys.stdout)
            continue
        well = await _run(command, limit_s, stopped)
        if stopped.done():
            return OK
        ended_at_s = time.time()
        (childutils.listener.ok if well else childutils.listener.fail)(sys.stdout)


async def _supervisord() -> asyncio.StreamReader:
    """Return standard input, to be read without blocking."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _next_tick(events: asyncio.StreamReader) -> float | None:
    """Return when the next tick was sent (Unix time), None when supervisord has gone."""
    try:
        header = await events.readuntil(b"\n")
        payload = await events.readexactly(int(childutils.get_headers(header.decode())["len"]))
    except asyncio.IncompleteReadError:
        return None
    return float(childutils.get_headers(payload.decode())["when"])


async def _run(command: Sequence[str], limit_s: float, stopped: asyncio.Task[bool]) -> bool:
    """Run the command; return whether all went well. End it at the limit, and when `stopped` is done."""
    run = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr)
    ended = asyncio.create_task(run.wait())
    await asyncio.wait([ended, stopped], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        if run.returncode:
            print(f"s3s3tick: s3s3 bucket ended with exit status {run.returncode}", file=sys.stderr)
        return run.returncode == 0
    if not stopped.done():
        print(f"s3s3tick: s3s3 bucket took more than {limit_s:g} s (--max-runtime) and is stopped", file=sys.stderr)
    run.terminate()
    await asyncio.wait([ended], timeout=ENDS_WITHIN_S)
    if not ended.done():
        run.kill()
        await ended
    return False


if __name__ == "__main__":
    sys.exit(main())
