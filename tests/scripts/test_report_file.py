"""The report file, complete or interrupted."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from s3s3.errors import ConfigError
from s3s3.scripts.report_file import ReportFile

LINE = {"key": "caf\u00e9\n", "outcome": "same"}


def test_a_report_replaces_the_previous_one_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("the previous one\n")
    with ReportFile(str(path)) as report:
        report.line(LINE)
        report.complete()
        assert path.read_text() == "the previous one\n"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [LINE]
    assert [path.name for path in tmp_path.iterdir()] == ["report.jsonl"]


def test_an_interrupted_report_keeps_the_previous_one_and_prints_its_own_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("the previous one\n")
    with pytest.raises(KeyboardInterrupt), ReportFile(str(path)) as report:
        report.line(LINE)
        raise KeyboardInterrupt
    assert path.read_text() == "the previous one\n"
    assert json.loads((tmp_path / "report.jsonl.part").read_text()) == LINE
    assert f"its lines so far are in {path}.part" in capsys.readouterr().err


def test_a_symbolic_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "report.jsonl"
    link.symlink_to(tmp_path / "there" / "real.jsonl")
    with ReportFile(str(link)) as report:
        report.complete()
    assert link.is_symlink()
    assert (tmp_path / "there" / "real.jsonl").exists()


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with ReportFile(str(tmp_path / "pipe")) as report:
        report.line(LINE)
        report.complete()
    reader.join(10)
    assert json.loads(read[0]) == LINE
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["nowhere/report.jsonl", "."])
def test_an_unwritable_path_is_reported_before_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--report .*cannot write"), ReportFile(str(tmp_path / name)):
        pass


def test_a_full_disk_is_reported() -> None:
    with pytest.raises(ConfigError, match="cannot write /dev/full: No space"), ReportFile("/dev/full") as report:
        report.line(LINE)
        report.complete()
