"""What a run tells: a line for each object and destination, and a summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .model import Outcome, Result

Lines = Callable[[dict[str, Any]], None]


def outcome_fields(route: str, outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a report line, in their fixed order."""
    return {
        "route": route,
        "destination": outcome.destination,
        "key": outcome.key,
        "outcome": outcome.result.value,
        "reason": outcome.reason,
        "source_size_bytes": outcome.source_size_bytes,
        "destination_size_bytes": outcome.destination_size_bytes,
        "source_md5": outcome.source_md5,
        "destination_md5": outcome.destination_md5,
        "proof": outcome.proof.value if outcome.proof else None,
    }


class Tally:
    """Counts the outcomes of one run over one route, and passes each on as a report line.

    Attributes:
        counts: by destination and the outcome's word.
        errors: by store, a listing that broke off: what could not be compared is in no count.
        kept: by destination, why nothing was deleted there although the source lacks some of it.
    """

    def __init__(self, route: str, destinations: tuple[str, ...], lines: Lines | None = None) -> None:
        self.route = route
        self.counts: dict[str, dict[str, int]] = {name: {} for name in destinations}
        self.errors: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.source_entries = 0
        self.copied_bytes = 0
        self.seconds = 0.0
        self._lines = lines

    @property
    def wants_lines(self) -> bool:
        """Whether anybody reads the lines; if not, what is the same may be counted without one."""
        return self._lines is not None

    def tell(self, outcome: Outcome) -> None:
        """Count an outcome and report it."""
        self.tell_fields(outcome_fields(self.route, outcome))

    def tell_fields(self, fields: dict[str, Any]) -> None:
        """Count and report an outcome that came as its fields."""
        self.count(fields["destination"], fields["outcome"])
        if fields["outcome"] == Result.COPIED.value:
            self.copied_bytes += fields["source_size_bytes"] or 0
        if self._lines is not None:
            self._lines(fields)

    def count(self, destination: str, result: str, by: int = 1) -> None:
        """Count outcomes without reporting them."""
        counts = self.counts.setdefault(destination, {})
        counts[result] = counts.get(result, 0) + by

    def total(self, *results: Result) -> int:
        """Return how many outcomes of these kinds there were, over all destinations."""
        return sum(counts.get(result.value, 0) for counts in self.counts.values() for result in results)

    @property
    def complete(self) -> bool:
        """Whether every object is where it belongs now."""
        return (
            not self.errors and not self.kept and not self.total(Result.FAILED, Result.WOULD_COPY, Result.WOULD_DELETE)
        )

    def summary(self) -> dict[str, Any]:
        """Return the last line of a report."""
        return {
            "summary": {
                "route": self.route,
                "source_entries": self.source_entries,
                "destinations": self.counts,
                "copied_bytes": self.copied_bytes,
                "errors": self.errors,
                "kept": self.kept,
                "seconds": round(self.seconds, 3),
            }
        }
