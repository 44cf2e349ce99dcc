"""Run a program that exits with its parent: `python -I -S tether.py PARENT_PID PROGRAM [ARGUMENT]...`.

A separate program instead of a `preexec_fn`, because running Python between fork and exec is unsafe with threads. It
imports only the standard library, which takes a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From <linux/prctl.h>; see prctl(2). It survives exec and exists only on Linux.
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program, tied to the parent on Linux."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died before prctl took effect
            sys.exit(f"process {parent_pid}, which started {command[0]}, has ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
