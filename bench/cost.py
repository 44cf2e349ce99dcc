"""The cost of running a program: CPU time with its children, peak memory, wall time.

CPU time comes from wait4(2) for a program that ends, from /proc/PID/stat for a running one. Memory is sampled from
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

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE_INTERVAL_S = 0.05


class PeerFailed(Exception):
    """A measured program failed; the message has the end of its output."""


@dataclass(frozen=True)
class Cost:
    """The cost of a workload.

    Attributes:
        objects: number of objects or listing entries; `size_bytes` is their total size.
        cpu_s: user and system time of the program, including children.
        redis_cpu_s: CPU time of Redis meanwhile, for programs that use it.
    """

    objects: int
    size_bytes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    redis_cpu_s: float = 0.0


def run_to_end(command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a program; return its cost, without objects. Raises PeerFailed."""
    return run_side_by_side([command], log=log, environment=environment)


def run_side_by_side(
    commands: Sequence[Sequence[str | Path]], *, log: Path, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run programs in parallel until all have ended; return their total cost. Raises PeerFailed."""
    start_s, cpu_s = time.monotonic(), 0.0
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
    wall_s = time.monotonic() - start_s
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
            total += sum(map(int, fields[11:15])) / _TICKS_PER_S  # utime, stime, and those of ended children
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
    """Samples the resident memory of a process and its descendants during the block."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_loop, daemon=True)

    @property
    def size_bytes(self) -> int:
        """The sum of the peaks of all processes."""
        return sum(self._peaks.values())

    def _sample_loop(self) -> None:
        while not self._stop.wait(_SAMPLE_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        for member in family(self._pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{member}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peaks[member] = int(line.split()[1]) * 1024

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
