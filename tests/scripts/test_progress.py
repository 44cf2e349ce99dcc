"""The live progress line on a terminal."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest

from s3s3.monitoring.log import PlainFormatter, RateLimitedHandler
from s3s3.reconcile.summary import ReconcileSummary
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
