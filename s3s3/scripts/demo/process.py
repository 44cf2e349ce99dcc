"""One process of a server: start it, wait until it is ready, pause it, stop it, kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import S3S3Error
from . import tether

_POLL_S = 0.01
_LOG_TAIL_LINES = 20


class ServerMissing(S3S3Error):
    """A server cannot be had on this machine; the message says what to install or change."""


class ServerFailed(S3S3Error):
    """A server did not start, or did not become ready; the message quotes the end of its log."""


class Process:
    """One program with its log, and how to tell that it is ready.

    It dies with this process, even if this one is killed (Linux only). What counts there is the *thread* that
    called `start`: call it from one that lives as long as the server shall.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 30,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._ready = ready
        self._environment = dict(environment or {})
        self._start_timeout_s = start_timeout_s
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it lives; a paused one does."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; `ServerFailed` if it does not run."""
        if self._popen is None or not self.is_running:
            raise ServerFailed(f"{self.name} does not run")
        return self._popen.pid

    def start(self) -> None:
        """Start it, unless it runs, and return at once."""
        if self.is_running:
            return
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,  # a Ctrl-C is for who watches, who then stops its servers in order
            )

    def wait_ready(self) -> None:
        """Return when it serves; `ServerFailed` if it ends before that, or takes too long."""
        deadline = time.monotonic() + self._start_timeout_s
        while not (self.is_running and self._ready()):
            if not self.is_running:
                status = self._popen.returncode if self._popen else None
                raise ServerFailed(f"{self.name} ended with status {status} before it was ready{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} was not ready within {self._start_timeout_s:g} s{self._log_tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 10) -> None:
        """SIGTERM, and SIGKILL if it still runs `timeout_s` later."""
        if self._popen is None or not self.is_running:
            return
        self._popen.terminate()
        self._popen.send_signal(signal.SIGCONT)  # a paused one would not hear
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL: what was only in its memory is lost."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def restart(self) -> None:
        """Stop it, start it again at the same address, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready()

    def pause(self) -> None:
        """SIGSTOP: connections stand and new ones are taken by the kernel, but nobody answers once this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:] if self.log.exists() else []
        return "; the end of its log {}:\n{}".format(self.log, "\n".join(f"    {line}" for line in lines))
