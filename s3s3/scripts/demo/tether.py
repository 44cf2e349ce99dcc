"""Run a program that dies with the process that started it: `python -I -S tether.py PARENT_PID PROGRAM [ARGUMENT]...`.

A program of its own, and no `preexec_fn`, because running Python between fork and exec is unsafe where threads are.
It imports the standard library alone, so that it costs some milliseconds only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>; see prctl(2). It outlives the exec. Elsewhere than on Linux there is nothing like it."""


def main() -> None:
    """Become the program, bound to the parent where this system can."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the line above could count
            sys.exit(f"the process {parent_pid} that wanted {command[0]} is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
