"""Completion by a real zsh on a terminal, with the Tab key."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import missing

TIMEOUT_S = 60.0

#: A command that completes as s3s3 does, and otherwise prints its arguments between marks.
COMMAND = """#!/bin/sh
if [ -n "$_ARGCOMPLETE" ]; then exec {python} -c 'from s3s3.scripts.{module} import main; main()'; fi
printf 'GOT<%s>\\n' "$*"
"""


class Terminal:
    """A zsh with completion for s3s3 and s3s3listen, which print their arguments."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._output = b""

    def line(self, typed: str) -> str:
        """Type a line; return the arguments that its command received."""
        before = self._output.count(b"GOT<")
        os.write(self._terminal, typed.encode() + b"\r")
        deadline_s = time.monotonic() + TIMEOUT_S
        while b">\r" not in self._output.split(b"GOT<", before + 1)[-1] or self._output.count(b"GOT<") == before:
            assert time.monotonic() < deadline_s, self._output
            if select.select([self._terminal], [], [], 0.5)[0]:
                self._output += os.read(self._terminal, 4096)
        return self._output.rpartition(b"GOT<")[2].partition(b">\r")[0].decode()


@contextmanager
def zsh_with(script: str, folder: Path) -> Iterator[Terminal]:
    """Start a zsh without configuration files, and have it read a completion script."""
    program = shutil.which("zsh")
    if program is None:
        missing("zsh is not installed: apt-get install zsh")
    (folder / "completion").write_text(script)
    for name, module in (("s3s3", "main"), ("s3s3listen", "listen")):
        (folder / name).write_text(COMMAND.format(python=sys.executable, module=module))
        (folder / name).chmod(0o755)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8",
                   "PATH": f"{folder}:{os.environ['PATH']}"}  # fmt: skip
    process = subprocess.Popen(
        [program, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        terminal = Terminal(ours)
        terminal.line(". ./completion; s3s3")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.long
@pytest.mark.real
def test_zsh_completes_verbs_options_values_and_file_names(tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "s3s3.scripts.main", "completion", "zsh"], capture_output=True, text=True, check=True
    ).stdout
    with zsh_with(script, tmp_path) as terminal:
        assert terminal.line("s3s3 buc\t") == "bucket"
        assert terminal.line("s3s3 bucket --dist\t") == "bucket --distributed"
        assert terminal.line("s3s3 jobs retr\t") == "jobs retry"
        assert terminal.line("s3s3listen --log-format js\t") == "--log-format json"
        assert terminal.line("s3s3 bucket --report compl\t") == "bucket --report completion"
