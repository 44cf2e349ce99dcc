from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from s3s3.scripts import bucket, cli, command, jobs, listen, mirror
from tests.scripts.command import Main, config_file, run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("90s", 90), ("5m", 300), ("36h", 129_600), ("7d", 604_800), ("0", 0)],
)
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert cli.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-1", "nan", "inf", "soon", "", "5 m", "1w"])
def test_an_interval_is_a_positive_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be "):
        cli.positive_duration_s(text)


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
def test_a_negative_duration_is_wrong_usage(main: Main, option: str) -> None:
    done = run(main, option, "-3")
    assert done.status == 2
    assert f"""{option}: must be a duration such as 90, "90s", "5m", "36h" or "7d", not '-3'""" in done.err


@pytest.mark.parametrize(
    ("main", "option", "full"),
    [
        (bucket.main, "--wait", "--wait-for-lock"),
        (bucket.main, "--rest", "--restart"),
        (listen.main, "--drain", "--drain-timeout"),
        (jobs.main, "--js", "--json"),
    ],
)
def test_an_abbreviated_option_is_wrong_usage(main: Main, option: str, full: str) -> None:
    done = run(main, option)
    assert done.status == 2
    assert f"error: unrecognized arguments: {option}; did you mean {full}?\n" in done.err
    assert f"[{full}" in done.err


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output_is_reported_without_a_traceback(tmp_path: Path, redis_url: str) -> None:
    command = [sys.executable, "-m", "s3s3.scripts.main", "jobs", "--config", str(config_file(tmp_path, redis_url))]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    error = "s3s3: cannot write to standard output: No space left on device; the work itself is done\n"
    assert (done.returncode, done.stderr) == (1, error)


def test_an_oserror_unrelated_to_standard_output_is_raised() -> None:
    def fails() -> int:
        raise OSError(28, "the spool is full")

    with pytest.raises(OSError, match="the spool is full"):
        command.exit_status(fails)


def test_cycles_that_failed_copies_leave_are_collected_though_little_is_allocated() -> None:
    program = """
import asyncio, weakref
from s3s3.scripts import command

class Cycle: pass

async def main(stop):
    cycle = Cycle()
    cycle.itself, kept = cycle, weakref.ref(cycle)
    del cycle
    while kept() is not None:
        await asyncio.sleep(0.01)
    return 0

command.COLLECT_EVERY_S = 0.05
raise SystemExit(command.run(main))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
