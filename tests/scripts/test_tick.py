"""The event listener, with supervisord's protocol (its manual, "Event Listener Notification Protocol")."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.commands import eventually

MAIN = "import sys; from s3s3.scripts.tick import main; sys.exit(main(sys.argv[1:]))"
ANSWER_TICKS = """
import sys
from s3s3.scripts import command
from s3s3.scripts.tick import answer_ticks
max_runtime_s, *arguments = sys.argv[1:]
sys.exit(command.run(lambda stop: answer_ticks(arguments, 0.0, float(max_runtime_s), stop)))
"""
READY, OK, FAIL = b"READY\n", b"RESULT 2\nOK", b"RESULT 4\nFAIL"

WRITES_TRACE = """
import pathlib, signal, sys, time
trace = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (trace.write_text("drained"), sys.exit(0)))
trace.write_text("running")
print("what a run prints")
time.sleep(float(sys.argv[2]))
trace.write_text("ended")
"""


class EventListener:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def send(self, when_s: float) -> None:
        payload = f"when:{int(when_s)}".encode()
        header = f"ver:3.0 server:supervisor serial:1 pool:x poolserial:1 eventname:TICK_5 len:{len(payload)}\n"
        assert self.process.stdin
        self.process.stdin.write(header.encode() + payload)
        self.process.stdin.flush()

    def expect(self, output: bytes) -> None:
        assert self.process.stdout
        assert self.process.stdout.read(len(output)) == output

    def close(self) -> tuple[int, bytes, bytes]:
        """Close its input, as supervisord does when it exits; return exit status and remaining output."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Callable[..., EventListener]]:
    started: list[subprocess.Popen[bytes]] = []

    def start_with(code: str, *arguments: str | Path) -> EventListener:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "SUPERVISOR_ENABLED": "1"}
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        started.append(process)
        return EventListener(process)

    yield start_with
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def test_a_tick_is_answered_after_the_run_whose_output_goes_to_standard_error(
    start: Callable[..., EventListener], trace: Path
) -> None:
    listener = start(ANSWER_TICKS, 60, sys.executable, "-c", WRITES_TRACE, trace, 0.2)
    listener.expect(READY)
    listener.send(time.time())
    listener.expect(OK + READY)
    assert trace.read_text() == "ended"
    assert listener.close() == (0, b"", b"what a run prints\n")


def test_a_tick_older_than_the_end_of_the_last_run_is_ignored(start: Callable[..., EventListener], trace: Path) -> None:
    listener = start(ANSWER_TICKS, 60, sys.executable, "-c", WRITES_TRACE, trace, 0)
    listener.expect(READY)
    start_s = time.time()
    listener.send(start_s)
    listener.expect(OK + READY)
    trace.unlink()
    listener.send(start_s)
    listener.expect(OK + READY)
    assert not trace.exists()
    listener.send(time.time() + 5)
    listener.expect(OK + READY)
    assert trace.exists()


def test_after_a_successful_run_ticks_are_ignored_until_the_interval_has_passed(
    start: Callable[..., EventListener], trace: Path
) -> None:
    daily = ANSWER_TICKS.replace("0.0", "86400.0")
    listener = start(daily, 60, sys.executable, "-c", WRITES_TRACE, trace, 0)
    listener.expect(READY)
    start_s = time.time()
    for after_s, runs in ((0, True), (3600, False), (86399, False), (86400, True), (90000, False)):
        trace.unlink(missing_ok=True)
        listener.send(start_s + after_s)
        listener.expect(OK + READY)
        assert trace.exists() == runs, after_s


def test_a_failed_run_is_repeated_at_the_next_tick(start: Callable[..., EventListener], trace: Path) -> None:
    fails = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('failed'); sys.exit(1)"
    listener = start(ANSWER_TICKS.replace("0.0", "86400.0"), 60, sys.executable, "-c", fails, trace)
    listener.expect(READY)
    for after_s in (0, 3600):
        trace.unlink(missing_ok=True)
        listener.send(time.time() + after_s)
        listener.expect(FAIL + READY)
        assert trace.read_text() == "failed"


def test_a_failed_run_is_reported_and_its_tick_is_not_retried(start: Callable[..., EventListener]) -> None:
    listener = start(MAIN, "--config", "/there/is/no/such/file.toml")
    listener.expect(READY)
    start_s = time.time()
    listener.send(start_s)
    listener.expect(FAIL + READY)
    listener.send(start_s)
    listener.expect(OK + READY)
    status, _, err = listener.close()
    assert status == 0
    assert err.startswith(b"/there/is/no/such/file.toml: no such configuration file")
    assert err.count(b"exit status 2") == 1


@pytest.mark.long
def test_a_run_that_takes_too_long_is_stopped(start: Callable[..., EventListener], trace: Path) -> None:
    listener = start(ANSWER_TICKS, 3, sys.executable, "-c", WRITES_TRACE, trace, 600)
    listener.expect(READY)
    listener.send(time.time())
    listener.expect(FAIL + READY)
    assert trace.read_text() == "drained"
    assert b"took more than 3 s (--max-runtime)" in listener.close()[2]


def test_sigterm_lets_the_run_drain(start: Callable[..., EventListener], trace: Path) -> None:
    listener = start(ANSWER_TICKS, 600, sys.executable, "-c", WRITES_TRACE, trace, 600)
    listener.expect(READY)
    listener.send(time.time())
    eventually(trace.exists, "the run starts")
    listener.process.terminate()
    assert listener.process.wait(30) == 0
    assert trace.read_text() == "drained"
    assert listener.close()[1] == b"", "supervisord expects no result after it has sent SIGTERM"


def test_sigterm_without_a_run_ends_it(start: Callable[..., EventListener]) -> None:
    listener = start(ANSWER_TICKS, 600, sys.executable, "-c", WRITES_TRACE)
    listener.expect(READY)
    listener.process.terminate()
    assert listener.process.wait(30) == 0


def test_without_supervisord_it_names_the_command_to_use() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SUPERVISOR_ENABLED"}
    ended = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "s3s3 bucket" in ended.stderr
