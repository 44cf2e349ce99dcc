"""Show the progress of a reconcile: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..model import Proof, Result
from ..monitoring.formatting import duration_text, rate_text, size_text
from ..reconcile.summary import ReconcileSummary

#: Seconds between two lines, on a terminal and elsewhere.
LIVE_INTERVAL_S = 0.1
PLAIN_INTERVAL_S = 10.0


class Progress:
    """Shows progress on standard error. Call it with the summary so far and the number of outstanding jobs.

    `expected_entries`, the entries of the source at the last run, serve to estimate the remaining time.
    """

    def __init__(self, expected_entries: int | None = None) -> None:
        self._expected = expected_entries
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if sys.stderr.isatty() else None
        self._started_s = self._shown_s = time.monotonic()
        self._redirected: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Progress:
        if self._live:
            stderr = sys.stderr
            self._live.start()
            handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
            # Live has replaced sys.stderr by a stream that writes above the live line.
            self._redirected = [(each, each.setStream(sys.stderr)) for each in handlers if each.stream is stderr]
        return self

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._redirected:
            handler.setStream(stream)
        if self._live:
            self._live.stop()

    def __call__(self, summary: ReconcileSummary, outstanding: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < (LIVE_INTERVAL_S if self._live else PLAIN_INTERVAL_S):
            return
        self._shown_s = now_s
        elapsed_s = max(now_s - self._started_s, 0.001)
        compared, copied = summary.source_entries, summary.total(Result.COPIED)
        parts = [
            f"{compared:,} compared ({rate_text(compared / elapsed_s)})",
            f"{copied:,} copied ({rate_text(copied / elapsed_s)}, {size_text(summary.copied_bytes / elapsed_s)}/s)",
        ]
        if outstanding:
            parts.append(f"{outstanding:,} outstanding")
        if failed := summary.total(Result.FAILED):
            parts.append(f"{failed:,} failed")
        if self._expected and 0 < compared < self._expected:
            parts.append(f"about {duration_text(elapsed_s / compared * (self._expected - compared))} left")
        text = ", ".join(parts)
        if self._live:
            self._live.update(text, refresh=True)
        else:
            print(f"route {summary.route}: {text}", file=sys.stderr, flush=True)


def summary_table(summaries: list[ReconcileSummary]) -> Table:
    """Return a table of outcomes and proofs, one row per destination that has any."""
    found = {name for each in summaries for counts in each.counts.values() for name in counts}
    found_proofs = {name for each in summaries for counts in each.proofs.values() for name in counts}
    outcomes = [result.value for result in Result if result.value in found]
    proofs = [proof.value for proof in Proof if proof.value in found_proofs]
    table = Table("route", "destination", box=None, pad_edge=False)
    for title in (*outcomes, *(f"by {proof}" for proof in proofs)):
        table.add_column(title, justify="right")
    for summary in summaries:
        for destination, counts in summary.counts.items():
            if any(counts.values()):
                cells = [counts.get(outcome, 0) for outcome in outcomes]
                cells += [summary.proofs[destination].get(proof, 0) for proof in proofs]
                table.add_row(summary.route, destination, *(f"{cell:,}" for cell in cells))
    return table
