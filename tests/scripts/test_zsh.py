"""What a real zsh completes, at a terminal, with the key that people press."""

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

PATIENCE_S = 60.0


class Terminal:
    """A zsh that has read what `s3s3 completion zsh` prints, and whose s3s3 says what it was called with."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._read = b""

    def line(self, typed: str) -> str:
        """Type a line; return what comes between the marks."""
        before = self._read.count(b"GOT<")
        os.write(self._terminal, typed.encode() + b"\r")
        deadline_s = time.monotonic() + PATIENCE_S
        while b">\r" not in self._read.split(b"GOT<", before + 1)[-1] or self._read.count(b"GOT<") == before:
            assert time.monotonic() < deadline_s, self._read
            if select.select([self._terminal], [], [], 0.5)[0]:
                self._read += os.read(self._terminal, 4096)
        return self._read.rpartition(b"GOT<")[2].partition(b">\r")[0].decode()


@contextmanager
def zsh_with(script: str, folder: Path) -> Iterator[Terminal]:
    """Start a zsh without anybody's configuration."""
    program = shutil.which("zsh")
    if program is None:
        missing("there is no zsh; apt-get install zsh has one")
    (folder / "completion").write_text(script)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        [program, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        terminal = Terminal(ours)
        # The mark is taken apart, so that the echo of this line is none.
        terminal.line("s3s3() { print -r -- 'GO'\"T<$*>\" }; s3s3listen() { s3s3 $* }; . ./completion; s3s3")
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.real
def test_zsh_completes_verbs_options_values_and_names_of_files(tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "s3s3.scripts.main", "completion", "zsh"], capture_output=True, text=True, check=True
    ).stdout
    with zsh_with(script, tmp_path) as terminal:
        assert terminal.line("s3s3 buc\t") == "bucket"
        assert terminal.line("s3s3 bucket --dist\t") == "bucket --distributed"
        assert terminal.line("s3s3 jobs retr\t") == "jobs retry"
        assert terminal.line("s3s3listen --log-format js\t") == "--log-format json"
        assert terminal.line("s3s3 bucket --report compl\t") == "bucket --report completion"
