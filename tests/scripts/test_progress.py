"""The live progress on a terminal, and its lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest

from s3s3.monitoring.log import PlainFormatter, RateLimitedHandler
from s3s3.reconcile.summary import ReconcileSummary
from s3s3.scripts import progress as module
from s3s3.scripts.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_lines_do_not_mix_with_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    handler = RateLimitedHandler(PlainFormatter(), unlimited=True)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with Progress() as progress:
            time.sleep(0.15)  # longer than LIVE_INTERVAL_S
            progress(ReconcileSummary("images", ("ceph",)), 3)
            root.warning("away")
        root.warning("afterwards")
    finally:
        root.removeHandler(handler)
    lines = re.split(r"\n|\x1b\[2K", terminal.getvalue())
    assert "0 compared" in re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    for word in ("away", "afterwards"):
        (line,) = (one for one in lines if word in one)
        assert re.fullmatch(r"\S+ \S+ WARNING \w+", re.sub(r"\x1b\[[0-9;]*m", "", line).strip()), line


@pytest.fixture
def summary() -> ReconcileSummary:
    found = ReconcileSummary("images", ("dest-ceph", "dest-swift"))
    found.source_entries = 500
    found.count("dest-ceph", "same", "etag", by=480)
    found.count("dest-swift", "failed", by=3)
    for destination, size_bytes in (("dest-ceph", 1024), ("dest-ceph", 1024), ("dest-swift", 5 * 1024 * 1024)):
        found.report_fields(
            {"destination": destination, "outcome": "copied", "proof": "etag", "source_size_bytes": size_bytes}
        )
    return found


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, summary: ReconcileSummary, **options: bool) -> str:
    """What the progress writes; 1,000 entries are expected, and half of them were compared in 10 s."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    with Progress(1000, **options) as progress:
        now_s = 10.0
        progress(summary, 12)
    return stream.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_each_destination_and_an_estimate(
    monkeypatch: pytest.MonkeyPatch, summary: ReconcileSummary
) -> None:
    text = shown(monkeypatch, Terminal(), summary)
    assert "route images: 500 of about 1,000 compared, 50/s, 12 outstanding, about 10 s left" in plain(text)
    bar = [line for line in text.splitlines() if "━" in line][-1]
    full, _, rest = bar.partition("╺")
    assert len(plain(bar).strip()) == module.BAR_WIDTH
    assert (full.count("━"), rest.count("━")) == (30, 29)
    rows = [line.split("  ") for line in plain(text).splitlines() if line.startswith("dest")]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows][-3:]
    assert cells == [
        ["destination", "done", "copied", "failed", "bytes copied", "rate"],
        ["dest-ceph", "482", "2", "0", "2.0 KiB", "12/min, 204 B/s"],
        ["dest-swift", "4", "1", "3", "5.0 MiB", "6.0/min, 512.0 KiB/s"],
    ]


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_leaves_out_colors(monkeypatch: pytest.MonkeyPatch, summary: ReconcileSummary, no_color: bool) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    text = shown(monkeypatch, Terminal(), summary)
    styles = {number for codes in re.findall(r"\x1b\[([0-9;]+)m", text) for number in codes.split(";")}
    colors = {number for number in styles if number[0] in "349" and len(number) > 1} | (styles & {"38", "48"})
    assert bool(colors) is not no_color, styles


def test_elsewhere_a_line_is_shown_now_and_then(monkeypatch: pytest.MonkeyPatch, summary: ReconcileSummary) -> None:
    text = shown(monkeypatch, io.StringIO(), summary)
    assert text == (
        "route images: 500 compared (50/s), 3 copied (18/min, 512.2 KiB/s), 12 outstanding, 3 failed, about 10 s left\n"
    )


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch, summary: ReconcileSummary, stream: io.StringIO) -> None:
    assert shown(monkeypatch, stream, summary, quiet=True) == ""
