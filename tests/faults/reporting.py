"""What was injected and seen, for whoever writes it down: `make faults` shows it."""

from __future__ import annotations


def tell(what: str, seen: object) -> None:
    """Print a line; pytest shows it with -s, as `make faults` does, and where the test fails."""
    print(f"\n[{what}] {seen}")  # noqa: T201
