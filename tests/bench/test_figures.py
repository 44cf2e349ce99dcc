from __future__ import annotations

import pytest

from bench.cost import Cost
from bench.figures import Spread, rows, spread, summary, table
from bench.objects import GIB
from bench.workloads import Measured


def measured(peer: str, run: int, cpu_s: float, wall_s: float, size_bytes: int = 4096) -> Measured:
    return Measured("work", "server", peer, run, Cost(1000, 1000 * size_bytes, wall_s, cpu_s, 2**20))


RUNS = [
    measured("s3s3", 0, 0.2, 1.0),
    measured("rclone, tuned", 0, 0.8, 2.0),
    measured("s3s3", 1, 0.6, 3.0),
    measured("rclone, tuned", 1, 1.2, 3.0),
    measured("s3s3", 2, 0.3, 1.0),
    measured("rclone, tuned", 2, 1.0, 1.5),
]


def test_ratios_are_between_runs_that_stood_side_by_side() -> None:
    ours, theirs = rows(RUNS)
    assert (ours.peer, theirs.peer) == ("s3s3", "rclone, tuned")
    assert ours.cpu_ratio == Spread(0.25, 0.3, 0.5)
    assert ours.rate_ratio == Spread(1.0, 1.5, 2.0)
    assert ours.cpu == Spread(pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.6))  # type: ignore[arg-type]


def test_a_run_that_stood_alone_is_in_no_ratio() -> None:
    ours, _ = rows([*RUNS, measured("s3s3", 9, 5.0, 5.0)])
    assert ours.runs == 4
    assert ours.cpu_ratio == Spread(0.25, 0.3, 0.5)
    (alone,) = rows(RUNS[:1])
    assert alone.cpu_ratio is None
    assert "s3s3" not in summary([alone]).splitlines()[-1]


def test_big_objects_are_told_by_the_gib() -> None:
    (row,) = rows([measured("s3s3", 0, 2000.0, 4.0, size_bytes=GIB)])
    assert row.by_gib
    assert row.cpu.middle == pytest.approx(2.0)
    assert "2.00 s/GiB" in table([row])


def test_a_spread_of_one_is_told_as_one() -> None:
    assert spread([2]).text() == "2.00"
    assert spread([3, 1, 2]).text() == "2.00 (1.00 to 3.00)"
