from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.__main__ as program
from bench.cost import Cost
from bench.workloads import Measured, PrintLine


class FailingWork:
    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        yield Measured("1 MiB", "Ceph", "s3s3", 0, Cost(1, 2**20, 1.0, 1.0, 1))
        raise RuntimeError("the server is too slow")


def test_what_was_measured_before_a_failure_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MEASURES", {"1m": FailingWork()})
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "1m", "--output", str(tmp_path)])
    with pytest.raises(RuntimeError, match="too slow"):
        program.main()
    assert "| 1 MiB | Ceph | s3s3 |" in (tmp_path / "tables.md").read_text()
