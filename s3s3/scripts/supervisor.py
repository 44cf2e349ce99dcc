"""Several processes that do the work of one: started together, replaced when one dies, ended together.

Each has the reading end of a pipe for its standard input. However this process ends, the pipe ends with it, and that
tells them to stop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..queue.lease import boottime_s
from ..tasks import cancel, wait_with_timeout

log = logging.getLogger(__name__)

INITIAL_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
SETTLED_AFTER_S = 60.0
"""A process that dies is started again after a pause, a longer one each time, until one has lived for so long."""

INCURABLE = (2, 3)
"""Exit statuses that another try would bring again: a wrong configuration, a source that refuses s3s3."""


class Member:
    """One of the processes; what replaces it is the same member."""

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number = number
        self.command = command
        self.started_at_s = boottime_s()
        self.process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None while none runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def age_s(self) -> float:
        """How long ago it was started."""
        return boottime_s() - self.started_at_s

    async def start(self) -> Process:
        """Start it, out of reach of a Ctrl-C, which is for whoever started it."""
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=PIPE, stdout=DEVNULL, start_new_session=True
        )
        self.started_at_s = boottime_s()
        return self.process

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Processes:
    """So many processes.

    Args:
        command: returns the command line of the process of a number, from 1 on.
    """

    def __init__(self, count: int, command: Callable[[int], Sequence[str]]) -> None:
        self.members = [Member(number, command(number)) for number in range(1, count + 1)]

    async def run(self, stop: asyncio.Event, longest_s: float) -> int:
        """Keep all of them running until `stop` is set, then have them end by SIGTERM, within `longest_s`.

        Returns 0, or the exit status of one that ended in a way that no other try can cure, which ends all of them.
        """
        keeping = {asyncio.create_task(self._keep(member, stop)) for member in self.members}
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*keeping, stopped], return_when=asyncio.FIRST_COMPLETED)
            statuses = [task.result() for task in keeping if task.done()]
            stop.set()
            await self._end(keeping, longest_s)
        finally:
            self._signal(signal.SIGKILL)
            await cancel([*keeping, stopped])
        return next((status for status in statuses if status), 0)

    async def _keep(self, member: Member, stop: asyncio.Event) -> int:
        """Start it, and again whenever it ends; return its exit status where that would be of no use."""
        pause_s = INITIAL_BACKOFF_S
        while True:
            process = await member.start()
            status = await process.wait()
            if stop.is_set() or status in INCURABLE:
                return status
            if member.age_s() > SETTLED_AFTER_S:
                pause_s = INITIAL_BACKOFF_S
            log.error("process %d (pid %d) %s; it is started again in %.1f s", member.number, process.pid,
                      f"was ended by signal {-status}" if status < 0 else f"ended with status {status}",
                      pause_s)  # fmt: skip
            if await wait_with_timeout(stop, pause_s):
                return 0
            pause_s = min(2 * pause_s, MAX_BACKOFF_S)

    async def _end(self, keeping: set[asyncio.Task[int]], longest_s: float) -> None:
        self._signal(signal.SIGTERM)
        _, left = await asyncio.wait(keeping, timeout=longest_s)
        if left:
            log.error("%d processes have not ended within %g s and are killed", len(left), longest_s)
            self._signal(signal.SIGKILL)
            await asyncio.wait(left)

    def _signal(self, number: signal.Signals) -> None:
        for member in self.members:
            member.signal(number)
