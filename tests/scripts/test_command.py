from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from s3s3.scripts import bucket, command, listen, mirror
from tests.scripts.command import Main, config_file, run


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_what_is_no_interval_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="number of seconds"):
        command.interval_s(text)


def test_an_interval_may_be_a_part_of_a_second() -> None:
    assert command.interval_s("0.5") == 0.5


def test_to_drain_may_take_no_time_at_all() -> None:
    assert command.span_s("0") == 0


@pytest.mark.parametrize(
    ("main", "option"),
    [
        (bucket.main, "--interval"),
        (bucket.main, "--drain-timeout"),
        (listen.main, "--reconcile-interval"),
        (listen.main, "--drain-timeout"),
        (mirror.main, "--drain-timeout"),
    ],
)
def test_a_time_before_now_is_wrong_usage(main: Main, option: str) -> None:
    done = run(main, option, "-3")
    assert (done.status, f"{option}: '-3' should be a number of seconds" in done.err) == (2, True)


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path, redis_url: str) -> None:
    command = [sys.executable, "-m", "s3s3.scripts.main", "jobs", "--config", str(config_file(tmp_path, redis_url))]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    told = "s3s3: standard output cannot be written to: No space left on device; the work itself is done\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_another_fault_of_the_system_is_not_taken_for_one_of_the_output() -> None:
    def fails() -> int:
        raise OSError(28, "of a spool, say")

    with pytest.raises(OSError, match="of a spool"):
        command.exit_status(fails)
