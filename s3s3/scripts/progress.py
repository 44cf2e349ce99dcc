"""How far a run over a bucket is: a live line on a terminal, a plain line from time to time elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..model import Proof, Result
from ..monitoring.formatting import duration_text, size_text
from ..reconcile.summary import ReconcileSummary

PLAIN_LINE_EVERY_S = 10.0


class Progress:
    """Shows a run on standard error. Call it with the tally and the number of jobs outstanding.

    Args:
        expected_entries: how many entries the source had at the last run, from which the end is reckoned.
    """

    def __init__(self, expected_entries: int | None = None) -> None:
        self._expected = expected_entries
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if sys.stderr.isatty() else None
        self._began_s = self._shown_s = time.monotonic()
        self._logged_to: list[tuple[logging.StreamHandler[Any], Any]] = []

    def __enter__(self) -> Progress:
        if self._live:
            before = sys.stderr
            self._live.start()
            handlers = [one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)]
            # What stands for standard error now writes above the live line, not into it.
            self._logged_to = [(one, one.setStream(sys.stderr)) for one in handlers if one.stream is before]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler, stream in self._logged_to:
            handler.setStream(stream)
        if self._live:
            self._live.stop()

    def __call__(self, tally: ReconcileSummary, outstanding: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.1 if self._live else PLAIN_LINE_EVERY_S):
            return
        self._shown_s = now_s
        text = self._text(tally, outstanding, max(now_s - self._began_s, 0.001))
        if self._live:
            self._live.update(text, refresh=True)
        else:
            print(f"route {tally.route}: {text}", file=sys.stderr, flush=True)

    def _text(self, tally: ReconcileSummary, outstanding: int, elapsed_s: float) -> str:
        compared, copied = tally.source_entries, tally.total(Result.COPIED)
        parts = [
            f"{compared:,} compared ({compared / elapsed_s:,.0f}/s)",
            f"{copied:,} copied ({copied / elapsed_s:,.0f}/s, {size_text(tally.copied_bytes / elapsed_s)}/s)",
        ]
        if outstanding:
            parts.append(f"{outstanding:,} to go")
        if failed := tally.total(Result.FAILED):
            parts.append(f"{failed:,} failed")
        if self._expected and 0 < compared < self._expected:
            parts.append(f"about {duration_text(elapsed_s / compared * (self._expected - compared))} left")
        return ", ".join(parts)


def summary_table(tallies: list[ReconcileSummary]) -> Table:
    """Return the closing table: a column for each outcome and proof there was, a row for each destination with one."""
    words = [result.value for result in Result if any(result.value in c for t in tallies for c in t.counts.values())]
    proofs = [proof.value for proof in Proof if any(proof.value in p for t in tallies for p in t.proofs.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("route")
    table.add_column("destination")
    for word in (*words, *(f"by {proof}" for proof in proofs)):
        table.add_column(word, justify="right")
    for tally in tallies:
        for destination, counts in tally.counts.items():
            if not any(counts.values()):
                continue
            cells = [counts.get(word, 0) for word in words] + [tally.proofs[destination].get(p, 0) for p in proofs]
            table.add_row(tally.route, destination, *(f"{cell:,}" for cell in cells))
    return table
