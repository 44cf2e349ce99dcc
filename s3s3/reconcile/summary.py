"""What a run tells: a line for each object and destination, and a summary that adds up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..model import Outcome, Result, outcome_fields

Lines = Callable[[dict[str, Any]], None]


class ReconcileSummary:
    """Counts the outcomes of one run over one route, and passes each on as a report line.

    Attributes:
        counts: by destination and the outcome's word.
        proofs: by destination and the proof's word, how it is known that copies are equal.
        source_entries: what the source has; `skipped_entries` of it were not looked at (`Options.since_ms`).
        only_there: by destination, the entries that the source lacks.
        errors: by store, a listing that broke off: what could not be compared is in no count.
        kept: by destination, why nothing was deleted there although the source lacks some of it.
        ended: the run came to its end; else `error` says why not, where that is known.
    """

    def __init__(self, route: str, destinations: tuple[str, ...], lines: Lines | None = None) -> None:
        self.route = route
        self.counts: dict[str, dict[str, int]] = {name: {} for name in destinations}
        self.proofs: dict[str, dict[str, int]] = {name: {} for name in destinations}
        self.only_there: dict[str, int] = dict.fromkeys(destinations, 0)
        self.errors: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.ended = False
        self.error: str | None = None
        self.source_entries = 0
        self.skipped_entries = 0
        self.copied_bytes = 0
        self.seconds = 0.0
        self._lines = lines

    def part(self) -> ReconcileSummary:
        """Return a tally of a part of the run, whose lines go where these do."""
        return ReconcileSummary(self.route, tuple(self.counts), self._lines)

    @property
    def wants_lines(self) -> bool:
        """Whether anybody reads the lines; if not, what is the same may be counted without one."""
        return self._lines is not None

    def tell(self, outcome: Outcome) -> None:
        """Count an outcome and report it."""
        self.tell_fields(outcome_fields(self.route, outcome))

    def tell_fields(self, fields: dict[str, Any]) -> None:
        """Count and report an outcome that came as its fields."""
        self.count(fields["destination"], fields["outcome"], fields["proof"])
        if fields["outcome"] == Result.COPIED.value:
            self.copied_bytes += fields["source_size_bytes"] or 0
        if self._lines is not None:
            self._lines(fields)

    def count(self, destination: str, result: str, proof: str | None = None, by: int = 1) -> None:
        """Count outcomes without reporting them."""
        counts = self.counts[destination]
        counts[result] = counts.get(result, 0) + by
        if proof is not None:
            proofs = self.proofs[destination]
            proofs[proof] = proofs.get(proof, 0) + by

    def total(self, *results: Result) -> int:
        """Return how many outcomes of these kinds there were, over all destinations."""
        return sum(counts.get(result.value, 0) for counts in self.counts.values() for result in results)

    @property
    def in_words(self) -> str:
        """What came of the run, for the log."""
        copied, deleted, failed = (self.total(one) for one in (Result.COPIED, Result.DELETED, Result.FAILED))
        return f"compared {self.source_entries} objects: {copied} copied, {deleted} deleted, {failed} failed"

    @property
    def complete(self) -> bool:
        """Whether every object is where it belongs now."""
        return (
            not self.errors and not self.kept and not self.total(Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE)
        )

    @property
    def proven(self) -> bool:
        """Whether every object that the source listed is accounted for: its copies are equal, and it is known how."""
        whole = self.ended and self.error is None and not self.skipped_entries
        return whole and self.complete and all(map(self._adds_up, self.counts))

    def _adds_up(self, destination: str) -> bool:
        counts = self.counts[destination]
        equal = counts.get(Result.SAME.value, 0) + counts.get(Result.COPIED.value, 0)
        return (
            sum(counts.values()) == self.source_entries - self.skipped_entries + self.only_there[destination]
            and sum(self.proofs[destination].values()) == equal
        )

    def summary(self, routes: Sequence[str] = ()) -> dict[str, Any]:
        """Return the last line of a route's report. `routes`: all that the report is about, in their order."""
        return {
            "summary": {
                "route": self.route,
                "routes": [*routes] or [self.route],
                "proven": self.proven,
                "ended": self.ended,
                "error": self.error,
                "source_entries": self.source_entries,
                "skipped_entries": self.skipped_entries,
                "only_there": self.only_there,
                "destinations": self.counts,
                "proofs": self.proofs,
                "copied_bytes": self.copied_bytes,
                "errors": self.errors,
                "kept": self.kept,
                "seconds": round(self.seconds, 3),
            }
        }
