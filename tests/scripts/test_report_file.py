"""Where the lines of a report go, and what is left of one that was not written to its end."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from s3s3.errors import ConfigError
from s3s3.scripts.report_file import ReportFile

LINE = {"key": "caf\u00e9\n", "outcome": "same"}


def test_a_report_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("the last one\n")
    with ReportFile(str(path)) as report:
        report.line(LINE)
        report.end()
        assert path.read_text() == "the last one\n"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [LINE]
    assert [path.name for path in tmp_path.iterdir()] == ["report.jsonl"]


def test_one_that_breaks_off_leaves_the_last_one_and_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("the last one\n")
    with pytest.raises(KeyboardInterrupt), ReportFile(str(path)) as report:
        report.line(LINE)
        raise KeyboardInterrupt
    assert path.read_text() == "the last one\n"
    assert json.loads((tmp_path / "report.jsonl.part").read_text()) == LINE
    assert f"what there is of it stands in {path}.part" in capsys.readouterr().err


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "report.jsonl"
    link.symlink_to(tmp_path / "there" / "real.jsonl")
    with ReportFile(str(link)) as report:
        report.end()
    assert link.is_symlink()
    assert (tmp_path / "there" / "real.jsonl").exists()


def test_a_pipe_is_written_to_as_it_stands(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with ReportFile(str(tmp_path / "pipe")) as report:
        report.line(LINE)
        report.end()
    reader.join(10)
    assert json.loads(read[0]) == LINE
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["nowhere/report.jsonl", "."])
def test_what_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--report .*cannot be written"), ReportFile(str(tmp_path / name)):
        pass


def test_a_full_disk_is_told_and_is_no_report() -> None:
    with pytest.raises(ConfigError, match="/dev/full cannot be written: No space"), ReportFile("/dev/full") as report:
        report.line(LINE)
        report.end()
