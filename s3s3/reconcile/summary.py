"""Count the outcomes of a reconcile and emit its report lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..model import Outcome, Result, outcome_fields

OnReportLine = Callable[[dict[str, Any]], None]


class ReconcileSummary:
    """Counts the outcomes of a reconcile of one route and emits report lines.

    Args:
        on_line: called with the fields of each report line; None: no report.

    Attributes:
        counts: by destination and outcome.
        proofs: by destination and proof, for the outcomes `same` and `copied`.
        source_entries: objects that the source listed; `skipped_entries` of them are older than
            `ReconcileOptions.since_ms` and were not compared.
        destination_only: by destination, objects that the source did not list.
        copied_bytes: of all destinations; `copied_bytes_at` has those of each, for the outcomes that this process saw.
        errors: by store, why its listing failed; objects that were not compared are in no count.
        deletions_withheld: by destination, why nothing was deleted there.
        has_report: report lines are wanted; if not, equal objects need no `Outcome` each.
        queued_keys: keys that an interrupted reconcile left on the queue.
        ended: the reconcile compared everything and received every outcome; else `error` may have the reason.
    """

    def __init__(self, route: str, destinations: tuple[str, ...], on_line: OnReportLine | None = None) -> None:
        self.route = route
        self.counts: dict[str, dict[str, int]] = {name: {} for name in destinations}
        self.proofs: dict[str, dict[str, int]] = {name: {} for name in destinations}
        self.destination_only: dict[str, int] = dict.fromkeys(destinations, 0)
        self.errors: dict[str, str] = {}
        self.deletions_withheld: dict[str, str] = {}
        self.ended = False
        self.error: str | None = None
        self.source_entries = 0
        self.skipped_entries = 0
        self.queued_keys = 0
        self.copied_bytes = 0
        self.copied_bytes_at: dict[str, int] = dict.fromkeys(destinations, 0)
        self.seconds = 0.0
        self._on_line = on_line
        self.has_report = on_line is not None

    def empty_copy(self) -> ReconcileSummary:
        """Return a summary without counts that reports to the same place."""
        return ReconcileSummary(self.route, tuple(self.counts), self._on_line)

    def report(self, outcome: Outcome) -> None:
        """Count an outcome and emit its report line."""
        self.report_fields(outcome_fields(self.route, outcome))

    def report_fields(self, fields: dict[str, Any]) -> None:
        """Do the same for an outcome given as the fields of its report line."""
        self.count(fields["destination"], fields["outcome"], fields["proof"])
        if fields["outcome"] == Result.COPIED.value:
            size_bytes = fields["source_size_bytes"] or 0
            self.copied_bytes += size_bytes
            self.copied_bytes_at[fields["destination"]] += size_bytes
        if self._on_line is not None:
            self._on_line(fields)

    def count(self, destination: str, result: str, proof: str | None = None, by: int = 1) -> None:
        """Count outcomes without emitting report lines."""
        counts = self.counts[destination]
        counts[result] = counts.get(result, 0) + by
        if proof is not None:
            proofs = self.proofs[destination]
            proofs[proof] = proofs.get(proof, 0) + by

    def total(self, *results: Result) -> int:
        """Return the number of these outcomes at all destinations together."""
        return sum(counts.get(result.value, 0) for counts in self.counts.values() for result in results)

    @property
    def progress(self) -> dict[str, Any]:
        """What the status page shows while the reconcile runs: objects listed, and the number of each outcome."""
        totals = {result.value: self.total(result) for result in Result}
        outcomes = {name: number for name, number in totals.items() if number}
        return {"compared": self.source_entries, "outcomes": outcomes}

    @property
    def text(self) -> str:
        """One line for the log, which begins with the destinations that could not be compared."""
        copied, deleted, failed = map(self.total, (Result.COPIED, Result.DELETED, Result.FAILED))
        text = f"compared {self.source_entries} objects: {copied} copied, {deleted} deleted, {failed} failed"
        if not self.errors:
            return text
        compared = [name for name in self.counts if name not in self.errors]
        problems = [
            f"could not compare {name}: {error.removeprefix(f'{name}: ')}" for name, error in self.errors.items()
        ]
        return "; ".join([*problems, *([f"at {', '.join(compared)}: {text}"] if compared else [])])

    def unfinished(self, destination: str) -> int:
        """The number of objects that a reconcile listed and that have no outcome at a destination; 0 after its end."""
        if self.ended or destination in self.errors:
            return 0
        listed = self.source_entries - self.skipped_entries + self.destination_only[destination]
        return listed - sum(self.counts[destination].values())

    @property
    def complete(self) -> bool:
        """Whether nothing failed, was withheld or remains to be done."""
        unfinished = self.total(Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE)
        return not (self.errors or self.deletions_withheld or unfinished)

    @property
    def proven(self) -> bool:
        """Whether every listed object is counted, and every copy equal with a proof."""
        if not self.ended or self.error is not None or self.skipped_entries or not self.complete:
            return False
        return not self.unproven_copies and all(
            sum(counts.values()) == self.source_entries + self.destination_only[name]
            for name, counts in self.counts.items()
        )

    @property
    def unproven_copies(self) -> int:
        """The number of copies, made or found, without a proof: the store returned no ETag."""
        proofs = sum(sum(counts.values()) for counts in self.proofs.values())
        return self.total(Result.SAME, Result.COPIED) - proofs

    def report_line(self, routes: Sequence[str] = ()) -> dict[str, Any]:
        """Return the last line of a route's report; `routes`: all routes in it."""
        return {
            "summary": {
                "route": self.route,
                "routes": [*routes] or [self.route],
                "proven": self.proven,
                "ended": self.ended,
                "error": self.error,
                "source_entries": self.source_entries,
                "skipped_entries": self.skipped_entries,
                "queued_keys": self.queued_keys,
                "destination_only": self.destination_only,
                "destinations": self.counts,
                "proofs": self.proofs,
                "copied_bytes": self.copied_bytes,
                "errors": self.errors,
                "deletions_withheld": self.deletions_withheld,
                "seconds": round(self.seconds, 3),
            }
        }
