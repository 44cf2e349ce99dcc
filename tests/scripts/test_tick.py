"""The event listener, spoken with as supervisord speaks (its manual, "Event Listener Notification Protocol")."""

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
ANY_COMMAND = """
import sys
from s3s3.scripts import command
from s3s3.scripts.tick import answer_ticks
limit_s, *arguments = sys.argv[1:]
sys.exit(command.run(lambda stop: answer_ticks(arguments, float(limit_s), stop)))
"""
READY, OK, FAIL = b"READY\n", b"RESULT 2\nOK", b"RESULT 4\nFAIL"

LEAVES_TRACES = """
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

    def expect(self, said: bytes) -> None:
        assert self.process.stdout
        assert self.process.stdout.read(len(said)) == said

    def ends(self) -> tuple[int, bytes, bytes]:
        """Its exit status and what it said since, when supervisord has gone."""
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


def test_a_tick_is_answered_when_the_run_has_ended_and_the_run_prints_nothing_between(
    start: Callable[..., EventListener], trace: Path
) -> None:
    listener = start(ANY_COMMAND, 60, sys.executable, "-c", LEAVES_TRACES, trace, 0.2)
    listener.expect(READY)
    listener.send(time.time())
    listener.expect(OK + READY)
    assert trace.read_text() == "ended"
    assert listener.ends() == (0, b"", b"what a run prints\n")


def test_a_tick_from_before_the_end_of_the_last_run_starts_none(
    start: Callable[..., EventListener], trace: Path
) -> None:
    listener = start(ANY_COMMAND, 60, sys.executable, "-c", LEAVES_TRACES, trace, 0)
    listener.expect(READY)
    began_s = time.time()
    listener.send(began_s)
    listener.expect(OK + READY)
    trace.unlink()
    listener.send(began_s)
    listener.expect(OK + READY)
    assert not trace.exists()
    listener.send(time.time() + 5)
    listener.expect(OK + READY)
    assert trace.exists()


def test_a_run_that_fails_is_said_to_fail_and_its_tick_is_not_run_again(start: Callable[..., EventListener]) -> None:
    listener = start(MAIN, "--config", "/there/is/no/such/file.toml")
    listener.expect(READY)
    began_s = time.time()
    listener.send(began_s)
    listener.expect(FAIL + READY)
    listener.send(began_s)
    listener.expect(OK + READY)
    status, _, err = listener.ends()
    assert status == 0
    assert err.startswith(b"/there/is/no/such/file.toml: no such configuration file")
    assert err.count(b"exit status 2") == 1


def test_a_run_that_takes_too_long_is_told_to_stop(start: Callable[..., EventListener], trace: Path) -> None:
    listener = start(ANY_COMMAND, 3, sys.executable, "-c", LEAVES_TRACES, trace, 600)
    listener.expect(READY)
    listener.send(time.time())
    listener.expect(FAIL + READY)
    assert trace.read_text() == "drained"
    assert b"took more than 3 s (--max-runtime)" in listener.ends()[2]


def test_told_to_stop_it_lets_the_run_end_first(start: Callable[..., EventListener], trace: Path) -> None:
    listener = start(ANY_COMMAND, 600, sys.executable, "-c", LEAVES_TRACES, trace, 600)
    listener.expect(READY)
    listener.send(time.time())
    eventually(trace.exists, "the run begins")
    listener.process.terminate()
    assert listener.process.wait(30) == 0
    assert trace.read_text() == "drained"
    assert listener.ends()[1] == b"", "supervisord, which told it to stop, waits for no answer"


def test_told_to_stop_it_ends_at_once_where_nothing_runs(start: Callable[..., EventListener]) -> None:
    listener = start(ANY_COMMAND, 600, sys.executable, "-c", LEAVES_TRACES)
    listener.expect(READY)
    listener.process.terminate()
    assert listener.process.wait(30) == 0


def test_by_hand_it_says_what_to_run_instead() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SUPERVISOR_ENABLED"}
    ended = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "s3s3 bucket" in ended.stderr
