"""Show the progress of a reconcile: live lines on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..model import Proof, Result
from ..monitoring.formatting import duration_text, rate_text, size_text
from ..reconcile.summary import ReconcileSummary

#: Width of the bar, in characters.
BAR_WIDTH = 60

#: Seconds between two updates, on a terminal and elsewhere.
LIVE_INTERVAL_S = 0.1
PLAIN_INTERVAL_S = 10.0


class Progress:
    """Shows progress on standard error. Call it with the summary so far and the number of outstanding jobs.

    Args:
        expected_entries: the entries of the source at the last run, for the bar and the remaining time; None: unknown.
        quiet: show nothing.
    """

    def __init__(self, expected_entries: int | None = None, *, quiet: bool = False) -> None:
        self._expected = expected_entries
        self._console = Console(stderr=True, highlight=False)
        is_live = sys.stderr.isatty() and not quiet
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if is_live else None
        self._interval_s = math.inf if quiet else LIVE_INTERVAL_S if is_live else PLAIN_INTERVAL_S
        self._started_s = self._shown_s = time.monotonic()
        self._redirected: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Progress:
        if self._live:
            stderr = sys.stderr
            self._live.start()
            handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
            # Live has replaced sys.stderr by a stream that writes above the live lines.
            self._redirected = [(each, each.setStream(sys.stderr)) for each in handlers if each.stream is stderr]
        return self

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._redirected:
            handler.setStream(stream)
        if self._live:
            self._live.stop()

    def __call__(self, summary: ReconcileSummary, outstanding: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < self._interval_s:
            return
        self._shown_s = now_s
        elapsed_s = max(now_s - self._started_s, 0.001)
        if self._live:
            self._live.update(self._live_lines(summary, outstanding, elapsed_s), refresh=True)
        else:
            print(f"route {summary.route}: {self._plain_line(summary, outstanding, elapsed_s)}", file=sys.stderr,
                  flush=True)  # fmt: skip

    def _plain_line(self, summary: ReconcileSummary, outstanding: int, elapsed_s: float) -> str:
        copied = summary.total(Result.COPIED)
        parts = [
            f"{summary.source_entries:,} compared ({rate_text(summary.source_entries / elapsed_s)})",
            f"{copied:,} copied ({rate_text(copied / elapsed_s)}, {size_text(summary.copied_bytes / elapsed_s)}/s)",
        ]
        if outstanding:
            parts.append(f"{outstanding:,} outstanding")
        if failed := summary.total(Result.FAILED):
            parts.append(f"{failed:,} failed")
        return ", ".join(parts + self._estimate(summary, elapsed_s))

    def _live_lines(self, summary: ReconcileSummary, outstanding: int, elapsed_s: float) -> Group:
        """Return a bar over all of the source's entries, and a row for each destination."""
        entries = summary.source_entries
        of_expected = f" of about {self._expected:,}" if self._expected else ""
        parts = [f"{entries:,}{of_expected} compared", rate_text(entries / elapsed_s)]
        parts += [f"{outstanding:,} outstanding"] if outstanding else []
        text = f"route {summary.route}: {', '.join(parts + self._estimate(summary, elapsed_s))}"
        table = Table("destination", box=None, pad_edge=False)
        for title in ("done", "copied", "failed", "bytes copied", "rate"):
            table.add_column(title, justify="right")
        for name, counts in summary.counts.items():
            copied, failed = counts.get(Result.COPIED.value, 0), counts.get(Result.FAILED.value, 0)
            size_bytes = summary.copied_bytes_at[name]
            rate = f"{rate_text(copied / elapsed_s)}, {size_text(size_bytes / elapsed_s)}/s"
            failures = Text(f"{failed:,}", style="bold red" if failed else "")
            table.add_row(name, f"{sum(counts.values()):,}", f"{copied:,}", failures, size_text(size_bytes), rate)
        bar = Table.grid()  # ends the line, which ProgressBar alone does not
        if self._expected:
            bar.add_row(ProgressBar(max(self._expected, entries), entries, width=BAR_WIDTH, complete_style="green"))
        return Group(Text(text), bar, table)

    def _estimate(self, summary: ReconcileSummary, elapsed_s: float) -> list[str]:
        entries = summary.source_entries
        if not self._expected or not 0 < entries < self._expected:
            return []
        return [f"about {duration_text(elapsed_s / entries * (self._expected - entries))} left"]


def summary_table(summaries: list[ReconcileSummary]) -> Table:
    """Return a table of outcomes and proofs, one row per destination that has any."""
    found = {name for each in summaries for counts in each.counts.values() for name in counts}
    found_proofs = {name for each in summaries for counts in each.proofs.values() for name in counts}
    outcomes = [result.value for result in Result if result.value in found]
    proofs = [proof.value for proof in Proof if proof.value in found_proofs]
    table = Table("route", "destination", box=None, pad_edge=False)
    has_unfinished = any(each.unfinished(name) for each in summaries for name in each.counts)
    for title in (*outcomes, *(["unfinished"] if has_unfinished else []), *(f"by {proof}" for proof in proofs)):
        table.add_column(title, justify="right")
    for summary in summaries:
        for destination, counts in summary.counts.items():
            unfinished = summary.unfinished(destination)
            if any(counts.values()) or unfinished:
                cells = [counts.get(outcome, 0) for outcome in outcomes]
                cells += [unfinished] if has_unfinished else []
                cells += [summary.proofs[destination].get(proof, 0) for proof in proofs]
                table.add_row(summary.route, destination, *(f"{cell:,}" for cell in cells))
    return table
