from __future__ import annotations

from pathlib import Path

import pytest

from bench import plot, results_folder
from bench.cost import Cost
from bench.figures import rows
from bench.latency import Delays
from bench.objects import GIB, MIB
from bench.results_folder import Results
from bench.workloads import Measured

CEPH = "Ceph"
RCLONE = "rclone, tuned"


def measured(work: str, peer: str, cpu_s: float, size_bytes: int = MIB, run: int = 0) -> Measured:
    return Measured(work, CEPH, peer, run, Cost(10, 10 * size_bytes, 2.0, cpu_s, MIB))


def pair(work: str, cpu_s: float, size_bytes: int = MIB) -> list[Measured]:
    return [measured(work, "s3s3", cpu_s, size_bytes), measured(work, RCLONE, 1.0, size_bytes)]


def test_results_stay_until_their_workload_is_measured_again(tmp_path: Path) -> None:
    results_folder.write(
        tmp_path, Results("old machine", [*pair("1 MiB", 3.0), *pair("1 GiB", 0.2)], [Delays("a", [1])])
    )
    results_folder.write(tmp_path, Results("new machine", pair("1 MiB", 0.7), [Delays("b", [2])]))
    tables = (tmp_path / "tables.md").read_text()
    new, old = tables.split("Measured on new machine")[1].split("Measured on old machine")
    assert "| 1 MiB | Ceph | 70.00 ms | 100.00 ms | 0.70 | 1.00 |" in new
    assert "| 1 GiB | Ceph |" in old
    assert "| 1 MiB | Ceph |" not in old
    assert ("| b |" in new, "| a |" in old) == (True, True)
    results_folder.write(tmp_path, Results("new machine", pair("1 GiB", 0.3)))
    tables = (tmp_path / "tables.md").read_text()
    assert "0.70" in tables
    assert tables.count("Measured on ") == 2, "of the old machine, only the delays are left"


def test_the_readme_has_the_chosen_rows_and_when_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results_folder.BEGIN}old\n{results_folder.END}after\n")
    monkeypatch.setattr(results_folder, "README", readme)
    client = measured("1 MiB", 's3s3, checksum = "client"', 9.0)
    results_folder.write(tmp_path, Results("old machine", [*pair("1 GiB", 0.2), *pair("2 MiB", 5.0)]))
    results_folder.write(tmp_path, Results("new machine", [*pair("1 MiB", 0.7), client]))
    results_folder.into_readme(tmp_path)
    text = readme.read_text()
    assert text.startswith(f"before\n{results_folder.BEGIN}| work |")
    assert text.endswith(f"Measured on new machine; old machine.\n{results_folder.END}after\n")
    assert [line.split(" | ")[0] for line in text.splitlines() if "Ceph" in line] == ["| 1 MiB", "| 1 GiB"]


def test_ratios_are_drawn_against_the_size_of_the_objects(tmp_path: Path) -> None:
    others = [*pair("4 KiB, 3 destinations", 0.1, 4096), measured("1 MiB", "s5cmd", 5.0)]
    found = rows([*pair("1 GiB", 0.2, GIB), *pair("1 MiB", 0.7), *pair("1 MiB, HTTPS", 0.9), *others])
    by_series = plot.ratios_by_size(found)
    assert {name: [row.work for row in series] for name, series in by_series.items()} == {
        "s3s3": ["1 MiB", "1 GiB"], "s3s3, HTTPS": ["1 MiB, HTTPS"], "s5cmd": ["1 MiB"],
    }  # fmt: skip
    pytest.importorskip("matplotlib")
    assert plot.draw(found, "a machine", tmp_path) == ""
    assert "tuned = 1.0" in (tmp_path / "ratio.svg").read_text()
