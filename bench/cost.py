"""What running a program costs: its CPU time and its children's, its peak memory, the time on the wall.

CPU time comes from wait4(2) for a program that ends, from /proc/PID/stat for one that goes on. Memory is sampled from
/proc/PID/status (VmHWM), because the ru_maxrss of wait4 counts what this process had when it started the program.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_SAMPLED_EVERY_S = 0.05


class PeerFailed(Exception):
    """A program that is measured did not do its work; the message has the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes:
        objects: how many objects (or entries) the work was about; `size_bytes` is of them all together.
        cpu_s: user and system, children included, of the program itself.
        redis_cpu_s: what Redis took meanwhile, for a program that needs one.
    """

    objects: int
    size_bytes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    redis_cpu_s: float = 0.0


def run_to_end(command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a program; return what it took, of no objects yet. Raises PeerFailed."""
    return run_side_by_side([command], log=log, environment=environment)


def run_side_by_side(
    commands: Sequence[Sequence[str | Path]], *, log: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run programs at once until the last of them ends; return what all took together. Raises PeerFailed."""
    began_s, cpu_s = time.monotonic(), 0.0
    with log.open("wb") as output, ExitStack() as stack:
        programs = [
            subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                             env={**os.environ, **(environment or {})})
            for command in commands
        ]  # fmt: skip
        peaks = [stack.enter_context(PeakMemory(program.pid)) for program in programs]
        for program in programs:
            _, status, usage = os.wait4(program.pid, 0)
            program.returncode = os.waitstatus_to_exitcode(status)
            cpu_s += usage.ru_utime + usage.ru_stime
    wall_s = time.monotonic() - began_s
    for command, program in zip(commands, programs, strict=True):
        if program.returncode != 0:
            raise PeerFailed(f"{command[0]} ended with status {program.returncode}: {end_of(log)}")
    return Cost(0, 0, wall_s, cpu_s, sum(peak.size_bytes for peak in peaks))


def end_of(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def cpu_s_of(pid: int) -> float:
    """Return the CPU time of a running process and of all its descendants so far."""
    total = 0.0
    for member in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICKS_A_SECOND  # utime, stime and those of children that ended
    return total


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for member in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


class PeakMemory:
    """Watches the resident memory of a process and its descendants while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def size_bytes(self) -> int:
        """The highest that each of them had, together."""
        return sum(self._peaks.values())

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLED_EVERY_S):
            self._look()

    def _look(self) -> None:
        for member in family(self._pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{member}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peaks[member] = int(line.split()[1]) * 1024

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
