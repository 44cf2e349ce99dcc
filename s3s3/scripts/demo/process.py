"""Start, pause, stop and kill a server process."""

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
    """A server is not installed; the message has the command to install it."""


class ServerFailed(S3S3Error):
    """A server did not start or become ready; the message quotes the end of its log."""


class Process:
    """A program with its log and its readiness check.

    It dies with this process, even if this process is killed (Linux only). This depends on the thread that called
    `start`: call it from a thread that lives as long as the server is needed.
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
        """Whether the process exists; True for a paused one."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises `ServerFailed` if it is not running."""
        if self._popen is None or not self.is_running:
            raise ServerFailed(f"{self.name} is not running")
        return self._popen.pid

    def start(self) -> None:
        """Start it unless it is running; does not wait until it is ready."""
        if self.is_running:
            return
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,  # so that Ctrl-C reaches only this process, which stops its servers in order
            )

    def wait_ready(self) -> None:
        """Wait until it is ready. Raises `ServerFailed` if it ends or takes too long."""
        deadline = time.monotonic() + self._start_timeout_s
        while not (self.is_running and self._ready()):
            if not self.is_running:
                status = self._popen.returncode if self._popen else None
                raise ServerFailed(f"{self.name} ended with status {status} before it was ready{self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} was not ready within {self._start_timeout_s:g} s{self._log_tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 10) -> None:
        """Send SIGTERM, and SIGKILL if it is still running after `timeout_s`."""
        if self._popen is None or not self.is_running:
            return
        self._popen.terminate()
        self._popen.send_signal(signal.SIGCONT)  # a paused process does not receive SIGTERM
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL: data that is only in its memory is lost."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def restart(self) -> None:
        """Stop it, start it at the same address, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready()

    def pause(self) -> None:
        """Send SIGSTOP: the kernel still accepts connections, but no request is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:] if self.log.exists() else []
        return "; last lines of its log {}:\n{}".format(self.log, "\n".join(f"    {line}" for line in lines))
